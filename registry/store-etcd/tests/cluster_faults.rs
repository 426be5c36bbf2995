//! What clients see of a cluster whose members die, stop, fall behind and lose answers.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::SocketAddr;
use std::time::Duration;

use domicile_chaos_kit::etcd::EtcdCluster;
use domicile_chaos_kit::link::{Faults, Lane};
use domicile_chaos_kit::{ports, wait};
use domicile_model::{CellId, Revision};
use domicile_store::{Change, Commit, Key, Op, Precondition, Store, StoreError, Txn, Watcher};
use domicile_store_etcd::{EtcdConfig, EtcdStore, Sabotage};

/// Longest that a call with three members may take: one second each, and some room for a busy machine.
const BOUND: Duration = Duration::from_secs(6);

fn config(endpoints: &[SocketAddr]) -> EtcdConfig {
    EtcdConfig::new(endpoints.iter().map(ToString::to_string).collect())
}

async fn store_at(endpoints: &[SocketAddr]) -> EtcdStore {
    EtcdStore::connect(config(endpoints)).await.unwrap()
}

fn key(n: usize) -> Key {
    Key::Move(CellId::new(&format!("cell-{n}")).unwrap())
}

fn put(n: usize, value: &str) -> Txn {
    Txn::bare().op(Op::Put(key(n), value.as_bytes().to_vec(), None))
}

async fn done(store: &EtcdStore, txn: Txn) -> Revision {
    match store.commit(txn).await {
        Ok(Commit::Done(at)) => at,
        other => panic!("{other:?}"),
    }
}

async fn value(store: &EtcdStore, n: usize) -> Result<Option<String>, StoreError> {
    let (_, found) = store.read(&[key(n)]).await?;
    Ok(found[0].as_ref().map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// A member that does not lead.
async fn follower(cluster: &EtcdCluster) -> usize {
    let leader = cluster.leader().await.unwrap();
    (0..3).find(|i| *i != leader).unwrap()
}

/// The addresses with this member first.
fn beginning_with(cluster: &EtcdCluster, first: usize) -> Vec<SocketAddr> {
    let mut all = cluster.endpoints();
    all.swap(0, first);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_where_nobody_listens_is_no_unknown_outcome() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let nobody = ports::free_address().unwrap();
    let alone = store_at(&[nobody]).await;
    for _ in 0..3 {
        let refused = tokio::time::timeout(BOUND, alone.commit(put(1, "x"))).await.unwrap();
        assert!(matches!(&refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(&nobody.to_string()), "{text}");
    }
    let both = store_at(&[nobody, cluster.endpoints()[0]]).await;
    done(&both, put(1, "x")).await;
    assert_eq!(value(&both, 1).await.unwrap().as_deref(), Some("x"));
}

/// Everything goes on with one of three dead, whichever was asked first; without a majority it says so in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_passed_over_and_a_dead_majority_is_reported() {
    let mut cluster = EtcdCluster::start(3).await.unwrap();
    let dead = cluster.leader().await.unwrap();
    let store = EtcdStore::connect(config(&beginning_with(&cluster, dead))).await.unwrap();
    let first = done(&store, put(1, "before")).await;
    let mut watch = store.watch(first).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes.len(), 1);
    cluster.kill(dead);
    // The watch on the dead member ends and does not hang.
    assert!(tokio::time::timeout(BOUND, watch.next()).await.unwrap().is_err());
    let mut tries = 0;
    wait::eventually(Duration::from_secs(20), "a commit after the death", || {
        tries += 1;
        let txn = put(2, &format!("after-{tries}"));
        async { matches!(store.commit(txn).await, Ok(Commit::Done(_))) }
    })
    .await
    .unwrap();
    assert_eq!(value(&store, 1).await.unwrap().as_deref(), Some("before"));
    let mut watch = store.watch(first.next()).await.unwrap();
    assert!(matches!(&watch.next().await.unwrap().changes[0], Change::Put(entry) if entry.key == key(2)));
    let lease = store.grant(Duration::from_secs(30)).await.unwrap();
    store.keep_alive(lease).await.unwrap();

    let second = (0..3).find(|i| *i != dead).unwrap();
    cluster.kill(second);
    wait::eventually(Duration::from_secs(20), "the majority is missed", || async {
        tokio::time::timeout(BOUND, store.read(&[key(1)])).await.unwrap().is_err()
    })
    .await
    .unwrap();
    let late = tokio::time::timeout(BOUND, store.commit(put(3, "x"))).await.unwrap();
    assert!(late.is_err());
    assert!(tokio::time::timeout(BOUND, store.list("")).await.unwrap().unwrap_err().is_retryable());
}

/// A member that is stopped keeps its connections: only time limits help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_member_costs_one_call_a_second_and_no_commit_its_truth() {
    let cluster = EtcdCluster::start(3).await.unwrap();
    let slow = follower(&cluster).await;
    let store = EtcdStore::connect(config(&beginning_with(&cluster, slow))).await.unwrap();
    done(&store, put(1, "before")).await;
    cluster.pause(slow);
    // May be carried out when the member wakes up, so nothing else may be said.
    let commit = tokio::time::timeout(BOUND, store.commit(put(1, "late"))).await.unwrap();
    assert!(matches!(commit, Err(StoreError::UnknownOutcome { .. })), "{commit:?}");
    // The next call goes elsewhere, at once.
    let quick = tokio::time::timeout(Duration::from_millis(900), store.read(&[key(1)])).await;
    quick.expect("the stopped member was asked again").unwrap();
    // A read that meets the stopped member first still has its answer.
    let fresh = store_at(&beginning_with(&cluster, slow)).await;
    assert!(tokio::time::timeout(BOUND, value(&fresh, 1)).await.unwrap().unwrap().is_some());
    let later = done(&store, put(2, "on")).await;
    let fresh = store_at(&beginning_with(&cluster, slow)).await;
    let mut watch = tokio::time::timeout(BOUND, fresh.watch(later)).await.unwrap().unwrap();
    assert_eq!(watch.next().await.unwrap().changes[0].key(), &key(2));
    cluster.resume(slow);
}

