//! What leaves the registry for the archive: nothing is lost on the way, nothing is told twice, and everybody finds it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{FLEET, Plane, Special, gates, registry};
use domicile_archive::{Directory, verify};
use domicile_chaos_kit::wait::eventually;
use domicile_model::MoveId;
use domicile_server::archive::{Keep, Sabotage, Settings};
use domicile_store::memory::{LostAnswer, MemoryStore};
use domicile_store::world::read_world;
use domicile_store::{Key, Op, Store, Txn};
use jiff::Timestamp;
use serde_json::{Value, json};

fn settings(dir: &Path, copies: Option<usize>) -> Settings {
    Settings {
        dir: dir.to_owned(),
        keep: Keep { newest: 0, age: Duration::from_secs(3_600) },
        copies,
        // Passes only when they are asked for.
        every: Duration::from_secs(3_600),
        patience: Duration::from_millis(300),
        sabotage: Sabotage::None,
    }
}

async fn plane(name: &str, store: &Arc<MemoryStore>, archive: Option<Settings>) -> Plane {
    Plane::start_with(name, store.clone(), Special { archive, ..Special::default() }).await
}

/// A move that ended long ago, with so many log entries.
async fn ended(store: &MemoryStore, n: u128, entries: u64) -> MoveId {
    let id = MoveId::from_u128(n);
    let at = Timestamp::new(1_000_000 + i64::try_from(n).unwrap(), 0).unwrap();
    let flow = json!({ "v": 1, "data": {
        "id": id, "definition": "switchover", "version": 1, "request": { "cell": "pool", "to": "us-west-2" },
        "cell": "pool", "from": "us-east-1", "to": "us-west-2", "by": "ann", "created": at, "updated": at,
        "status": { "is": "done" }, "back": false, "step": "protect", "attempt": 1, "log": entries, "steps": {},
        "outputs": {}, "facts": {},
    } });
    let mut txn = Txn::bare().op(Op::Put(Key::Workflow(id), flow.to_string().into_bytes(), None));
    for n in 1..=entries {
        let entry = json!({ "v": 1, "data": {
            "n": n, "at": at, "leader": "cp-1", "step": "claim", "event": "done",
        } });
        txn = txn.op(Op::Put(Key::WorkflowLog(id, n), entry.to_string().into_bytes(), None));
        if txn.then.len() == 100 {
            store.commit(std::mem::take(&mut txn)).await.unwrap();
        }
    }
    store.commit(txn).await.unwrap();
    id
}

async fn left(store: &MemoryStore) -> usize {
    store.list("workflows/").await.unwrap().entries.len()
}

async fn run(plane: &Plane) -> Value {
    let (status, report) = plane.post("/v1/archive", &json!({})).await;
    assert_eq!(status, 200, "{report}");
    report
}

/// The copy is sound, and reaches the registry's head.
async fn sound(plane: &Plane, dir: &Path) -> u64 {
    let (_, view) = plane.get("/v1/archive").await;
    let end = verify::read_end(view["head"].as_str().unwrap()).unwrap();
    let copy = Directory::at(dir);
    let keys = copy.keys().unwrap();
    let report = verify(&copy, &keys, Some(end));
    assert_eq!(report.unwrap_or_else(|e| panic!("{e}")).end, Some(end));
    end.segment
}

fn set_aside(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir.join("segments")).unwrap().map(|e| e.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().starts_with("set-aside")).count()
}

/// An entry of the audit log, written long ago.
async fn noted(store: &MemoryStore, n: u64, by: &str) {
    let at = uuid::Timestamp::from_unix(uuid::NoContext, 1_700_000_000 + n, 0);
    let entry = json!({ "v": 1, "data": {
        "at": "2023-11-14T22:13:20Z", "by": by, "server": "cp-1", "action": "apply", "changed": [format!("thing {n}")],
    } });
    let put = Op::Put(Key::Audit(uuid::Uuid::new_v7(at)), entry.to_string().into_bytes(), None);
    store.commit(Txn::bare().op(put)).await.unwrap();
}

