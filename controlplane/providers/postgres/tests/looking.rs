//! Looking at a real pair by SQL, and calling an agent that is not there.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use domicile_api::protection::SlotUse;
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::postgres::{self, Postgres, Spec};
use domicile_chaos_kit::wait::eventually;
use domicile_engine::lossmath::lacking;
use domicile_engine::provider::{Databases, EffectError, PrimarySample, Sample, StandbySample};
use domicile_model::clock::Clock;
use domicile_model::{
    Cell, CellId, Database, DatabaseEndpoint, LeaderFence, MoveId, RegionId, Revision, SecretRef, Token,
    WorldId,
};
use domicile_provider_postgres::{PostgresConfig, PostgresDatabases};
use sqlx::Connection as _;

/// What the agent makes in a primary, as far as looking needs it.
const FURNITURE: &str = "CREATE SCHEMA domicile;
CREATE TABLE domicile.heartbeat (server text PRIMARY KEY, at timestamptz NOT NULL);
CREATE TABLE domicile.canary (move text PRIMARY KEY, at timestamptz NOT NULL, step text NOT NULL);
GRANT USAGE ON SCHEMA domicile TO domicile;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA domicile TO domicile;";

fn region(name: &str) -> RegionId {
    RegionId::new(name).unwrap()
}

fn cell(a: SocketAddr, b: SocketAddr, nobody: SocketAddr, password: String) -> Cell {
    let endpoint = |address| DatabaseEndpoint { address, agent: nobody };
    Cell {
        id: CellId::new("c").unwrap(),
        primary: region("us-east-1"),
        dr: region("us-west-2"),
        availability_first: false,
        rpo_ms: Cell::DEFAULT_RPO_MS,
        ingress: BTreeMap::new(),
        application: BTreeMap::new(),
        mllp: BTreeMap::new(),
        database: Some(Database {
            name: "clinic".into(),
            user: "domicile".into(),
            password: SecretRef::File(password),
            endpoints: [(region("us-east-1"), endpoint(a)), (region("us-west-2"), endpoint(b))].into(),
        }),
    }
}

