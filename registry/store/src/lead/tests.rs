//! Two candidates on the in-process twin, with time in the test's hand. The same on real etcd stands beside the store
//! on etcd.

use domicile_model::clock::ManualClock;
use domicile_model::{CellId, FenceConstants, Revision};

use super::*;
use crate::memory::{LostAnswer, MemoryStore};
use crate::store::{Header, Listing, Watcher};
use crate::txn::Op;
use crate::world::init_world;

const TTL: Duration = Duration::from_secs(6);

struct Two {
    store: MemoryStore,
    hand: ManualClock,
    a: Candidate,
    b: Candidate,
}

async fn two() -> Two {
    let hand = ManualClock::new();
    let clock = Clock::Manual(hand.clone());
    let store = MemoryStore::new(clock.clone());
    let world = init_world(&store, FenceConstants::DEFAULT).await.unwrap();
    let candidate = |name: &str, store: Arc<dyn Store>| {
        let address = "127.0.0.1:7070".parse().unwrap();
        Candidate::new(store, clock.clone(), world.clone(), name, address, TTL)
    };
    let (a, b) = (candidate("a", Arc::new(store.clone())), candidate("b", Arc::new(store.clone())));
    Two { store, hand, a, b }
}

async fn leads(candidate: &Candidate) -> Reign {
    match candidate.try_lead().await.unwrap() {
        Attempt::Leads(reign) => reign,
        Attempt::Follows(leader) => panic!("{leader:?} leads"),
    }
}

fn write(txn: Txn) -> Txn {
    txn.op(Op::Put(Key::Move(CellId::new("c").unwrap()), b"x".to_vec(), None))
}

#[tokio::test]
async fn one_leads_and_the_other_knows_whom_it_follows() {
    let two = two().await;
    assert_eq!(present_leader(&two.store).await.unwrap(), None);
    let reign = leads(&two.a).await;
    let Attempt::Follows(leader) = two.b.try_lead().await.unwrap() else { panic!("two lead") };
    assert_eq!((leader.record.name.as_str(), &leader.leadership), ("a", reign.leadership()));
    assert_eq!(present_leader(&two.store).await.unwrap().unwrap(), leader);
    assert!(matches!(two.store.commit(write(reign.txn().unwrap())).await, Ok(Commit::Done(_))));
}

#[tokio::test]
async fn a_leader_that_renews_leads_on() {
    let two = two().await;
    let reign = leads(&two.a).await;
    for _ in 0..20 {
        two.hand.advance(TTL / 3);
        reign.renew().await.unwrap();
        assert!(matches!(two.b.try_lead().await.unwrap(), Attempt::Follows(_)));
    }
    assert_eq!(reign.ended(), None);
}

/// The silent leader has stopped by itself before the other one begins, and what it still sends is refused.
#[tokio::test]
async fn a_silent_leader_stops_before_the_next_begins_and_is_fenced() {
    let two = two().await;
    let old = leads(&two.a).await;
    let late = write(old.txn().unwrap());
    let mut stopped_at = None;
    let next = loop {
        two.hand.advance(Duration::from_millis(100));
        if old.ended().is_some() && stopped_at.is_none() {
            stopped_at = Some(two.a.clock.now());
        }
        if let Attempt::Leads(next) = two.b.try_lead().await.unwrap() {
            break next;
        }
    };
    let idle = two.a.clock.now().since(stopped_at.expect("it did not stop by itself"));
    assert!(idle >= two.a.margin(), "only {idle:?} between two leaders");
    assert_eq!(old.txn().unwrap_err(), Ended::NotRenewed);
    assert!(matches!(two.store.commit(late.clone()).await, Ok(Commit::Refused { .. })));
    // Seen to fail: without the fence the same write goes through.
    let unfenced = write(Txn::in_world(old.world()));
    assert!(matches!(two.store.commit(unfenced).await, Ok(Commit::Done(_))));
    assert!(matches!(two.store.commit(write(next.txn().unwrap())).await, Ok(Commit::Done(_))));
    assert!(next.leadership().fence > old.leadership().fence);
    // It does not come back to life either.
    assert!(matches!(old.renew().await, Err(StoreError::LeaseLost)));
    assert!(old.ended().is_some());
}

/// Answers renewals only after the clock has moved on: a slow network, or a process that was stopped.
#[derive(Debug, Clone)]
struct Slow(MemoryStore, ManualClock, Duration);

#[async_trait::async_trait]
impl Store for Slow {
    async fn read(&self, keys: &[Key]) -> Result<(Header, Vec<Option<Entry>>), StoreError> {
        self.0.read(keys).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.0.list(prefix).await
    }
    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        self.0.commit(txn).await
    }
    async fn watch(&self, from: Revision) -> Result<Box<dyn Watcher>, StoreError> {
        self.0.watch(from).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.0.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let done = self.0.keep_alive(lease).await;
        self.1.advance(self.2);
        done
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease).await
    }
    async fn room(&self) -> Result<Option<crate::room::Room>, StoreError> {
        self.0.room().await
    }
    async fn forget_before(&self, revision: domicile_model::Revision) -> Result<(), StoreError> {
        self.0.forget_before(revision).await
    }
}