#[tokio::test]
async fn the_audit_log_is_read_as_one_and_said_not_to_be_whole_where_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = registry();
    let a = plane("a", &store, Some(settings(dir.path(), None))).await;
    a.led().await;
    let (_, before) = a.get("/v1/audit").await;
    assert_eq!((&before["whole"], &before["head"]), (&json!(true), &json!(null)), "{before}");
    for (n, by) in [(1, "cid"), (2, "bob"), (3, "cid")] {
        noted(&store, n, by).await;
    }
    assert_eq!(run(&a).await["keys"], 3);
    assert_eq!(a.apply(FLEET).await.0, 200);
    let told = |view: &Value| -> Vec<(String, Value)> {
        let entries = view["entries"].as_array().unwrap();
        entries.iter().map(|e| (e["changed"][0].as_str().unwrap().to_owned(), e["segment"].clone())).collect()
    };
    let (_, all) = a.get("/v1/audit?limit=1000").await;
    let (_, archive) = a.get("/v1/archive").await;
    assert_eq!(
        (&all["whole"], &all["head"], &all["problem"]),
        (&json!(true), &archive["head"], &json!(null)),
        "{all}"
    );
    let old: Vec<_> = told(&all).into_iter().filter(|(_, segment)| !segment.is_null()).collect();
    assert_eq!(old, [3, 2, 1].map(|n| (format!("thing {n}"), json!(1))), "{all}");
    assert!(told(&all).len() > 3 && told(&all)[0].1.is_null(), "the apply is in the registry: {all}");
    // By person, and page by page.
    let (_, first) = a.get("/v1/audit?by=cid&action=apply&limit=1").await;
    assert_eq!((told(&first)[0].0.as_str(), &first["more"]), ("thing 3", &json!(true)), "{first}");
    let last = first["entries"][0]["id"].as_str().unwrap();
    let (_, second) = a.get(&format!("/v1/audit?by=cid&action=apply&limit=1&before={last}")).await;
    assert_eq!((told(&second)[0].0.as_str(), &second["more"]), ("thing 1", &json!(false)), "{second}");
    for wrong in ["limit=0", "limit=10001", "before=x", "zebra=1"] {
        assert_eq!(a.get(&format!("/v1/audit?{wrong}")).await.0, 400, "{wrong}");
    }
    // One that keeps no copy asks one that does.
    let b = plane("b", &store, None).await;
    assert_eq!(b.get("/v1/audit?limit=1000").await.1["entries"], all["entries"]);
    b.stop().await;

    // A byte is changed on disk: what it says is not shown as the log.
    let path = Directory::at(dir.path()).path(1);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("thing 2", "thing 9")).unwrap();
    let (_, broken) = a.get("/v1/audit?limit=1000").await;
    assert_eq!(broken["whole"], false, "{broken}");
    assert!(broken["problem"].as_str().unwrap().contains("segment 1"), "{broken}");
    assert!(told(&broken).iter().all(|(_, segment)| segment.is_null()), "{broken}");
    a.stop().await;
}

