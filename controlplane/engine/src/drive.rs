//! Drives one workflow: forward, back, or to a person. Ends when nothing more can be done by itself.

use domicile_api::moves::{LogEvent, MoveKind, MoveStatus};
use domicile_model::clock::pause;

use crate::brakes;
use crate::definitions;
use crate::error::Halt;
use crate::run::{Edge, Run};
use crate::undo;

/// Drives until the move is over or stuck.
///
/// # Errors
/// The reason why this leader is deposed: it must not do anything any more.
pub(crate) async fn drive(run: &mut Run) -> Result<(), String> {
    loop {
        let step = run.flow.step.clone();
        match brakes::held_up(run).await {
            // Whoever looks for unfinished moves takes it up again and again until it may go on.
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(Halt::Deposed(why)) => return Err(why),
            Err(other) => tracing::warn!(%other, id = %run.flow.id, "can't tell whether the move may go on"),
        }
        let result = match run.flow.status {
            MoveStatus::Running => definitions::forward(run).await,
            MoveStatus::RollingBack => undo::backward(run).await,
            MoveStatus::Done | MoveStatus::RolledBack { .. } | MoveStatus::Stuck { .. } => return Ok(()),
        };
        let Err(halt) = result else { continue };
        if matches!(halt, Halt::Waits) {
            // Whoever looks for unfinished moves takes it up again, also to see that its time is up.
            return Ok(());
        }
        tracing::info!(id = %run.flow.id, cell = %run.cell.id, step, %halt, "the step halted");
        if let Err(next) = answer(run, halt).await {
            match next {
                Halt::Deposed(why) => return Err(why),
                // The record changed under the answer: look again.
                _ => reload(run).await?,
            }
        }
    }
}

async fn answer(run: &mut Run, halt: Halt) -> Result<(), Halt> {
    match halt {
        Halt::Deposed(_) | Halt::Conflict | Halt::Waits => Err(halt),
        Halt::Stuck(why) => run.stuck(&why).await,
        // Only a planned move turns back by itself. A forced one would have to reach the server that it was started
        // for because nobody could: that is a person's choice.
        Halt::Turn(why)
            if turns_by_itself(run.flow.definition) && !run.flow.back && !run.flow.past_return() =>
        {
            turn_back(run, &why).await
        }
        Halt::Turn(why) => run.stuck(&why).await,
    }
}

/// A planned move goes back to where it was served from; a cell that can't be opened stays closed.
const fn turns_by_itself(kind: MoveKind) -> bool {
    matches!(kind, MoveKind::Switchover | MoveKind::Open)
}

/// The move turns back.
pub(crate) async fn turn_back(run: &mut Run, why: &str) -> Result<(), Halt> {
    let step = run.flow.step.clone();
    // An effect that failed says so already.
    let edge = match run.flow.stands(&step).after(LogEvent::Failed) {
        Some(_) => Edge::of(&step, LogEvent::Failed, why),
        None => Edge::default(),
    };
    run.edge(edge, |flow, _| {
        flow.back = true;
        flow.back_because = why.to_owned();
        flow.status = MoveStatus::RollingBack;
    })
    .await
    .map(|_| ())
}

async fn reload(run: &mut Run) -> Result<(), String> {
    loop {
        pause(run.options().poll).await;
        match run.reload().await {
            Ok(()) => return Ok(()),
            Err(Halt::Deposed(why)) => return Err(why),
            Err(other) => tracing::warn!(%other, id = %run.flow.id, "the record can't be read"),
        }
    }
}
