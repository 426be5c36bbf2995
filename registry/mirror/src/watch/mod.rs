//! List-then-watch, as a machine of three states.
//!
//! ```text
//!            list                    watch from applied + 1
//!   Empty ─────────> Listed ──────────────────────────────> Watching ──> batches
//!     ^                ^                                       │
//!     │                └── stream ended, or silent though asked┤
//!     └── compacted, or another history ───────────────────────┘
//! ```
//!
//! [`Follower::step`] makes one transition and says what happened; when it reports a loss it has already moved to the
//! state that recovers. The bookmark is the table's applied revision and moves only with changes: servers before etcd
//! 3.4.25 and 3.5.8 let a progress answer overtake changes, so a progress answer proves life and nothing else.

mod pace;

use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::{BootTime, Clock, pause};
use domicile_model::{Revision, World};
use domicile_store::codec::decode;
use domicile_store::{Batch, Entry, Header, Key, Listing, Store, StoreError, Watcher};

use crate::table::RoutingTable;
pub use pace::Pace;

/// Where the machine stands.
enum State {
    /// Nothing to resume from: list everything.
    Empty,
    /// The table holds everything up to its applied revision: watch what comes after.
    Listed {
        /// The table was listed just now. Otherwise the registry may have been replaced while nobody looked.
        just_now: bool,
    },
    /// Changes arrive.
    Watching {
        stream: Box<dyn Watcher>,
        /// A sign of life that was asked for and has not come yet.
        asked: Option<Asked>,
    },
}

/// A sign of life that is waited for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// When.
    at: BootTime,
    /// Where the registry as a whole was by then. A member that is cut off from the others goes on answering; only one
    /// that has come this far shows that the stream is alive.
    revision: Revision,
}

/// What one step brought.
#[derive(Debug)]
pub enum Step {
    /// A full listing, to be swapped in at once.
    Listed(Listing, BootTime),
    /// The registry was found to be the same as before, and the watch runs.
    Resumed(BootTime),
    /// Changes, to be applied in one swap; or none. The moment is the one to count the age of the table from; none if
    /// the answer is no sign of life.
    Batch(Batch, Option<BootTime>),
    /// Nothing came for a while; a sign of life was asked for.
    Probed,
    /// The registry did not answer, or not usefully. The machine has moved on to recover.
    Lost {
        /// Why.
        why: String,
        /// Whether everything must be listed again.
        relist: bool,
    },
}

/// The machine.
pub struct Follower {
    store: Arc<dyn Store>,
    clock: Clock,
    pace: Pace,
    state: State,
    /// Losses since the last batch.
    losses: u32,
}

