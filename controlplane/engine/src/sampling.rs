//! Samples of primaries and standbys: what lag is reported from, and what a forced move's preview rests on.
//!
//! Every control plane samples, followers too: they need the history when the leader dies with the region.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domicile_api::moves::LossPreview;
use domicile_api::protection::{BuildingView, Retention, RetentionView};
use domicile_api::views::{HealthView, LagView};
use domicile_model::clock::{BootTime, Clock};
use domicile_model::token::Lsn;
use domicile_model::{Cell, CellId, FenceConstants, FenceLevel, RegionId, SigningKey};

use crate::building::Track;
use crate::lossmath::{self, Moment, Replayed, millis};
use crate::provider::{Databases, Observation, PrimarySample, Sample, StandbySample};
use crate::retention;

/// Samples kept as they come: five minutes at four a second.
const FINE: usize = 1_200;
/// Older ones are thinned to one in this long…
const SPACING: Duration = Duration::from_secs(10);
/// …and kept this many: eight hours. A coarser history only makes a preview larger, never too small.
const COARSE: usize = 2_880;
/// A sample that takes longer counts as none.
const MOST: Duration = Duration::from_secs(3);

/// How often the databases of a cell are looked at whole.
const LOOK: Duration = Duration::from_secs(3);
/// The same while a standby is being built.
const LOOK_BUSY: Duration = Duration::from_secs(1);

/// The samples of all cells.
pub struct Sampler {
    databases: Arc<dyn Databases>,
    clock: Clock,
    cells: Mutex<BTreeMap<CellId, History>>,
}

#[derive(Default)]
struct History {
    /// Whose samples these are: another holder's numbers mean nothing beside them.
    holder: Option<RegionId>,
    coarse: VecDeque<PrimarySample>,
    fine: VecDeque<PrimarySample>,
    standby: Option<StandbySample>,
    busy: bool,
    looks: Looks,
}

/// What was wrong when the databases of a cell were last looked at whole.
#[derive(Debug, Clone, Default)]
struct Looks {
    began: Option<BootTime>,
    seen: Option<(BootTime, Vec<String>)>,
    /// Whether the holder's loss slot was good when it was last seen: the holder may be gone when that is asked.
    loss_slot: Option<(BootTime, bool)>,
    /// What could not be accounted for if the holder were lost, when it was last seen; and the size and the limit of its
    /// slot for losses, in bytes.
    unlisted: Vec<String>,
    slot_bytes: Option<(u64, Option<u64>)>,
    /// What the holder keeps of its write-ahead log, when it was last seen.
    retention: Option<(BootTime, Retention)>,
    /// The key that each agent showed last.
    keys: BTreeMap<RegionId, SigningKey>,
    /// What each server told last of what stops its direct writers.
    levels: BTreeMap<RegionId, (BootTime, FenceLevel)>,
    /// How far the other server is on its way to being a standby.
    track: Option<(RegionId, Track)>,
    /// Each server as it was seen last.
    servers: BTreeMap<RegionId, (BootTime, Observation)>,
}

impl Looks {
    /// Where the other server of the cell is on its way, after both were looked at.
    fn follow_up(&mut self, cell: &Cell, holder: &RegionId) {
        let before = self.track.take();
        let Some(other) = cell.other(holder) else { return };
        let (Some((_, primary)), Some((asked, seen))) = (self.servers.get(holder), self.servers.get(other))
        else {
            return;
        };
        // One look that got no answer says nothing; what stays is told with its age.
        if !seen.reachable {
            self.track = before;
            return;
        }
        let before = before.filter(|(region, _)| region == other).map(|(_, track)| track);
        self.track = Track::take(before, *asked, seen, primary).map(|track| (other.clone(), track));
    }
}

