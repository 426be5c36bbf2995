//! Who leads the control plane: the key `leader`, created under a lease by a plain transaction.
//!
//! Safety rests on the fence alone: every write of the control plane compares the key's create revision and its exact
//! value ([`Txn::fenced`]), so a deposed leader's writes are refused however late they come. What stands here beside
//! that makes a leader *stop by itself* before another one can begin: it counts, on a clock that runs on in suspend,
//! from when it *sent* the last renewal that was acknowledged. A lease is not proof by itself (an older etcd answers
//! renewals without its quorum), so a renewal also reads the key.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domicile_model::World;
use domicile_model::clock::{BootTime, Clock, pause};
use domicile_model::token::LeaderFence;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::{CodecError, Record, decode, encode};
use crate::key::Key;
use crate::store::{Entry, LeaseId, Store, StoreError};
use crate::txn::{Commit, Leadership, Precondition, Txn};

/// The key `leader`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// What people call this control plane.
    pub name: String,
    /// Where it takes changes that others pass on.
    pub address: SocketAddr,
    /// Random, made for each attempt to lead: revisions repeat after a restore, this does not.
    pub nonce: Uuid,
}

impl Record for LeaderRecord {
    const NAME: &'static str = "leader";
}

/// The leader as it stands in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentLeader {
    /// Who it is.
    pub record: LeaderRecord,
    /// What its writes compare, and what a seizure removes.
    pub leadership: Leadership,
}

/// Why leading, or asking for the leader, did not work.
#[derive(Debug, thiserror::Error)]
pub enum LeadError {
    /// The store did not answer.
    #[error("the leadership can't be read or taken")]
    Store(#[from] StoreError),
    /// The leader's record can't be read: a newer program leads.
    #[error("the leader's record can't be read")]
    Codec(#[from] CodecError),
    /// The registry is in another world than this candidate.
    #[error("the registry has become another world; start again")]
    AnotherWorld,
}

/// Why a reign has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// No renewal was acknowledged in time. The registry may still name this leader.
    #[error("no renewal of the leadership was acknowledged in time")]
    NotRenewed,
    /// The lease is gone, or the key is another one's.
    #[error("the leadership was lost")]
    Deposed,
    /// It was given up.
    #[error("the leadership was given up")]
    Resigned,
}

/// What an attempt to lead came to.
#[derive(Debug)]
pub enum Attempt {
    /// This candidate leads.
    Leads(Reign),
    /// Another one does.
    Follows(PresentLeader),
}

/// Somebody who may lead.
#[derive(Clone)]
pub struct Candidate {
    store: Arc<dyn Store>,
    clock: Clock,
    world: World,
    name: String,
    address: SocketAddr,
    ttl: Duration,
    count_from_answer: bool,
}

/// The leadership, while it lasts. Dropped without [`Reign::resign`], its lease runs out.
pub struct Reign {
    candidate: Candidate,
    record: LeaderRecord,
    leadership: Leadership,
    lease: LeaseId,
    /// Nanoseconds of the [`BootTime`] at which this leader stops by itself; zero once it has ended for good.
    until: AtomicU64,
    /// Why, once it has.
    ended: std::sync::OnceLock<Ended>,
}

impl std::fmt::Debug for Reign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reign")
            .field("record", &self.record)
            .field("fence", &self.leadership.fence)
            .finish_non_exhaustive()
    }
}

/// The present leader, if there is one. Linearizable.
///
/// # Errors
/// When the store does not answer or the record can't be read.
pub async fn present_leader(store: &dyn Store) -> Result<Option<PresentLeader>, LeadError> {
    let (_, mut found) = store.read(&[Key::Leader]).await?;
    found.pop().flatten().map(present).transpose()
}

/// Removes the key of exactly this leader, for an operator who knows that it is gone or must go. Its writes are
/// refused from then on; its effects on agents may still be under way until their deadline, which the caller waits out.
///
/// Returns false if another one leads by now, or nobody.
///
/// # Errors
/// When the store does not answer. After [`StoreError::UnknownOutcome`] look at [`present_leader`].
pub async fn seize(store: &dyn Store, world: &World, leader: &Leadership) -> Result<bool, StoreError> {
    let commit = store.commit(Txn::fenced(world, leader).delete(Key::Leader)).await?;
    Ok(matches!(commit, Commit::Done(_)))
}

