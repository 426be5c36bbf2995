//! The world record: which life of the registry this is, and the constants of its fence.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::WorldId;

/// The key `world`. Every transaction compares it, so that nothing meant for one life of the registry is applied to
/// another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Random, made when the registry was first filled, restored or rebuilt; never used again.
    pub id: WorldId,
    /// False from a restore until every epoch was raised above what routers, agents and databases know. No registry
    /// proof exists meanwhile.
    pub reconciled: bool,
    /// The fence constants, one set per fleet.
    pub constants: FenceConstants,
}

/// Durations of the fence, in milliseconds, and how far two clocks' rates may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceConstants {
    /// FENCE: life of a proof, counted by its holder from before it asked.
    pub fence_ms: u64,
    /// RENEW: how often a proof is asked for.
    pub renew_ms: u64,
    /// DRAIN: a gate admits nothing new in a proof's last DRAIN.
    pub drain_ms: u64,
    /// STOP: in the last STOP of a proof an agent kills PostgreSQL.
    pub stop_ms: u64,
    /// DRIFT: parts per million by which two clocks' rates may differ (10 000 is 1 %).
    pub drift_ppm: u64,
}

impl FenceConstants {
    /// What a fleet gets that does not choose: 10 s, 1 s, 2 s, 1 s, 1 %.
    pub const DEFAULT: Self =
        Self { fence_ms: 10_000, renew_ms: 1_000, drain_ms: 2_000, stop_ms: 1_000, drift_ppm: 10_000 };

    /// FENCE.
    #[must_use]
    pub const fn fence(&self) -> Duration {
        Duration::from_millis(self.fence_ms)
    }

    /// RENEW.
    #[must_use]
    pub const fn renew(&self) -> Duration {
        Duration::from_millis(self.renew_ms)
    }

    /// DRAIN.
    #[must_use]
    pub const fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }

    /// STOP.
    #[must_use]
    pub const fn stop(&self) -> Duration {
        Duration::from_millis(self.stop_ms)
    }

    /// WAIT = FENCE × (1 + 2 DRIFT): how long whoever lets proofs run out must count.
    #[must_use]
    pub const fn wait(&self) -> Duration {
        let rate = 1_000_000u64.saturating_add(self.drift_ppm.saturating_mul(2));
        Duration::from_micros(self.fence_ms.saturating_mul(rate) / 1_000)
    }

    /// What is wrong with these numbers, if anything: a proof must outlive its own last DRAIN and STOP by at least
    /// two renewals, or a single slow answer stops a healthy cell.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        if self.renew_ms == 0 || self.fence_ms == 0 {
            Some("fence and renew must be above zero")
        } else if self.fence_ms > 600_000 {
            Some("a fence above ten minutes keeps a dead region's cells closed that long")
        } else if self.drain_ms < self.stop_ms {
            Some("drain must not be shorter than stop, or the database dies under admitted requests")
        } else if self.fence_ms < self.drain_ms + 2 * self.renew_ms {
            Some("fence must be at least drain + 2 × renew, or one slow answer stops a healthy cell")
        } else if self.drift_ppm > 100_000 {
            Some("a drift above 10 % is a broken clock")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_covers_the_fence_and_the_drift_of_both_clocks() {
        assert_eq!(FenceConstants::DEFAULT.wait(), Duration::from_millis(10_200));
        assert_eq!(FenceConstants::DEFAULT.problem(), None);
    }

    #[test]
    fn constants_that_would_stop_a_healthy_cell_are_refused() {
        for broken in [
            FenceConstants { fence_ms: 0, ..FenceConstants::DEFAULT },
            FenceConstants { fence_ms: 3_000, ..FenceConstants::DEFAULT },
            FenceConstants { stop_ms: 3_000, ..FenceConstants::DEFAULT },
            FenceConstants { drift_ppm: 200_000, ..FenceConstants::DEFAULT },
        ] {
            assert!(broken.problem().is_some(), "{broken:?}");
        }
    }
}
