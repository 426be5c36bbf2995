//! Moves that wait for people: an alarm for those that nobody answers.

use domicile_api::moves::Approval;
use domicile_api::views::{FindingView, WaitingView};
use jiff::{SignedDuration, Timestamp};
use prometheus::{Gauge, IntGauge, Registry};

/// For how long an approval has been asked for; none if a clock was set back.
fn waited(approval: &Approval, now: Timestamp) -> Option<SignedDuration> {
    let expires = SignedDuration::from_millis(i64::try_from(approval.expires_ms).ok()?);
    let asked = approval.until.checked_sub(expires).ok()?;
    Some(now.duration_since(asked)).filter(|waited| !waited.is_negative())
}

/// Those for which half of the time is over: they end unless somebody acts.
#[must_use]
pub fn findings(waiting: &[WaitingView], now: Timestamp) -> Vec<FindingView> {
    let half = |at: &&WaitingView| {
        let expires = i128::from(at.approval.expires_ms);
        waited(&at.approval, now).is_some_and(|waited| waited.as_millis() * 2 >= expires)
    };
    waiting.iter().filter(half).map(finding).collect()
}

fn finding(waiting: &WaitingView) -> FindingView {
    let WaitingView { moving, cell, by, approval, .. } = waiting;
    let (given, need) = (approval.given.len(), approval.need.people());
    FindingView {
        kind: "waits-for-approval".into(),
        cell: Some(cell.clone()),
        region: None,
        what: format!(
            "move {moving} of cell {cell}, which {by} asked for, waits for people: {given} of {need} have approved; it ends at {:.0} with nothing done, unless somebody else than {by} says `domicile failover approve {moving}` or `reject {moving}`",
            approval.until
        ),
    }
}

/// What an SRE would alarm on.
#[derive(Debug, Clone)]
pub struct WaitingMetrics {
    moves: IntGauge,
    oldest: Gauge,
}

impl WaitingMetrics {
    /// Registered, at zero.
    ///
    /// # Errors
    /// Never: the names are fixed and differ from the others'.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let moves = IntGauge::new(
            "domicile_control_approvals_waiting",
            "moves that wait for people's approval, as the leader sees it",
        )?;
        let oldest = Gauge::new(
            "domicile_control_approval_oldest_seconds",
            "for how long the one that waits longest has waited; 0: none waits",
        )?;
        registry.register(Box::new(moves.clone()))?;
        registry.register(Box::new(oldest.clone()))?;
        Ok(Self { moves, oldest })
    }

    /// What waits now.
    pub fn set(&self, waiting: &[WaitingView], now: Timestamp) {
        self.moves.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
        let longest = waiting.iter().filter_map(|at| waited(&at.approval, now)).max();
        self.oldest.set(longest.map_or(0.0, |longest| longest.as_secs_f64()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_api::moves::MoveKind;
    use domicile_model::{MoveId, Need};

    fn asked(at: i64, expires_s: i64) -> WaitingView {
        WaitingView {
            moving: MoveId::new(),
            kind: MoveKind::Switchover,
            cell: "c".parse().unwrap(),
            by: "eve".into(),
            approval: Approval {
                need: Need::Two,
                hash: String::new(),
                saw: Vec::new(),
                given: Vec::new(),
                until: Timestamp::from_second(at + expires_s).unwrap(),
                expires_ms: u64::try_from(expires_s).unwrap() * 1000,
                voided: 0,
            },
        }
    }

    #[test]
    fn what_waits_is_counted_at_once_and_found_when_half_of_its_time_is_over() {
        let (registry, now) = (Registry::new(), Timestamp::from_second(1_000).unwrap());
        let metrics = WaitingMetrics::new(&registry).unwrap();
        let waiting = [asked(900, 150), asked(950, 150)];
        let found = findings(&waiting, now);
        assert_eq!(found.len(), 1, "{found:?}");
        let what = &found[0].what;
        let id = waiting[0].moving.to_string();
        assert!(
            what.contains(&id) && what.contains("0 of 2") && what.contains("somebody else than eve"),
            "{what}"
        );
        metrics.set(&waiting, now);
        assert_eq!((metrics.moves.get(), metrics.oldest.get().to_bits()), (2, 100.0_f64.to_bits()));
        // A clock that was set back says nothing, and nothing waiting is 0.
        assert_eq!(findings(&[asked(2_000, 10)], now), []);
        metrics.set(&[], now);
        assert_eq!((metrics.moves.get(), metrics.oldest.get().to_bits()), (0, 0.0_f64.to_bits()));
    }
}
