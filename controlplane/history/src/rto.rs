//! Time lost, as clients saw it. Pure.

use std::collections::BTreeMap;

use domicile_api::reports::Rto;
use domicile_facts::{MINUTE_MS, Minute, Moments};

use crate::Row;

/// How it is counted, as the report says it.
pub const FORMULA: &str = "from the arrival of the first request that ended badly (5xx of the application, not served, or outcome \
unknown) or that was held, to the end of the first write that ended well after the last such request of any router; trouble and \
good writes of the same minute are told apart by their milliseconds; trouble that a good write had ended before the move began \
is another one; moments of routers are put on the control plane's clock by the offset that they measured, the clock bound says how \
far the ends may be off; a tenant of whom no request came has none";

/// Trouble from its first request to the first good write after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Episode {
    first: u64,
    last: u64,
    good: Option<u64>,
}

/// All of one minute, of all routers, on one clock.
#[derive(Debug, Default)]
struct Sum {
    first: Option<u64>,
    last: Option<u64>,
    /// Ends of good writes: each row's first, and its first after its last trouble.
    writes: Vec<u64>,
}

/// What a tenant lost to what happened between two moments (milliseconds since 1970). The rows may reach further back and on:
/// trouble that overlaps with it counts whole.
#[must_use]
pub fn observed(rows: &[Row], from_ms: u64, to_ms: u64) -> Rto {
    let episodes = episodes(rows);
    let overlaps = |e: &&Episode| e.first <= to_ms && e.good.is_none_or(|good| good >= from_ms);
    let mut ours = episodes.iter().filter(overlaps).copied();
    let Some(mut whole) = ours.next() else {
        let within = |row: &&Row| row.minute.start() + MINUTE_MS > from_ms && row.minute.start() <= to_ms;
        let requests = rows.iter().filter(within).map(|row| row.fact.tally.requests()).sum();
        return if requests == 0 { Rto::NotObserved } else { Rto::Unharmed { requests } };
    };
    for next in ours {
        // What a minute tells of may have come long before it.
        whole.first = whole.first.min(next.first);
        whole.last = whole.last.max(next.last);
    }
    let Episode { first: first_ms, last: last_ms, .. } = whole;
    let writes = minutes(rows).into_values().flat_map(|sum| sum.writes);
    let Some(good_ms) = writes.filter(|write| *write >= last_ms).min() else {
        return Rto::StillOut { first_ms, last_ms };
    };
    Rto::Observed {
        first_ms,
        last_ms,
        good_ms,
        length_ms: good_ms.saturating_sub(first_ms),
        within_ms: within(rows),
    }
}

/// Each trouble, in order; the last one may be open.
fn episodes(rows: &[Row]) -> Vec<Episode> {
    let mut episodes: Vec<Episode> = Vec::new();
    for sum in minutes(rows).values() {
        let after = |moment: u64, before: u64| {
            sum.writes.iter().copied().filter(|w| *w >= moment && *w < before).min()
        };
        if let Some(open) = episodes.last_mut().filter(|e| e.good.is_none()) {
            open.good = after(open.last, sum.first.unwrap_or(u64::MAX));
        }
        let (Some(first), Some(last)) = (sum.first, sum.last) else { continue };
        let good = after(last, u64::MAX);
        match episodes.last_mut().filter(|e| e.good.is_none()) {
            Some(open) => *open = Episode { first: open.first.min(first), last: open.last.max(last), good },
            None => episodes.push(Episode { first, last, good }),
        }
    }
    episodes
}

fn minutes(rows: &[Row]) -> BTreeMap<Minute, Sum> {
    let mut minutes: BTreeMap<Minute, Sum> = BTreeMap::new();
    for row in rows {
        let Moments { first_bad, first_held, first_good_write, good_write_after, .. } = row.fact.tally.at;
        let ahead = row.clock.map_or(0, |clock| clock.ahead_ms);
        let at = |offset: i32| row.minute.at(offset).saturating_add_signed(ahead);
        let sum = minutes.entry(row.minute).or_default();
        for first in [first_bad, first_held].into_iter().flatten().map(at) {
            sum.first = Some(sum.first.map_or(first, |known| known.min(first)));
        }
        sum.last = sum.last.max(row.fact.tally.at.last_trouble().map(at));
        sum.writes.extend([first_good_write, good_write_after].into_iter().flatten().map(at));
    }
    minutes
}

/// The largest bound of those that took part; none if one of them has none.
fn within(rows: &[Row]) -> Option<u64> {
    let took_part = |row: &&Row| row.fact.tally.at.all().iter().any(Option::is_some);
    rows.iter()
        .filter(took_part)
        .map(|row| row.clock.map(|c| c.within_ms))
        .try_fold(0, |most, bound| Some(most.max(bound?)))
}
