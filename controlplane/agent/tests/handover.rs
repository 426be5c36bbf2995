//! What a promotion rests on: the old primary's signed word in a planned move, consent in a forced one. Nothing else
//! promotes, and beside it stands the agent that takes anything.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall stop it")]

mod rig;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use domicile_api::agent::{Consent, Promoted, Running};
use domicile_api::problem::Problem;
use domicile_chaos_kit::wait::eventually;
use domicile_model::clock::{Clock, pause};
use domicile_model::token::Lsn;
use domicile_model::{Epoch, HandoverToken, LeaderFence, MoveId, RegionId, Revision, RevokedKey, SecretRef};
use domicile_seal::handover::{published, sign};
use domicile_seal::keys::PrivateKey;
use domicile_store::{Key, Store, Txn};
use rig::{CONSTANTS, Rig};

/// A and B with A stopped cleanly at epoch 2, and its word.
async fn fenced(takes_any_handover: bool) -> (Rig, HandoverToken) {
    let mut rig = Rig::new(None, None).await;
    rig.b.config.sabotage.takes_any_handover = takes_any_handover;
    rig.up().await;
    rig.write(false, "k1").await.unwrap();
    rig.place(2, None).await;
    let fenced = rig.fence(2, 4_000, false).await.unwrap();
    assert!(fenced.clean, "{fenced:?}");
    (rig, fenced.handover)
}

/// The key that A's agent made for itself.
fn key_of_a(rig: &Rig) -> PrivateKey {
    let path = rig.a.config.state_dir().join("handover.key");
    PrivateKey::read(&SecretRef::File(path.display().to_string())).unwrap()
}

