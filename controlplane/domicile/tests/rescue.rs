//! The registry is lost and comes back from a backup that is older than a move. Real etcd, real databases and agents, the
//! binary as a user runs it. Beside it the switch that breaks it: everything restored as it was.
#![expect(clippy::unwrap_used, reason = "a test")]

mod pair;

use anyhow::{Context, ensure};
use domicile_chaos_kit::wait::eventually;
use domicile_engine::provider::{Databases, EffectError};
use domicile_model::clock::Clock;
use domicile_model::router::Role;
use domicile_model::{
    BootId, Cell, CellId, Epoch, MoveId, RegionId, Revision, RouterId, RouterState, SecretRef, Token, World,
};
use domicile_provider_postgres::{PostgresConfig, PostgresDatabases};
use domicile_store::codec::decode;
use domicile_store::lead::{PresentLeader, present_leader};
use domicile_store::world::read_world;
use domicile_store::{Commit, Key, Op, Store, Txn};
use domicile_store_etcd::EtcdStore;
use pair::{Pair, SLOW};
use serde_json::Value;

const INSERT: &str = "INSERT INTO t (v) VALUES ('x')";

/// What was there before the registry was lost.
struct Before {
    backup: String,
    world: World,
    leader: PresentLeader,
    cell: Cell,
    /// The epoch under which B held the cell.
    epoch: Epoch,
}

async fn store(pair: &Pair) -> anyhow::Result<EtcdStore> {
    Ok(EtcdStore::connect(pair.etcd.url().parse()?).await?)
}

async fn writes(pair: &Pair, b: bool, what: &str) -> anyhow::Result<()> {
    Ok(eventually(SLOW, what, || async { pair.sql(b, INSERT).await.is_ok() }).await?)
}

/// A gate of the other region, by its word: a move there needs one that follows.
async fn gate(store: &EtcdStore) -> anyhow::Result<()> {
    let state = RouterState {
        id: RouterId::new("gate-b")?,
        role: Role::Gate,
        region: RegionId::new("us-west-2")?,
        boot: BootId::new(),
        world: read_world(store).await?.context("no world")?.id,
        applied: Revision(i64::MAX),
        busy: [].into(),
        listen: "127.0.0.1:1".parse()?,
    };
    store.commit(Txn::bare().put(Key::Router(state.id.clone()), &state)).await?;
    Ok(())
}