#[tokio::test]
async fn finished_moves_leave_the_registry_and_are_found_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = registry();
    let a = plane("a", &store, Some(settings(dir.path(), None))).await;
    a.led().await;
    let large = ended(&store, 1, 300).await;
    let small = ended(&store, 2, 3).await;
    let before = a.get(&format!("/v1/moves/{large}")).await;
    let (status, told) = a.post("/v1/archive", &json!({ "dry_run": true })).await;
    assert_eq!((status, &told["left"], &told["keys"]), (200, &json!(305), &json!(0)));
    assert_eq!(left(&store).await, 305, "a dry run changes nothing");

    let report = run(&a).await;
    assert_eq!(
        (&report["keys"], &report["left"], left(&store).await),
        (&json!(305), &json!(0), 0),
        "{report}"
    );
    assert_eq!(sound(&a, dir.path()).await, 3);
    assert_eq!(a.get(&format!("/v1/moves/{large}")).await, before, "with every entry of its log");
    let (_, all) = a.get("/v1/moves").await;
    let ids: Vec<&str> = all.as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [small.to_string(), large.to_string()]);
    assert_eq!(a.get(&format!("/v1/moves/{}", MoveId::from_u128(9))).await.0, 404);
    assert_eq!(a.apply(FLEET).await.0, 200);
    let (status, losses) = a.get(&format!("/v1/moves/{small}/losses")).await;
    assert_eq!(status, 409, "its old primary is asked as before: {losses}");
    // It starts again from its files.
    a.stop().await;
    let a = plane("a", &store, Some(settings(dir.path(), None))).await;
    a.led().await;
    assert_eq!(a.get(&format!("/v1/moves/{large}")).await, before);
    assert_eq!(run(&a).await["keys"], 0);
    a.stop().await;
}

#[tokio::test]
async fn a_repeat_of_an_order_finds_its_move_in_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    let store = registry();
    let mut own = settings(dir.path(), None);
    own.keep.age = Duration::ZERO;
    let a = plane("a", &store, Some(own)).await;
    a.led().await;
    assert_eq!(a.apply(FLEET).await.0, 200);
    gates(&store, &read_world(&*store).await.unwrap().unwrap()).await;
    let wanted = json!({ "cell": "pool", "to": "us-west-2" });
    a.plannable(&wanted).await;
    let start = || {
        a.send(
            reqwest::Method::POST,
            "/v1/moves",
            Some(&wanted),
            Some(crate::common::TOKEN),
            &[("idempotency-key", "k")],
        )
    };
    let (status, first) = start().await;
    assert_eq!(status, 202, "{first}");
    let path = format!("/v1/moves/{}", first["id"].as_str().unwrap());
    eventually(Duration::from_secs(20), "it has turned back", || async {
        (a.get(&path).await.1["status"]["is"] == "rolled-back").then_some(())
    })
    .await
    .unwrap();
    eventually(Duration::from_secs(20), "it has left the registry", || async {
        run(&a).await;
        (left(&store).await == 0).then_some(())
    })
    .await
    .unwrap();
    let (status, again) = start().await;
    assert_eq!((status, &again["id"]), (202, &first["id"]), "not another move");
    assert_eq!(left(&store).await, 0);
    a.stop().await;
}