/// A caller that is less patient than the store drops its calls: the member that kept it waiting is not asked for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_dropped_for_its_slowness_is_not_begun_there_again() {
    let cluster = EtcdCluster::start(3).await.unwrap();
    let slow = follower(&cluster).await;
    let there = config(&beginning_with(&cluster, slow));
    let call_timeout = Duration::from_secs(8);
    let impatient = Duration::from_secs(5);
    let store =
        EtcdStore::connect(EtcdConfig { call_timeout, ask_next_after: call_timeout, ..there }).await.unwrap();
    let from = done(&store, put(1, "x")).await;
    cluster.pause(slow);
    assert!(
        tokio::time::timeout(impatient, store.read(&[key(1)])).await.is_err(),
        "it was to be asked first"
    );
    let again = tokio::time::timeout(impatient, store.read(&[key(1)])).await;
    again.expect("the stopped member was asked again").unwrap();
    let watch = tokio::time::timeout(impatient, store.watch(from)).await;
    watch.expect("the stopped member was asked again").unwrap();
    cluster.resume(slow);
}

/// A question that a member keeps is asked of the next one long before the first is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_does_not_wait_for_a_silent_member_as_long_as_a_commit_does() {
    let cluster = EtcdCluster::start(3).await.unwrap();
    let slow = follower(&cluster).await;
    let there = config(&beginning_with(&cluster, slow));
    let call_timeout = Duration::from_secs(30);
    let ask_next_after = Duration::from_millis(300);
    let store = EtcdStore::connect(EtcdConfig { call_timeout, ask_next_after, ..there }).await.unwrap();
    done(&store, put(1, "x")).await;
    cluster.pause(slow);
    let asked = tokio::time::timeout(BOUND, value(&store, 1)).await;
    assert_eq!(asked.expect("it waited for the silent one").unwrap().as_deref(), Some("x"));
    // The one that answered is asked first from now on; commits, too, go there.
    tokio::time::timeout(BOUND, store.commit(put(1, "y"))).await.expect("sent to the silent one").unwrap();
    cluster.resume(slow);
}

