//! A forced move: the old primary is listed, rewound, and never trusted before.

mod rig;

use std::time::Duration;

use domicile_api::agent::{
    Consent, ExportLosses, Follow, Fork, LossReport, Progress, ProgressStatus, Running,
};
use domicile_chaos_kit::link::Link;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::wait::eventually;
use domicile_losses::{Reader, Row};
use rig::Rig;
use sha2::Digest;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_new_primary_never_saw_is_listed_exactly_and_then_rewound() {
    let a_address = free_address().unwrap();
    let link = Link::start(a_address).await.unwrap();
    let mut rig = Rig::new(Some(link.addr()), Some(a_address)).await;
    rig.up().await;
    rig.tenant("mercy-health", &["US"]).await;
    rig.write(false, "seen").await.unwrap();
    eventually(Duration::from_secs(5), "it is replicated", || async {
        rig.sql(true, "SELECT count(*) FROM encounters").await.is_ok_and(|n| n == "1")
    })
    .await
    .unwrap();
    link.control().cut();
    let lost: Vec<String> = (0..5).map(|i| format!("lost-{i}")).collect();
    for key in &lost {
        rig.write(false, key).await.unwrap();
    }
    rig.sql(false, "UPDATE encounters SET body = 'changed' WHERE key = 'seen'").await.unwrap();
    rig.sql(false, "INSERT INTO keyless VALUES ('nobodys')").await.unwrap();

    // The region dies with its agent; B is promoted without a handover.
    rig.kill_agent(false).await;
    rig.place(2, None).await;
    rig.record("failover", true, Some(20)).await;
    let consent = Consent { by: "ann".into(), accept_loss: Some(20), accept_unknown: false };
    let promoted = rig.promote_on(2, None, Some(consent)).await.unwrap();
    rig.place(3, Some("us-west-2")).await;
    rig.write(true, "new").await.unwrap();

    // A returns: private, and nobody gets in, for as long as the registry names another holder.
    rig.start(false);
    rig.running(false, Running::Private).await;
    assert!(rig.write(false, "late").await.is_err());
    let fenced = rig.fence(2, 20_000, false).await.unwrap();
    assert!(fenced.clean);

    let follow = |rig: &Rig, fork: Fork| Follow {
        token: rig.token("re-protect"),
        region: rig.b.config.region.clone(),
        upstream: rig.b.address(),
        fork: Some(fork),
        slot: "standby".into(),
    };
    let refused: Result<Progress, _> = rig.call(false, "follow", &follow(&rig, promoted.fork)).await;
    assert!(refused.unwrap_err().kind.ends_with("/losses-not-exported"));

    let export = ExportLosses { token: rig.token("losses"), fork: promoted.fork };
    let _: Progress = rig.call(false, "losses", &export).await.unwrap();
    eventually(Duration::from_secs(20), "the losses are exported", || async {
        let state = rig.state(false).await?;
        match state.losses?.status {
            ProgressStatus::Done => Some(()),
            ProgressStatus::Running => None,
            ProgressStatus::Failed { why } => panic!("{why}"),
        }
    })
    .await
    .unwrap();
    let url = format!("http://{}/v1/losses/{}", rig.a.config.listen, rig.moving);
    let text =
        reqwest::Client::new().get(url).bearer_auth(rig::SECRET).send().await.unwrap().text().await.unwrap();
    assert!(!text.contains("body of") && !text.contains("lost-"), "neither row nor key leaves by the API");
    let report: LossReport = serde_json::from_str(&text).unwrap();
    let directory = std::path::Path::new(report.rows_at.split_once(':').unwrap().1).to_owned();
    let rows_of = |part: usize| {
        let file = std::fs::File::open(directory.join(&report.parts[part].file)).unwrap();
        let reader = Reader::open(file, &rig::reader()).unwrap();
        let header = reader.header().clone();
        (header, reader.map(Result::unwrap).collect::<Vec<Row>>())
    };
    let (nobodys, mercy) = (rows_of(0), rows_of(1));
    assert_eq!((nobodys.0.part.as_str(), mercy.0.part.as_str()), ("_unassigned", "mercy-health"));
    assert_eq!(nobodys.1[0].new.as_ref().unwrap()["v"].as_deref(), Some("nobodys"));
    let contents: Vec<_> =
        mercy.1.iter().map(|row| row.new.as_ref().unwrap()["body"].clone().unwrap()).collect();
    let mut bodies: Vec<String> = lost.iter().map(|key| format!("body of {key}")).collect();
    bodies.push("changed".into());
    assert_eq!(contents, bodies, "each row once, in the order of the commits");
    let keys = mercy.0.key().unwrap();
    let digest = |key: &str| {
        let columns = [("key", key), ("tenant_id", "mercy-health")];
        keys.digest("public.encounters", &columns.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
    };
    let listed: Vec<(String, Option<String>)> = report
        .transactions
        .iter()
        .flat_map(|t| &t.changes)
        .map(|c| (c.operation.clone(), c.key_digest.clone()))
        .collect();
    let mut expected: Vec<(String, Option<String>)> =
        lost.iter().map(|k| ("insert".to_owned(), Some(digest(k)))).collect();
    expected.push(("update".into(), Some(digest("seen"))));
    expected.push(("insert".into(), None));
    assert_eq!(listed, expected);
    assert_eq!(report.transactions[0].changes[0].tenant.as_ref().unwrap().as_str(), "mercy-health");
    assert_eq!(report.counts["public.encounters"]["insert"], 5);
    for spot in ["primary key: public.keyless", "unlogged tables: public.scratch"] {
        assert!(report.blind_spots.iter().any(|s| s.contains(spot)), "{spot}: {:?}", report.blind_spots);
    }
    for part in &report.parts {
        let path = directory.join(&part.file);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(part.sha256, hex::encode(sha2::Sha256::digest(&bytes)));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    for readable in [rig.a.config.state_dir(), directory] {
        for entry in std::fs::read_dir(readable).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains("body of"), "no row lies in the clear");
        }
    }

    let started: Progress = rig.call(false, "follow", &follow(&rig, promoted.fork)).await.unwrap();
    assert_eq!(started.how, "rewind");
    let followed = eventually(Duration::from_secs(40), "the old primary follows", || async {
        let state = rig.state(false).await?;
        match state.follow.as_ref()?.status.clone() {
            ProgressStatus::Done => Some(state),
            ProgressStatus::Running => None,
            ProgressStatus::Failed { why } => panic!("{why}"),
        }
    })
    .await
    .unwrap();
    assert_eq!((followed.running, followed.timeline, followed.fence), (Running::Standby, Some(2), None));
    eventually(Duration::from_secs(5), "it shows what B has, and nothing else", || async {
        let keys = rig.sql(false, "SELECT string_agg(key || body, ',' ORDER BY key) FROM encounters").await;
        keys.is_ok_and(|k| k == "newbody of new,seenbody of seen")
    })
    .await
    .unwrap();
    // And a rebuild works when a rewind was interrupted.
    rig.kill_agent(false).await;
    let memory = rig.a.config.state_dir().join("agent.json");
    let text = std::fs::read_to_string(&memory).unwrap();
    assert!(text.contains("\"rewinding\": false"));
    std::fs::write(&memory, text.replace("\"rewinding\": false", "\"rewinding\": true")).unwrap();
    rig.start(false);
    eventually(Duration::from_secs(5), "the agent is back and says why", || async {
        rig.state(false).await.is_some_and(|s| s.problems.iter().any(|p| p.contains("rebuild")))
    })
    .await
    .unwrap();
    let started: Progress = rig.call(false, "follow", &follow(&rig, promoted.fork)).await.unwrap();
    assert_eq!(started.how, "rebuild");
    eventually(Duration::from_secs(40), "it was rebuilt", || async {
        let state = rig.state(false).await?;
        match state.follow.as_ref()?.status.clone() {
            ProgressStatus::Done => Some(()),
            ProgressStatus::Running => None,
            ProgressStatus::Failed { why } => panic!("{why}"),
        }
    })
    .await
    .unwrap();
    assert!(rig.sql(false, "SELECT count(*) FROM encounters").await.is_ok_and(|n| n == "2"));
}