#[tokio::test]
async fn keys_leave_only_once_another_control_plane_holds_them_and_the_next_leader_goes_on() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = registry();
    let a = plane("a", &store, Some(settings(one.path(), Some(2)))).await;
    a.led().await;
    let first = ended(&store, 1, 5).await;
    let (_, refused) = a.send(reqwest::Method::GET, "/v1/archive/segments/1", None, None, &[]).await;
    assert_eq!(refused["status"], 401, "{refused}");
    // Alone: sealed, and not removed.
    let report = run(&a).await;
    assert!(report["waiting"].as_str().unwrap().contains("1 of 2"), "{report}");
    assert_eq!((left(&store).await, a.get("/v1/archive").await.1["head"].clone()), (6, Value::Null));
    let sealed = Directory::at(one.path()).read(1).unwrap().unwrap();

    let b = plane("b", &store, Some(settings(two.path(), Some(2)))).await;
    eventually(Duration::from_secs(20), "the other one has fetched it, and it counts", || async {
        run(&a).await;
        (left(&store).await == 0).then_some(())
    })
    .await
    .unwrap();
    for dir in [&one, &two] {
        assert_eq!(Directory::at(dir.path()).read(1).unwrap().as_ref(), Some(&sealed), "the very same bytes");
    }
    assert_eq!((sound(&a, one.path()).await, sound(&b, two.path()).await), (1, 1));

    // The leader dies with its disk. What has left the registry is still there, and the chain goes on.
    a.kill();
    eventually(Duration::from_secs(20), "the other one leads", || async {
        (b.leader().await.as_deref() == Some("b")).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(b.get(&format!("/v1/moves/{first}")).await.1["log"].as_array().unwrap().len(), 5);
    ended(&store, 2, 2).await;
    // A third one, on another machine, fetches everything from the beginning.
    let three = tempfile::tempdir().unwrap();
    let c = plane("c", &store, Some(settings(three.path(), Some(2)))).await;
    eventually(Duration::from_secs(20), "the next segment counts", || async {
        run(&b).await;
        (left(&store).await == 0).then_some(())
    })
    .await
    .unwrap();
    assert_eq!((sound(&b, two.path()).await, sound(&c, three.path()).await), (2, 2));
    // One that keeps no copy asks those that do.
    let d = plane("d", &store, None).await;
    assert_eq!(d.get(&format!("/v1/moves/{first}")).await.0, 200);
    assert_eq!(d.get("/v1/moves").await.1.as_array().unwrap().len(), 2);
    for plane in [b, c, d] {
        plane.stop().await;
    }
}

/// What is left of a move when its leader dies with its disk right after the pass.
async fn survives(sabotage: Sabotage) -> (usize, u16) {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = registry();
    let own = Settings { sabotage, ..settings(one.path(), Some(2)) };
    let a = plane("a", &store, Some(own)).await;
    a.led().await;
    let id = ended(&store, 1, 2).await;
    run(&a).await;
    a.kill();
    let b = plane("b", &store, Some(settings(two.path(), Some(2)))).await;
    b.led().await;
    let found = b.get(&format!("/v1/moves/{id}")).await.0;
    b.stop().await;
    (left(&store).await, found)
}

#[tokio::test]
async fn with_the_leaders_disk_nothing_is_lost() {
    assert_eq!(survives(Sabotage::None).await, (3, 200));
}

#[tokio::test]
async fn without_a_second_copy_it_would_be() {
    assert_eq!(survives(Sabotage::Uncopied).await, (0, 404));
}

#[tokio::test]
async fn a_crash_between_file_and_transaction_neither_forks_nor_loses() {
    let dir = tempfile::tempdir().unwrap();
    let store = registry();
    let a = plane("a", &store, Some(settings(dir.path(), Some(2)))).await;
    a.led().await;
    let id = ended(&store, 1, 2).await;
    run(&a).await;
    a.stop().await;
    let copy = Directory::at(dir.path());
    let pending = copy.read(1).unwrap().unwrap();

    // Taken up as it is, also when nobody learns that the transaction was applied.
    let a = plane("a", &store, Some(settings(dir.path(), Some(2)))).await;
    a.led().await;
    run(&a).await;
    assert_eq!((copy.read(1).unwrap().as_ref(), set_aside(dir.path())), (Some(&pending), 0));
    a.stop().await;

    // Something that it holds was changed meanwhile: it can't count any more.
    let touched = store.read(&[Key::WorkflowLog(id, 1)]).await.unwrap().1.remove(0).unwrap();
    store.commit(Txn::bare().op(Op::Put(touched.key, touched.value, None))).await.unwrap();
    let a = plane("a", &store, Some(settings(dir.path(), Some(1)))).await;
    a.led().await;
    // Its first pass, as it becomes the leader, may have done it already.
    run(&a).await;
    assert_eq!((left(&store).await, set_aside(dir.path())), (0, 1));
    assert_eq!(sound(&a, dir.path()).await, 1);
    assert_ne!(copy.read(1).unwrap().unwrap(), pending);

    ended(&store, 2, 2).await;
    store.lose_next_answer(LostAnswer::NotApplied);
    eventually(Duration::from_secs(20), "it counts in the end", || async {
        let _ = a.post("/v1/archive", &json!({})).await;
        (left(&store).await == 0).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(sound(&a, dir.path()).await, 2);
    assert_eq!(a.get("/v1/moves").await.1.as_array().unwrap().len(), 2);
    a.stop().await;
}
