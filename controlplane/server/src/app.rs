//! What all requests share.

use std::sync::Arc;
use std::time::Duration;

use domicile_engine::Engine;
use domicile_model::clock::{BootTime, Clock};
use domicile_model::links::AddressMap;
use domicile_model::{RegionId, World};
use domicile_store::{Leadership, Store, StoreError};
use tokio::sync::{Mutex, Notify, Semaphore, watch};

use crate::current::Current;
use crate::metrics::Metrics;
use crate::protection::Protected;
use crate::room;
use crate::roster::Roster;

/// How long a look at the registry may take before the last one is shown instead, with its age.
const LOOK: Duration = Duration::from_secs(3);

/// The right to write, while this control plane leads.
#[derive(Debug, Clone)]
pub struct Led {
    /// The fence.
    pub leadership: Leadership,
    /// The world that it leads in.
    pub world: World,
}

/// What all requests share.
pub struct App {
    /// The name of this control plane.
    pub name: String,
    /// Where it runs.
    pub region: RegionId,
    /// The registry.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Clock,
    /// Moves, and the samples that they rest on.
    pub engine: Arc<Engine>,
    /// Who may call.
    pub roster: Roster,
    /// Places for streams of events.
    pub streams: Arc<Semaphore>,
    /// Whether this control plane leads.
    pub leading: watch::Receiver<Option<Arc<Led>>>,
    /// Held by whatever changes the fleet or starts a move, so that a policy can't tighten between the check of a
    /// move and its start. Only the leader changes anything, so one lock in its memory is enough.
    pub changes: Mutex<()>,
    /// Told when the fleet has changed, so that the leader looks at everything again.
    pub changed: Notify,
    /// The last look at the registry.
    pub looked: Mutex<Looked>,
    /// When cells were last seen with a standby.
    pub protected: Protected,
    /// From addresses in the registry to those to dial.
    pub links: AddressMap,
    /// For passing changes on to the leader.
    pub http: reqwest::Client,
    /// Counts.
    pub metrics: Metrics,
    /// This control plane's copy of what has left the registry.
    pub archive: Option<Arc<crate::archive::Archive>>,
    /// This control plane's copy of what routers saw.
    pub facts: Option<crate::facts::Kept>,
    /// How full the registry is.
    pub room: room::Keeper,
    /// How long the registry's history is kept; none: somebody else forgets it.
    pub history: Option<Duration>,
}

/// A look at the registry, as one request sees it.
#[derive(Debug, Clone)]
pub struct View {
    /// What was there.
    pub current: Arc<Current>,
    /// How old that is.
    pub age: Duration,
    /// The leader's name, if this look saw one. An older look proves nothing about now: not known is not "the last one".
    pub leader: Option<String>,
}

/// The last look at the registry, and when a later one failed.
#[derive(Debug, Default)]
pub struct Looked {
    last: Option<Arc<Current>>,
    failed: Option<(BootTime, String)>,
}

impl App {
    /// The registry as of now: shows everything that was committed before the call. Requests that come together share
    /// one look. If the registry does not answer, the last look is shown, with its age and without a leader.
    ///
    /// # Errors
    /// When the registry does not answer and was never seen.
    pub async fn look(&self) -> Result<View, StoreError> {
        let arrived = self.clock.now();
        let current = self.look_at(arrived).await?;
        let fresh = current.asked >= arrived;
        Ok(View {
            age: if fresh { Duration::ZERO } else { self.clock.now().since(current.asked) },
            leader: current.leader.clone().filter(|_| fresh),
            current,
        })
    }

    async fn look_at(&self, arrived: BootTime) -> Result<Arc<Current>, StoreError> {
        let mut looked = self.looked.lock().await;
        if let Some(last) = looked.last.as_ref().filter(|l| l.asked >= arrived) {
            return Ok(Arc::clone(last));
        }
        let failed = looked.failed.as_ref().filter(|(at, _)| *at >= arrived).map(|(_, why)| why.clone());
        let error = match failed {
            Some(why) => StoreError::Unavailable { place: "the registry".into(), why },
            None => match tokio::time::timeout(LOOK, Current::read(&*self.store, &self.clock, false)).await {
                Ok(Ok(current)) => {
                    let current = Arc::new(current);
                    *looked = Looked { last: Some(Arc::clone(&current)), failed: None };
                    return Ok(current);
                }
                Ok(Err(error)) => error,
                Err(_) => StoreError::Unavailable {
                    place: "the registry".into(),
                    why: format!("no answer within {} s", LOOK.as_secs()),
                },
            },
        };
        looked.failed = Some((self.clock.now(), error.to_string()));
        looked.last.clone().ok_or(error)
    }

    /// The right to write, if this control plane leads now.
    #[must_use]
    pub fn led(&self) -> Option<Arc<Led>> {
        self.leading.borrow().clone()
    }
}
