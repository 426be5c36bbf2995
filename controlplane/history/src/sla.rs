//! Service level of a period. Pure.

use std::collections::{BTreeMap, BTreeSet};

use domicile_api::reports::Sla;
use domicile_facts::{Minute, Tally};

use crate::{Coverage, Row};

/// Of a hundred requests, this many may end badly before the minute is bad.
const BAD_PERCENT: u64 = 5;
/// Parts of one.
const MILLION: u64 = 1_000_000;

/// How it is counted, as the report says it.
pub const FORMULA: &str = "a minute is bad if more than 5 % of its requests ended badly (5xx of the application, not served, or \
outcome unknown; refused ones and those whose client left are not counted), else available; idle if routers told of it and nobody came; \
unknown if no router told anything; availability = available / (available + bad), at least with the unknown minutes as bad, at \
most with them as available; error budget = (1 - objective) x minutes of the period";

/// The service level of a tenant whose minutes these rows are, from a minute on and before another one, against an objective in
/// parts of a million. `whole` is how many minutes the whole period has; it may not be over.
#[must_use]
pub fn of(
    rows: &[Row],
    coverage: &Coverage,
    (from, to): (Minute, Minute),
    whole: u64,
    objective_ppm: u64,
) -> Sla {
    let mut minutes: BTreeMap<Minute, (u64, u64)> = BTreeMap::new();
    let mut sla = Sla { minutes: to.0.saturating_sub(from.0), ..Sla::default() };
    for row in rows.iter().filter(|row| (from..to).contains(&row.minute)) {
        let (bad, served) = counted(&row.fact.tally);
        let sum = minutes.entry(row.minute).or_default();
        *sum = (sum.0.saturating_add(bad), sum.1.saturating_add(served));
        sla.requests = sla.requests.saturating_add(row.fact.tally.requests());
        sla.writes = sla.writes.saturating_add(row.fact.tally.writes);
        sla.bad_requests = sla.bad_requests.saturating_add(bad);
    }
    let told: BTreeSet<Minute> =
        coverage.routers.values().flatten().copied().filter(|m| (from..to).contains(m)).collect();
    for (bad, served) in minutes.values().filter(|(bad, served)| bad.saturating_add(*served) > 0) {
        if bad.saturating_mul(100) > bad.saturating_add(*served).saturating_mul(BAD_PERCENT) {
            sla.bad += 1;
        } else {
            sla.available += 1;
        }
    }
    let known = minutes.keys().copied().chain(told).collect::<BTreeSet<_>>().len() as u64;
    sla.idle = known - sla.bad - sla.available;
    sla.unknown = sla.minutes.saturating_sub(known);
    let all = sla.available + sla.bad + sla.unknown;
    let share = |good: u64| (sla.available + sla.bad > 0).then(|| good.saturating_mul(MILLION) / all);
    (sla.least_ppm, sla.most_ppm) = (share(sla.available), share(sla.available + sla.unknown));
    sla.budget = whole.saturating_mul(MILLION.saturating_sub(objective_ppm)) / MILLION;
    let used = i64::try_from(sla.bad + sla.unknown).unwrap_or(i64::MAX);
    sla.budget_left = i64::try_from(sla.budget).unwrap_or(i64::MAX).saturating_sub(used);
    sla
}

/// Requests that ended badly, and that were served.
fn counted(tally: &Tally) -> (u64, u64) {
    (tally.application_error.saturating_add(tally.failed).saturating_add(tally.unknown), tally.good)
}
