//! The arithmetic of lag and of the loss of a forced move, from samples. Pure: the time is an argument.
//!
//! A preview must never be below the loss, and not far above it. Every rounding goes up: an older sample where the
//! exact one is missing, the transactions that were open at it included, the busiest recent rate.

use std::time::Duration;

use domicile_api::moves::LossPreview;
use domicile_model::FenceConstants;
use domicile_model::clock::BootTime;
use domicile_model::token::Lsn;

use crate::provider::{PrimarySample, StandbySample};

/// Between the question of an operator and the close, and for what a sample can't see.
pub const MARGIN: Duration = Duration::from_millis(500);
/// The rate is the busiest one over at least this long…
const WINDOW: Duration = Duration::from_secs(2);
/// …within this long before the newest sample.
const RECENT: Duration = Duration::from_secs(10);

/// Writing transactions that a standby which has replayed up to here lacks, by the newest sample of the primary.
///
/// The lower of two counts, neither of which is ever too low. One goes by what the standby itself sees as running. The other
/// begins with the oldest transaction that still ran at a sample which is wholly replayed: it has its number already and may
/// have committed later. Of those samples it is one before the newest: what commits asynchronously has ended a moment before
/// it is flushed. The first is closer, but for a long transaction, which both hold back for as long as they see it run. None:
/// the standby does not say, and no sample reaches back that far.
#[must_use]
pub fn lacking(history: &[PrimarySample], standby: Replayed) -> Option<u64> {
    let newest = history.last()?;
    let from = |xid: u64| newest.next_xid.saturating_sub(xid);
    let by_position = standby.up_to.and_then(|up_to| {
        let at = history.iter().rposition(|s| s.flushed <= up_to)?;
        if newest.flushed <= up_to {
            return Some(0);
        }
        Some(from(history[at.saturating_sub(1)].oldest_xid))
    });
    let by_number = standby.ended_below.map(from);
    by_position.into_iter().chain(by_number).min()
}

/// The busiest write rate of late, in transactions a second. None: the samples do not span long enough.
#[must_use]
pub fn write_rate(history: &[PrimarySample]) -> Option<f64> {
    let newest = history.last()?;
    let recent: Vec<&PrimarySample> =
        history.iter().filter(|s| newest.asked.since(s.asked) <= RECENT).collect();
    let mut best: Option<f64> = None;
    for (i, start) in recent.iter().enumerate() {
        // The shortest window that is long enough: longer ones only average over it.
        let Some(end) = recent[i..].iter().find(|s| s.asked.since(start.asked) >= WINDOW) else { break };
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate; 2^53 transactions in ten seconds do not happen"
        )]
        let count = end.next_xid.saturating_sub(start.next_xid) as f64;
        let rate = count / end.asked.since(start.asked).as_secs_f64();
        best = Some(best.map_or(rate, |b| b.max(rate)));
    }
    best
}

/// What a standby has, by its own word.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replayed {
    /// Up to here. None: unknown.
    pub up_to: Option<Lsn>,
    /// The end of every transaction with a lower number. None: unknown.
    pub ended_below: Option<u64>,
}

impl From<&StandbySample> for Replayed {
    fn from(sample: &StandbySample) -> Self {
        Self { up_to: Some(sample.replayed), ended_below: sample.ended_below }
    }
}

/// What is known when a loss is computed.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The present moment.
    pub now: BootTime,
    /// When the primary will have, or has, certainly stopped.
    pub stopped: BootTime,
    /// What the standby has replayed.
    pub replayed: Replayed,
}

/// What a forced move loses at most: what the standby lacks by the newest sample, and what the primary may have
/// acknowledged from that sample until it has certainly stopped.
#[must_use]
pub fn loss(history: &[PrimarySample], moment: Moment) -> LossPreview {
    let newest = history.last();
    let mut because = Vec::new();
    let sampled = lacking(history, moment.replayed);
    let rate = write_rate(history);
    let until = newest.zip(rate).map(|(s, rate)| {
        let open = moment.stopped.since(s.asked);
        ceil(rate * open.as_secs_f64())
    });
    match newest {
        None => because.push("the primary was never sampled".to_owned()),
        Some(_) if moment.replayed.up_to.is_none() => {
            because.push("the standby does not say how far it has replayed".to_owned());
        }
        Some(_) if sampled.is_none() => {
            because.push("the standby is behind further than the samples reach back".to_owned());
        }
        Some(sample) => because.push(format!(
            "the newest sample of the primary is {} ms old",
            millis(moment.now.since(sample.asked))
        )),
    }
    match rate {
        None => because.push("the write rate is unknown: too few samples".to_owned()),
        Some(rate) => because.push(format!(
            "the primary may have acknowledged writes for {} ms after that sample, at {rate:.1} transactions a second",
            newest.map_or(0, |s| millis(moment.stopped.since(s.asked)))
        )),
    }
    LossPreview {
        sampled_transactions: sampled,
        sampled_bytes: newest.zip(moment.replayed.up_to).map(|(s, at)| s.flushed.0.saturating_sub(at.0)),
        sample_age_ms: newest.map(|s| millis(moment.now.since(s.asked))),
        until_stopped_transactions: until,
        write_rate_per_s: rate,
        because,
    }
}

/// What a forced move would lose that is asked for now: the primary stops WAIT after the close at the latest.
#[must_use]
pub fn preview(
    history: &[PrimarySample],
    standby: Option<&StandbySample>,
    constants: &FenceConstants,
    now: BootTime,
) -> LossPreview {
    let stopped = now + constants.wait() + MARGIN;
    loss(history, Moment { now, stopped, replayed: standby.map(Replayed::from).unwrap_or_default() })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, and is never negative"
)]
fn ceil(x: f64) -> u64 {
    x.ceil() as u64
}

pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn history(rate: u64, samples: u64) -> Vec<PrimarySample> {
        (0..samples)
            .map(|i| PrimarySample {
                asked: BootTime::from_nanos(i * 250_000_000),
                flushed: Lsn(1000 + i * rate * 25),
                next_xid: 500 + i * rate / 4,
                oldest_xid: 500 + i * rate / 4,
                streaming: true,
            })
            .collect()
    }

    fn standby(asked: BootTime, replayed: Lsn, ended_below: Option<u64>) -> StandbySample {
        StandbySample { asked, replayed, ended_below, data_age_ms: None, streaming: false }
    }

    fn at(up_to: Lsn) -> Replayed {
        Replayed { up_to: Some(up_to), ended_below: None }
    }

    #[test]
    fn without_samples_everything_is_unknown() {
        let got = preview(&[], None, &FenceConstants::DEFAULT, BootTime::from_nanos(0));
        assert_eq!((got.total(), got.sampled_transactions), (None, None));
        // A standby further behind than the samples reach: unknown, not the most that is known.
        let h = history(100, 40);
        let mut behind = standby(h[0].asked, Lsn(1), None);
        let got = preview(&h, Some(&behind), &FenceConstants::DEFAULT, h[39].asked);
        assert_eq!((got.sampled_transactions, got.total()), (None, None));
        // Unless it says itself which transactions it has.
        behind.ended_below = Some(450);
        let got = preview(&h, Some(&behind), &FenceConstants::DEFAULT, h[39].asked);
        assert_eq!(got.sampled_transactions, Some(h[39].next_xid - 450));
    }

    #[test]
    fn too_short_a_history_has_no_rate() {
        assert_eq!(write_rate(&history(100, 8)), None);
        assert!((write_rate(&history(100, 20)).unwrap() - 100.0).abs() < 1.0);
    }

    /// The samples of a primary with these transactions, each with its start and its end in milliseconds.
    fn sampled(mut transactions: Vec<(u64, u64)>, samples: u64) -> Vec<PrimarySample> {
        transactions.sort_unstable();
        let at = |ms: u64| {
            let started = transactions.partition_point(|(start, _)| *start <= ms);
            let running = transactions[..started].iter().position(|(_, end)| *end > ms);
            let ended = transactions.iter().filter(|(_, end)| *end <= ms).count() as u64;
            PrimarySample {
                asked: BootTime::from_nanos(ms * 1_000_000),
                flushed: Lsn(1_000 + ended * 100),
                next_xid: 500 + started as u64,
                oldest_xid: 500 + running.unwrap_or(started) as u64,
                streaming: true,
            }
        };
        (0..samples).map(|i| at(i * 250)).collect()
    }

    #[test]
    fn what_ran_already_at_the_replayed_sample_and_committed_later_is_counted() {
        // Thirty that run for two seconds each; the standby gets nothing from when they all run.
        let history = sampled((0..30).map(|i| (900 + i, 2_900 + i)).collect(), 20);
        let replayed = &history[8];
        assert_eq!((replayed.next_xid, replayed.oldest_xid), (530, 500));
        assert_eq!(lacking(&history, at(replayed.flushed)), Some(30));
    }

    proptest! {
        /// However long transactions run: what was committed after what the standby has is in the count.
        #[test]
        fn what_a_standby_lacks_is_never_undercounted(
            transactions in proptest::collection::vec((0u64..10_000, 0u64..3_000), 1..80), sample in 0usize..40,
        ) {
            let transactions: Vec<_> = transactions.into_iter().map(|(start, runs)| (start, start + runs)).collect();
            let history = sampled(transactions.clone(), 40);
            let (replayed, newest) = (sample as u64 * 250, 39 * 250);
            let real = transactions.iter().filter(|(_, end)| replayed < *end && *end <= newest).count() as u64;
            let by_position = lacking(&history, at(history[sample].flushed)).unwrap();
            prop_assert!(by_position >= real, "{by_position} < {real}");
            // The standby's own word, which knows nothing of what the samples hold.
            let ended_below = Some(history[sample].oldest_xid);
            let by_number = lacking(&history, Replayed { up_to: None, ended_below }).unwrap();
            prop_assert!(by_number >= real, "{by_number} < {real}");
            let both = lacking(&history, Replayed { ended_below, ..at(history[sample].flushed) }).unwrap();
            prop_assert_eq!(both, by_position.min(by_number));
        }

        /// Whatever was committed since what the standby has, up to WAIT after the close, is in the preview; and the
        /// preview is at most (FENCE + age + 2 s) × rate above the loss.
        #[test]
        fn never_below_the_loss_and_not_far_above(
            rate in (5u64..500).prop_map(|r| r * 4), behind in 0u64..60, age_ms in 0u64..5_000, lives_ms in 0u64..15_200,
            says in any::<bool>(),
        ) {
            let h = history(rate, 100);
            let newest = h.last().unwrap();
            let now = newest.asked + Duration::from_millis(age_ms);
            // It writes at a steady rate until it stops, at the latest WAIT after a close right now.
            let lives = Duration::from_millis(lives_ms.min(age_ms + 10_200));
            let at_end = newest.next_xid + rate * millis(lives) / 1000;
            let replayed = h[99 - usize::try_from(behind).unwrap()].clone();
            let real = at_end - replayed.next_xid;
            let got = preview(&h, Some(&standby(now, replayed.flushed, says.then_some(replayed.oldest_xid))), &FenceConstants::DEFAULT, now).total().unwrap();
            prop_assert!(got >= real, "{got} < {real}");
            let most = real as f64 + (10.0 + age_ms as f64 / 1000.0 + 2.0) * rate as f64;
            prop_assert!(got as f64 <= most, "{got} > {most}");
        }
    }
}
