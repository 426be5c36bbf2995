//! The archive: finished workflows, old audit entries and old versions leave the registry for sealed, chained segments.
//!
//! The leader chooses ([`choose`]), seals one segment at a time into its directory, waits until enough other control planes
//! hold the same bytes, and only then removes the keys, in one fenced transaction that compares each key's revision and
//! moves the chain's head ([`pass`]). The head stands in the registry, so the next leader goes on with the chain. A file
//! beyond the head is what a crash left between file and transaction: it is taken up again if the registry still holds
//! exactly what it says, else set aside; no number has two segments that count. Every control plane with a directory keeps
//! its copy complete ([`copies`]), and answers for what is in it ([`read`]).

pub(crate) mod audit;
pub mod choose;
pub(crate) mod copies;
pub(crate) mod pass;
pub(crate) mod read;
pub mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domicile_archive::{ArchiveError, Directory, End, items};
use domicile_model::MoveId;
use domicile_seal::chain::{Head, Segment, SegmentError, walk};
use domicile_seal::keys::{KeyEntry, Keyring, KeyringError, PrivateKey};
use domicile_store::{CodecError, Key, StoreError, codec};
use prometheus::{IntCounter, IntGauge, Registry};

pub use choose::Keep;
use records::{ArchiveHead, ArchiveKey};

use crate::app::App;

/// How a control plane archives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory of its copy.
    pub dir: PathBuf,
    /// What stays in the registry.
    pub keep: Keep,
    /// How many control planes must hold a segment before its keys leave the registry. None: two once another control
    /// plane has ever kept a copy, else one.
    pub copies: Option<usize>,
    /// How often the leader looks.
    pub every: Duration,
    /// How long a pass waits for others to fetch a segment; the next one goes on waiting.
    pub patience: Duration,
    /// Breaks the archive on purpose, so that the tests of its safety can be seen to fail.
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

/// How a test breaks the archive. No argument leads here.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sabotage {
    /// Not at all.
    #[default]
    None,
    /// Keys leave the registry before anybody else holds them.
    Uncopied,
}

/// Why nothing was archived, or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("segment {0}: {1}")]
    Segment(u64, SegmentError),
    #[error("the archive's keys: {0}")]
    Keys(#[from] KeyringError),
    #[error("this control plane leads no more")]
    Deposed,
    #[error("{0}")]
    Other(String),
}

/// The copy of this control plane.
pub struct Archive {
    dir: Directory,
    key: PrivateKey,
    settings: Settings,
    /// Where others reach it.
    address: SocketAddr,
    held: Mutex<Held>,
    /// One pass at a time.
    turn: tokio::sync::Mutex<()>,
    /// Why the last pass could not go on.
    waiting: Mutex<Option<String>>,
}

/// What the copy holds, by its files.
#[derive(Debug, Default)]
struct Held {
    chain: Option<String>,
    ends: BTreeMap<u64, Head>,
    /// Up to this one each was seen to follow the one before, from the first on.
    sound: u64,
    /// Where each move's keys are.
    moves: BTreeMap<MoveId, BTreeSet<u64>>,
}

impl Archive {
    /// Opens the copy, and reads all of it.
    ///
    /// # Errors
    /// When the directory or its key can't be used. A segment that can't be read is left out, and fetched again.
    pub fn open(settings: Settings, address: SocketAddr) -> Result<Self, ArchiveError> {
        let dir = Directory::create(Path::new(&settings.dir))?;
        let key = dir.signing_key()?;
        let mut held = Held::default();
        for n in dir.list()? {
            match dir.read(n).map(|bytes| bytes.map(|b| Segment::from_lines(&b))) {
                Ok(Some(Ok(segment))) if soundly(&segment) => held.take(n, &segment),
                other => tracing::warn!(segment = n, ?other, "a segment of the archive can't be read"),
            }
        }
        Ok(Self {
            dir,
            key,
            settings,
            address,
            held: Mutex::new(held),
            turn: tokio::sync::Mutex::new(()),
            waiting: Mutex::new(None),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, segment: u64) -> Option<End> {
        self.held().ends.get(&segment).map(|head| End { segment, head: *head })
    }

    /// The end of what it holds without a gap.
    fn tip(&self) -> Option<(String, End)> {
        let held = self.held();
        let mut last = None;
        for (expected, (segment, head)) in (1..).zip(&held.ends) {
            if *segment != expected {
                break;
            }
            last = Some(End { segment: *segment, head: *head });
        }
        held.chain.clone().zip(last)
    }

    /// Why the last pass could not go on.
    pub(crate) fn waiting(&self) -> Option<String> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait_for(&self, why: Option<String>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Off the runtime's threads: disks take their time to sync.
    async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let own = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&own)).await {
            Ok(done) => done,
            Err(error) => Err(Problem::Other(format!("work on the archive ended early: {error}"))),
        }
    }

