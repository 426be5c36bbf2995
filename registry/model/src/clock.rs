//! The one clock that decisions may rest on.
//!
//! `std::time::Instant` and tokio's timers are `CLOCK_MONOTONIC` on Linux and stand still while the machine is
//! suspended. A gate that slept through its proof's end would wake up believing in it. `CLOCK_BOOTTIME` runs on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A moment on `CLOCK_BOOTTIME`, in nanoseconds since boot. Means nothing on another machine or after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(u64);

impl BootTime {
    /// The moment this many nanoseconds after boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl std::ops::Sub<Duration> for BootTime {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Where the time comes from. Passed in, so that tests own it.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's `CLOCK_BOOTTIME`.
    Machine,
    /// A clock that moves only when a test moves it.
    Manual(ManualClock),
}

impl Clock {
    /// The present moment.
    #[must_use]
    pub fn now(&self) -> BootTime {
        match self {
            Self::Machine => {
                let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                let secs = u64::try_from(t.tv_sec).unwrap_or(0);
                let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
                BootTime(secs * 1_000_000_000 + nanos)
            }
            Self::Manual(clock) => BootTime(clock.0.load(Ordering::SeqCst)),
        }
    }
}

/// A clock for tests: stands still until [`ManualClock::advance`]. Clones share one time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows one hour after boot, so that subtracting from it does not hit zero.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(3_600_000_000_000)))
    }

    /// Moves the time on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

/// Lets some time pass, in loops that pace themselves: renewals, samplers, back-off.
///
/// The only place that sleeps, so that clippy can refuse every other one. Never use it to wait for something that
/// can be awaited.
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
pub async fn pause(length: Duration) {
    tokio::time::sleep(length).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_clock_does_not_run_backwards() {
        let first = Clock::Machine.now();
        assert!(Clock::Machine.now() >= first);
        assert!(first > BootTime::from_nanos(0));
    }

    #[test]
    fn a_manual_clock_moves_only_by_hand_and_for_all_clones() {
        let hand = ManualClock::new();
        let clock = Clock::Manual(hand.clone());
        let before = clock.now();
        assert_eq!(clock.now(), before);
        hand.advance(Duration::from_millis(1500));
        assert_eq!(clock.now().since(before), Duration::from_millis(1500));
        assert_eq!(before.since(clock.now()), Duration::ZERO);
    }
}