/// A standby that was just built waits for its upstream, which dies: what is to take its place must not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_does_not_wait_for_a_standby_to_stream_from_the_dead() {
    let mut rig = Rig::new(None, None).await;
    rig.up().await;
    rig.write(false, "seen").await.unwrap();
    rig.kill_agent(false).await;
    let follow = Follow {
        token: rig.token("re-protect"),
        region: rig.a.config.region.clone(),
        upstream: rig.a.address(),
        fork: None,
        slot: "standby".into(),
    };
    let started: Progress = rig.call(true, "follow", &follow).await.unwrap();
    assert_eq!(started.status, ProgressStatus::Running);
    rig.place(2, None).await;
    rig.record("failover", true, Some(20)).await;
    let consent = Consent { by: "ann".into(), accept_loss: Some(20), accept_unknown: false };
    // The engine's own patience: the standby is restarted first.
    eventually(Duration::from_secs(8), "it is promoted", || async {
        match rig.promote_on(2, None, Some(consent.clone())).await {
            Ok(promoted) => Some(promoted),
            Err(problem) => {
                assert!(problem.kind.ends_with("/busy"), "{problem:?}");
                None
            }
        }
    })
    .await
    .unwrap();
    let job = rig.state(true).await.unwrap().follow.unwrap();
    let ProgressStatus::Failed { why } = job.status else { panic!("{job:?}") };
    assert!(why.contains("is to be promoted"), "{why}");
    rig.place(3, Some("us-west-2")).await;
    rig.write(true, "new").await.unwrap();
}
