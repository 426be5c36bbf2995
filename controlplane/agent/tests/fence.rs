//! The fence against everything that writes: open transactions, prepared ones, reconnects, stopped processes, late
//! orders.

#![expect(clippy::unwrap_used, reason = "a test")]

mod rig;

use std::time::Duration;

use domicile_api::agent::{Fence, Fenced, Running};
use domicile_chaos_kit::postgres::processes;
use domicile_chaos_kit::wait::eventually;
use domicile_model::Epoch;
use rig::Rig;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection};

async fn session(rig: &Rig) -> PgConnection {
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(rig.a.address().port())
        .username("app")
        .password(&rig.spec.app_password)
        .database(&rig.spec.database)
        .ssl_mode(PgSslMode::Disable);
    PgConnection::connect_with(&options).await.unwrap()
}

async fn run(session: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(session).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_gets_around_a_fence_and_turning_back_restores_writing() {
    let mut rig = Rig::new(None, None).await;
    rig.up().await;
    let mut idle = session(&rig).await;
    run(&mut idle, "BEGIN; INSERT INTO encounters VALUES ('t', 'idle', '')").await.unwrap();
    let mut ready = session(&rig).await;
    run(&mut ready, "BEGIN; INSERT INTO encounters VALUES ('t', 'prepared', ''); PREPARE TRANSACTION 'p'")
        .await
        .unwrap();
    let mut writer = session(&rig).await;
    run(&mut writer, "SET default_transaction_read_only = off").await.unwrap();

    rig.place(2, None).await;
    let fenced = rig.fence(2, 4_000, false).await.unwrap();
    assert!(fenced.clean);
    assert!(processes(&rig.a.config.data_dir).is_empty());
    assert!(run(&mut idle, "COMMIT").await.is_err());
    assert!(
        run(&mut writer, "BEGIN READ WRITE; INSERT INTO encounters VALUES ('t', 'rw', ''); COMMIT")
            .await
            .is_err()
    );
    assert!(run(&mut ready, "COMMIT PREPARED 'p'").await.is_err());
    assert!(rig.write(false, "reconnect").await.is_err());
    // The same order again: the same answer. Its place in the agent's memory outlives the agent.
    let handover = rig.state(false).await.unwrap().fence.unwrap().handover;
    let again: Fenced = rig
        .call(
            false,
            "fence",
            &Fence { token: fenced.handover.token.clone(), epoch: Epoch(2), within_ms: 1000, force: false },
        )
        .await
        .unwrap();
    assert_eq!(
        (again.handover.checkpoint, handover.checkpoint),
        (fenced.handover.checkpoint, fenced.handover.checkpoint)
    );
    rig.kill_agent(false).await;
    rig.start(false);
    eventually(Duration::from_secs(5), "the agent is back", || async { rig.state(false).await.is_some() })
        .await
        .unwrap();
    // Even if the registry named it holder: a commanded stop ends only by command.
    rig.place(3, Some("us-east-1")).await;
    domicile_model::clock::pause(Duration::from_millis(1_500)).await;
    assert_eq!(rig.state(false).await.unwrap().running, Running::Stopped);
    assert!(processes(&rig.a.config.data_dir).is_empty());

    // A late order under an older token is refused by name, and changes nothing.
    let old = domicile_model::Token { attempt: 0, ..fenced.handover.token.clone() };
    let late: Result<serde_json::Value, _> =
        rig.call(false, "unfence", &domicile_api::agent::Unfence { token: old }).await;
    let late = late.unwrap_err();
    assert!(late.kind.ends_with("/deposed") && late.status == 409, "{late:?}");
    assert_eq!(rig.state(false).await.unwrap().running, Running::Stopped);

    let state = rig.unfence().await.unwrap();
    assert!(state.fence.is_none());
    rig.running(false, Running::Open).await;
    rig.write(false, "after").await.unwrap();
    // Nothing that was refused is there; what was prepared before is still prepared.
    assert_eq!(rig.sql(false, "SELECT key FROM encounters").await.unwrap(), "after");
    assert_eq!(rig.sql(false, "SELECT gid FROM pg_prepared_xacts").await.unwrap(), "p");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ranks_a_late_order_does_harm() {
    // The counterpart: with the rank ignored, the late unfence above succeeds.
    let mut rig = Rig::new(None, None).await;
    rig.a.config.sabotage.ignores_rank = true;
    rig.up().await;
    rig.place(2, None).await;
    let fenced = rig.fence(2, 4_000, false).await.unwrap();
    let old = domicile_model::Token { attempt: 0, ..fenced.handover.token };
    let late: Result<serde_json::Value, _> =
        rig.call(false, "unfence", &domicile_api::agent::Unfence { token: old }).await;
    assert!(late.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_stopped_in_its_commit_fails_the_fence_and_unfencing_resolves_it() {
    let mut rig = Rig::new(None, None).await;
    rig.up().await;
    rig.write(false, "k1").await.unwrap();
    let mut stopped = session(&rig).await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut stopped).await.unwrap();
    run(&mut stopped, "BEGIN; INSERT INTO encounters VALUES ('t', 'stopped', '')").await.unwrap();
    let raw = u32::try_from(pid).unwrap();
    domicile_chaos_kit::proc::stop(raw);
    let commit = tokio::spawn(async move { run(&mut stopped, "COMMIT").await });

    rig.place(2, None).await;
    let failed = rig.fence(2, 1_000, false).await.unwrap_err();
    assert_eq!(failed.status, 504, "{failed:?}");
    assert!(failed.detail.contains("clean stop") && failed.hint.is_some(), "{failed:?}");
    // It stays in force: nobody gets in.
    assert!(rig.write(false, "k2").await.is_err());
    let state = rig.state(false).await.unwrap();
    assert!(state.fence.is_none() && state.problems.iter().any(|p| p.contains("fence")), "{state:?}");

    rig.place(3, Some("us-east-1")).await;
    rig.unfence().await.unwrap();
    rig.running(false, Running::Open).await;
    rig.write(false, "k3").await.unwrap();
    // Its client was never told that it committed, and it did not.
    assert!(commit.await.unwrap().is_err());
    assert_eq!(rig.sql(false, "SELECT count(*) FROM encounters WHERE key = 'stopped'").await.unwrap(), "0");

    // With force the same situation ends at once, and says that the stop was not clean.
    let mut stopped = session(&rig).await;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut stopped).await.unwrap();
    domicile_chaos_kit::proc::stop(u32::try_from(pid).unwrap());
    rig.place(4, None).await;
    let forced = rig.fence(4, 1_000, true).await.unwrap();
    assert!(!forced.clean);
    assert!(processes(&rig.a.config.data_dir).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_the_secret_and_rubbish_are_turned_away() {
    let mut rig = Rig::new(None, None).await;
    rig.up().await;
    let http = reqwest::Client::new();
    let url = format!("http://{}/v1/", rig.a.config.listen);
    let get = http.get(format!("{url}state")).send().await.unwrap();
    assert_eq!(get.status(), 401);
    let text = get.text().await.unwrap();
    assert!(text.contains("hint") && !text.contains(rig::SECRET));
    let wrong = http.get(format!("{url}state")).bearer_auth("agent-secreT").send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    for (path, body, status) in [
        ("fence", "{", 400),
        ("fence", "{\"token\":1}", 400),
        ("zebra", "{}", 404),
        ("promote", &"x".repeat(100_000), 413),
    ] {
        let answer = http
            .post(format!("{url}{path}"))
            .bearer_auth(rig::SECRET)
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    let other = Fence {
        token: domicile_model::Token {
            cell: domicile_model::CellId::new("other").unwrap(),
            ..rig.token("fence")
        },
        epoch: Epoch(2),
        within_ms: 100,
        force: true,
    };
    let refused: Result<Fenced, _> = rig.call(false, "fence", &other).await;
    assert!(refused.unwrap_err().kind.ends_with("/other-cell"));
    let strange = Fence {
        token: domicile_model::Token { world: domicile_model::WorldId::new(), ..rig.token("fence") },
        ..other
    };
    let strange =
        Fence { token: domicile_model::Token { cell: rig.cell.clone(), ..strange.token }, ..strange };
    let refused: Result<Fenced, _> = rig.call(false, "fence", &strange).await;
    assert!(refused.unwrap_err().kind.ends_with("/other-world"));
    rig.write(false, "still open").await.unwrap();
}
