//! Acknowledgements, quiet witnesses, and whole moves under load.

use std::time::Duration;

use domicile_chaos_kit::wait::eventually;

use crate::kit::{Fleet, HOST, QUICK, SOON, client, until_status};

#[tokio::test]
async fn a_hold_is_acknowledged_only_when_nothing_is_in_flight() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let request = tokio::spawn(client().get(gate.url("/gated")).header("host", HOST).send());
    eventually(SOON, "it is in flight", || async {
        gate.admin("/inflight").await.1.contains("\"in_flight\":1")
    })
    .await
    .unwrap();
    let revision = fleet.hold(30_000).await;
    let state = eventually(SOON, "the gate has heard of the hold", || async {
        fleet.router_state("gate-us-east-1").await.filter(|s| s.applied >= revision)
    })
    .await
    .unwrap();
    assert_eq!(state.busy.len(), 1, "{state:?}");
    fleet.east.let_go();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    fleet.acknowledged(&["gate-us-east-1"], revision).await;
}

#[tokio::test]
async fn routers_do_not_answer_each_others_acknowledgements() {
    let fleet = Fleet::new().await;
    let east = fleet.gate("us-east-1").await;
    let _west = fleet.gate("us-west-2").await;
    let edge = fleet.edge().await;
    until_status(&edge, "/", 200).await;
    let acks = |text: &str| -> u64 {
        let line = text.lines().find(|l| l.starts_with("domicile_router_acks_total ")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let before = acks(&east.admin("/metrics").await.1);
    domicile_model::clock::pause(Duration::from_secs(3)).await;
    let more = acks(&east.admin("/metrics").await.1) - before;
    assert!((1..=8).contains(&more), "{more} acknowledgements in three quiet seconds");
}

#[tokio::test]
async fn a_witness_becomes_quiet_wait_after_it_refused() {
    let fleet = Fleet::new().await;
    let _gate = fleet.gate("us-west-2").await;
    eventually(SOON, "the witness says where it is", || async {
        fleet.witness_state("gate-us-west-2").await.is_some()
    })
    .await
    .unwrap();
    let clock = domicile_model::clock::Clock::Machine;
    let closed = clock.now();
    let revision = fleet.close(1_000).await;
    eventually(SOON, "the witness is quiet at the close", || async {
        fleet.witness_state("gate-us-west-2").await.is_some_and(|w| w.quiet >= revision)
    })
    .await
    .unwrap();
    let waited = clock.now().since(closed);
    assert!(waited >= QUICK.wait(), "quiet after {waited:?}, which is less than WAIT");
}

/// The budget of a switchover is half a second in all; the routers' part of it must be a small one.
#[tokio::test]
async fn a_move_under_load_fails_nothing() {
    let fleet = Fleet::new().await;
    let _east = fleet.gate("us-east-1").await;
    let _west = fleet.gate("us-west-2").await;
    let edge = fleet.edge().await;
    until_status(&edge, "/", 200).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (stop, url) = (stop.clone(), edge.url("/"));
            tokio::spawn(async move {
                let client = client();
                let mut log = Vec::new();
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let answer = client.post(&url).header("host", HOST).body("write").send().await.unwrap();
                    let status = answer.status().as_u16();
                    let epoch =
                        answer.headers().get("domicile-epoch").map(|e| e.to_str().unwrap().to_owned());
                    let text = answer.text().await.unwrap();
                    log.push((status, epoch, text));
                    domicile_model::clock::pause(Duration::from_millis(5)).await;
                }
                log
            })
        })
        .collect();
    for (from, to) in [("us-east-1", "us-west-2"), ("us-west-2", "us-east-1")] {
        let losing = format!("gate-{from}");
        let revision = fleet.hold(10_000).await;
        fleet.acknowledged(&[&losing], revision).await;
        fleet.close(10_000).await;
        domicile_model::clock::pause(Duration::from_millis(300)).await;
        let revision = fleet.serve(to).await;
        fleet.acknowledged(&[&format!("gate-{to}")], revision).await;
        domicile_model::clock::pause(Duration::from_millis(300)).await;
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let (mut all, mut west) = (0, 0);
    for task in load {
        for (status, epoch, text) in task.await.unwrap() {
            assert_eq!(status, 200, "{epoch:?} {text}");
            all += 1;
            west += usize::from(text.starts_with("west"));
        }
    }
    assert!(all > 16 && west > 4, "{all} answers, {west} of them from the west");
    assert_eq!(fleet.west.hits(), west, "each request reached one application, once");
    let metrics = edge.admin("/metrics").await.1;
    assert!(!metrics.contains("domicile_router_held_total 0"), "{metrics}");
}

/// What a move waits for is the routers' hearing and saying: a few milliseconds on an idle machine.
#[tokio::test]
async fn a_hold_on_an_idle_cell_is_acknowledged_at_once() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let clock = domicile_model::clock::Clock::Machine;
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let from = clock.now();
        let revision = fleet.hold(30_000).await;
        fleet.acknowledged(&["gate-us-east-1"], revision).await;
        best = best.min(clock.now().since(from));
        fleet.serve("us-east-1").await;
    }
    // Far below the second after which it would come anyway.
    assert!(best < Duration::from_millis(200), "{best:?}");
}

#[tokio::test]
async fn a_call_with_a_pass_is_not_held() {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    let edge = fleet.edge().await;
    until_status(&edge, "/", 200).await;
    let pass = fleet.east.last()["domicile-pass"].clone();
    let revision = fleet.hold(3_000).await;
    fleet.acknowledged(&["gate-us-east-1", "edge"], revision).await;
    let with =
        client().get(edge.url("/")).header("host", HOST).header("domicile-pass", &pass).send().await.unwrap();
    assert_eq!(with.status(), 200, "{}", gate.process.tail());
    let forged = pass.to_str().unwrap().replacen("1.mercy", "1.mercx", 1);
    let without = client().get(edge.url("/")).header("host", HOST).header("domicile-pass", forged).send();
    assert_eq!(without.await.unwrap().status(), 503, "held until its time was up");
}
