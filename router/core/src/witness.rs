//! A witness's memory: the newest placement per cell, synced to disk before any answer rests on it.
//!
//! Witnesses carry gates through an outage of the registry. They never lower an epoch and never take a refusal
//! back, also across a restart; and they say how far back everything has been refused for WAIT (`quiet`), which is
//! what a forced move waits for.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use domicile_model::clock::BootTime;
use domicile_model::proof::{Verdict, witness_says};
use domicile_model::{CellId, Epoch, FenceConstants, Placement, RegionId, Revision, WorldId};
use serde::{Deserialize, Serialize};

/// Lines in the journal beyond the number of cells, after which it is written anew.
const SLACK: usize = 10_000;
/// A journal larger than this was not written by us.
const MAX_BYTES: u64 = 1 << 30;
/// Revisions that may wait for their WAIT at once; beyond that some are folded into later ones.
const MAX_PENDING: usize = 65_536;

/// The journal can't be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the witness journal {path} can't be {what}; a witness that forgot must not answer from memory alone"
)]
pub struct JournalError {
    /// Where.
    pub path: PathBuf,
    /// Read, written…
    pub what: &'static str,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// The memory of one witness.
#[derive(Debug)]
pub struct WitnessBook {
    journal: Option<Journal>,
    world: Option<WorldId>,
    known: HashMap<CellId, Placement>,
    /// False until what was lost with a missing file has been read from the registry itself.
    verified: bool,
    /// A person has declared this machine destroyed: it vouches for nothing any more.
    barred: bool,
    quiet: Quiet,
}

#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    World(WorldId),
    Placement(Placement),
    Barred,
}

impl WitnessBook {
    /// Opens the journal in this file, or begins one. `now` is when this process started: what an earlier life
    /// granted may still be running until WAIT after it.
    ///
    /// A line that was torn by a crash was never answered from, so it is dropped.
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub fn open(path: &Path, now: BootTime) -> Result<Self, JournalError> {
        let error = |what| move |source| JournalError { path: path.to_owned(), what, source };
        let mut text = Vec::new();
        let existed = match File::open(path) {
            Ok(file) => {
                file.take(MAX_BYTES).read_to_end(&mut text).map_err(error("read"))?;
                true
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            Err(e) => return Err(error("read")(e)),
        };
        let mut book = Self::forgetful(now);
        let mut whole = existed;
        let mut lines = text.split(|b| *b == b'\n').peekable();
        while let Some(line) = lines.next() {
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(Line::World(id)) => book.world = Some(id),
                Ok(Line::Placement(p)) => book.raise(&p),
                Ok(Line::Barred) => book.barred = true,
                // Only the last line can be torn; anything else is damage, and damage is a lost memory.
                Err(_) => whole &= lines.peek().is_none(),
            }
        }
        book.verified = whole && book.world.is_some();
        book.journal = Some(rewrite(path, book.world, &book.known, book.barred)?);
        Ok(book)
    }

    /// A witness without a file, which says yes only after a linearizable read of its own. For tests of the product
    /// with its memory switched off.
    #[must_use]
    pub fn forgetful(now: BootTime) -> Self {
        Self {
            journal: None,
            world: None,
            known: HashMap::new(),
            verified: false,
            barred: false,
            quiet: Quiet {
                started: now,
                reached: Revision::ZERO,
                newest: Revision::ZERO,
                pending: VecDeque::new(),
            },
        }
    }

    fn raise(&mut self, placement: &Placement) {
        let newer = self.known.get(&placement.cell).is_none_or(|old| old.epoch < placement.epoch);
        if newer {
            self.known.insert(placement.cell.clone(), placement.clone());
        }
    }