    /// The segment, and its bytes, as they are on disk.
    fn load(&self, n: u64) -> Result<Option<(Segment, Vec<u8>)>, Problem> {
        let Some(bytes) = self.dir.read(n)? else { return Ok(None) };
        let segment = Segment::from_lines(&bytes).map_err(|e| Problem::Segment(n, e))?;
        Ok(Some((segment, bytes)))
    }

    /// Writes a segment that was sealed here or checked.
    fn store(&self, n: u64, segment: &Segment) -> Result<(), Problem> {
        let bytes = segment.to_lines().map_err(|e| Problem::Segment(n, e))?;
        self.dir.write(n, &bytes)?;
        self.held().take(n, segment);
        Ok(())
    }

    /// Takes a segment out of the chain; its file stays under another name.
    fn set_aside(&self, n: u64) -> Result<(), Problem> {
        if self.dir.path(n).exists() {
            let path = self.dir.set_aside(n)?;
            tracing::warn!(segment = n, path = %path.display(), "a segment that does not count was set aside");
        }
        let mut held = self.held();
        held.ends.remove(&n);
        held.sound = held.sound.min(n.saturating_sub(1));
        for segments in held.moves.values_mut() {
            segments.remove(&n);
        }
        Ok(())
    }
}

impl Held {
    fn take(&mut self, n: u64, segment: &Segment) {
        let seal = &segment.seal.body;
        self.chain = Some(seal.chain.clone());
        self.ends.insert(n, Head { n: seal.last, digest: seal.head });
        for item in items(segment) {
            if let Ok(Key::Workflow(id) | Key::WorkflowLog(id, _)) = item.key.parse() {
                self.moves.entry(id).or_default().insert(n);
            }
        }
    }
}

/// Whether its links hold together and end where its seal says; who signed it is asked where that matters.
fn soundly(segment: &Segment) -> bool {
    let seal = &segment.seal.body;
    let start = Head { n: seal.first.saturating_sub(1), digest: seal.prev };
    walk(start, &segment.links).is_ok_and(|end| end == Head { n: seal.last, digest: seal.head })
}

/// How far the chain reaches, and where that was last changed. A registry without a head goes on with the chain of another
/// world that this copy holds, as after it was rebuilt; else a new chain begins.
async fn head(
    app: &App,
    archive: Option<&Archive>,
) -> Result<(ArchiveHead, Option<domicile_model::Revision>), Problem> {
    let (_, found) = app.store.read(&[Key::ArchiveHead, Key::World]).await?;
    let [head, world] = <[Option<domicile_store::Entry>; 2]>::try_from(found).unwrap_or_default();
    if let Some(entry) = head {
        return Ok((codec::decode(&entry.value)?, Some(entry.modified)));
    }
    let world: domicile_model::World = match world {
        Some(entry) => codec::decode(&entry.value)?,
        None => return Err(Problem::Other("the registry has no world yet".to_owned())),
    };
    let chain = format!("domicile registry {}", world.id);
    // What stands here in this world's own name was sealed and never counted.
    if let Some((older, end)) = archive.and_then(Archive::tip).filter(|(held, _)| *held != chain) {
        return Ok((ArchiveHead { chain: older, segment: end.segment, head: end.head, through: 0 }, None));
    }
    let head = Head::genesis(&chain);
    Ok((ArchiveHead { chain, segment: 0, head, through: 0 }, None))
}

/// The keys that count, as the registry has them.
async fn ring(app: &App) -> Result<Keyring, Problem> {
    let mut ring = Keyring::default();
    for entry in app.store.list("archive/keys/").await?.entries {
        let key: ArchiveKey = codec::decode(&entry.value)?;
        let public = domicile_seal::handover::read_published(&key.key)
            .map_err(|e| Problem::Other(format!("{}: {e}", entry.key)))?;
        ring.add(KeyEntry::new(public, key.server))?;
    }
    Ok(ring)
}

/// What Prometheus sees of it.
#[derive(Debug, Clone)]
pub struct ArchiveMetrics {
    pub(crate) head: IntGauge,
    pub(crate) held: IntGauge,
    pub(crate) waiting: IntGauge,
    pub(crate) keys: IntCounter,
    pub(crate) failures: IntCounter,
}

impl ArchiveMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(format!("domicile_archive_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(format!("domicile_archive_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        Ok(Self {
            head: gauge("head_segment", "the last segment that the registry counts")?,
            held: gauge("held_segment", "the last segment that this control plane holds without a gap")?,
            waiting: gauge(
                "waiting",
                "1 while keys that may leave the registry can't, see `domicile archive status`",
            )?,
            keys: counter("keys_total", "keys that this leader has moved out of the registry")?,
            failures: counter("failures_total", "passes over the archive that ended with an error")?,
        })
    }
}
