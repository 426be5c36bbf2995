//! A forced move: the old primary is listed, rewound, and never trusted before.

mod rig;

use std::time::Duration;

use domicile_api::agent::{
    Consent, ExportLosses, Follow, Fork, LossReport, Progress, ProgressStatus, Running,
};
use domicile_chaos_kit::link::Link;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::wait::eventually;
use rig::Rig;
use sha2::{Digest, Sha256};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_new_primary_never_saw_is_listed_exactly_and_then_rewound() {
    let a_address = free_address().unwrap();
    let link = Link::start(a_address).await.unwrap();
    let mut rig = Rig::new(Some(link.addr()), Some(a_address)).await;
    rig.up().await;
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
    assert!(!text.contains("body of"), "no row leaves by the API");
    let report: LossReport = serde_json::from_str(&text).unwrap();
    let digest = |key: &str| {
        hex::encode(Sha256::digest(format!("{{\"key\":\"{key}\",\"tenant_id\":\"mercy-health\"}}")))
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
    assert_eq!(listed, expected);
    assert_eq!(report.transactions[0].changes[0].tenant.as_deref(), Some("mercy-health"));
    let rows = report.rows_at.split_once(':').unwrap().1;
    assert_eq!(std::fs::read_to_string(rows).unwrap().lines().count(), 6);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(rows).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

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
