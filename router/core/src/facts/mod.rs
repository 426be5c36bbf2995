//! Facts of the traffic, per tenant, region and minute: what service levels, recovery times and residency are computed from.
//! Bounded however many tenants there are, and complete in its sums: whoever finds no room is counted with all others.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domicile_facts::{Fact, Minute, Outcome, Seen, Tally};
use domicile_model::{RegionId, TenantId};

use crate::errors::Cause;

/// Places of the ledger, so that requests seldom wait for each other.
const SHARDS: usize = 16;
/// Minutes that are still counted in: requests end in the present one, and a clock may be set back.
const OPEN: usize = 3;

/// How a request ended, by its answer's status and, where a router wrote it, its cause.
#[must_use]
pub fn outcome(status: u16, cause: Option<Cause>) -> Outcome {
    match cause {
        None if status >= 500 => Outcome::ApplicationError,
        None => Outcome::Good,
        Some(Cause::Client) => Outcome::Gone,
        Some(Cause::OutcomeUnknown | Cause::UpstreamBroken | Cause::UpstreamTimeout) => Outcome::Unknown,
        Some(cause) if cause.entry().status < 500 => Outcome::Refused,
        Some(_) => Outcome::Failed,
    }
}

/// Whose fact it is: a tenant's in the region that served it, or, without a region, nobody's.
type Row = (TenantId, Option<RegionId>);

#[derive(Debug, Default)]
struct Page {
    rows: HashMap<Row, Tally>,
    /// All that found no room.
    other: Tally,
}

/// The ledger of the minutes that are not over yet.
#[derive(Debug)]
pub struct Ledger {
    hasher: RandomState,
    shards: [Mutex<BTreeMap<Minute, Page>>; SHARDS],
    /// Rows of one minute in one shard.
    most: usize,
}

/// A minute that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Which.
    pub minute: Minute,
    /// In the order of tenant and region; what found no room comes first.
    pub facts: Vec<Fact>,
}

impl Ledger {
    /// A ledger with room for so many rows in each minute.
    #[must_use]
    pub fn new(most_rows: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            most: most_rows.div_ceil(SHARDS),
        }
    }

    /// Counts a request that came and ended at these moments, in milliseconds since 1970. Whether the tenant had, or found, room
    /// of its own.
    pub fn count(
        &self,
        tenant: &TenantId,
        region: Option<&RegionId>,
        seen: &Seen,
        came: u64,
        ended: u64,
    ) -> bool {
        self.with(tenant, region, ended, |tally, minute| {
            tally.count(seen, minute.offset(came), minute.offset(ended));
        })
    }

    /// Counts bytes of a connection that is passed on undecrypted, and the connection itself once.
    pub fn splice(&self, tenant: &TenantId, to: &RegionId, begins: bool, (up, down): (u64, u64), now: u64) {
        self.with(tenant, Some(to), now, |tally, _| {
            tally.spliced += u64::from(begins);
            tally.bytes_up = tally.bytes_up.saturating_add(up);
            tally.bytes_down = tally.bytes_down.saturating_add(down);
        });
    }

    fn with(
        &self,
        tenant: &TenantId,
        region: Option<&RegionId>,
        at: u64,
        count: impl FnOnce(&mut Tally, Minute),
    ) -> bool {
        let shard = usize::try_from(self.hasher.hash_one(tenant) % SHARDS as u64).unwrap_or(0);
        let mut pages = lock(&self.shards[shard]);
        let mut minute = Minute::of(at);
        // A clock that was set back by more than that counts into the oldest: nothing is lost, and nothing grows.
        if pages.len() >= OPEN
            && !pages.contains_key(&minute)
            && let Some((oldest, _)) = pages.first_key_value()
            && minute < *oldest
        {
            minute = *oldest;
        }
        let page = pages.entry(minute).or_default();
        let row = (tenant.clone(), region.cloned());
        let room = page.rows.len() < self.most;
        let (tally, own) = match page.rows.get_mut(&row) {
            Some(tally) => (tally, true),
            None if room => (page.rows.entry(row).or_default(), true),
            None => (&mut page.other, false),
        };
        count(tally, minute);
        own
    }

    /// Takes the minutes before this one. What ends later in one of them is counted into a page of the same minute anew.
    #[must_use]
    pub fn close(&self, before: Minute) -> Vec<Closed> {
        let mut closed: BTreeMap<Minute, (Tally, Vec<Fact>)> = BTreeMap::new();
        for shard in &self.shards {
            let old = {
                let mut pages = lock(shard);
                let open = pages.split_off(&before);
                std::mem::replace(&mut *pages, open)
            };
            for (minute, page) in old {
                let (other, facts) = closed.entry(minute).or_default();
                other.add(&page.other);
                let rows = page.rows.into_iter();
                facts.extend(rows.map(|((tenant, region), tally)| Fact {
                    tenant: Some(tenant),
                    region,
                    tally,
                }));
            }
        }
        let sorted = |(minute, (other, mut facts)): (Minute, (Tally, Vec<Fact>))| {
            facts.sort_unstable_by(|a, b| (&a.tenant, &a.region).cmp(&(&b.tenant, &b.region)));
            if other != Tally::default() {
                facts.insert(0, Fact { tenant: None, region: None, tally: other });
            }
            Closed { minute, facts }
        };
        closed.into_iter().map(sorted).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