fn present(entry: Entry) -> Result<PresentLeader, LeadError> {
    let record = decode(&entry.value)?;
    let leadership = Leadership { fence: LeaderFence(entry.created), value: entry.value };
    Ok(PresentLeader { record, leadership })
}

impl Candidate {
    /// Somebody who may lead in this world, under a lease of `ttl` (whole seconds, two at least: servers grant no less).
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Clock,
        world: World,
        name: impl Into<String>,
        address: SocketAddr,
        ttl: Duration,
    ) -> Self {
        Self { store, clock, world, name: name.into(), address, ttl, count_from_answer: false }
    }

    /// Breaks the candidate: its time runs from the answer to a renewal, so that it outlives its lease when answers
    /// are slow. For the test that must see that.
    #[doc(hidden)]
    #[must_use]
    pub const fn counting_from_the_answer(mut self) -> Self {
        self.count_from_answer = true;
        self
    }

    /// How much earlier than its lease a leader stops: room for clocks that run at different rates, and for what it
    /// began a moment before.
    #[must_use]
    pub fn margin(&self) -> Duration {
        self.ttl / 5
    }

    /// Leads if nobody does.
    ///
    /// # Errors
    /// When the store does not answer, or the registry has become another world. An attempt of unknown outcome is
    /// read back here; if that fails too, its lease runs out by itself.
    pub async fn try_lead(&self) -> Result<Attempt, LeadError> {
        if let Some(leader) = present_leader(&*self.store).await? {
            return Ok(Attempt::Follows(leader));
        }
        let sent = self.clock.now();
        let lease = self.store.grant(self.ttl).await?;
        let record = LeaderRecord { name: self.name.clone(), address: self.address, nonce: Uuid::new_v4() };
        let txn = Txn::in_world(&self.world).when(Precondition::Absent(Key::Leader)).put_leased(
            Key::Leader,
            &record,
            lease,
        );
        let outcome = match self.store.commit(txn).await {
            Ok(Commit::Done(revision)) => {
                let leadership = Leadership { fence: LeaderFence(revision), value: encode(&record) };
                return Ok(Attempt::Leads(self.reign(record, leadership, lease, sent)));
            }
            Ok(Commit::Refused { mut current, .. }) => {
                let leader = current.pop().flatten();
                let world = current.pop().flatten();
                match leader {
                    Some(leader) => present(leader).map(Attempt::Follows),
                    None if world.is_none_or(|w| w.value != encode(&self.world)) => {
                        Err(LeadError::AnotherWorld)
                    }
                    None => Err(unavailable("the attempt was refused for no reason").into()),
                }
            }
            Err(StoreError::UnknownOutcome { place, why }) => {
                match present_leader(&*self.store).await? {
                    // Nobody else can have made our nonce.
                    Some(leader) if leader.record == record => {
                        return Ok(Attempt::Leads(self.reign(record, leader.leadership, lease, sent)));
                    }
                    Some(leader) => Ok(Attempt::Follows(leader)),
                    None => Err(StoreError::Unavailable { place, why }.into()),
                }
            }
            Err(error) => Err(error.into()),
        };
        // The attempt may still be on its way: without its lease it is refused for ever.
        if let Err(error) = self.store.revoke(lease).await {
            tracing::debug!(%error, "the lease of a failed attempt to lead is left to run out");
        }
        outcome
    }

    /// Tries to lead until it does. Dropping the call gives up.
    ///
    /// # Errors
    /// [`LeadError::AnotherWorld`], and a leader's record that can't be read; an unreachable store is asked again.
    pub async fn campaign(&self) -> Result<Reign, LeadError> {
        loop {
            match self.try_lead().await {
                Ok(Attempt::Leads(reign)) => return Ok(reign),
                Ok(Attempt::Follows(_)) => {}
                Err(LeadError::Store(error)) => tracing::warn!(%error, "no attempt to lead was possible"),
                Err(error) => return Err(error),
            }
            pause(self.ttl / 6).await;
        }
    }

    fn reign(&self, record: LeaderRecord, leadership: Leadership, lease: LeaseId, sent: BootTime) -> Reign {
        let until = AtomicU64::new(self.end(sent).as_nanos());
        Reign { candidate: self.clone(), record, leadership, lease, until, ended: std::sync::OnceLock::new() }
    }

    /// When a leader whose last renewal was sent at this time stops by itself.
    fn end(&self, sent: BootTime) -> BootTime {
        let from = if self.count_from_answer { self.clock.now() } else { sent };
        from + self.ttl.saturating_sub(self.margin())
    }
}