impl History {
    fn take(&mut self, holder: &RegionId, sample: Sample) {
        if self.holder.as_ref() != Some(holder) {
            let mut looks = std::mem::take(&mut self.looks);
            // Another server's slot.
            if self.holder.is_some() {
                (looks.loss_slot, looks.unlisted, looks.slot_bytes) = (None, Vec::new(), None);
                looks.retention = None;
            }
            *self = Self { holder: Some(holder.clone()), busy: self.busy, looks, ..Self::default() };
        }
        if let Some(primary) = sample.primary {
            // Numbers that fall belong to another server, or another timeline.
            if self
                .fine
                .back()
                .is_some_and(|last| primary.flushed < last.flushed || primary.next_xid < last.next_xid)
            {
                self.fine.clear();
                self.coarse.clear();
            }
            self.fine.push_back(primary);
            if self.fine.len() > FINE
                && let Some(old) = self.fine.pop_front()
                && self.coarse.back().is_none_or(|last| old.asked.since(last.asked) >= SPACING)
            {
                self.coarse.push_back(old);
                if self.coarse.len() > COARSE {
                    self.coarse.pop_front();
                }
            }
        }
        if let Some(standby) = sample.standby {
            self.standby = Some(standby);
        }
    }

    fn primaries(&self) -> Vec<PrimarySample> {
        self.coarse.iter().chain(&self.fine).cloned().collect()
    }
}

