//! What stops direct writers of the old primary, and what follows from it for a move. Pure.
//!
//! Gates stop by themselves when a proof ends. Who writes to the database past them is stopped only by what stands beside
//! it. That matters where the old primary gives no word: by its word it has stopped, whatever its level.

use std::time::Duration;

use domicile_api::moves::{Check, LossPreview, Verdict};
use domicile_model::{FenceLevel, RegionId};

use crate::options::Sabotage;
use crate::prechecks::{Looked, check};

/// The check.
pub const NAME: &str = "fence-level";

/// Why nothing bounds what the old primary may take while it is waited for; none where something does.
pub(crate) fn unbounded(level: Option<FenceLevel>) -> Option<String> {
    match level {
        Some(level) if level.bounds_direct_writes() => None,
        Some(level) => Some(format!(
            "the old primary's fence level is {level}, {}: whatever writes past the gates goes on until its database is \
             stopped by hand, and all of that is lost",
            level.means()
        )),
        None => Some(
            "the old primary's fence level is unknown, so nothing bounds what is written past the gates until its database \
             is stopped by hand"
                .to_owned(),
        ),
    }
}

/// What is known of a loss, with what the primary may have acknowledged meanwhile unknown where nothing bounds it.
pub(crate) fn bound(preview: &mut LossPreview, level: Option<FenceLevel>, sabotage: Sabotage) {
    if let Some(why) = unbounded(level).filter(|_| !sabotage.any_fence_level) {
        preview.until_stopped_transactions = None;
        preview.because.push(why);
    }
}

/// What stands in the log of a forced move whose primary was waited for in vain.
pub(crate) fn waited_for(level: Option<FenceLevel>) -> String {
    match (level, unbounded(level)) {
        (Some(level), None) => {
            format!("no answer; every proof has lapsed (fence level {level}: {})", level.means())
        }
        (_, Some(why)) => {
            format!("no answer; every proof has lapsed, and direct writes are an unbounded loss: {why}")
        }
        (None, None) => "no answer; every proof has lapsed".to_owned(),
    }
}

/// What was told of the holder, in the plan of a move. It blocks a planned move only where nobody told; a forced one
/// asks for consent to an unknown loss instead.
pub(crate) fn checked(on: &Looked<'_>) -> Check {
    let Some(holder) = &on.snapshot.placement.holder else {
        return check(NAME, Verdict::NotApplicable, "nobody holds the cell");
    };
    if on.snapshot.placement.availability_first {
        return availability_first(on, holder);
    }
    // The age in seconds: whoever approves is not asked again because it was told a moment later.
    let ago = |age: Duration| format!("told {} s ago", age.as_secs());
    match on.fence_level {
        Some((level, age)) if level.bounds_direct_writes() => {
            let why = format!("{level}: when the proof of {holder} ends, {} ({})", level.means(), ago(age));
            check(NAME, Verdict::Passed, why)
        }
        Some((level, age)) => {
            let why = format!(
                "{level}: when the proof of {holder} ends, {} ({}); a forced move whose old primary does not answer loses all \
                 that is written so",
                level.means(),
                ago(age)
            );
            check(NAME, Verdict::Noted, why)
        }
        None => check(
            NAME,
            if on.request.force { Verdict::Noted } else { Verdict::Unknown },
            format!(
                "what stops direct writers of the database in {holder} is unknown: its agent has not told; start its present \
                 version, or mend the way to it"
            ),
        ),
    }
}

/// Where availability comes first nobody stops by time, so there is no level: only the database's own word counts. A forced
/// move that can't get it would close the cell for those who are still served, and promote nobody.
fn availability_first(on: &Looked<'_>, holder: &RegionId) -> Check {
    let answers = on.primary.is_some_and(|p| p.reachable);
    if on.request.force && !answers {
        let why = format!(
            "availability comes first in cell {}: the database in {holder} goes on until it acknowledges a stop itself, no time \
             ends it, and it does not answer; closing the cell would stop those whom it still serves and could promote nobody: \
             bring its agent back, and ask again",
            on.snapshot.cell.id
        );
        return check(NAME, Verdict::Failed, why);
    }
    let why = format!(
        "availability comes first: the database in {holder} stops by its own word, and by nothing else"
    );
    check(NAME, Verdict::NotApplicable, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_level_that_stops_direct_writers_bounds_anything() {
        for level in FenceLevel::ALL {
            assert_eq!(unbounded(Some(level)).is_none(), level != FenceLevel::GateOnly, "{level}");
        }
        assert!(unbounded(None).is_some_and(|why| why.contains("unknown")));
        assert!(waited_for(Some(FenceLevel::GateOnly)).contains("unbounded loss"));
        assert!(waited_for(None).contains("unbounded loss"));
        assert!(!waited_for(Some(FenceLevel::DeadMan)).contains("unbounded"));
    }
}