impl Reign {
    /// What every write of this leader carries.
    #[must_use]
    pub const fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// The world that it leads in.
    #[must_use]
    pub const fn world(&self) -> &World {
        &self.candidate.world
    }

    /// What stands in the registry.
    #[must_use]
    pub const fn record(&self) -> &LeaderRecord {
        &self.record
    }

    /// When it stops by itself, unless it is renewed before. Effects must not be given a later deadline.
    #[must_use]
    pub fn until(&self) -> BootTime {
        BootTime::from_nanos(self.until.load(Ordering::SeqCst))
    }

    /// Why it has ended; none while it lasts.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        if let Some(ended) = self.ended.get() {
            return Some(*ended);
        }
        (self.candidate.clock.now() >= self.until()).then_some(Ended::NotRenewed)
    }

    /// A transaction of this leader.
    ///
    /// # Errors
    /// Why it leads no more.
    pub fn txn(&self) -> Result<Txn, Ended> {
        match self.ended() {
            Some(ended) => Err(ended),
            None => Ok(Txn::fenced(&self.candidate.world, &self.leadership)),
        }
    }

    /// Renews once: the lease, and by reading the key the knowledge that it is still this leader's.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when the reign is over. After any other error it goes on until its time is over.
    pub async fn renew(&self) -> Result<(), StoreError> {
        // A reign whose time was over has told its own work to stop: it is not called back.
        if let Some(ended) = self.ended() {
            self.end(ended);
            return Err(StoreError::LeaseLost);
        }
        let sent = self.candidate.clock.now();
        let store = &self.candidate.store;
        let renewed = match store.keep_alive(self.lease).await {
            Ok(()) => store.read(&[Key::Leader, Key::World]).await,
            Err(error) => Err(error),
        };
        match renewed {
            Ok((_, found)) => {
                let ours = |entry: &Entry| {
                    entry.created == self.leadership.fence.0 && entry.value == self.leadership.value
                };
                let same_world = |entry: &Entry| entry.value == encode(&self.candidate.world);
                let leads = found.first().and_then(Option::as_ref).is_some_and(ours)
                    && found.get(1).and_then(Option::as_ref).is_some_and(same_world);
                if leads && self.ended().is_none() {
                    self.until.fetch_max(self.candidate.end(sent).as_nanos(), Ordering::SeqCst);
                    return Ok(());
                }
                self.end(self.ended().unwrap_or(Ended::Deposed));
                Err(StoreError::LeaseLost)
            }
            Err(StoreError::LeaseLost) => {
                self.end(Ended::Deposed);
                Err(StoreError::LeaseLost)
            }
            Err(error) => Err(error),
        }
    }

    /// Renews every third of the lease's time, until the reign ends; says why it did. Run it beside the work, and
    /// stop the work when it returns.
    pub async fn hold(&self) -> Ended {
        let third = self.candidate.ttl / 3;
        let mut next = third;
        loop {
            let left = self.until().since(self.candidate.clock.now());
            pause(next.min(left)).await;
            let left = self.until().since(self.candidate.clock.now());
            // A renewal that hangs must not keep us from noticing the end.
            let renewed = tokio::time::timeout(left.max(Duration::from_millis(1)), self.renew()).await;
            if let Some(ended) = self.ended() {
                return self.end(ended);
            }
            next = match renewed {
                Ok(Ok(())) => third,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the leadership was not renewed");
                    third / 5
                }
                Err(_) => third / 5,
            };
        }
    }

    /// Gives the leadership up, so that the next one need not wait for the lease. The reign has ended when this is
    /// called, whatever the store answers.
    ///
    /// # Errors
    /// When the store does not answer; the lease then runs out by itself.
    pub async fn resign(&self) -> Result<(), StoreError> {
        self.end(Ended::Resigned);
        match self.candidate.store.revoke(self.lease).await {
            Err(StoreError::LeaseLost) => Ok(()),
            done => done,
        }
    }

    /// Ends it for good; the first reason stays.
    fn end(&self, why: Ended) -> Ended {
        let why = *self.ended.get_or_init(|| why);
        self.until.store(0, Ordering::SeqCst);
        why
    }
}

fn unavailable(why: &str) -> StoreError {
    StoreError::Unavailable { place: "registry".to_owned(), why: why.to_owned() }
}