/// One sample of each side is enough, however far behind the standby is.
async fn what_it_lacks_is_counted_by_its_own_word(
    provider: &PostgresDatabases,
    cell: &Cell,
    primary: &Postgres,
    standby: &Postgres,
) {
    let holder = region("us-east-1");
    let both = || async {
        let Sample { primary, standby } = provider.sample(cell, &holder).await;
        primary.zip(standby)
    };
    let lacks = |(p, s): &(PrimarySample, StandbySample)| lacking(std::slice::from_ref(p), s.into()).unwrap();
    let caught_up = || async {
        eventually(Duration::from_secs(10), "it lacks nothing", || async {
            both().await.filter(|sample| lacks(sample) == 0)
        })
        .await
        .unwrap()
    };
    caught_up().await;
    standby.superuser("clinic", "SELECT pg_wal_replay_pause()").unwrap();
    eventually(Duration::from_secs(10), "it replays nothing", || async {
        let state = standby.superuser("clinic", "SELECT pg_get_wal_replay_pause_state()").unwrap();
        (state.trim() == "paused").then_some(())
    })
    .await
    .unwrap();
    let before = both().await.unwrap().1.ended_below.unwrap();
    for _ in 0..7 {
        primary.superuser("clinic", "INSERT INTO t VALUES (1)").unwrap();
    }
    let after = both().await.unwrap();
    assert_eq!(after.1.ended_below, Some(before), "it replays nothing");
    assert!(lacks(&after) >= 7 && lacks(&after) == after.0.next_xid - before, "{after:?}");
    standby.superuser("clinic", "SELECT pg_wal_replay_resume()").unwrap();
    let then = caught_up().await;
    assert!(then.1.ended_below.unwrap() >= after.0.next_xid, "{then:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_sampled_and_a_dead_one_does_not_hide_the_other() {
    let home = postgres::home().unwrap();
    let spec = Spec::default();
    let (a_dir, b_dir) = (home.path().join("a"), home.path().join("b"));
    let (a_at, b_at) = (free_address().unwrap(), free_address().unwrap());
    let s = spec.clone();
    let (primary, standby) = tokio::task::spawn_blocking(move || {
        postgres::prepare_primary(&a_dir, &s).unwrap();
        postgres::prepare_standby(&a_dir, &b_dir, a_at, "standby", &s).unwrap();
        let primary = Postgres::start(&a_dir, a_at).unwrap();
        primary.superuser("clinic", FURNITURE).unwrap();
        primary.superuser("clinic", "SELECT pg_create_physical_replication_slot('standby', true)").unwrap();
        (primary, Postgres::start(&b_dir, b_at).unwrap())
    })
    .await
    .unwrap();
    let (password, secret) = (home.path().join("password"), home.path().join("secret"));
    std::fs::write(&password, &spec.domicile_password).unwrap();
    std::fs::write(&secret, "agent-secret").unwrap();
    let cell = cell(a_at, b_at, free_address().unwrap(), password.display().to_string());
    let config = PostgresConfig::new("cp-1", SecretRef::File(secret.display().to_string()));
    let provider = PostgresDatabases::new(config, Clock::Machine).unwrap();
    let holder = region("us-east-1");

    let sample =
        eventually(Duration::from_secs(30), "both sides answer and the heartbeat arrives", || async {
            let sample = provider.sample(&cell, &holder).await;
            let both = sample.primary.as_ref().zip(sample.standby.as_ref());
            both.is_some_and(|(p, s)| p.streaming && s.streaming && s.data_age_ms.is_some()).then_some(sample)
        })
        .await
        .unwrap();
    let before = sample.primary.unwrap();
    assert!(sample.standby.unwrap().replayed <= before.flushed || before.flushed.0 > 0);
    let a = primary.address();
    let s = spec.clone();
    // One transaction has its number and goes on running; another begins later and commits.
    let with = sqlx::postgres::PgConnectOptions::new()
        .host("127.0.0.1")
        .port(a.port())
        .username("app")
        .password(&spec.app_password)
        .database("clinic");
    let mut running = sqlx::PgConnection::connect_with(&with).await.unwrap();
    sqlx::query("BEGIN").execute(&mut running).await.unwrap();
    let number = sqlx::query("SELECT pg_current_xact_id()::text").fetch_one(&mut running).await.unwrap();
    let number: u64 = sqlx::Row::get::<String, _>(&number, 0).parse().unwrap();
    tokio::task::spawn_blocking(move || {
        postgres::psql(a, "app", &s.app_password, "clinic", "CREATE TABLE t (id int)").unwrap();
    })
    .await
    .unwrap();
    let after = eventually(Duration::from_secs(10), "the primary answers", || async {
        provider.sample(&cell, &holder).await.primary
    })
    .await
    .unwrap();
    assert!(after.next_xid > before.next_xid && after.flushed > before.flushed);
    assert!(after.oldest_xid <= number && after.next_xid > number, "{number} runs: {after:?}");
    running.close().await.unwrap();
    what_it_lacks_is_counted_by_its_own_word(&provider, &cell, &primary, &standby).await;

    let token = Token {
        world: WorldId::new(),
        leader: LeaderFence(Revision(1)),
        attempt: 1,
        moving: MoveId::new(),
        step: "verify".into(),
        cell: cell.id.clone(),
    };
    provider.verify(&cell, &holder, &token).await.unwrap();
    provider.verify(&cell, &holder, &token).await.unwrap();
    let read_only = provider.verify(&cell, &region("us-west-2"), &token).await;
    assert!(matches!(read_only, Err(EffectError::Refused(_))), "{read_only:?}");

    // No agent there: nothing was sent, and the sentence says what to do.
    let settle = provider.settle(&cell, &holder, &token).await;
    let Err(EffectError::Refused(why)) = settle else { panic!("{settle:?}") };
    assert!(why.contains("domicile agent"), "{why}");
    let seen = provider.observe(&cell, &holder).await;
    assert_eq!((seen.reachable, seen.writable, seen.can_rewind), (true, Some(true), Some(true)));
    assert_eq!((seen.loss_slot, seen.prepared_transactions), (Some(false), Some(0)));
    assert!(seen.problems.iter().any(|p| p.contains("domicile agent")), "{:?}", seen.problems);

    let beside = seen.beside.unwrap();
    assert_eq!(
        (beside.keyless.clone(), beside.jobs.clone()),
        (vec!["public.t".to_owned()], Some(vec![])),
        "{beside:?}",
    );
    assert_eq!((beside.unlogged.len(), beside.large_objects, beside.slots.len()), (0, 0, 0));
    assert_eq!((beside.slot_kept_bytes, beside.slot_limit_bytes), (None, None), "no slot, no limit");
    let kept = seen.retention.unwrap();
    assert_eq!((kept.limit_bytes, kept.free_bytes, kept.slots.len()), (None, None, 1), "{kept:?}");
    assert!(kept.slots[0].active && kept.slots[0].safe_bytes.is_none(), "{kept:?}");
    for sql in [
        "CREATE UNLOGGED TABLE scratch (v text)",
        "SELECT lo_create(0)",
        "SELECT pg_create_logical_replication_slot('warehouse', 'pgoutput')",
        "SELECT pg_create_logical_replication_slot('domicile_losses', 'pgoutput')",
        "CREATE PUBLICATION domicile_all FOR ALL TABLES",
        "CREATE PUBLICATION reports FOR TABLE t",
        "CREATE SUBSCRIPTION upstream CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)",
        "ALTER SYSTEM SET max_slot_wal_keep_size = '64MB'",
        "SELECT pg_reload_conf()",
        // As pg_cron makes it: everybody sees only their own jobs.
        "CREATE SCHEMA cron",
        "CREATE TABLE cron.job (jobid bigint PRIMARY KEY, jobname text, active boolean, username text)",
        "INSERT INTO cron.job VALUES (1, 'nightly', true, 'app'), (2, NULL, true, 'app'), (3, 'off', false, 'app')",
        "GRANT USAGE ON SCHEMA cron TO domicile",
        "GRANT SELECT ON cron.job TO domicile",
        "ALTER TABLE cron.job ENABLE ROW LEVEL SECURITY",
    ] {
        primary.superuser("clinic", sql).unwrap();
    }
    let look = async || provider.observe(&cell, &holder).await.beside.unwrap();
    let beside = look().await;
    assert_eq!((beside.unlogged.clone(), beside.large_objects), (vec!["public.scratch".to_owned()], 1));
    assert_eq!(
        (beside.slots.clone(), beside.publications.clone()),
        (vec!["warehouse".to_owned()], vec!["reports".to_owned()])
    );
    assert_eq!(
        (beside.subscriptions.clone(), beside.slot_limit_bytes),
        (vec!["upstream".to_owned()], Some(64 << 20))
    );
    assert!(beside.slot_kept_bytes.is_some());
    let kept = provider.observe(&cell, &holder).await.retention.unwrap();
    assert_eq!(kept.limit_bytes, Some(64 << 20));
    let uses: Vec<_> = kept.slots.iter().map(|s| (s.used_for, s.name.as_str())).collect();
    assert_eq!(uses[0], (SlotUse::Losses, "domicile_losses"), "ours first: {uses:?}");
    assert!(kept.slots.iter().all(|s| s.safe_bytes.is_some_and(|n| n > 0)), "{kept:?}");
    assert_eq!(beside.jobs, None, "jobs of others that a policy hides are unknown, not none");
    primary.superuser("clinic", "ALTER ROLE domicile BYPASSRLS").unwrap();
    assert_eq!(look().await.jobs.unwrap(), ["job 2", "nightly"]);
    let standby_side = provider.observe(&cell, &region("us-west-2")).await;
    assert_eq!(standby_side.beside, None);

    // The primary dies: the standby is still seen.
    drop(primary);
    eventually(Duration::from_secs(10), "only the standby answers", || async {
        let sample = provider.sample(&cell, &holder).await;
        sample.primary.is_none() && sample.standby.is_some()
    })
    .await
    .unwrap();
    let gone = provider.observe(&cell, &holder).await;
    assert!(!gone.reachable && gone.writable.is_none());
    assert!(gone.problems.iter().any(|p| p.contains("refused")), "{:?}", gone.problems);
    // A wrong password is said as such, and the password is not.
    std::fs::write(&password, "hunter2").unwrap();
    let wrong = provider.observe(&cell, &region("us-west-2")).await;
    let said = wrong.problems.join(" ");
    assert!(said.contains("password") && !said.contains("hunter2"), "{said}");
    drop(standby);
}
