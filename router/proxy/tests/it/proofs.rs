//! One writer: what a gate does without proof, and that these tests would see it if it did not.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_router::config::Sabotage;

use domicile_model::{BarredWitness, MoveId, RouterId};
use domicile_store::{Key, Store, Txn};

use crate::kit::{Fleet, HOST, QUICK, Router, SOON, client, until_status};

#[tokio::test]
async fn a_gate_that_loses_the_registry_stops_within_a_fence() {
    let mut fleet = Fleet::new().await;
    // Alone: one witness of three is not enough.
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let clock = domicile_model::clock::Clock::Machine;
    fleet.etcd.kill(0);
    let cut = clock.now();
    eventually(SOON, "it admits nothing any more", || async {
        gate.get(HOST, "/").await.unwrap().status() == 503
    })
    .await
    .unwrap();
    let hits = fleet.east.hits();
    let took = clock.now().since(cut);
    // The last answer may have waited for a proof for two seconds.
    assert!(took < QUICK.fence() + Duration::from_secs(3), "{took:?}");
    assert_eq!(gate.get(HOST, "/").await.unwrap().status(), 503);
    assert_eq!(fleet.east.hits(), hits);
    fleet.etcd.restart(0).unwrap();
    until_status(&gate, "/", 200).await;
}

/// The machines of two witnesses were declared destroyed, and are not: they drop out of the list and carry nobody.
#[tokio::test]
async fn who_was_declared_destroyed_neither_registers_nor_vouches() {
    let mut fleet = Fleet::new().await;
    let (gate, _west, _edge) =
        (fleet.gate("us-east-1").await, fleet.gate("us-west-2").await, fleet.edge().await);
    fleet.witnesses_known().await;
    let mut txn = Txn::in_world(&fleet.world);
    for id in ["gate-us-west-2", "edge"] {
        let id = RouterId::new(id).unwrap();
        let record = BarredWitness {
            id: id.clone(),
            moving: MoveId::from_u128(1),
            by: "ann".into(),
            reason: "burned down".into(),
            at: jiff::Timestamp::UNIX_EPOCH,
        };
        txn = txn.put(Key::Barred(id), &record);
    }
    fleet.store.commit(txn).await.unwrap();
    for id in ["gate-us-west-2", "edge"] {
        eventually(SOON, "it is registered no more", || async { fleet.router_state(id).await.is_none() })
            .await
            .unwrap();
    }
    until_status(&gate, "/", 200).await;
    fleet.etcd.kill(0);
    until_status(&gate, "/", 503).await;
    // Nor after it is started anew.
    assert!(std::fs::read_dir(fleet.dir.path().join("edge")).unwrap().any(|file| {
        std::fs::read_to_string(file.unwrap().path()).is_ok_and(|text| text.contains("\"barred\""))
    }));
}

/// The counterpart stands above: an ordinary cell stops.
#[tokio::test]
async fn where_availability_comes_first_a_gate_goes_on_and_obeys_what_it_hears() {
    let mut fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    // Chosen by the owner, and given with the right.
    fleet.close(0).await;
    let by = |p: &mut domicile_model::Placement| {
        p.phase = domicile_model::Phase::Serving;
        p.holder = Some(domicile_model::RegionId::new("us-east-1").unwrap());
        p.availability_first = true;
    };
    fleet.place(by).await;
    eventually(SOON, "it has heard of it", || async {
        gate.admin("/cells/mercy/writer").await.1.contains("\"epoch\":3")
    })
    .await
    .unwrap();
    fleet.etcd.kill(0);
    let clock = domicile_model::clock::Clock::Machine;
    let cut = clock.now();
    while clock.now().since(cut) < QUICK.fence() * 3 {
        let answer = gate.get(HOST, "/").await.unwrap();
        assert_eq!(answer.status(), 200, "{}", gate.process.tail());
        domicile_model::clock::pause(Duration::from_millis(20)).await;
    }
    let (_, writer) = gate.admin("/cells/mercy/writer").await;
    assert!(writer.contains("\"writer\":true"), "{writer}");
    // Started anew from its own disk, with nobody to ask: under the highest epoch that it knows.
    drop(gate);
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    // A close is obeyed as soon as it is heard of.
    fleet.etcd.restart(0).unwrap();
    fleet.etcd.until_healthy().await.unwrap();
    fleet.close(0).await;
    until_status(&gate, "/", 503).await;
}

