//! The in-process twin keeps the word of every store.
#![cfg(feature = "conformance")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domicile_model::Revision;
use domicile_model::clock::{Clock, ManualClock};
use domicile_store::conformance::{Harness, a_full_store_takes_removals_only_and_says_so, run_all};
use domicile_store::{MemoryStore, Store, memory};

struct Memory {
    store: MemoryStore,
    hand: ManualClock,
}

#[async_trait]
impl Harness for Memory {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn prefix(&self) -> String {
        memory::PREFIX.to_owned()
    }

    async fn put_raw(&self, whole: &str, value: &[u8]) {
        self.store.put_raw(whole, value);
    }

    async fn compact(&self, revision: Revision) {
        self.store.compact(revision).expect("a compaction");
    }

    async fn pass(&self, time: Duration) {
        self.hand.advance(time);
        self.store.tick();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_twin_conforms() {
    run_all(|| async {
        let hand = ManualClock::new();
        Memory { store: MemoryStore::new(Clock::Manual(hand.clone())), hand }
    })
    .await;
}

#[tokio::test]
async fn the_twin_fills_up() {
    let hand = ManualClock::new();
    let twin = Memory { store: MemoryStore::new(Clock::Manual(hand.clone())), hand };
    twin.store.set_quota(Some(2 << 20));
    a_full_store_takes_removals_only_and_says_so(&twin).await;
    twin.store.disarm();
    assert!(twin.store.room().await.unwrap().unwrap().alarms.is_empty());
}