/// All answers come two seconds late: reads, commits, watches and leases of a patient store work all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_whose_answers_are_late_is_not_one_that_is_gone() {
    let cluster = EtcdCluster::start_linked(3).await.unwrap();
    let patient = EtcdConfig { call_timeout: Duration::from_secs(10), ..config(&cluster.endpoints()) };
    let store = EtcdStore::connect(patient).await.unwrap();
    let hasty = store_at(&cluster.endpoints()).await;
    done(&store, put(1, "x")).await;
    for member in cluster.members() {
        let late = Lane { delay_ms: 2_000, ..Lane::FINE };
        member.client_link().unwrap().control().set(Faults { backward: late, ..Faults::HEALED });
    }
    assert!(hasty.read(&[key(1)]).await.is_err(), "one second is not enough, or this test shows nothing");
    assert_eq!(value(&store, 1).await.unwrap().as_deref(), Some("x"));
    let lease = store.grant(Duration::from_secs(30)).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    let at = done(&store, put(2, "y")).await;
    let mut watch = store.watch(at).await.unwrap();
    assert_eq!(watch.next().await.unwrap().changes[0].key(), &key(2));
}

/// A watch that only its reader finds silent: what follows begins elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_was_given_up_is_not_begun_there_again() {
    let cluster = EtcdCluster::start(3).await.unwrap();
    let slow = follower(&cluster).await;
    let there = config(&beginning_with(&cluster, slow));
    let store =
        EtcdStore::connect(EtcdConfig { call_timeout: Duration::from_secs(20), ..there }).await.unwrap();
    let from = done(&store, put(1, "x")).await;
    let mut watch = store.watch(from).await.unwrap();
    cluster.pause(slow);
    watch.give_up();
    let bound = Duration::from_secs(10);
    let mut watch =
        tokio::time::timeout(bound, store.watch(from)).await.expect("it was asked again").unwrap();
    let told = tokio::time::timeout(bound, watch.next()).await.unwrap().unwrap();
    assert_eq!(told.changes[0].key(), &key(1));
    cluster.resume(slow);
}

/// What a commit of unknown outcome would still do, its precondition keeps it from doing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_wakes_up_late_is_held_back_by_its_precondition() {
    let cluster = EtcdCluster::start(3).await.unwrap();
    let slow = follower(&cluster).await;
    let others: Vec<SocketAddr> =
        (0..3).filter(|i| *i != slow).map(|i| cluster.members()[i].endpoint()).collect();
    let elsewhere = store_at(&others).await;
    for round in 0..5 {
        let seen = done(&elsewhere, put(1, &format!("old-{round}"))).await;
        let through = store_at(&[cluster.members()[slow].endpoint()]).await;
        through.read(&[key(1)]).await.unwrap();
        cluster.pause(slow);
        let late = put(1, "late").when(Precondition::ModifiedAt(key(1), seen));
        assert!(matches!(through.commit(late).await, Err(StoreError::UnknownOutcome { .. })));
        done(&elsewhere, put(1, "decided")).await;
        cluster.resume(slow);
        // The member has caught up with what was decided, so it has carried out whatever was queued before.
        wait::eventually(Duration::from_secs(20), "the member answers", || async {
            through.read(&[key(1)]).await.is_ok()
        })
        .await
        .unwrap();
        assert_eq!(value(&elsewhere, 1).await.unwrap().as_deref(), Some("decided"));
    }
}