    /// Placements that the table has applied, with the highest revision among them. On disk when this returns; only
    /// then may `quiet` begin to count for that revision: `now` is asked after the disk has them.
    ///
    /// # Errors
    /// When the disk does not take them. The witness must not answer then: see [`WitnessBook::verdict`].
    pub fn learn<'a>(
        &mut self,
        world: WorldId,
        placements: impl Iterator<Item = &'a Placement>,
        up_to: Revision,
        now: impl FnOnce() -> BootTime,
    ) -> Result<(), JournalError> {
        let mut lines = Vec::new();
        let mut count = 0;
        if self.world != Some(world) {
            // Epochs of the old world stay: nothing of it may be granted again. Revisions start anew.
            self.world = Some(world);
            self.quiet.forget();
            count += push(&mut lines, &Line::World(world));
        }
        for p in placements {
            if self.known.get(&p.cell).is_none_or(|old| old.epoch < p.epoch) {
                count += push(&mut lines, &Line::Placement(p.clone()));
                self.raise(p);
            }
        }
        if let Some(journal) = self.journal.as_mut().filter(|_| count > 0) {
            let written = journal.file.write_all(&lines).and_then(|()| journal.file.sync_data());
            let error = |source| JournalError { path: journal.path.clone(), what: "written", source };
            if let Err(source) = written {
                // What stands in memory is not on disk: forget that we could vouch for anything.
                self.verified = false;
                return Err(error(source));
            }
            journal.lines += count;
            if journal.lines > self.known.len() + SLACK {
                *journal = rewrite(&journal.path, self.world, &self.known, self.barred)?;
            }
        }
        self.quiet.applied(up_to, now());
        Ok(())
    }

    /// The registry says that this machine was declared destroyed: from now on, also after a restart, it says no.
    ///
    /// # Errors
    /// When the disk does not take it. It says no all the same, until it is started again.
    pub fn bar(&mut self) -> Result<(), JournalError> {
        self.barred = true;
        if let Some(journal) = self.journal.as_mut() {
            *journal = rewrite(&journal.path, self.world, &self.known, true)?;
        }
        Ok(())
    }

    /// Whether this machine was declared destroyed.
    #[must_use]
    pub const fn is_barred(&self) -> bool {
        self.barred
    }

    /// A linearizable read of all placements was learned: what a missing file forgot is known again.
    pub const fn verified(&mut self) {
        self.verified = true;
    }

    /// Whether a linearizable read is still owed.
    #[must_use]
    pub const fn needs_read(&self) -> bool {
        !self.verified
    }

    /// The answer to "does this region hold this cell at this epoch?", with the newer placement if there is one.
    #[must_use]
    pub fn verdict(
        &self,
        world: WorldId,
        cell: &CellId,
        epoch: Epoch,
        region: &RegionId,
    ) -> (Verdict, Option<&Placement>) {
        if self.world != Some(world) || !self.verified || self.barred {
            return (Verdict::No, None);
        }
        let known = self.known.get(cell);
        (witness_says(known, epoch, region), known.filter(|k| k.epoch > epoch))
    }

    /// The revision up to which every close has been refused here for at least WAIT.
    pub fn quiet(&mut self, now: BootTime, constants: &FenceConstants) -> Revision {
        self.quiet.at(now, constants)
    }

    /// The newest placement known of each cell, of this world or an earlier one.
    pub fn known(&self) -> impl Iterator<Item = &Placement> {
        self.known.values()
    }

    /// The world that it vouches in.
    #[must_use]
    pub const fn world(&self) -> Option<WorldId> {
        self.world
    }

    /// The highest epoch that is known for a cell.
    #[must_use]
    pub fn epoch(&self, cell: &CellId) -> Option<Epoch> {
        self.known.get(cell).map(|p| p.epoch)
    }
}

/// When which revision was learned.
#[derive(Debug)]
struct Quiet {
    started: BootTime,
    reached: Revision,
    newest: Revision,
    pending: VecDeque<(Revision, BootTime)>,
}

impl Quiet {
    fn applied(&mut self, revision: Revision, now: BootTime) {
        if revision > self.newest && self.pending.len() < MAX_PENDING {
            self.newest = revision;
            self.pending.push_back((revision, now));
        }
    }

