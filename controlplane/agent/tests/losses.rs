//! What a forced move costs is accounted for: no number is given out twice, and rows go only where they may lie.
#![expect(clippy::unwrap_used, reason = "a test")]

mod rig;

use std::time::Duration;

use domicile_api::agent::{Consent, Follow, Progress, Promoted, Running};
use domicile_chaos_kit::link::Link;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::wait::eventually;
use domicile_losses::{KeyFile, Reader};
use rig::Rig;

/// A pair whose standby has lost its way to the primary.
async fn cut_off(change: impl FnOnce(&mut Rig)) -> (Rig, Link) {
    let at = free_address().unwrap();
    let link = Link::start(at).await.unwrap();
    let mut rig = Rig::new(Some(link.addr()), Some(at)).await;
    change(&mut rig);
    rig.up().await;
    rig.write(false, "seen").await.unwrap();
    eventually(Duration::from_secs(5), "it is replicated", || async {
        rig.sql(true, "SELECT count(*) FROM encounters").await.is_ok_and(|n| n == "1")
    })
    .await
    .unwrap();
    link.control().cut();
    (rig, link)
}

/// A dies, and B is promoted by consent.
async fn fail_over(rig: &mut Rig) -> Promoted {
    rig.kill_agent(false).await;
    rig.place(2, None).await;
    rig.record("failover", true, Some(20)).await;
    let consent = Consent { by: "ann".into(), accept_loss: Some(20), accept_unknown: false };
    let promoted = rig.promote_on(2, None, Some(consent)).await.unwrap();
    rig.place(3, Some("us-west-2")).await;
    promoted
}

/// The last number that A gives out, and the first one of B.
async fn numbers(guard: u64) -> (i64, i64, Promoted) {
    let (mut rig, _link) = cut_off(|rig| rig.b.config.sequence_guard = guard).await;
    let draw = |n: u32| format!("SELECT max(nextval('numbers')) FROM generate_series(1, {n})");
    let last = rig.sql(false, &draw(200)).await.unwrap().parse().unwrap();
    let promoted = fail_over(&mut rig).await;
    let next = rig.sql(true, &draw(1)).await.unwrap().parse().unwrap();
    if guard > 0 {
        let of = async |name: &str| {
            let sql = format!("SELECT nextval('{name}')");
            rig.sql(true, &sql).await.unwrap().parse::<i64>().unwrap()
        };
        assert!(of("cached").await > 5_000, "a session keeps as many to itself as the cache says");
        assert!(of("down").await < -1_000, "it goes down");
        assert!(of("short").await <= 60);
        let again = rig.promote_on(2, None, None).await;
        assert!(again.is_err(), "without consent");
    }
    (last, next, promoted)
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_the_old_primary_gave_out_are_not_given_out_again() {
    let (last, next, promoted) = numbers(1_000).await;
    assert!(next > last, "{next} after {last}");
    let guard = promoted.sequences.unwrap();
    assert_eq!((guard.values, guard.raised), (1_000, 3));
    assert_eq!(guard.left, ["public.short: it would pass its end"]);
}

/// The switch: without the guard a number comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_guard_a_number_is_given_out_twice() {
    let (last, next, promoted) = numbers(0).await;
    assert!(next <= last, "{next} after {last}");
    assert_eq!(promoted.sequences.unwrap().raised, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_only_where_their_tenant_allows_and_nothing_is_rewound_before_they_are_there() {
    let (mut rig, _link) = cut_off(|_| {}).await;
    rig.tenant("mercy-health", &["CA"]).await;
    rig.write(false, "lost").await.unwrap();
    let promoted = fail_over(&mut rig).await;
    rig.start(false);
    rig.running(false, Running::Private).await;
    rig.fence(2, 20_000, false).await.unwrap();
    let follow = |rig: &Rig| Follow {
        token: rig.token("re-protect"),
        region: rig.b.config.region.clone(),
        upstream: rig.b.address(),
        fork: Some(promoted.fork),
        slot: "standby".into(),
    };
    let cell = rig.home.path().join("lost").join(rig.cell.as_str());
    let files = || std::fs::read_dir(cell.join(rig.moving.to_string())).map_or(0, Iterator::count);

    let why = rig.export(promoted.fork).await.unwrap_err();
    assert!(why.contains("mercy-health") && why.contains("US") && why.contains("policy"), "{why}");
    assert_eq!(files(), 0, "nothing is in place");
    let refused: Result<Progress, _> = rig.call(false, "follow", &follow(&rig)).await;
    assert!(refused.unwrap_err().kind.ends_with("/losses-not-exported"));

    // An export that was ended half way is begun anew.
    rig.tenant("mercy-health", &["US"]).await;
    let staging = cell.join(format!(".{}.part", rig.moving));
    std::fs::create_dir_all(&staging).unwrap();
    std::fs::write(staging.join("mercy-health.jsonl.age"), "half").unwrap();
    rig.export(promoted.fork).await.unwrap();
    let file = cell.join(rig.moving.to_string()).join("mercy-health.jsonl.age");
    let rows = |key: &KeyFile| {
        let reader = Reader::open(std::fs::File::open(&file).unwrap(), key);
        reader.map(|reader| reader.map(Result::unwrap).count()).ok()
    };
    assert_eq!(rows(&rig::reader()), Some(1));
    assert_eq!(rows(&KeyFile::generate()), None, "for its recipient only");
    assert!(!staging.exists());

    // One that was ended between its last step and the word of it is taken as it lies there.
    let report = rig.a.config.state_dir().join(format!("losses-{}.json", rig.moving));
    let (said, whole) = (std::fs::read(&report).unwrap(), std::fs::read(&file).unwrap());
    std::fs::remove_file(&report).unwrap();
    rig.export(promoted.fork).await.unwrap();
    assert_eq!((std::fs::read(&report).unwrap(), std::fs::read(&file).unwrap()), (said, whole));
    assert_eq!(files(), 2);
    let followed: Result<Progress, _> = rig.call(false, "follow", &follow(&rig)).await;
    assert_eq!(followed.unwrap().how, "rewind");
}
