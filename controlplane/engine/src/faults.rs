//! Effects that go wrong on purpose: a wrapper around any [`Databases`], for tests.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domicile_api::agent::{Consent, Fork, LossReport};
use domicile_model::{Cell, Epoch, HandoverToken, MoveId, RegionId, Token};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::provider::{Databases, EffectError, Observation, Promoted, Sample};

/// How the effect of a step goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Certainly not done, once.
    Refused,
    /// Lost on its way, once: not done, and nobody knows.
    LostBefore,
    /// Done, and its answer is lost, once.
    LostAfter,
    /// Certainly not done, however often it is tried.
    AlwaysRefused,
    /// Never done and never answered.
    AlwaysLost,
    /// It is under way for so long that another leader takes over meanwhile, and arrives then.
    Late,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Refused, Self::LostBefore, Self::LostAfter, Self::AlwaysRefused, Self::AlwaysLost, Self::Late];

    const fn lasts(self) -> bool {
        matches!(self, Self::AlwaysRefused | Self::AlwaysLost)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::LostBefore => "lost-before",
            Self::LostAfter => "lost-after",
            Self::AlwaysRefused => "always-refused",
            Self::AlwaysLost => "always-lost",
            Self::Late => "late",
        })
    }
}

/// What became of an effect that arrived late.
pub type Arrival = JoinHandle<Result<(), EffectError>>;

#[derive(Default)]
struct Plan {
    fault: Option<(String, Fault)>,
    /// The steps whose effects came by.
    seen: Vec<String>,
    late: Vec<Arrival>,
}

/// Databases whose effects go wrong as planned. What looks passes through.
pub struct Faulty {
    inner: Arc<dyn Databases>,
    plan: Mutex<Plan>,
    struck: AtomicUsize,
    wake: Arc<Notify>,
}

impl Faulty {
    /// Nothing goes wrong yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Databases>) -> Arc<Self> {
        Arc::new(Self { inner, plan: Mutex::default(), struck: AtomicUsize::new(0), wake: Arc::default() })
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, this goes wrong; nothing, if none.
    pub fn set(&self, fault: Option<(&str, Fault)>) {
        let mut plan = self.plan();
        plan.fault = fault.map(|(step, fault)| (step.to_owned(), fault));
        self.struck.store(0, Ordering::SeqCst);
    }

    /// How many times something went wrong since then.
    pub fn struck(&self) -> usize {
        self.struck.load(Ordering::SeqCst)
    }

    /// The steps whose effects came by since this was asked last.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.plan().seen)
    }

    /// Lets late effects arrive; what became of each.
    pub async fn arrive(&self) -> Vec<Result<(), EffectError>> {
        let late = std::mem::take(&mut self.plan().late);
        let mut became = Vec::new();
        for arrival in late {
            self.wake.notify_one();
            if let Ok(result) = arrival.await {
                became.push(result);
            }
        }
        became
    }

    /// `call` does the effect; it owns all it needs, so that it can outlive whoever sent it.
    async fn pass<T: Send + 'static>(
        &self,
        step: &str,
        call: BoxFuture<'static, Result<T, EffectError>>,
    ) -> Result<T, EffectError> {
        let fault = {
            let mut plan = self.plan();
            if !plan.seen.iter().any(|s| s == step) {
                plan.seen.push(step.to_owned());
            }
            let fault = plan.fault.as_ref().filter(|(s, _)| s == step).map(|(_, fault)| *fault);
            if fault.is_some_and(|fault| !fault.lasts()) {
                plan.fault = None;
            }
            fault
        };
        let Some(fault) = fault else { return call.await };
        self.struck.fetch_add(1, Ordering::SeqCst);
        match fault {
            Fault::Refused | Fault::AlwaysRefused => Err(EffectError::Refused("refused on purpose".into())),
            Fault::LostBefore | Fault::AlwaysLost => Err(EffectError::Unknown("lost on purpose".into())),
            Fault::LostAfter => {
                // Whatever the answer was, nobody hears it.
                drop(call.await);
                Err(EffectError::Unknown("its answer was lost on purpose".into()))
            }
            Fault::Late => {
                let wake = Arc::clone(&self.wake);
                let arrival = tokio::spawn(async move {
                    wake.notified().await;
                    call.await.map(drop)
                });
                self.plan().late.push(arrival);
                std::future::pending().await
            }
        }
    }
}