/// How a commit whose answer is lost ends: as unknown, or in a lie if it is sent again.
async fn answer_lost(sabotage: Sabotage) -> (Result<Commit, StoreError>, Option<String>) {
    let cluster = EtcdCluster::start_linked(3).await.unwrap();
    let store = EtcdStore::connect(EtcdConfig { sabotage, ..config(&cluster.endpoints()) }).await.unwrap();
    let seen = done(&store, put(1, "old")).await;
    let link = cluster.members()[0].client_link().unwrap();
    link.control().cut_backward();
    let commit = store.commit(put(1, "new").when(Precondition::ModifiedAt(key(1), seen))).await;
    (commit, value(&store, 1).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_never_taken_for_a_refusal() {
    let (commit, value) = answer_lost(Sabotage::None).await;
    assert!(matches!(commit, Err(StoreError::UnknownOutcome { .. })), "{commit:?}");
    assert_eq!(value.as_deref(), Some("new"), "the read back shows what became of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seen_to_fail_a_commit_that_is_sent_again_is_refused_although_it_was_applied() {
    let (commit, value) = answer_lost(Sabotage::ResentCommits).await;
    assert!(matches!(commit, Ok(Commit::Refused { .. })), "{commit:?}");
    assert_eq!(value.as_deref(), Some("new"));
}

/// How many reads through a member that has just slept showed something older than what was committed meanwhile.
async fn stale_reads(sabotage: Sabotage) -> usize {
    let cluster = EtcdCluster::start(3).await.unwrap();
    let slow = follower(&cluster).await;
    let others: Vec<SocketAddr> =
        (0..3).filter(|i| *i != slow).map(|i| cluster.members()[i].endpoint()).collect();
    let elsewhere = store_at(&others).await;
    let there = config(&[cluster.members()[slow].endpoint()]);
    let through = EtcdStore::connect(EtcdConfig { sabotage, call_timeout: Duration::from_secs(10), ..there })
        .await
        .unwrap();
    done(&elsewhere, put(1, "start")).await;
    let mut stale = 0;
    for round in 0..15 {
        // The connection is there, so that the question waits inside the sleeping member.
        let _ = through.read(&[key(1)]).await;
        cluster.pause(slow);
        let expected = format!("round-{round}");
        let at = done(&elsewhere, put(1, &expected)).await;
        let question = [key(1)];
        let mut asked = Box::pin(through.read(&question));
        let _ = tokio::time::timeout(Duration::from_millis(50), &mut asked).await;
        cluster.resume(slow);
        // No answer is an honest one: while the member finds its leader again it may not have any.
        if let Ok((header, found)) = asked.await {
            let fresh = found[0].as_ref().is_some_and(|entry| entry.value == expected.as_bytes());
            stale += usize::from(!fresh || header.revision < at);
        }
    }
    stale
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_slept_gives_no_stale_answer() {
    assert_eq!(stale_reads(Sabotage::None).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seen_to_fail_a_read_without_the_quorum_is_stale() {
    assert!(stale_reads(Sabotage::StaleReads).await > 0);
}

/// Creates a key, through an election if need be: a member that comes back with a higher term costs one.
async fn certainly(store: &EtcdStore, n: usize) -> Revision {
    let why = std::sync::Mutex::new(Vec::new());
    let committed = wait::eventually(Duration::from_secs(60), "a commit", || async {
        match store.commit(put(n, &n.to_string()).when(Precondition::Absent(key(n)))).await {
            Ok(Commit::Done(at)) => Some(at),
            // An earlier try was applied after all: nobody else writes this key.
            Ok(Commit::Refused { current, .. }) => current[0].as_ref().map(|entry| entry.created),
            Err(error @ (StoreError::Unavailable { .. } | StoreError::UnknownOutcome { .. })) => {
                why.lock().unwrap().push(error.to_string());
                None
            }
            Err(error) => panic!("{error}"),
        }
    });
    committed.await.unwrap_or_else(|late| panic!("{late}: {:?}", why.lock().unwrap().last()))
}

async fn without_leader(alone: &EtcdStore) {
    wait::eventually(Duration::from_secs(20), "the member knows that it has no leader", || async {
        matches!(alone.read(&[]).await, Err(StoreError::Unavailable { why, .. }) if why.contains("no leader"))
    })
    .await
    .unwrap();
}

/// Follows all changes as a mirror does: after an end it begins again where it stood.
async fn follow(store: &EtcdStore, from: Revision, count: usize) -> Vec<Change> {
    let mut next = from;
    let mut told = Vec::new();
    let mut watch: Option<Box<dyn Watcher>> = None;
    while told.len() < count {
        let Some(running) = &mut watch else {
            watch = store.watch(next).await.ok();
            domicile_model::clock::pause(Duration::from_millis(20)).await;
            continue;
        };
        match running.next().await {
            Ok(batch) => {
                next = batch.changes.last().map_or(next, |last| last.revision().next());
                told.extend(batch.changes);
            }
            Err(_) => watch = None,
        }
    }
    told
}

/// The member that the watch runs on is cut off from its peers, falls behind and rejoins, twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_falls_behind_and_rejoins_tells_everything_once_and_in_order() {
    let cluster = EtcdCluster::start_linked(3).await.unwrap();
    let behind = follower(&cluster).await;
    let others: Vec<SocketAddr> =
        (0..3).filter(|i| *i != behind).map(|i| cluster.members()[i].endpoint()).collect();
    let writer = store_at(&others).await;
    let from = done(&writer, put(999, "start")).await.next();
    // Only this member, so that its return is what the watcher lives from.
    let reader = store_at(&[cluster.members()[behind].endpoint()]).await;
    let alone = reader.clone();
    let reading = tokio::spawn(async move { follow(&reader, from, 300).await });
    let mut expected = Vec::new();
    for n in 0..300 {
        match n {
            50 | 200 => cluster.cut_member(behind),
            120 => cluster.heal_member(behind),
            // Long enough that it has noticed, and has ended its watches.
            280 => {
                without_leader(&alone).await;
                cluster.heal_member(behind);
            }
            _ => {}
        }
        let at = certainly(&writer, n).await;
        expected.push((key(n), n.to_string(), at));
    }
    let told = tokio::time::timeout(Duration::from_secs(120), reading).await.expect("it hangs").unwrap();
    let told: Vec<(Key, String, Revision)> = told
        .into_iter()
        .map(|change| match change {
            Change::Put(e) => (e.key, String::from_utf8_lossy(&e.value).into_owned(), e.modified),
            Change::Delete(key, at) => (key, String::new(), at),
        })
        .collect();
    assert_eq!(told, expected);
}

/// Pages that would be too long to read are asked for in smaller pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_of_large_values_comes_in_pages_that_can_be_read() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let store = store_at(&cluster.endpoints()).await;
    let large = "x".repeat(1_000_000);
    for n in 0..40 {
        done(&store, put(n, &large)).await;
    }
    let listing = store.list("moves/").await.unwrap();
    assert_eq!(listing.entries.len(), 40);
    assert!(listing.entries.iter().all(|entry| entry.value.len() == large.len()));
}

/// Watches whose owner is busy keep their changes to themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_nobody_reads_do_not_hold_up_calls() {
    let cluster = EtcdCluster::start(1).await.unwrap();
    let store = store_at(&cluster.endpoints()).await;
    let from = done(&store, put(0, "start")).await.next();
    let mut watches = Vec::new();
    for _ in 0..5 {
        watches.push(store.watch(from).await.unwrap());
    }
    let large = "x".repeat(1_000_000);
    for n in 0..20 {
        done(&store, put(n, &large)).await;
        assert_eq!(value(&store, n).await.unwrap().map(|value| value.len()), Some(large.len()));
    }
    // And lose none.
    for mut watch in watches {
        let mut told = 0;
        while told < 20 {
            told += tokio::time::timeout(BOUND, watch.next()).await.unwrap().unwrap().changes.len();
        }
    }
}