/// How long two of them believe to lead at once when the first one's renewal is answered late.
async fn both_lead(broken: bool) -> Duration {
    let two = two().await;
    let slow = Slow(two.store.clone(), two.hand.clone(), Duration::from_secs(4));
    let a = Candidate { store: Arc::new(slow), count_from_answer: broken, ..two.a.clone() };
    let old = leads(&a).await;
    old.renew().await.unwrap();
    let mut both = Duration::ZERO;
    let mut next: Option<Reign> = None;
    for _ in 0..200 {
        two.hand.advance(Duration::from_millis(50));
        match &next {
            Some(next) => {
                let _ = next.renew().await;
                if old.ended().is_none() && next.ended().is_none() {
                    both += Duration::from_millis(50);
                }
            }
            None => {
                if let Attempt::Leads(reign) = two.b.try_lead().await.unwrap() {
                    next = Some(reign);
                }
            }
        }
    }
    assert!(next.is_some(), "nobody took over");
    both
}

#[tokio::test]
async fn time_counts_from_the_sending_of_a_renewal() {
    assert_eq!(both_lead(false).await, Duration::ZERO);
    assert!(
        both_lead(true).await > Duration::ZERO,
        "this test would not see a leader that outlives its lease"
    );
}

#[tokio::test]
async fn who_resigns_makes_room_at_once() {
    let two = two().await;
    let reign = leads(&two.a).await;
    reign.resign().await.unwrap();
    assert_eq!(reign.ended(), Some(Ended::Resigned));
    assert_eq!(reign.txn().unwrap_err(), Ended::Resigned);
    leads(&two.b).await;
}

#[tokio::test]
async fn who_is_seized_learns_it_at_the_next_renewal_and_is_fenced_at_once() {
    let two = two().await;
    let reign = leads(&two.a).await;
    let late = write(reign.txn().unwrap());
    assert!(seize(&two.store, reign.world(), reign.leadership()).await.unwrap());
    assert!(matches!(two.store.commit(late).await, Ok(Commit::Refused { .. })));
    assert!(matches!(reign.renew().await, Err(StoreError::LeaseLost)));
    assert_eq!(reign.ended(), Some(Ended::Deposed));
    let next = leads(&two.b).await;
    // The seizure of the old one does not hit the new one.
    assert!(!seize(&two.store, reign.world(), reign.leadership()).await.unwrap());
    next.renew().await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_to_the_attempt_is_read_back() {
    let two = two().await;
    two.store.lose_next_answer(LostAnswer::Applied);
    let reign = leads(&two.a).await;
    assert!(matches!(two.store.commit(write(reign.txn().unwrap())).await, Ok(Commit::Done(_))));
    reign.resign().await.unwrap();
    two.store.lose_next_answer(LostAnswer::NotApplied);
    assert!(two.a.try_lead().await.is_err());
    leads(&two.b).await;
}

#[tokio::test]
async fn an_outage_ends_a_reign_only_when_its_time_is_over() {
    let two = two().await;
    let reign = leads(&two.a).await;
    two.store.outage(true);
    assert!(reign.renew().await.unwrap_err().is_retryable());
    assert_eq!(reign.ended(), None);
    two.hand.advance(TTL / 3);
    two.store.outage(false);
    reign.renew().await.unwrap();
    two.store.outage(true);
    two.hand.advance(TTL);
    assert_eq!(reign.ended(), Some(Ended::NotRenewed));
}

#[tokio::test]
async fn in_another_world_nobody_leads() {
    let two = two().await;
    let reign = leads(&two.a).await;
    let other = World { id: domicile_model::WorldId::new(), ..two.a.world.clone() };
    two.store.commit(Txn::bare().put(Key::World, &other)).await.unwrap();
    assert!(matches!(two.store.commit(write(reign.txn().unwrap())).await, Ok(Commit::Refused { .. })));
    assert!(reign.renew().await.is_err());
    reign.resign().await.unwrap();
    assert!(matches!(two.a.try_lead().await, Err(LeadError::AnotherWorld)));
}

/// After a restore revisions repeat: only the random value tells the deposed leader from the new one.
#[tokio::test]
async fn a_restored_registry_does_not_call_a_deposed_leader_back() {
    let two = two().await;
    let empty = two.store.snapshot();
    let old = leads(&two.a).await;
    two.store.restore(&empty);
    let next = leads(&two.b).await;
    assert_eq!(old.leadership().fence, next.leadership().fence, "the point of this test");
    assert!(matches!(two.store.commit(write(old.txn().unwrap())).await, Ok(Commit::Refused { .. })));
    assert!(old.renew().await.is_err());
    next.renew().await.unwrap();
    // Seen to fail: the number alone lets it through.
    let number_only = write(
        Txn::in_world(old.world()).when(Precondition::CreatedAt(Key::Leader, old.leadership().fence.0)),
    );
    assert!(matches!(two.store.commit(number_only).await, Ok(Commit::Done(_))));
}

#[tokio::test]
async fn holding_ends_when_the_lease_is_taken_away() {
    let hand = MemoryStore::new(Clock::Machine);
    let world = init_world(&hand, FenceConstants::DEFAULT).await.unwrap();
    let address = "127.0.0.1:7070".parse().unwrap();
    // Long enough for a busy machine to renew it in time.
    let ttl = Duration::from_secs(1);
    let a = Candidate::new(Arc::new(hand.clone()), Clock::Machine, world, "a", address, ttl);
    let reign = a.campaign().await.unwrap();
    // Well past one lease's time it still leads.
    assert!(tokio::time::timeout(ttl * 3, reign.hold()).await.is_err());
    assert_eq!(reign.ended(), None);
    hand.outage(true);
    let ended = tokio::time::timeout(Duration::from_secs(10), reign.hold()).await.unwrap();
    assert_eq!(ended, Ended::NotRenewed);
}
