//! The moves, each a list of steps that reads like a runbook. A step is a function; its name is what operators see.
//!
//! Definitions are versioned: a record goes on under the version that it began with, so a change of order or meaning
//! gets a new version and the old one stays until no unfinished record names it.

mod approve;
mod close;
mod failover;
pub(crate) mod open;
mod promotion;
mod reprotect;
mod stop;
mod switchover;

use domicile_api::moves::MoveKind;
use domicile_model::Change;

pub(crate) use approve::gates;

use crate::error::Halt;
use crate::run::Run;

/// Every definition: what is proved for one is proved for all of them.
pub const ALL: [MoveKind; 5] =
    [MoveKind::Switchover, MoveKind::Failover, MoveKind::Reprotect, MoveKind::Close, MoveKind::Open];

/// The version of a definition that new workflows begin with.
pub const VERSION: u32 = 2;

/// The steps of a definition, in order.
#[must_use]
pub const fn steps(kind: MoveKind) -> &'static [&'static str] {
    match kind {
        MoveKind::Switchover => switchover::STEPS,
        MoveKind::Failover => failover::STEPS,
        MoveKind::Reprotect => reprotect::STEPS,
        MoveKind::Close => close::STEPS,
        MoveKind::Open => open::STEPS,
    }
}

/// The same, without `approve` unless people are asked.
pub fn steps_for(kind: MoveKind, asked: bool) -> impl Iterator<Item = &'static str> + Clone {
    steps(kind).iter().copied().filter(move |step| asked || *step != APPROVE)
}

/// The step that waits for people. It comes before anything is held, stopped or closed.
pub(crate) const APPROVE: &str = "approve";

/// The kind of change that the approval policy knows such a workflow by. None: it waits for nobody.
#[must_use]
pub const fn change(kind: MoveKind) -> Option<Change> {
    match kind {
        MoveKind::Switchover => Some(Change::Switchover),
        MoveKind::Failover => Some(Change::Failover),
        MoveKind::Reprotect => None,
        MoveKind::Close => Some(Change::Close),
        MoveKind::Open => Some(Change::Open),
    }
}

/// Steps before which nobody waits: neither users nor a database that is closed. A move that is held up stops there.
const CALM: &[&str] = &["settle", "hold", "close", "return", "losses", "re-protect", "protect", "unfence"];

/// Whether a move that is held up may stop before this step. The close of a planned move comes while requests wait;
/// nothing may hold up taking a cell out of service.
#[must_use]
pub fn is_calm(kind: MoveKind, step: &str) -> bool {
    CALM.contains(&step) && kind != MoveKind::Close && !(kind == MoveKind::Switchover && step == "close")
}

/// Steps that a person may go without: those after the new region serves. Whatever comes before keeps writes safe.
pub const SKIPPABLE: &[&str] = &["return", "losses", "re-protect", "protect"];

/// Runs the step at the cursor. It advances the cursor, or ends the move, with its last edge.
pub(crate) async fn forward(run: &mut Run) -> Result<(), Halt> {
    if run.flow.version > VERSION {
        return Err(Halt::Stuck(format!(
            "the move was begun by a newer control plane (definition version {}): upgrade this one",
            run.flow.version
        )));
    }
    if run.flow.step == APPROVE {
        return approve::approve(run).await;
    }
    match run.flow.definition {
        MoveKind::Switchover => switchover::forward(run).await,
        MoveKind::Failover => failover::forward(run).await,
        MoveKind::Reprotect => reprotect::forward(run).await,
        MoveKind::Close => close::forward(run).await,
        MoveKind::Open => open::forward(run).await,
    }
}

/// A cursor that no definition has: the record was written by a program that this one does not know.
pub(crate) fn no_such_step(run: &Run) -> Halt {
    Halt::Stuck(format!("this control plane has no step `{}`: upgrade it", run.flow.step))
}
