//! How far a server is on its way to being a standby, and how long it will take. Pure: the time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use domicile_api::agent::Work;
use domicile_api::protection::{BuildingView, Doing};
use domicile_model::RegionId;
use domicile_model::clock::BootTime;

use crate::lossmath::millis;
use crate::provider::Observation;

/// The rate is taken over at most this long…
const RATE: Duration = Duration::from_secs(120);
/// …and over no less than this.
const LEAST: Duration = Duration::from_secs(2);
/// What was seen longer ago says nothing about now.
const FRESH: Duration = Duration::from_secs(15);
/// Points kept: two minutes of one a second.
const POINTS: usize = 128;

/// What was seen of one server's way, one kind of work at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    doing: Doing,
    /// When that was first seen, or began by the server's own word.
    since: BootTime,
    newest: BootTime,
    done: Option<(u64, u64)>,
    left: Option<u64>,
    /// Bytes left, with when they were seen.
    points: VecDeque<(BootTime, u64)>,
}

/// What a server does, how many bytes are left of it, and what it says of it itself.
struct Now<'a> {
    doing: Doing,
    left: Option<u64>,
    work: Option<&'a Work>,
}

/// None: the server is on no such way.
fn now<'a>(seen: &'a Observation, holder: &Observation) -> Option<Now<'a>> {
    if let Some(work) = &seen.work {
        let left = work.total_bytes.zip(work.done_bytes).map(|(total, done)| total.saturating_sub(done));
        return Some(Now { doing: work.doing, left, work: Some(work) });
    }
    if seen.standby != Some(true) {
        return None;
    }
    let left = holder.flushed.zip(seen.replayed).map(|(to, at)| to.0.saturating_sub(at.0));
    Some(Now { doing: Doing::CatchingUp, left, work: None })
}

impl Track {
    /// Adds what was seen of the server and of the one that it is to follow.
    #[must_use]
    pub fn take(
        before: Option<Self>,
        asked: BootTime,
        seen: &Observation,
        holder: &Observation,
    ) -> Option<Self> {
        let Now { doing, left, work } = now(seen, holder)?;
        let began = |work: &Work| {
            let length = work.for_ms.saturating_mul(1_000_000);
            BootTime::from_nanos(asked.as_nanos().saturating_sub(length))
        };
        let since = work.map_or(asked, began);
        // The same kind of work may begin anew.
        let again = |track: &Self| work.is_some() && since.since(track.since) > Duration::from_secs(1);
        let mut track = before.filter(|track| track.doing == doing && !again(track)).unwrap_or(Self {
            doing,
            since,
            newest: asked,
            done: None,
            left: None,
            points: VecDeque::new(),
        });
        track.newest = asked;
        track.done = work.and_then(|work| work.done_bytes.zip(work.total_bytes));
        track.left = left;
        if let Some(left) = left {
            track.points.push_back((asked, left));
            if track.points.len() > POINTS {
                track.points.pop_front();
            }
        }
        Some(track)
    }