#[async_trait]
impl Databases for Faulty {
    async fn observe(&self, cell: &Cell, region: &RegionId) -> Observation {
        self.inner.observe(cell, region).await
    }

    async fn settle(&self, cell: &Cell, region: &RegionId, token: &Token) -> Result<(), EffectError> {
        let (inner, cell, region, sent) = (self.inner.clone(), cell.clone(), region.clone(), token.clone());
        let call = async move { inner.settle(&cell, &region, &sent).await };
        self.pass(&token.step, call.boxed()).await
    }

    async fn fence(
        &self,
        cell: &Cell,
        region: &RegionId,
        token: &Token,
        epoch: Epoch,
        within: Duration,
        force: bool,
    ) -> Result<(HandoverToken, bool), EffectError> {
        let (inner, cell, region, sent) = (self.inner.clone(), cell.clone(), region.clone(), token.clone());
        let call = async move { inner.fence(&cell, &region, &sent, epoch, within, force).await };
        self.pass(&token.step, call.boxed()).await
    }

    async fn unfence(&self, cell: &Cell, region: &RegionId, token: &Token) -> Result<(), EffectError> {
        let (inner, cell, region, sent) = (self.inner.clone(), cell.clone(), region.clone(), token.clone());
        let call = async move { inner.unfence(&cell, &region, &sent).await };
        self.pass("unfence", call.boxed()).await
    }

    async fn accepts(
        &self,
        cell: &Cell,
        region: &RegionId,
        token: &Token,
        epoch: Epoch,
        handover: &HandoverToken,
    ) -> Result<(), EffectError> {
        let (inner, cell, region, sent) = (self.inner.clone(), cell.clone(), region.clone(), token.clone());
        let handover = handover.clone();
        let call = async move { inner.accepts(&cell, &region, &sent, epoch, &handover).await };
        // It is asked under the token of the promotion that it asks about.
        self.pass("catch-up", call.boxed()).await
    }

    async fn promote(
        &self,
        cell: &Cell,
        region: &RegionId,
        token: &Token,
        epoch: Epoch,
        handover: Option<&HandoverToken>,
        consent: Option<&Consent>,
    ) -> Result<Promoted, EffectError> {
        let (inner, cell, region, sent) = (self.inner.clone(), cell.clone(), region.clone(), token.clone());
        let (handover, consent) = (handover.cloned(), consent.cloned());
        let call = async move {
            inner.promote(&cell, &region, &sent, epoch, handover.as_ref(), consent.as_ref()).await
        };
        self.pass(&token.step, call.boxed()).await
    }

    async fn verify(&self, cell: &Cell, region: &RegionId, token: &Token) -> Result<(), EffectError> {
        let (inner, cell, region, sent) = (self.inner.clone(), cell.clone(), region.clone(), token.clone());
        let call = async move { inner.verify(&cell, &region, &sent).await };
        self.pass(&token.step, call.boxed()).await
    }

    async fn follow(
        &self,
        cell: &Cell,
        region: &RegionId,
        upstream: &RegionId,
        fork: Option<Fork>,
        token: &Token,
    ) -> Result<(), EffectError> {
        let (inner, cell, region, sent) = (self.inner.clone(), cell.clone(), region.clone(), token.clone());
        let upstream = upstream.clone();
        let call = async move { inner.follow(&cell, &region, &upstream, fork, &sent).await };
        self.pass(&token.step, call.boxed()).await
    }

    async fn export_losses(
        &self,
        cell: &Cell,
        region: &RegionId,
        fork: Fork,
        token: &Token,
    ) -> Result<(), EffectError> {
        let (inner, cell, region, sent) = (self.inner.clone(), cell.clone(), region.clone(), token.clone());
        let call = async move { inner.export_losses(&cell, &region, fork, &sent).await };
        self.pass(&token.step, call.boxed()).await
    }

    async fn losses(
        &self,
        cell: &Cell,
        region: &RegionId,
        moving: MoveId,
    ) -> Result<Option<LossReport>, EffectError> {
        self.inner.losses(cell, region, moving).await
    }

    async fn sample(&self, cell: &Cell, holder: &RegionId) -> Sample {
        self.inner.sample(cell, holder).await
    }
}
