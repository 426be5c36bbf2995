//! What holds moves up by a person's will: the emergency stop, freezes, the shortest interval, and the pause of one move.

use domicile_api::moves::{Check, MoveStatus, Verdict};
use domicile_model::{EmergencyStop, Freeze, Moved};
use domicile_store::Key;
use domicile_store::codec::decode;
use jiff::Timestamp;

use crate::definitions::is_calm;
use crate::error::Halt;
use crate::prechecks::{Looked, check};
use crate::record::Standing;
use crate::run::Run;

/// As the registry holds them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Brakes {
    pub(crate) stop: Option<EmergencyStop>,
    pub(crate) freezes: Vec<Freeze>,
    pub(crate) moved: Option<Moved>,
}

/// Why nothing moves, and what to do.
pub(crate) fn stopped(stop: &EmergencyStop) -> String {
    format!(
        "{} has stopped all moves at {:.0} because: {}; `domicile failover allow-all` lifts it",
        stop.by, stop.at, stop.reason
    )
}

/// Forced moves stop as well: whoever pulls it has a reason to trust none.
pub(crate) fn emergency_stop(on: &Looked<'_>) -> Check {
    match &on.snapshot.brakes.stop {
        Some(stop) => check("emergency-stop", Verdict::Failed, stopped(stop)),
        None => check("emergency-stop", Verdict::Passed, "nobody has stopped all moves"),
    }
}

/// Planned moves only: a disaster keeps no calendar.
pub(crate) fn freeze(on: &Looked<'_>) -> Check {
    let cell = &on.snapshot.cell.id;
    let holding: Vec<String> = on
        .snapshot
        .brakes
        .freezes
        .iter()
        .filter(|freeze| freeze.holds(cell, on.now))
        .map(|f| {
            format!("{} (until {:.0}, by {}, `domicile freeze remove {}`)", f.reason, f.until, f.by, f.id)
        })
        .collect();
    if holding.is_empty() {
        check("freeze", Verdict::Passed, "no freeze holds the cell now")
    } else {
        check("freeze", Verdict::Failed, format!("cell {cell} is frozen: {}", holding.join("; ")))
    }
}

/// Planned moves only.
pub(crate) fn interval(on: &Looked<'_>) -> Check {
    let least = on.options.min_interval;
    let Some(moved) = on.snapshot.brakes.moved.as_ref().filter(|_| !least.is_zero()) else {
        return check(
            "interval",
            Verdict::NotApplicable,
            "the cell has not moved yet, or no interval is asked for",
        );
    };
    let ago = on.now.duration_since(moved.at);
    // A clock that was set back makes the past look like the future: nobody should wait for that to pass.
    let passed = ago.is_negative() || ago.unsigned_abs() >= least;
    let why = format!(
        "the cell moved {} s ago, {} s must lie between two planned moves",
        ago.as_secs(),
        least.as_secs()
    );
    if passed {
        check("interval", Verdict::Passed, why)
    } else {
        check("interval", Verdict::Failed, format!("{why}: wait, or force the move if it can't"))
    }
}

/// Whether this move may not begin its next step now. Only before a step at which nobody waits, and never on the way
/// back: turning back is what brings service.
pub(crate) async fn held_up(run: &Run) -> Result<bool, Halt> {
    let step = run.flow.step.as_str();
    let begun = !matches!(run.flow.stands(step), Standing::Untouched | Standing::Answered | Standing::Failed);
    if run.flow.status != MoveStatus::Running || begun || !is_calm(run.flow.definition, step) {
        return Ok(false);
    }
    if run.flow.paused.is_some() {
        return Ok(true);
    }
    let stop = run.read_one(Key::Stop).await?;
    let stop = stop.map(|e| decode::<EmergencyStop>(&e.value)).transpose();
    Ok(stop.map_err(|e| Halt::Stuck(e.to_string()))?.is_some())
}

/// A pause of this moment.
pub(crate) fn pause_by(by: &str, reason: &str) -> domicile_api::moves::Paused {
    domicile_api::moves::Paused { by: by.to_owned(), reason: reason.to_owned(), at: Timestamp::now() }
}