async fn caught_up(rig: &Rig, token: &HandoverToken) -> Promoted {
    eventually(Duration::from_secs(10), "B has caught up and is promoted", || async {
        match rig.promote(2, Some(token.clone())).await {
            Ok(promoted) => Some(promoted),
            Err(problem) => {
                assert!(problem.kind.ends_with("/not-caught-up"), "{problem:?}");
                None
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_move_promotes_on_the_old_primarys_word_only() {
    let (mut rig, token) = fenced(false).await;
    let (a, b) = (rig.a.config.region.clone(), rig.b.config.region.clone());
    let path = rig.a.config.state_dir().join("handover.key");
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let (key, stranger) = (key_of_a(&rig), PrivateKey::generate().unwrap());
    let seal = token.seal.clone().unwrap();
    assert_eq!((seal.region.clone(), seal.key.clone()), (a.clone(), key.public().id().to_string()));

    let said = |change: &dyn Fn(&mut HandoverToken)| {
        let mut other = token.clone();
        change(&mut other);
        other
    };
    let older = said(&|t| t.epoch = Epoch(1));
    let foreign = said(&|t| t.token.moving = MoveId::new());
    let younger = said(&|t| t.token.leader = LeaderFence(Revision(1_000_000)));
    for (why, bad, word) in [
        ("missing", None, "no-handover"),
        ("unsigned", Some(said(&|t| t.seal = None)), "handover-refused"),
        // Far behind: with this position B would be promoted without what it has not replayed.
        ("tampered", Some(said(&|t| t.checkpoint = Lsn(1))), "handover-refused"),
        ("a stranger's", Some(sign(&stranger, &a, token.clone()).unwrap()), "handover-refused"),
        ("B's own", Some(sign(&key, &b, token.clone()).unwrap()), "handover-refused"),
        (
            "a third region's",
            Some(sign(&key, &RegionId::new("eu-west-1").unwrap(), token.clone()).unwrap()),
            "handover-refused",
        ),
        ("of an older close", Some(sign(&key, &a, older).unwrap()), "handover-refused"),
        ("of another move", Some(sign(&key, &a, foreign).unwrap()), "handover-refused"),
        ("of a later leader", Some(sign(&key, &a, younger).unwrap()), "handover-refused"),
    ] {
        let refused = rig.promote(2, bad).await.unwrap_err();
        assert!(refused.kind.ends_with(word), "{why}: {refused:?}");
        assert!(refused.detail.contains("clinic-1"), "{why}: {refused:?}");
    }
    assert_eq!(rig.state(true).await.unwrap().running, Running::Standby);

    // The registry believes another key: nothing that A says counts, however true.
    rig.trust(&a, published(&stranger.public())).await;
    let refused = rig.promote(2, Some(token.clone())).await.unwrap_err();
    assert!(refused.detail.contains("not among the trusted keys"), "{refused:?}");
    assert!(refused.detail.contains("trust-agent"), "{refused:?}");
    rig.trust(&a, published(&key.public())).await;

    // It believes A's key, and a person has revoked it: what it signed before counts no more either.
    let revoked = RevokedKey {
        id: seal.key.clone(),
        of: "A".into(),
        by: "ann".into(),
        reason: "its disk was stolen".into(),
        at: jiff::Timestamp::UNIX_EPOCH,
    };
    let record = Key::RevokedKey(seal.key.clone());
    rig.store.commit(Txn::bare().put(record.clone(), &revoked)).await.unwrap();
    let refused = rig.promote(2, Some(token.clone())).await.unwrap_err();
    assert!(refused.kind.ends_with("handover-refused"), "{refused:?}");
    assert!(refused.detail.contains("ann has revoked: its disk was stolen"), "{refused:?}");
    rig.store.commit(Txn::bare().delete(record)).await.unwrap();

    // After a restart A repeats its word, under the newer order, with the same key.
    rig.kill_agent(false).await;
    rig.start(false);
    let state = eventually(Duration::from_secs(10), "A's agent is back", || rig.state(false)).await.unwrap();
    assert_eq!(state.key, Some(published(&key.public())));
    let again = rig.fence(2, 4_000, false).await.unwrap().handover;
    assert_eq!(again.seal.as_ref().unwrap().key, seal.key);
    assert_ne!(again.seal, token.seal);
    let promoted = caught_up(&rig, &token).await;
    assert_eq!(promoted.timeline, 2);
    rig.write(true, "k2").await.unwrap();
}

/// The switch: an agent that takes any token promotes on one that says that there is nothing to wait for.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_takes_anything_promotes_on_a_tampered_word() {
    let (rig, token) = fenced(true).await;
    let tampered = HandoverToken { checkpoint: Lsn(1), ..token };
    assert!(rig.promote(2, Some(tampered)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_was_not_clean_hands_nothing_over_and_consent_must_stand_in_the_registry() {
    let mut rig = Rig::new(None, None).await;
    rig.up().await;
    rig.kill_agent(false).await;
    rig.place(2, None).await;
    let consent = |n| Some(Consent { by: "ann".into(), accept_loss: Some(n), accept_unknown: false });
    let refused = |problem: Problem| {
        assert!(problem.kind.ends_with("/no-consent"), "{problem:?}");
    };
    // No record; a planned move's record; a forced one with another consent.
    refused(rig.promote_on(2, None, consent(5)).await.unwrap_err());
    rig.record("switchover", false, None).await;
    refused(rig.promote_on(2, None, consent(5)).await.unwrap_err());
    rig.record("failover", true, Some(4)).await;
    refused(rig.promote_on(2, None, consent(5)).await.unwrap_err());
    let missing = rig.promote(2, None).await.unwrap_err();
    assert!(missing.kind.ends_with("/no-handover"), "{missing:?}");
    assert_eq!(rig.promote_on(2, None, consent(4)).await.unwrap().timeline, 2);

    // A comes back, is stopped at once, and vouches for nothing.
    rig.start(false);
    rig.running(false, Running::Private).await;
    let stopped = rig.fence(2, 50, true).await.unwrap();
    assert_eq!(stopped.handover.seal.is_some(), stopped.clean);
}

/// Since a slow control plane, or one that is replaced, may take longer to switch than an order lasts; users would be let in
/// to a database that is shut.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_promoted_stays_open_until_the_switch_and_not_under_another_close() {
    let (rig, token) = fenced(false).await;
    caught_up(&rig, &token).await;
    let clock = Clock::Machine;
    let until = clock.now() + CONSTANTS.fence() * 2;
    while clock.now() < until {
        rig.write(true, &format!("k-{}", clock.now().as_nanos())).await.unwrap();
        pause(Duration::from_millis(100)).await;
    }
    // A close that it was not promoted under tells it nothing.
    rig.place(3, None).await;
    rig.running(true, Running::Private).await;
    rig.write(true, "late").await.unwrap_err();
    // The switch opens it.
    rig.place(4, Some("us-west-2")).await;
    rig.running(true, Running::Open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_goes_by_the_order_alone_shuts_it_before_a_slow_switch() {
    let mut rig = Rig::new(None, None).await;
    rig.b.config.sabotage.command_only = true;
    rig.up().await;
    rig.place(2, None).await;
    let token = rig.fence(2, 4_000, false).await.unwrap().handover;
    caught_up(&rig, &token).await;
    eventually(CONSTANTS.fence() * 2, "it is shut", || async { rig.write(true, "k").await.is_err() })
        .await
        .unwrap();
}
