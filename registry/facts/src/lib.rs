//! Facts of the traffic, per tenant, region and minute: what routers count and control planes keep. Service levels, recovery
//! times and residency are computed from them; no decision rests on them.

mod batch;
mod episodes;
mod tally;

use domicile_model::{RegionId, TenantId};
use serde::{Deserialize, Serialize};

pub use batch::{Batch, BatchId, ClockBound, Head, LARGEST, MOST_FACTS, NotABatch, VERSION};
pub use episodes::{Episode, Episodes};
pub use tally::{Moments, Outcome, Seen, Tally};

/// Milliseconds of a minute.
pub const MINUTE_MS: u64 = 60_000;
/// Milliseconds of a day: no request that is told of took longer.
const DAY_MS: u64 = 86_400_000;

/// A minute, counted from the beginning of 1970 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Minute(pub u64);

impl Minute {
    /// The minute of a moment, in milliseconds since 1970.
    #[must_use]
    pub const fn of(unix_ms: u64) -> Self {
        Self(unix_ms / MINUTE_MS)
    }

    /// When it begins, in milliseconds since 1970.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.0.saturating_mul(MINUTE_MS)
    }

    /// Where a moment lies, in milliseconds from the beginning of this minute: below zero before it, at most a day; at its end
    /// after it.
    #[must_use]
    pub fn offset(self, unix_ms: u64) -> i32 {
        let after = unix_ms.saturating_sub(self.start()).min(MINUTE_MS - 1);
        let before = self.start().saturating_sub(unix_ms).min(DAY_MS);
        i32::try_from(after).unwrap_or(0) - i32::try_from(before).unwrap_or(0)
    }

    /// The moment at this many milliseconds from its beginning, in milliseconds since 1970.
    #[must_use]
    pub fn at(self, offset: i32) -> u64 {
        self.start().saturating_add_signed(i64::from(offset))
    }
}

/// What one router has seen of one tenant in one region in one minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Whose; none: of all that found no room of their own.
    pub tenant: Option<TenantId>,
    /// The region that served it, or that it would have gone to; none if nobody knew one.
    pub region: Option<RegionId>,
    /// What was counted.
    #[serde(flatten)]
    pub tally: Tally,
}
