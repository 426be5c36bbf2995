//! What every store has in common, as tests that run on all of them.
//!
//! A store that can be written to gives [`run_all`] a factory of [`Harness`]es; one that can't gives
//! [`run_read_only`] a [`ReadOnlyHarness`]. A case panics when the store does not keep its word.

mod committing;
mod leases;
mod read_only;
mod reading;
mod room;
mod watching;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domicile_model::clock::pause;
use domicile_model::{CellId, Revision};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::key::Key;
use crate::store::{Batch, Change, Store, StoreError, Watcher};
use crate::txn::{Commit, Op, Txn};

pub use read_only::{ReadOnlyHarness, run_read_only};
pub use room::a_full_store_takes_removals_only_and_says_so;

/// How the suite gets at a store that can be written to. Each case gets a harness of its own, with an empty store.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A handle on the store; where it matters another one each time, with connections of its own.
    async fn store(&self) -> Arc<dyn Store>;

    /// What stands in front of every key.
    fn prefix(&self) -> String;

    /// Writes a key behind the store's back, given as it stands on the server.
    async fn put_raw(&self, whole: &str, value: &[u8]);

    /// Forgets the history up to and including this revision.
    async fn compact(&self, revision: Revision);

    /// Lets this much time pass for leases: waits, or moves a clock.
    async fn pass(&self, time: Duration);
}

/// A case of the suite.
pub type Case = for<'a> fn(&'a dyn Harness) -> BoxFuture<'a, ()>;

macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        &[$((stringify!($case), |harness| $module::$case(harness).boxed())),*]
    };
}

/// All cases, by name.
pub const CASES: &[(&str, Case)] = cases![
    reading::an_empty_store_has_a_revision,
    reading::a_read_shows_what_was_committed_before_it,
    reading::several_keys_are_read_at_one_revision,
    reading::more_keys_than_a_transaction_holds_are_read_in_order,
    reading::a_prefix_lists_what_begins_with_it_in_order,
    reading::a_long_listing_shows_one_revision,
    reading::keys_of_others_are_not_seen,
    reading::values_come_back_byte_for_byte,
    committing::revisions_tell_creation_from_change,
    committing::every_kind_of_precondition_holds_and_fails,
    committing::a_refused_commit_writes_nothing_and_tells_what_is_there,
    committing::a_commit_is_all_or_nothing,
    committing::a_deletion_removes_and_needs_nothing_to_remove,
    committing::what_is_too_large_is_refused,
    committing::no_update_is_lost_between_competitors,
    committing::one_of_many_creators_wins,
    leases::a_lease_that_is_not_renewed_takes_its_keys_along,
    leases::a_renewed_lease_lives_on,
    leases::a_revoked_lease_takes_all_its_keys_in_one_revision,
    leases::a_lost_lease_carries_no_key,
    leases::a_key_leaves_its_lease_with_the_next_put,
    leases::a_lease_needs_a_time_to_live,
    watching::a_watch_tells_everything_from_a_past_revision_on,
    watching::changes_of_one_revision_stand_in_one_batch,
    watching::a_deletion_is_told_with_its_revision,
    watching::a_watch_from_the_future_tells_nothing_earlier,
    watching::compaction_is_reported,
    watching::a_probe_brings_a_sign_of_life,
    watching::a_dropped_call_loses_nothing,
    watching::many_changes_come_in_order_to_everyone,
    watching::a_watch_skips_keys_of_others,
    room::what_is_written_takes_room,
    room::what_is_forgotten_is_gone_for_watches_and_nothing_else,
];

/// Runs all cases one after the other, each on a harness of its own.
///
/// # Panics
/// At the first case that fails.
pub async fn run_all<H, F, Made>(make: F)
where
    H: Harness,
    F: Fn() -> Made,
    Made: Future<Output = H>,
{
    for (name, case) in CASES {
        eprintln!("conformance: {name}");
        let harness = make().await;
        case(&harness).await;
    }
}

/// Longest that a case waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what} did not come within {PATIENCE:?}"),
    }
}

fn key(n: usize) -> Key {
    Key::Move(CellId::new(&format!("cell-{n:05}")).expect("a plain id"))
}

fn put(key: &Key, value: &[u8]) -> Txn {
    Txn::bare().op(Op::Put(key.clone(), value.to_vec(), None))
}

/// Commits what must be applied, and says where. An unclear answer is no answer to a test: it is asked again only
/// where nothing was sent.
async fn done(store: &dyn Store, txn: Txn) -> Revision {
    match store.commit(txn.clone()).await {
        Ok(Commit::Done(revision)) => revision,
        other => panic!("{txn:?} was not applied: {other:?}"),
    }
}

async fn revision(store: &dyn Store) -> Revision {
    store.list("").await.expect("a listing").header.revision
}

async fn value(store: &dyn Store, key: &Key) -> Option<Vec<u8>> {
    let (_, mut found) = store.read(std::slice::from_ref(key)).await.expect("a read");
    found.pop().flatten().map(|entry| entry.value)
}

/// Batches of a watch until they hold this many changes, without the empty ones.
async fn batches(watch: &mut dyn Watcher, changes: usize) -> Vec<Batch> {
    let mut seen = 0;
    let mut all = Vec::new();
    while seen < changes {
        let batch = soon("the next change", watch.next()).await.expect("a running watch");
        seen += batch.changes.len();
        if !batch.changes.is_empty() {
            all.push(batch);
        }
    }
    assert_eq!(seen, changes, "more changes than expected: {all:?}");
    all
}

async fn changes(watch: &mut dyn Watcher, count: usize) -> Vec<Change> {
    batches(watch, count).await.into_iter().flat_map(|batch| batch.changes).collect()
}

/// Nothing more comes: a marker that is written now is the very next change.
async fn nothing_before_marker(store: &dyn Store, watch: &mut dyn Watcher) {
    let marker = key(99_999);
    let at = done(store, put(&marker, b"marker")).await;
    let next = changes(watch, 1).await.remove(0);
    assert_eq!((next.key(), next.revision()), (&marker, at));
}

/// Lets time pass until the condition holds.
async fn until<C, Answer>(harness: &dyn Harness, what: &str, condition: C)
where
    C: Fn() -> Answer,
    Answer: Future<Output = bool>,
{
    let work = async {
        while !condition().await {
            harness.pass(Duration::from_millis(100)).await;
            // Also where time is a number: others must get their turn.
            pause(Duration::from_millis(1)).await;
        }
    };
    soon(what, work).await;
}

fn is_refused<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Refused(_)))
}