/// A backup that says A; then A's machine dies, the cell is moved to B by force, B takes writes, the leader is paused, and
/// the registry is lost.
async fn moved_since_the_backup() -> anyhow::Result<(Pair, Before)> {
    let mut pair = Pair::new(64).await?;
    pair.up().await?;
    let backup = pair.path("backup.jsonl");
    let url = pair.etcd.url();
    let (code, out, err) = pair.domicile(&["--json", "registry", "backup", &backup, "--registry", &url])?;
    ensure!(code == 0, "{err}");
    ensure!(serde_json::from_str::<Value>(&out)?["entries"].as_u64() > Some(5), "{out}");
    ensure!(pair.domicile(&["registry", "verify", &backup])?.0 == 0);

    let store = store(&pair).await?;
    gate(&store).await?;
    pair.kill_agent(false).await?;
    let force = ["failover", "start", "c", "--to", "us-west-2", "--force", "--accept-loss", "100000"];
    let rest = ["--accept-unknown", "--yes", "--wait=serving", "--reason", "the region is lost"];
    let (code, out, err) = pair.domicile(&[&force[..], &rest[..]].concat())?;
    ensure!(code == 0, "{out}{err}");
    writes(&pair, true, "B takes writes").await?;
    pair.sql(true, "INSERT INTO t (v) VALUES ('after the move')").await?;

    let (code, out, _) = pair.domicile(&["registry", "verify", &backup, "--against", &url])?;
    ensure!(code == 0 && out.contains("cell c moved since: us-east-1"), "{out}");
    let world = read_world(&store).await?.context("no world")?;
    let leader = present_leader(&store).await?.context("no leader")?;
    let id = CellId::new("c").unwrap();
    let (_, found) = store.read(&[Key::Cell(id.clone()), Key::Placement(id)]).await?;
    let cell: Cell = decode(&found[0].as_ref().context("no cell")?.value)?;
    let placement: domicile_model::Placement = decode(&found[1].as_ref().context("no placement")?.value)?;
    ensure!(placement.holder.as_ref().is_some_and(|h| h.as_str() == "us-west-2"));
    pair.pause_plane(true);
    pair.lose_registry().await?;
    Ok((pair, Before { backup, world, leader, cell, epoch: placement.epoch }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_gives_back_nothing_that_moved_since_the_backup() -> anyhow::Result<()> {
    let (mut pair, before) = moved_since_the_backup().await?;
    // Looking changes nothing.
    let (code, out, err) = pair.registry(&["restore", &before.backup, "--dry-run"])?;
    assert_eq!(code, 0, "{out}{err}");
    let store = store(&pair).await?;
    assert!(store.list("").await?.entries.is_empty());

    let (code, out, err) = pair.registry(&["restore", &before.backup])?;
    assert_eq!(code, 1, "a cell is closed: {out}{err}");
    let report: Value = serde_json::from_str(&out)?;
    let row = &report["cells"][0];
    assert!(row["closed"].as_str().is_some_and(|why| why.contains("us-west-2")), "{row}");
    assert!(row["holder"].is_null(), "{row}");
    // Also above the last epoch of the old world, which nobody who answered may have seen any more.
    assert!(row["epoch"].as_u64() > Some(before.epoch.0), "{row}");
    let now = read_world(&store).await?.context("no world")?;
    assert!(now.reconciled && now.id != before.world.id);
    let (code, _, err) = pair.registry(&["restore", &before.backup])?;
    assert!(code == 1 && err.contains("--replace-world"), "not twice: {err}");

    // A comes back to find a world in which it holds nothing.
    pair.start_agent(false)?;
    let obeys = || async {
        let (_, out, _) = pair.registry(&["decide", "c", "us-west-2", "--dry-run"]).ok()?;
        let said = serde_json::from_str::<Value>(&out).ok()?["said"].to_string();
        said.contains("database us-east-1: not open, a primary").then_some(said)
    };
    eventually(SLOW, "A runs for itself alone", obeys).await?;
    let (code, _, err) = pair.registry(&["decide", "c", "us-west-2", "--dry-run"])?;
    assert_eq!(code, 0, "{err}");
    assert!(pair.sql(false, INSERT).await.is_err(), "A takes no writes");
    eventually(SLOW, "B's last proof has ended", || async { pair.sql(true, INSERT).await.is_err() }).await?;
    assert!(pair.sql(false, INSERT).await.is_err(), "A takes no writes");

    // The old leader, woken: what it sends to the registry or to an agent is refused.
    let late =
        Txn::fenced(&before.world, &before.leader.leadership).delete(Key::Placement(before.cell.id.clone()));
    assert!(matches!(store.commit(late).await?, Commit::Refused { .. }));
    let token = Token {
        world: before.world.id,
        leader: before.leader.leadership.fence,
        attempt: u64::MAX,
        moving: MoveId::new(),
        step: "unfence".into(),
        cell: before.cell.id.clone(),
    };
    let secret = SecretRef::new(&pair.agent_secret())?;
    let databases = PostgresDatabases::new(PostgresConfig::new("late", secret), Clock::Machine)?;
    for region in ["us-east-1", "us-west-2"] {
        let region = RegionId::new(region)?;
        let refused = || async {
            match databases.unfence(&before.cell, &region, &token).await {
                Err(EffectError::Refused(why)) if why.contains("world") => Some(()),
                _ => None,
            }
        };
        eventually(SLOW, "an order of the old world is refused", refused).await?;
    }
    pair.pause_plane(false);
    let leads = || async {
        let leader = present_leader(&store).await.ok()??;
        (leader.record != before.leader.record).then_some(())
    };
    eventually(SLOW, "the control plane leads the new world", leads).await?;

    // A person decides; nothing was lost.
    let (code, _, err) = pair.registry(&["decide", "c", "us-west-2"])?;
    assert_eq!(code, 0, "{err}");
    writes(&pair, true, "B takes writes again").await?;
    assert_eq!(pair.sql(true, "SELECT count(*) FROM t WHERE v = 'after the move'").await?, "1");
    assert!(pair.sql(false, INSERT).await.is_err(), "A takes none");
    let (code, _, err) = pair.registry(&["decide", "c", "us-east-1"])?;
    assert!(code == 1 && err.contains("not closed"), "{err}");
    let entries = store.list("audit/").await?.entries;
    let told = |action: &str| {
        entries.iter().any(|e| {
            decode::<domicile_server::audit::AuditEntry>(&e.value)
                .is_ok_and(|a| a.action == action && a.by == "ann")
        })
    };
    assert!(told("registry-restore") && told("registry-decide"));
    Ok(())
}

/// What a copy of the registry's keys does, put back as they were: the old primary opens.
#[tokio::test(flavor = "multi_thread")]
async fn restored_as_it_was_the_old_primary_takes_writes() -> anyhow::Result<()> {
    let (mut pair, before) = moved_since_the_backup().await?;
    let store = store(&pair).await?;
    let copy = std::fs::read_to_string(&before.backup)?;
    for line in copy.lines() {
        let line: Value = serde_json::from_str(line)?;
        let (Some(key), Some(value)) = (line["key"].as_str(), line["value"].as_str()) else { continue };
        store.commit(Txn::bare().op(Op::Put(key.parse()?, value.into(), None))).await?;
    }
    pair.start_agent(false)?;
    writes(&pair, false, "A takes writes, without what B has acknowledged").await?;
    assert_eq!(pair.sql(false, "SELECT count(*) FROM t WHERE v = 'after the move'").await?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_lost_comes_back_by_itself() -> anyhow::Result<()> {
    let mut pair = Pair::new(64).await?;
    pair.up().await?;
    let backup = pair.path("backup.jsonl");
    let url = pair.etcd.url();
    assert_eq!(pair.domicile(&["registry", "backup", &backup, "--registry", &url])?.0, 0);
    pair.pause_plane(true);
    pair.lose_registry().await?;
    let (code, out, err) = pair.registry(&["restore", &backup])?;
    assert_eq!(code, 0, "{out}{err}");
    pair.pause_plane(false);
    writes(&pair, false, "A takes writes again").await?;
    pair.healthy().await?;

    // And without a backup. No router is there to say who vouches for the cell, so a person says who holds it.
    pair.pause_plane(true);
    pair.lose_registry().await?;
    let fleet = pair.path("regions.toml");
    let (code, out, err) = pair.registry(&["rebuild", "--from", &fleet, "--fence", "5s"])?;
    assert_eq!(code, 1, "{out}{err}");
    pair.pause_plane(false);
    let decided = || async {
        let (code, _, _) = pair.registry(&["decide", "c", "us-east-1"]).ok()?;
        (code == 0).then_some(())
    };
    eventually(SLOW, "the agents have noticed, and a person has decided", decided).await?;
    writes(&pair, false, "A takes writes again").await?;
    pair.healthy().await
}

/// The registry and the region of the primary are lost at once: a person says who held the cell without having seen it, and
/// the cell then moves by force under the usual rules. The log says that nobody had looked.
#[tokio::test(flavor = "multi_thread")]
async fn lost_with_the_primarys_region_the_cell_is_decided_unseen_and_moves_by_force() -> anyhow::Result<()> {
    let mut pair = Pair::new(64).await?;
    pair.up().await?;
    let backup = pair.path("backup.jsonl");
    let url = pair.etcd.url();
    ensure!(pair.domicile(&["registry", "backup", &backup, "--registry", &url])?.0 == 0);
    pair.sql(false, "INSERT INTO t (v) VALUES ('before')").await?;
    let there = || async {
        pair.sql(true, "SELECT count(*) FROM t WHERE v = 'before'").await.is_ok_and(|n| n == "1")
    };
    eventually(SLOW, "B has followed", there).await?;
    pair.pause_plane(true);
    pair.kill_agent(false).await?;
    pair.lose_registry().await?;
    let (code, out, err) = pair.registry(&["restore", &backup])?;
    assert_eq!(code, 1, "a cell whose holder is silent is closed: {out}{err}");

    // B follows, and nothing is promoted by a rescue; A is silent, which a person has to say.
    let (code, _, err) = pair.registry(&["decide", "c", "us-west-2", "--unseen"])?;
    assert!(code == 1 && err.contains("this promotes nothing"), "{err}");
    let (code, _, err) = pair.registry(&["decide", "c", "us-east-1"])?;
    assert!(code == 1 && err.contains("--unseen"), "{err}");
    let (code, _, err) = pair.registry(&["decide", "c", "us-east-1", "--unseen"])?;
    assert_eq!(code, 0, "{err}");
    assert!(pair.sql(true, INSERT).await.is_err(), "B follows still");

    pair.pause_plane(false);
    gate(&store(&pair).await?).await?;
    let leads = || async { pair.domicile(&["status"]).is_ok_and(|(code, _, _)| code == 0) };
    eventually(SLOW, "the control plane leads the new world", leads).await?;
    let force = ["failover", "start", "c", "--to", "us-west-2", "--force", "--accept-loss", "100000"];
    let rest = ["--accept-unknown", "--yes", "--wait=serving", "--reason", "both are lost"];
    let (code, out, err) = pair.domicile(&[&force[..], &rest[..]].concat())?;
    ensure!(code == 0, "{out}{err}");
    writes(&pair, true, "B takes writes").await?;
    assert_eq!(pair.sql(true, "SELECT count(*) FROM t WHERE v = 'before'").await?, "1");

    let (code, out, err) = pair.domicile(&["audit", "--all"])?;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("--unseen: the agent in us-east-1 could not be asked"), "{out}");
    assert!(out.contains("start-move"), "{out}");

    // A comes back, and obeys.
    pair.start_agent(false)?;
    let follows = || async {
        let status: Value = serde_json::from_str(&pair.domicile(&["--json", "status"]).ok()?.1).ok()?;
        (status["cells"][0]["standby"] == "us-east-1").then_some(())
    };
    eventually(SLOW, "A follows B", follows).await?;
    assert!(pair.sql(false, INSERT).await.is_err(), "A takes none");
    Ok(())
}
