//! Time lost, as clients saw it. Pure.

use domicile_api::reports::Rto;
use domicile_facts::MINUTE_MS;

use crate::Row;

/// How it is counted, as the report says it.
pub const FORMULA: &str = "from the arrival of the first request that ended badly (5xx of the application, not served, or outcome \
unknown) or that was held, to the end of the first write that ended well after the last such request of any router had come; what a \
good write had ended before the move began is another outage (of one minute a router tells four apart, and what comes beyond \
them makes the last one longer); moments of routers are put on the control plane's clock by the offset that they measured, the \
clock bound says how far the ends may be off; a tenant of whom no request came has none";

/// All troubles of all routers on one clock, those that can't be told apart made one, and the good writes that are known.
#[derive(Debug, Default)]
struct Seen {
    /// From the first request to the last one, in order.
    troubles: Vec<(u64, u64)>,
    /// In order.
    writes: Vec<u64>,
}

impl Seen {
    fn of(rows: &[Row]) -> Self {
        let mut seen = Self::default();
        for row in rows {
            let ahead = row.clock.map_or(0, |clock| clock.ahead_ms);
            let at = |offset: i32| row.minute.at(offset).saturating_add_signed(ahead);
            let tally = &row.fact.tally;
            seen.writes
                .extend([tally.at.first_good_write, tally.at.last_good_write].into_iter().flatten().map(at));
            for episode in tally.episodes.as_slice() {
                seen.troubles.push((at(episode.first), at(episode.last)));
                seen.writes.extend(episode.good.map(at));
            }
        }
        seen.writes.sort_unstable();
        seen.troubles.sort_unstable();
        let mut whole: Vec<(u64, u64)> = Vec::new();
        for (first, last) in std::mem::take(&mut seen.troubles) {
            match whole.last_mut() {
                Some(before) if seen.good(before.1).is_none_or(|good| good >= first) => {
                    before.1 = before.1.max(last);
                }
                _ => whole.push((first, last)),
            }
        }
        seen.troubles = whole;
        seen
    }

    /// The first good write at or after a moment.
    fn good(&self, moment: u64) -> Option<u64> {
        self.writes.get(self.writes.partition_point(|write| *write < moment)).copied()
    }
}

/// What a tenant lost to what happened between two moments (milliseconds since 1970). The rows may reach further back and on:
/// trouble that overlaps with it counts whole.
#[must_use]
pub fn observed(rows: &[Row], from_ms: u64, to_ms: u64) -> Rto {
    let seen = Seen::of(rows);
    let ours =
        |&(first, last): &(u64, u64)| first <= to_ms && seen.good(last).is_none_or(|good| good >= from_ms);
    let whole =
        seen.troubles.iter().copied().filter(ours).reduce(|one, two| (one.0.min(two.0), one.1.max(two.1)));
    let Some((first_ms, last_ms)) = whole else {
        let within = |row: &&Row| row.minute.start() + MINUTE_MS > from_ms && row.minute.start() <= to_ms;
        let requests = rows.iter().filter(within).map(|row| row.fact.tally.requests()).sum();
        return if requests == 0 { Rto::NotObserved } else { Rto::Unharmed { requests } };
    };
    let Some(good_ms) = seen.good(last_ms) else { return Rto::StillOut { first_ms, last_ms } };
    Rto::Observed {
        first_ms,
        last_ms,
        good_ms,
        length_ms: good_ms.saturating_sub(first_ms),
        within_ms: within(rows, first_ms, good_ms),
    }
}

/// The largest bound of those that told of these moments; none if one of them has none.
fn within(rows: &[Row], first_ms: u64, good_ms: u64) -> Option<u64> {
    let took_part = |row: &&Row| {
        let start = row.minute.start();
        let then = start <= good_ms && start + MINUTE_MS > first_ms;
        then && row.fact.tally.at.all().iter().any(Option::is_some)
    };
    let bounds = rows.iter().filter(took_part).map(|row| row.clock.map(|c| c.within_ms));
    bounds.into_iter().try_fold(0, |most, bound| Some(most.max(bound?)))
}
