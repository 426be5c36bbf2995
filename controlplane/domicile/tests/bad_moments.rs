//! Bad moments of a database pair, on real servers: what a user reads in `domicile status` and in the plan of a move (what,
//! where, what to do), that the primary goes on, and that what it says to do helps.

mod pair;

use pair::{Pair, SLOW, SmallDisk};

use domicile_chaos_kit::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn the_standbys_disk_is_full() -> anyhow::Result<()> {
    let mut pair = Pair::new(512).await?;
    let disk = SmallDisk::under(&pair.b.data, 300)?;
    pair.up().await?;
    pair.sql(false, "INSERT INTO t (v) VALUES ('before')").await?;
    disk.fill(&pair.b)?;
    pair.sql(false, "INSERT INTO t (v) SELECT repeat('x', 1000) FROM generate_series(1, 6000)").await?;

    let place = pair.b.data.display().to_string();
    let full = format!("the disk of {place} is full");
    let why = if disk.mounted() { full.as_str() } else { "File too large" };
    let said = pair.status_says(&["the database of c in us-west-2", why]).await?;
    if disk.mounted() {
        assert!(said.contains("free space there or make it larger"), "{said}");
        // Without room to replay, a standby ends; it is not started without end.
        pair.status_says(&[
            &format!("PostgreSQL in {place} ended by itself: its disk is full (could not extend file"),
            "it is started again every",
        ])
        .await?;
    }
    pair.write_log(40).await?;
    // The plan of a move says the same, and blocks.
    let checks =
        ["problems", "standby-streaming", "standby"].map(|name| pair.check(name).unwrap_or_default());
    assert!(checks.iter().any(|(verdict, _)| verdict == "failed"), "{checks:?}");
    assert!(checks.iter().any(|(_, said)| said.contains(why)), "{checks:?}");
    let (code, _, err) = pair.domicile(&["failover", "start", "c", "--to", "us-west-2", "--yes"])?;
    assert!(code != 0 && err.contains("us-west-2"), "{code} {err}");
    // The primary goes on.
    for n in 0..20 {
        pair.sql(false, &format!("INSERT INTO t (v) VALUES ('while full {n}')")).await?;
    }
    // Room again, and it catches up by itself.
    disk.free(&pair.b)?;
    pair.healthy().await?;
    eventually(SLOW, "the standby has everything", || async {
        pair.sql(true, "SELECT count(*) FROM t").await.is_ok_and(|n| n == "6021")
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standbys_slot_is_given_up() -> anyhow::Result<()> {
    let mut pair = Pair::new(32).await?;
    pair.up().await?;
    pair.sql(false, "INSERT INTO t (v) VALUES ('before')").await?;
    pair.kill_agent(true).await?;
    // Told while it can still be helped. What is kept without slots (128 MB) counts for them as well.
    pair.write_log(96).await?;
    let status = pair
        .status_says(&[
            "wal-near-limit",
            "the standby of c is away and the primary in us-east-1 keeps",
            "it must be back within about",
            "`domicile cell reprotect c`",
        ])
        .await?;
    assert!(!status.contains("was given up"), "{status}");
    let kept = pair.cell()?["retention"].clone();
    let slots = kept["seen"]["slots"].as_array().cloned().unwrap_or_default();
    let slot = slots.iter().find(|s| s["used_for"] == "standby").cloned().unwrap_or_default();
    assert!(slot["active"] == false && slot["kept_bytes"].as_u64() > Some(90 << 20), "{kept}");
    assert!(slot["safe_bytes"].as_i64() > Some(0) && slot["wal_status"] != "lost", "{kept}");
    assert_eq!(kept["seen"]["limit_bytes"], 32 << 20, "{kept}");
    assert!(kept["seen"]["free_bytes"].as_u64() > Some(0), "{kept}");
    assert!(kept["bytes_per_s"].as_f64() > Some(0.0), "{kept}");
    let (_, shown, _) = pair.domicile(&["cell", "show", "c"])?;
    assert!(
        shown.contains("domicile_standby (standby): not in use, keeps")
            && shown.contains("standby may stay away"),
        "{shown}"
    );
    // More than max_slot_wal_keep_size, and than what is kept without slots.
    pair.write_log(240).await?;
    pair.superuser(false, "CHECKPOINT").await?;
    let said = pair
        .status_says(&[
            "the database of c in us-east-1: the standby's slot domicile_standby was given up",
            "max_slot_wal_keep_size (32MB)",
            "the database of c in us-east-1: the slot domicile_losses was given up",
            "could not be listed after a forced move",
        ])
        .await?;
    assert!(said.contains("build it anew with `domicile cell reprotect c`"), "{said}");
    let (verdict, why) = pair.check("loss-slot")?;
    assert_eq!(verdict, "failed", "{why}");
    assert!(why.contains("wait until the standby has streamed past it"), "{why}");
    let (verdict, why) = pair.check("problems")?;
    assert!(verdict == "failed" && why.contains("was given up"), "{verdict} {why}");
    // Also where the standby's slot is made after that one, and so begins behind it.
    pair.superuser(false, "SELECT pg_switch_wal()").await?;
    pair.superuser(false, "CHECKPOINT").await?;
    pair.superuser(false, "SELECT pg_drop_replication_slot('domicile_standby')").await?;
    pair.superuser(false, "SELECT pg_create_physical_replication_slot('domicile_standby', true)").await?;
    let (verdict, why) = pair.check("loss-slot")?;
    assert_eq!(verdict, "failed", "{why}");

    // A forced move says before consent that what it loses could not be listed.
    let (_, out, err) =
        pair.domicile(&["--json", "failover", "plan", "c", "--to", "us-west-2", "--force"])?;
    assert!(out.contains("what is lost could not be listed whole"), "{out}{err}");

    // The standby comes back, can't go on, and says why and what helps.
    pair.start_agent(true)?;
    pair.status_says(&[
        "the database of c in us-west-2: the standby can't stream",
        "no longer has the write-ahead log that it needs",
        "`domicile cell reprotect c`",
    ])
    .await?;
    let streaming = || async {
        let (verdict, why) = pair.check("standby-streaming").ok()?;
        (verdict == "failed" && why.contains("`domicile cell reprotect c`")).then_some(())
    };
    eventually(SLOW, "the check says it too", streaming).await?;
    // The primary goes on.
    pair.sql(false, "INSERT INTO t (v) VALUES ('meanwhile')").await?;

    let (code, out, err) = pair.domicile(&["--json", "cell", "reprotect", "c"])?;
    assert_eq!(code, 0, "{err}");
    let id = serde_json::from_str::<serde_json::Value>(&out)?["id"].as_str().unwrap_or_default().to_owned();
    // How far it is, and how long it will take: in the move, in the cell, and for people.
    let copied = |view: &serde_json::Value| view["building"]["done_bytes"].as_u64();
    let building = || async {
        let cell = pair.cell().ok()?;
        (cell["building"]["doing"] == "base-backup" && copied(&cell).is_some()).then_some(cell)
    };
    let first = eventually(SLOW, "the base backup tells how far it is", building).await?;
    assert!(first["unprotected"].is_null(), "the registry still names the standby: {first}");
    let further = || async {
        let (_, out, _) = pair.domicile(&["--json", "failover", "show", &id]).ok()?;
        let view: serde_json::Value = serde_json::from_str(&out).ok()?;
        (copied(&view) > copied(&first) && view["building"]["left_ms"].is_u64()).then_some(view)
    };
    let second = eventually(SLOW, "it has gone on, and says how long it will take", further).await?;
    let told = &second["building"];
    let (left, total) = (told["left_ms"].as_u64(), told["total_bytes"].as_u64());
    assert!(left > Some(0) && left < Some(60_000), "{told}");
    assert!(total > copied(&second) && told["bytes_per_s"].as_f64() < Some(2.0 * 6144.0 * 1024.0), "{told}");
    assert!(
        told["because"].as_str().is_some_and(|why| why.contains("bytes a second over the last")),
        "{told}"
    );
    let (_, shown, _) = pair.domicile(&["failover", "show", &id])?;
    assert!(shown.contains("new standby") && shown.contains("time left: "), "{shown}");
    let done = || async {
        let (_, out, _) = pair.domicile(&["--json", "failover", "show", &id]).ok()?;
        let view: serde_json::Value = serde_json::from_str(&out).ok()?;
        (view["status"]["is"] == "done").then_some(view)
    };
    let view = eventually(SLOW, "the standby was built", done).await?;
    assert_eq!(view["facts"]["reprotected_by"], "rebuild", "{view}");
    pair.healthy().await?;
    assert_eq!(pair.check("loss-slot")?.0, "passed");
    eventually(SLOW, "the standby has everything", || async {
        pair.sql(true, "SELECT count(*) FROM t").await.is_ok_and(|n| n == "2")
    })
    .await?;
    Ok(())
}