/// SIGSTOP between admitting and answering, woken after the move: the application has answered, the gate must not.
async fn sleeps_through_a_move(sabotage: Sabotage) -> reqwest::Result<reqwest::StatusCode> {
    let fleet = Fleet::new().await;
    let args = fleet.args("gate", "gate-us-east-1", "us-east-1");
    let gate = Router::start_as(sabotage, "gate-us-east-1", fleet.dir.path(), &args).await;
    until_status(&gate, "/", 200).await;
    let request = tokio::spawn(client().post(gate.url("/gated")).header("host", HOST).body("write").send());
    eventually(SOON, "the application has the request", || async {
        gate.admin("/inflight").await.1.contains("\"in_flight\":1") && fleet.east.hits() > 0
    })
    .await
    .unwrap();
    eventually(SOON, "the application has the write", || async {
        fleet.east.last().get("content-length").is_some()
    })
    .await
    .unwrap();
    gate.process.pause();
    fleet.east.let_go();
    fleet.close(1_000).await;
    domicile_model::clock::pause(QUICK.wait() + Duration::from_millis(200)).await;
    fleet.serve("us-west-2").await;
    gate.process.resume();
    let answer = tokio::time::timeout(SOON, request).await.unwrap().unwrap()?;
    Ok(answer.status())
}

#[tokio::test]
async fn a_gate_that_slept_through_a_move_acknowledges_nothing() {
    match sleeps_through_a_move(Sabotage::None).await {
        Ok(status) => assert_eq!(status, 502),
        // Cut.
        Err(error) => assert!(!error.is_timeout(), "{error}"),
    }
}

#[tokio::test]
async fn without_the_check_the_same_gate_would_acknowledge() {
    assert_eq!(
        sleeps_through_a_move(Sabotage::AnswersUnchecked).await.unwrap(),
        200,
        "the test above could not fail"
    );
}

#[tokio::test]
async fn witnesses_carry_a_gate_through_an_outage_of_the_registry() {
    let mut fleet = Fleet::new().await;
    let east = fleet.gate("us-east-1").await;
    let _west = fleet.gate("us-west-2").await;
    let edge = fleet.edge().await;
    until_status(&edge, "/", 200).await;
    fleet.witnesses_known().await;
    fleet.etcd.kill(0);
    let clock = domicile_model::clock::Clock::Machine;
    let from = clock.now();
    let client = client();
    let mut answers = 0;
    while clock.now().since(from) < QUICK.fence() * 3 {
        let answer = client.post(edge.url("/")).header("host", HOST).body("write").send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", east.process.tail());
        answers += 1;
        domicile_model::clock::pause(Duration::from_millis(20)).await;
    }
    assert!(answers > 50);
    fleet.etcd.restart(0).unwrap();
    fleet.etcd.until_healthy().await.unwrap();
    until_status(&edge, "/", 200).await;
}

#[tokio::test]
async fn a_gate_whose_watch_is_cut_gives_no_answer_after_the_move() {
    let fleet = Fleet::new().await;
    let link = domicile_chaos_kit::link::Link::start(fleet.etcd.members()[0].direct()).await.unwrap();
    let mut args = fleet.args("gate", "gate-us-east-1", "us-east-1");
    let at = args.iter().position(|a| a == "--registry").unwrap();
    args[at + 1] = format!("etcd://{}", link.addr());
    let gate = Router::start("gate-us-east-1", fleet.dir.path(), &args).await;
    until_status(&gate, "/", 200).await;
    let request = tokio::spawn(client().post(gate.url("/gated")).header("host", HOST).body("write").send());
    eventually(SOON, "it is in flight", || async {
        gate.admin("/inflight").await.1.contains("\"in_flight\":1")
    })
    .await
    .unwrap();
    // Nothing comes back from the registry any more, and the connections stay.
    link.control().cut_backward();
    fleet.close(1_000).await;
    domicile_model::clock::pause(QUICK.wait()).await;
    fleet.serve("us-west-2").await;
    fleet.east.let_go();
    let answer = tokio::time::timeout(SOON, request).await.unwrap().unwrap();
    assert!(answer.is_err() || answer.is_ok_and(|a| a.status() == 502));
    assert_eq!(gate.get(HOST, "/").await.unwrap().status(), 503);
}

