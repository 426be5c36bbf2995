//! A planned move with real servers, and what it must refuse.

mod rig;

use domicile_api::agent::{Follow, Progress, ProgressStatus, Promote, Running};
use domicile_chaos_kit::wait::eventually;
use domicile_model::Epoch;
use rig::Rig;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_there_loses_nothing_promotes_once_and_reattaches_without_rewind() {
    let mut rig = Rig::new(None, None).await;
    rig.up().await;
    rig.write(false, "k1").await.unwrap();
    // A table without a key can still be changed, although everything is published.
    rig.sql(false, "INSERT INTO keyless VALUES ('x')").await.unwrap();
    rig.sql(false, "UPDATE keyless SET v = 'y'").await.unwrap();

    // Not before the registry says closed.
    let early = rig.promote(2, None).await.unwrap_err();
    assert!(early.kind.ends_with("not-closed"), "{early:?}");

    rig.place(2, None).await;
    let fenced = rig.fence(2, 4_000, false).await.unwrap();
    assert!(fenced.clean, "{fenced:?}");
    assert_eq!(rig.state(false).await.unwrap().control_state.as_deref(), Some("shut down"));
    assert!(rig.write(false, "k2").await.is_err());

    let promote = || Promote {
        token: rig.token("promote"),
        epoch: Epoch(2),
        handover: Some(fenced.handover.clone()),
        consent: None,
        slot: "standby".into(),
    };
    let promoted: domicile_api::agent::Promoted =
        eventually(Duration::from_secs(5), "it has caught up", || async {
            match rig.call(true, "promote", &promote()).await {
                Ok(promoted) => Some(promoted),
                Err(p) => {
                    let p: domicile_api::problem::Problem = p;
                    assert!(p.kind.ends_with("not-caught-up"), "{p:?}");
                    None
                }
            }
        })
        .await
        .unwrap();
    assert_eq!((promoted.timeline, promoted.fork.parent), (2, 1));
    assert!(promoted.fork.at > fenced.handover.checkpoint);
    // Again, and from the start: the same answer, and the timeline stays.
    let again = rig.promote(2, Some(fenced.handover.clone())).await.unwrap();
    assert_eq!(again, promoted);
    // Open under the command, before any proof.
    rig.write(true, "k3").await.unwrap();
    rig.place(3, Some("us-west-2")).await;
    eventually(Duration::from_secs(3), "a proof of epoch 3", || async {
        rig.state(true).await.is_some_and(|s| s.proof.is_some_and(|(e, _)| e == Epoch(3)))
    })
    .await
    .unwrap();
    assert_eq!(rig.sql(true, "SELECT count(*) FROM encounters").await.unwrap(), "2");

    let follow = Follow {
        token: rig.token("re-protect"),
        region: rig.b.config.region.clone(),
        upstream: rig.b.address(),
        fork: Some(promoted.fork),
        slot: "standby".into(),
    };
    let started: Progress = rig.call(false, "follow", &follow).await.unwrap();
    assert_eq!(started.how, "attach");
    eventually(Duration::from_secs(20), "the old primary follows", || async {
        rig.state(false).await.is_some_and(|s| {
            s.running == Running::Standby
                && s.streaming == Some(true)
                && s.timeline == Some(2)
                && s.follow.is_some_and(|f| f.status == ProgressStatus::Done)
        })
    })
    .await
    .unwrap();
    rig.write(true, "k4").await.unwrap();
    eventually(Duration::from_secs(5), "what is written there arrives here", || async {
        rig.sql(false, "SELECT count(*) FROM encounters").await.is_ok_and(|n| n == "3")
    })
    .await
    .unwrap();
    assert!(rig.write(false, "k5").await.is_err());
    // A primary never follows by command.
    let open: Result<Progress, _> = rig.call(true, "follow", &follow).await;
    assert!(open.is_err());

    // The slot gets another name in the file: the former one would keep log for nobody.
    let memory = rig.b.config.state_dir().join("agent.json");
    let remembers =
        || async { std::fs::read_to_string(&memory).is_ok_and(|text| text.contains("\"slots\": [\n")) };
    eventually(Duration::from_secs(10), "it remembers what it made", remembers).await.unwrap();
    let slots = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots";
    assert_eq!(rig.sql(true, slots).await.unwrap(), "domicile_losses standby");
    rig.kill_agent(false).await;
    rig.kill_agent(true).await;
    rig.b.config.slot = "renamed".into();
    rig.start(true);
    rig.running(true, Running::Open).await;
    eventually(
        Duration::from_secs(10),
        "the slot of the former name is gone, the one for losses is not",
        || async { rig.sql(true, slots).await.is_ok_and(|names| names == "domicile_losses renamed") },
    )
    .await
    .unwrap();
}