    fn forget(&mut self) {
        self.reached = Revision::ZERO;
        self.newest = Revision::ZERO;
        self.pending.clear();
    }

    fn at(&mut self, now: BootTime, constants: &FenceConstants) -> Revision {
        let wait = constants.wait();
        if now.since(self.started) >= wait {
            while let Some((revision, since)) = self.pending.front().copied() {
                if now.since(since) < wait {
                    break;
                }
                self.reached = revision;
                self.pending.pop_front();
            }
        }
        self.reached
    }
}

fn push(lines: &mut Vec<u8>, line: &Line) -> usize {
    // Plain data with string keys always encodes; a line that did not would only be missing.
    if let Ok(text) = serde_json::to_vec(line) {
        lines.extend_from_slice(&text);
        lines.push(b'\n');
    }
    1
}

fn rewrite(
    path: &Path,
    world: Option<WorldId>,
    known: &HashMap<CellId, Placement>,
    barred: bool,
) -> Result<Journal, JournalError> {
    let error = |source| JournalError { path: path.to_owned(), what: "written", source };
    let mut text = Vec::new();
    if let Some(world) = world {
        push(&mut text, &Line::World(world));
    }
    if barred {
        push(&mut text, &Line::Barred);
    }
    for placement in known.values() {
        push(&mut text, &Line::Placement(placement.clone()));
    }
    let beside = path.with_extension("new");
    let mut file = File::create(&beside).map_err(error)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(error)?;
    std::fs::rename(&beside, path).map_err(error)?;
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(folder).and_then(|d| d.sync_all()).map_err(error)?;
    }
    let file = File::options().append(true).open(path).map_err(error)?;
    Ok(Journal { path: path.to_owned(), file, lines: known.len() + 1 })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use domicile_model::{Phase, WitnessSet};

    use super::*;

    const C: FenceConstants = FenceConstants::DEFAULT;

    fn placement(epoch: u64, holder: Option<&str>) -> Placement {
        Placement {
            cell: CellId::new("c").unwrap(),
            epoch: Epoch(epoch),
            holder: holder.map(|h| RegionId::new(h).unwrap()),
            standby: None,
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of(BTreeSet::new()),
        }
    }

    fn world() -> WorldId {
        WorldId::from_u128(1)
    }

    fn at(ms: u64) -> BootTime {
        BootTime::from_nanos(0) + Duration::from_millis(ms)
    }

    fn says(book: &WitnessBook, epoch: u64, region: &str) -> bool {
        let (verdict, _) =
            book.verdict(world(), &CellId::new("c").unwrap(), Epoch(epoch), &RegionId::new(region).unwrap());
        verdict == Verdict::Yes
    }

    fn learn(book: &mut WitnessBook, p: &Placement, revision: i64, now: BootTime) {
        book.learn(world(), std::iter::once(p), Revision(revision), || now).unwrap();
    }

    #[test]
    fn a_refusal_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness.jsonl");
        let mut book = WitnessBook::open(&path, at(0)).unwrap();
        assert!(book.needs_read());
        learn(&mut book, &placement(3, Some("a")), 5, at(0));
        assert!(!says(&book, 3, "a"), "without its file it has to read first");
        book.verified();
        assert!(says(&book, 3, "a") && !says(&book, 3, "b") && !says(&book, 2, "a"));
        learn(&mut book, &placement(4, None), 6, at(1));
        drop(book);
        let mut book = WitnessBook::open(&path, at(2)).unwrap();
        assert!(!book.needs_read());
        assert!(!says(&book, 3, "a"));
        learn(&mut book, &placement(3, Some("a")), 5, at(3));
        assert!(!says(&book, 3, "a"), "epochs never fall");
        assert_eq!(
            book.verdict(world(), &CellId::new("c").unwrap(), Epoch(3), &RegionId::new("a").unwrap()).1,
            Some(&placement(4, None)),
            "a no carries the newer placement"
        );
    }

    #[test]
    fn a_torn_end_is_dropped_and_damage_is_a_lost_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness.jsonl");
        let mut book = WitnessBook::open(&path, at(0)).unwrap();
        learn(&mut book, &placement(3, Some("a")), 5, at(0));
        drop(book);
        let good = std::fs::read(&path).unwrap();
        let torn = [&good[..], b"{\"placement\":{\"ce"].concat();
        std::fs::write(&path, torn).unwrap();
        assert!(says(&WitnessBook::open(&path, at(0)).unwrap(), 3, "a"));
        let damaged = [b"{\"pl\n", &good[..]].concat();
        std::fs::write(&path, damaged).unwrap();
        let book = WitnessBook::open(&path, at(0)).unwrap();
        assert!(book.needs_read() && !says(&book, 3, "a"));
    }

    #[test]
    fn who_was_declared_destroyed_says_no_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness.jsonl");
        let mut book = WitnessBook::open(&path, at(0)).unwrap();
        learn(&mut book, &placement(3, Some("a")), 5, at(0));
        book.verified();
        assert!(says(&book, 3, "a") && !book.is_barred());
        book.bar().unwrap();
        assert!(!says(&book, 3, "a"));
        learn(&mut book, &placement(4, Some("a")), 6, at(1));
        drop(book);
        let mut book = WitnessBook::open(&path, at(2)).unwrap();
        book.verified();
        assert!(book.is_barred() && !says(&book, 4, "a"));
    }

    #[test]
    fn another_world_is_answered_no() {
        let mut book = WitnessBook::forgetful(at(0));
        learn(&mut book, &placement(3, Some("a")), 5, at(0));
        book.verified();
        assert!(says(&book, 3, "a"));
        book.learn(WorldId::from_u128(2), std::iter::empty(), Revision(1), || at(1)).unwrap();
        assert!(!says(&book, 3, "a"));
    }

    #[test]
    fn quiet_follows_wait_after_the_refusal_and_after_the_start() {
        let wait = u64::try_from(C.wait().as_millis()).unwrap();
        let mut book = WitnessBook::forgetful(at(0));
        learn(&mut book, &placement(3, Some("a")), 5, at(0));
        learn(&mut book, &placement(4, None), 8, at(5_000));
        assert_eq!(book.quiet(at(wait - 1), &C), Revision::ZERO);
        assert_eq!(book.quiet(at(wait), &C), Revision(5));
        assert_eq!(book.quiet(at(wait + 4_999), &C), Revision(5));
        assert_eq!(book.quiet(at(wait + 5_000), &C), Revision(8));
        // The same placements learned again do not start the wait again.
        learn(&mut book, &placement(4, None), 8, at(wait + 6_000));
        assert_eq!(book.quiet(at(wait + 6_000), &C), Revision(8));
    }

    #[test]
    fn a_restarted_witness_is_quiet_only_after_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness.jsonl");
        learn(&mut WitnessBook::open(&path, at(0)).unwrap(), &placement(4, None), 8, at(0));
        let mut book = WitnessBook::open(&path, at(20_000)).unwrap();
        learn(&mut book, &placement(4, None), 8, at(20_000));
        assert_eq!(book.quiet(at(20_000 + 10_199), &C), Revision::ZERO);
        assert_eq!(book.quiet(at(20_000 + 10_200), &C), Revision(8));
    }

    #[test]
    fn the_journal_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness.jsonl");
        let mut book = WitnessBook::open(&path, at(0)).unwrap();
        book.journal.as_mut().unwrap().lines = SLACK + 1;
        learn(&mut book, &placement(3, Some("a")), 5, at(0));
        assert_eq!(book.journal.as_ref().unwrap().lines, 2);
        drop(book);
        assert_eq!(
            WitnessBook::open(&path, at(0)).unwrap().epoch(&CellId::new("c").unwrap()),
            Some(Epoch(3))
        );
    }
}