impl Sampler {
    /// With empty histories.
    #[must_use]
    pub fn new(databases: Arc<dyn Databases>, clock: Clock) -> Self {
        Self { databases, clock, cells: Mutex::new(BTreeMap::new()) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<CellId, History>) -> T) -> T {
        f(&mut self.cells.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts one sample of each of these cells, with their present holders; to be called every 250 ms or so. Returns
    /// at once. A cell whose last sample has not ended is left out, so that a dead server does not hold up others.
    /// While nobody holds a cell it may be left out: its history stays, a forced move needs it.
    pub fn tick(self: &Arc<Self>, cells: &[(Cell, RegionId)]) {
        for (cell, holder) in cells {
            let now = self.clock.now();
            let due = self.with(|known| {
                let looks = &mut known.entry(cell.id.clone()).or_default().looks;
                let busy = looks.track.as_ref().is_some_and(|(_, track)| track.is_busy());
                let every = if busy { LOOK_BUSY } else { LOOK };
                let due = looks.began.is_none_or(|began| now.since(began) >= every);
                if due {
                    looks.began = Some(now);
                }
                due
            });
            if due {
                let (sampler, cell, holder) = (self.clone(), cell.clone(), holder.clone());
                tokio::spawn(async move { sampler.look(&cell, &holder).await });
            }
            let idle = self.with(|known| {
                let history = known.entry(cell.id.clone()).or_default();
                !std::mem::replace(&mut history.busy, true)
            });
            if idle {
                let (sampler, cell, holder) = (self.clone(), cell.clone(), holder.clone());
                tokio::spawn(async move { sampler.sample(&cell, &holder).await });
            }
        }
    }

    /// Takes one sample of one cell now.
    pub async fn sample(&self, cell: &Cell, holder: &RegionId) {
        let sample = tokio::time::timeout(MOST, self.databases.sample(cell, holder)).await;
        self.with(|known| {
            let history = known.entry(cell.id.clone()).or_default();
            history.busy = false;
            history.take(holder, sample.unwrap_or_default());
        });
    }

    /// Looks at both databases of a cell for what is wrong with them.
    pub(crate) async fn look(&self, cell: &Cell, holder: &RegionId) {
        let asked = self.clock.now();
        let one = async |region: &RegionId| {
            let look = tokio::time::timeout(MOST, self.databases.observe(cell, region)).await;
            let mut seen = look.unwrap_or_else(|_| Observation {
                problems: vec![format!("the database of {} in {region} did not answer in time", cell.id)],
                ..Observation::default()
            });
            let kept = (asked, seen.clone());
            self.with(|known| {
                known.entry(cell.id.clone()).or_default().looks.servers.insert(region.clone(), kept);
            });
            self.note(cell, region, &seen);
            if let Some(key) = seen.key {
                let known = |known: &mut BTreeMap<CellId, History>| {
                    known.entry(cell.id.clone()).or_default().looks.keys.insert(region.clone(), key);
                };
                self.with(known);
            }
            seen.problems.extend(seen.not_streaming);
            (seen.problems, seen.loss_slot, seen.beside, seen.export, seen.retention)
        };
        let other = async {
            match cell.other(holder) {
                Some(other) => one(other).await.0,
                None => Vec::new(),
            }
        };
        let ((mut problems, loss_slot, beside, export, retention), others) =
            futures::join!(one(holder), other);
        problems.extend(others);
        self.with(|known| {
            let history = known.entry(cell.id.clone()).or_default();
            history.looks.follow_up(cell, holder);
            history.looks.seen = Some((asked, problems));
            // None before the first sample: then it is this holder's as well.
            if history.holder.as_ref().is_none_or(|of| of == holder) {
                history.looks.loss_slot =
                    loss_slot.map(|good| (asked, good)).or_else(|| history.looks.loss_slot.take());
                if let Some(retention) = retention {
                    history.looks.retention = Some((asked, retention));
                }
                if let Some(beside) = beside {
                    history.looks.slot_bytes =
                        beside.slot_kept_bytes.map(|kept| (kept, beside.slot_limit_bytes));
                    history.looks.unlisted = beside.unlisted();
                    if export.is_none_or(|place| place.problem.is_some()) {
                        history.looks.unlisted.push(
                            "the rows themselves, for the primary's agent has no place to export them to"
                                .to_owned(),
                        );
                    }
                }
            }
        });
    }

    /// What was wrong with the databases of a cell when they were last looked at, and how long ago that was. None: they
    /// never were.
    #[must_use]
    pub fn health(&self, cell: &CellId) -> Option<HealthView> {
        let now = self.clock.now();
        let (asked, problems) = self.with(|known| known.get(cell)?.looks.seen.clone())?;
        Some(HealthView { age_ms: millis(now.since(asked)), problems })
    }

    /// What the primary of a cell keeps of its write-ahead log for a standby that is away, and for how long it can. None:
    /// it was not seen since it holds the cell.
    #[must_use]
    pub fn retention(&self, cell: &CellId) -> Option<RetentionView> {
        let now = self.clock.now();
        self.with(|known| {
            let history = known.get(cell)?;
            let (asked, seen) = history.looks.retention.as_ref()?;
            let fine: Vec<_> = history.fine.iter().cloned().collect();
            Some(retention::view(seen, *asked, retention::write_rate(&fine, now), now))
        })
    }

    /// How far the other server of a cell is on its way to being a standby: while it is made one, and how far behind it
    /// replays afterwards. None: it is on no such way, or was not seen lately.
    #[must_use]
    pub fn building(&self, cell: &CellId) -> Option<BuildingView> {
        let now = self.clock.now();
        self.with(|known| {
            let (region, track) = known.get(cell)?.looks.track.as_ref()?;
            track.view(region, now)
        })
    }

    /// The keys that the agents of a cell showed when they last answered.
    #[must_use]
    pub fn keys(&self, cell: &CellId) -> BTreeMap<RegionId, SigningKey> {
        self.with(|known| known.get(cell).map(|h| h.looks.keys.clone()).unwrap_or_default())
    }

    /// Keeps what a look at a server told of what stops its direct writers: the server may be gone when that is asked.
    pub(crate) fn note(&self, cell: &Cell, region: &RegionId, seen: &Observation) {
        let Some(level) = seen.fence_level else { return };
        let now = self.clock.now();
        self.with(|known| {
            known.entry(cell.id.clone()).or_default().looks.levels.insert(region.clone(), (now, level));
        });
    }

    /// What stops direct writers of a cell's database, as it was told last, and how long ago. None: nobody told this
    /// control plane.
    #[must_use]
    pub fn fence_level(&self, cell: &CellId, region: &RegionId) -> Option<(FenceLevel, Duration)> {
        let now = self.clock.now();
        let (at, level) = self.with(|known| known.get(cell)?.looks.levels.get(region).copied())?;
        Some((level, now.since(at)))
    }

    /// A cell's servers as they were seen at most this long ago; one that was not looked at since is missing.
    #[must_use]
    pub fn seen(&self, cell: &CellId, within: Duration) -> BTreeMap<RegionId, Observation> {
        let now = self.clock.now();
        self.with(|known| {
            let servers = known.get(cell).into_iter().flat_map(|history| &history.looks.servers);
            let fresh = servers.filter(|(_, (at, _))| now.since(*at) <= within);
            fresh.map(|(region, (_, seen))| (region.clone(), seen.clone())).collect()
        })
    }

    /// How far the standby of a cell is behind. None: the cell was never sampled.
    #[must_use]
    pub fn lag(&self, cell: &CellId) -> Option<LagView> {
        let now = self.clock.now();
        self.with(|known| {
            let history = known.get(cell)?;
            let primary = history.fine.back();
            let standby = history.standby.as_ref();
            Some(LagView {
                data_age_ms: standby.and_then(|s| s.data_age_ms),
                bytes: primary.zip(standby).map(|(p, s)| p.flushed.0.saturating_sub(s.replayed.0)),
                transactions: standby.and_then(|s| lossmath::lacking(&history.primaries(), s.into())),
                primary_sample_age_ms: primary.map(|p| millis(now.since(p.asked))),
                standby_sample_age_ms: standby.map(|s| millis(now.since(s.asked))),
                streaming: standby.map(|s| s.streaming),
                loss_slot_kept_bytes: history.looks.slot_bytes.map(|(kept, _)| kept),
                loss_slot_limit_bytes: history.looks.slot_bytes.and_then(|(_, limit)| limit),
            })
        })
    }

    /// What a forced move of the cell would lose that is asked for now.
    #[must_use]
    pub fn preview(&self, cell: &CellId, constants: &FenceConstants) -> LossPreview {
        let now = self.clock.now();
        let (primaries, standby) = self.histories(cell);
        let mut preview = lossmath::preview(&primaries, standby.as_ref(), constants, now);
        // Whoever consents must know beforehand that what is lost can't be listed afterwards.
        let (slot, unlisted) = self.with(|known| {
            known.get(cell).map(|h| (h.looks.loss_slot, h.looks.unlisted.clone())).unwrap_or_default()
        });
        if !unlisted.is_empty() {
            preview.because.push(format!("the list of what is lost can't show: {}", unlisted.join("; ")));
        }
        preview.because.extend(match slot {
            Some((_, true)) => None,
            Some((asked, false)) => Some(format!(
                "what is lost could not be listed whole: {} s ago the primary's slot for that was missing or began after what the standby has",
                now.since(asked).as_secs()
            )),
            None => Some("whether what is lost could be listed is unknown: the primary's slot for that was never seen".to_owned()),
        });
        preview
    }

    /// What a forced move loses, when the old primary has certainly stopped: by now, and WAIT after the close.
    pub(crate) fn loss_when_stopped(
        &self,
        cell: &CellId,
        constants: &FenceConstants,
        close_seen: Option<BootTime>,
        replayed: Option<Lsn>,
    ) -> LossPreview {
        let now = self.clock.now();
        let stopped = close_seen.map_or(now, |close| now.min(close + constants.wait()));
        let (primaries, standby) = self.histories(cell);
        let mut has = standby.as_ref().map(Replayed::from).unwrap_or_default();
        has.up_to = replayed.or(has.up_to);
        lossmath::loss(&primaries, Moment { now, stopped, replayed: has })
    }

    fn histories(&self, cell: &CellId) -> (Vec<PrimarySample>, Option<StandbySample>) {
        self.with(|known| known.get(cell).map(|h| (h.primaries(), h.standby.clone())).unwrap_or_default())
    }
}
