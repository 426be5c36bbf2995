//! How patient the machine is.

use std::time::Duration;

/// Durations of list-then-watch. They pace; no decision about who may write rests on them.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long a stream may be quiet before a sign of life is asked for.
    pub quiet: Duration,
    /// How long an answer may take, other than a listing.
    pub answer: Duration,
    /// How long a full listing may take.
    pub list: Duration,
    /// The first pause after a loss; doubled with each further one.
    pub backoff_least: Duration,
    /// The longest pause.
    pub backoff_most: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(1),
            answer: Duration::from_secs(2),
            list: Duration::from_secs(60),
            backoff_least: Duration::from_millis(50),
            backoff_most: Duration::from_secs(2),
        }
    }
}

impl Pace {
    /// The pause after this many losses in a row; `chance` (0 to 1) spreads it over its upper half, so that a
    /// thousand routers do not come back at once.
    #[must_use]
    pub fn backoff(&self, losses: u32, chance: f64) -> Duration {
        let doubled = self.backoff_least.saturating_mul(1 << losses.saturating_sub(1).min(16));
        doubled.min(self.backoff_most).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_spread() {
        let pace = Pace::default();
        assert_eq!(pace.backoff(1, 1.0), Duration::from_millis(50));
        assert_eq!(pace.backoff(3, 1.0), Duration::from_millis(200));
        assert_eq!(pace.backoff(3, 0.0), Duration::from_millis(100));
        assert_eq!(pace.backoff(u32::MAX, 1.0), Duration::from_secs(2));
    }
}