    /// Whether a job is under way, which is worth looking at more often.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        !matches!(self.doing, Doing::CatchingUp)
    }

    /// As people see it; none if it was seen too long ago.
    #[must_use]
    pub fn view(&self, region: &RegionId, now: BootTime) -> Option<BuildingView> {
        let age = now.since(self.newest);
        if age > FRESH {
            return None;
        }
        let (bytes_per_s, left_ms, because) = self.forecast();
        Some(BuildingView {
            region: region.clone(),
            doing: self.doing,
            for_ms: millis(self.newest.since(self.since)),
            done_bytes: self.done.map(|(done, _)| done),
            total_bytes: self.done.map(|(_, total)| total),
            left_bytes: self.left,
            bytes_per_s,
            left_ms,
            because,
            age_ms: millis(age),
        })
    }

    /// The measured rate, the time left at that rate, and what that rests on. Unknown is never 0.
    fn forecast(&self) -> (Option<f64>, Option<u64>, String) {
        let unknown = |why: &str| (None, None, why.to_owned());
        let Some(left) = self.left else { return unknown("how much is left is not known") };
        if left == 0 {
            return unknown(match self.doing {
                Doing::CatchingUp => "it has replayed all that the primary had written when it was looked at",
                _ => {
                    "all that was estimated is copied: the log that was written meanwhile, and the disk, take what they take"
                }
            });
        }
        let Some((rate, over)) = self.recent().or_else(|| self.average()) else {
            return unknown(match self.doing {
                Doing::CatchingUp => {
                    "it comes no nearer: as much is written as it replays, or it was not watched for long enough"
                }
                _ => "how fast it goes was not measured yet",
            });
        };
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, is never negative, and is no more exact than the rate"
        )]
        let ms = (left as f64 / rate * 1000.0) as u64;
        (
            Some(rate),
            Some(ms.max(1)),
            format!(
                "{left} bytes left, at {rate:.0} bytes a second over the last {:.0} s",
                over.as_secs_f64()
            ),
        )
    }

    /// By how much fewer bytes were left lately.
    fn recent(&self) -> Option<(f64, Duration)> {
        let (newest, left) = *self.points.back()?;
        let (first, before) = *self.points.iter().find(|(at, _)| newest.since(*at) <= RATE)?;
        rate(before.checked_sub(left)?, newest.since(first))
    }

    /// By what was done since it began.
    fn average(&self) -> Option<(f64, Duration)> {
        rate(self.done?.0, self.newest.since(self.since))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(bytes: u64, over: Duration) -> Option<(f64, Duration)> {
    (bytes > 0 && over >= LEAST).then(|| (bytes as f64 / over.as_secs_f64(), over))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_model::token::Lsn;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_nanos((1_000 + seconds) * 1_000_000_000)
    }

    fn working(doing: Doing, for_s: u64, copied: Option<(u64, u64)>) -> Observation {
        let work = Work {
            doing,
            for_ms: for_s * 1000,
            done_bytes: copied.map(|c| c.0),
            total_bytes: copied.map(|c| c.1),
        };
        Observation { work: Some(work), ..Observation::default() }
    }

    fn holder(flushed: u64) -> Observation {
        Observation { flushed: Some(Lsn(flushed)), ..Observation::default() }
    }

    fn standby(replayed: u64) -> Observation {
        Observation { standby: Some(true), replayed: Some(Lsn(replayed)), ..Observation::default() }
    }

    fn shown(track: &Option<Track>, seconds: u64) -> BuildingView {
        track.as_ref().unwrap().view(&RegionId::new("r").unwrap(), at(seconds)).unwrap()
    }

    #[test]
    fn a_base_backup_is_forecast_from_what_was_measured() {
        let copied = |done| Some((done, 1_000_000));
        let first = working(Doing::BaseBackup, 1, copied(100_000));
        let track = Track::take(None, at(1), &first, &holder(1));
        let view = shown(&track, 1);
        assert_eq!((view.done_bytes, view.left_ms, view.bytes_per_s), (Some(100_000), None, None));
        assert!(view.because.contains("not measured"), "{}", view.because);
        let track = Track::take(track, at(4), &working(Doing::BaseBackup, 4, copied(400_000)), &holder(1));
        let view = shown(&track, 4);
        assert_eq!((view.left_ms, view.left_bytes, view.for_ms), (Some(6_000), Some(600_000), 4_000));
        assert!(view.because.contains("over the last 3 s"), "{}", view.because);
        // One look is enough where the work says for how long it goes on.
        let track = Track::take(None, at(4), &working(Doing::BaseBackup, 4, copied(400_000)), &holder(1));
        assert_eq!(shown(&track, 4).left_ms, Some(6_000));
        // It stands still: the last measured rate is over all of it, and never none left.
        let all = Track::take(track, at(9), &working(Doing::BaseBackup, 9, copied(1_000_000)), &holder(1));
        let view = shown(&all, 9);
        assert_eq!((view.left_bytes, view.left_ms), (Some(0), None));
        assert!(view.because.contains("all that was estimated"), "{}", view.because);
        assert_eq!(all.unwrap().view(&RegionId::new("r").unwrap(), at(60)), None, "seen too long ago");
    }

    #[test]
    fn catching_up_is_forecast_by_how_the_distance_shrinks() {
        let mut track = None;
        for n in 0..10 {
            track = Track::take(track, at(n), &standby(n * 3_000), &holder(100_000 + n * 1_000));
        }
        let view = shown(&track, 9);
        assert_eq!((view.doing, view.left_bytes), (Doing::CatchingUp, Some(82_000)));
        assert_eq!((view.bytes_per_s, view.left_ms), (Some(2_000.0), Some(41_000)));
        let mut slow = None;
        for n in 0..10 {
            slow = Track::take(slow, at(n), &standby(n * 1_000), &holder(100_000 + n * 1_000));
        }
        let view = shown(&slow, 9);
        assert!(view.left_ms.is_none() && view.because.contains("no nearer"), "{view:?}");
        let there = Track::take(track, at(11), &standby(500_000), &holder(500_000));
        assert_eq!(shown(&there, 11).left_ms, None);
    }

    #[test]
    fn what_is_not_counted_is_unknown_and_other_work_begins_anew() {
        let track = Track::take(None, at(1), &working(Doing::Rewinding, 1, None), &holder(1));
        let view = shown(&track, 1);
        assert!(view.left_ms.is_none() && view.because.contains("not known"), "{view:?}");
        assert!(track.as_ref().unwrap().is_busy());
        let next = Track::take(track, at(20), &working(Doing::BaseBackup, 0, Some((1, 9))), &holder(1));
        assert_eq!((shown(&next, 20).for_ms, shown(&next, 20).left_ms), (0, None));
        // A second base backup after one that failed.
        let next = Track::take(next, at(40), &working(Doing::BaseBackup, 20, Some((8, 9))), &holder(1));
        assert_eq!(shown(&next, 40).for_ms, 20_000);
        let next = Track::take(next, at(45), &working(Doing::BaseBackup, 1, Some((1, 9))), &holder(1));
        assert_eq!((shown(&next, 45).for_ms, shown(&next, 45).left_ms), (1_000, None));
        assert_eq!(Track::take(next, at(46), &Observation::default(), &holder(1)), None);
    }
}