#[tokio::test]
async fn an_edge_and_a_gate_restarted_without_the_registry_go_on_from_disk() {
    let mut fleet = Fleet::new().await;
    let mut east = fleet.gate("us-east-1").await;
    let _west = fleet.gate("us-west-2").await;
    let mut edge = fleet.edge().await;
    until_status(&edge, "/", 200).await;
    fleet.witnesses_known().await;
    fleet.etcd.kill(0);
    edge.process.terminate();
    assert_eq!(edge.process.wait(SOON).await.unwrap().code(), Some(0), "{}", edge.process.tail());
    edge = fleet.edge().await;
    let (_, table) = edge.admin("/table").await;
    assert!(table.contains("\"source\":\"last-good\""), "{table}");
    let answer = client().post(edge.url("/")).header("host", HOST).body("write").send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", edge.process.tail());
    // The gate has no proof when it starts, and gets one from the witnesses, of which it is one itself. This time
    // it gets no chance to tidy up.
    let peers: Vec<_> = fleet.args("gate", "gate-us-east-1", "us-east-1");
    east.process.kill();
    east = Router::start("gate-us-east-1", fleet.dir.path(), &peers).await;
    until_status(&edge, "/", 200).await;
    assert!(east.process.is_alive());
}

/// The proof's end cuts also what has begun: a head that has left does not carry its body out.
#[tokio::test]
async fn an_answer_that_has_begun_is_cut_when_the_proof_ends() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let answer = gate.get(HOST, "/dripping").await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = tokio::spawn(answer.bytes());
    fleet.close(1_000).await;
    let body = tokio::time::timeout(SOON, body).await.unwrap().unwrap();
    assert!(body.is_err(), "the whole body came: {body:?}");
}

/// A worker beside the application asks its gate: yes while the cell is served there under a proof, no from the hold on.
#[tokio::test]
async fn a_worker_may_write_only_where_and_while_the_cell_is_served() {
    let mut fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let path = format!("/cells/{}/writer", fleet.placement().await.0.cell);
    let asked = || async {
        let (status, body) = gate.admin(&path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    let yes = asked().await;
    assert_eq!(
        (&yes["writer"], &yes["epoch"]),
        (&true.into(), &fleet.placement().await.0.epoch.0.into()),
        "{yes}"
    );
    // No longer than a request may be let in.
    let most = u64::try_from((QUICK.fence() - QUICK.drain()).as_millis()).unwrap();
    assert!(yes["for_ms"].as_u64().is_some_and(|ms| ms > 0 && ms <= most), "{yes}");
    assert_eq!(gate.admin("/cells/nowhere/writer").await.0, 404);
    fleet.hold(60_000).await;
    eventually(SOON, "a held cell has no writer", || async { asked().await["writer"] == false })
        .await
        .unwrap();
    fleet.serve("us-west-2").await;
    eventually(SOON, "another region writes", || async {
        asked().await["why"].as_str().is_some_and(|why| why.contains("another region"))
    })
    .await
    .unwrap();
    fleet.serve("us-east-1").await;
    eventually(SOON, "it writes here again", || async { asked().await["writer"] == true }).await.unwrap();
    // Its proofs end, and with them its word.
    fleet.etcd.kill(0);
    eventually(SOON, "without a proof there is no writer", || async { asked().await["writer"] == false })
        .await
        .unwrap();
}