impl Follower {
    /// A machine that begins with a full listing.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Clock, pace: Pace) -> Self {
        Self { store, clock, pace, state: State::Empty, losses: 0 }
    }

    /// Has the next step list everything again.
    pub fn relist(&mut self) {
        self.state = State::Empty;
        self.losses = self.losses.saturating_add(1);
    }

    /// One transition. `table` is the one that holds all that earlier steps brought.
    pub async fn step(&mut self, table: &RoutingTable) -> Step {
        if matches!(self.state, State::Empty | State::Listed { .. }) && self.losses > 0 {
            pause(self.pace.backoff(self.losses, rand::random())).await;
        }
        match std::mem::replace(&mut self.state, State::Empty) {
            State::Empty => self.list().await,
            State::Listed { just_now } => self.open(table, just_now).await,
            State::Watching { stream, asked } => self.next(table, stream, asked).await,
        }
    }

    fn lost(&mut self, why: String, relist: bool) -> Step {
        self.losses = self.losses.saturating_add(1);
        self.state = if relist { State::Empty } else { State::Listed { just_now: false } };
        Step::Lost { why, relist }
    }

    async fn list(&mut self) -> Step {
        let asked = self.clock.now();
        match within(self.pace.list, self.store.list("")).await {
            Ok(listing) => {
                self.state = State::Listed { just_now: true };
                Step::Listed(listing, asked)
            }
            Err(why) => self.lost(why.to_string(), true),
        }
    }

    async fn open(&mut self, table: &RoutingTable, just_now: bool) -> Step {
        let asked = self.clock.now();
        if !just_now && let Err(lost) = self.same_registry(table).await {
            return lost;
        }
        match within(self.pace.answer, self.store.watch(table.applied().next())).await {
            Ok(stream) => {
                self.state = State::Watching { stream, asked: None };
                Step::Resumed(asked)
            }
            Err(StoreError::Compacted(oldest)) => self.compacted(oldest),
            Err(why) => self.lost(why.to_string(), false),
        }
    }

    fn compacted(&mut self, oldest: Revision) -> Step {
        self.lost(format!("the changes since the applied revision are gone (oldest left: {oldest})"), true)
    }

    async fn next(
        &mut self,
        table: &RoutingTable,
        mut stream: Box<dyn Watcher>,
        asked: Option<Asked>,
    ) -> Step {
        let patience = if asked.is_some() { self.pace.answer } else { self.pace.quiet };
        let Ok(answer) = tokio::time::timeout(patience, stream.next()).await else {
            return self.silent(table, stream, asked).await;
        };
        match answer {
            Ok(batch) => {
                let header = batch.header;
                if table.cluster().is_some_and(|ours| ours != header.cluster) {
                    return self.lost("the registry answers as another cluster".into(), true);
                }
                if header.revision < table.applied() {
                    stream.give_up();
                    // A member that lags behind, or another history: a listing, which is linearizable, tells.
                    return self.lost(
                        format!(
                            "the registry answers from revision {}, below {}, which was already applied",
                            header.revision,
                            table.applied()
                        ),
                        true,
                    );
                }
                let (seen, asked) = match asked {
                    // Of a member that lags behind: what it tells is true, that it tells all is not known.
                    Some(asked) if header.revision < asked.revision => (None, Some(asked)),
                    Some(asked) if batch.changes.is_empty() => (Some(asked.at), None),
                    _ => (Some(self.clock.now()), None),
                };
                if seen.is_some() {
                    self.losses = 0;
                }
                self.state = State::Watching { stream, asked };
                Step::Batch(batch, seen)
            }
            Err(StoreError::Compacted(oldest)) => self.compacted(oldest),
            Err(why) => self.lost(why.to_string(), false),
        }
    }

    async fn silent(
        &mut self,
        table: &RoutingTable,
        mut stream: Box<dyn Watcher>,
        asked: Option<Asked>,
    ) -> Step {
        if asked.is_some() {
            // The store can't know: a silent stream is no failed one, and its member may well answer calls.
            stream.give_up();
            return self.lost("the watch was silent and did not answer".into(), false);
        }
        let at = self.clock.now();
        // What a quorum says, and what the one member at the other end of the stream says. Both at once: where answers
        // take long, one after the other would let the table look older than it is.
        let probed = within(self.pace.answer, stream.probe());
        let (looked, probed) = tokio::join!(look(&*self.store, self.pace), probed);
        let header = match self.known(table, looked) {
            Ok(header) => header,
            Err(lost) => return lost,
        };
        match probed {
            Ok(()) => {
                self.state = State::Watching { stream, asked: Some(Asked { at, revision: header.revision }) };
                Step::Probed
            }
            Err(why) => {
                stream.give_up();
                self.lost(why.to_string(), false)
            }
        }
    }

    /// A linearizable look whether the registry is still the one that the table came from.
    async fn same_registry(&mut self, table: &RoutingTable) -> Result<Header, Step> {
        let looked = look(&*self.store, self.pace).await;
        self.known(table, looked)
    }

    fn known(
        &mut self,
        table: &RoutingTable,
        looked: Result<(Header, Vec<Option<Entry>>), StoreError>,
    ) -> Result<Header, Step> {
        match looked {
            Ok((header, entries)) => {
                let world = entries.into_iter().next().flatten();
                let world = world.map(|entry| decode::<World>(&entry.value));
                match strange(table, header, world.as_ref().map(|w| w.as_ref().ok())) {
                    Some(why) => Err(self.lost(why, true)),
                    None => Ok(header),
                }
            }
            Err(why) => Err(self.lost(why.to_string(), false)),
        }
    }
}

async fn look(store: &dyn Store, pace: Pace) -> Result<(Header, Vec<Option<Entry>>), StoreError> {
    within(pace.answer, store.read(&[Key::World])).await
}

/// Why what the registry says of itself does not fit the table, if it does not. The world is none if there is no
/// record, and some none if it can't be read.
pub(crate) fn strange(table: &RoutingTable, header: Header, world: Option<Option<&World>>) -> Option<String> {
    if table.cluster().is_some_and(|ours| ours != header.cluster) {
        return Some("the registry is another cluster".into());
    }
    if header.revision < table.applied() {
        return Some(format!(
            "the registry is at revision {}, below {}, which was already applied",
            header.revision,
            table.applied()
        ));
    }
    match (table.world(), world) {
        (Some(ours), Some(Some(found))) if found.id != ours.id => {
            Some("the registry is another world".into())
        }
        (Some(_), None) => Some("the registry has lost its world record".into()),
        _ => None,
    }
}

async fn within<T>(
    length: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(length, call).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable {
            place: "the configured address".into(),
            why: format!("no answer within {} ms", length.as_millis()),
        })
    })
}
