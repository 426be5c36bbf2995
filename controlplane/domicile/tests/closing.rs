//! A cell closed by a person and opened again, on real servers and a real registry.

mod pair;

use anyhow::Context;
use domicile_chaos_kit::wait::eventually;
use domicile_model::{BootId, Revision, Role, RouterId, RouterState};
use domicile_store::world::read_world;
use domicile_store::{Key, Store, Txn};
use domicile_store_etcd::EtcdStore;
use pair::{Pair, SLOW};
use serde_json::Value;

/// A gate of this region that has applied everything: opening a cell where nobody answers would help nobody.
async fn gate(pair: &Pair) -> anyhow::Result<()> {
    let store = EtcdStore::connect(pair.etcd.url().parse()?).await?;
    let world = read_world(&store).await?.context("no world")?;
    let id = RouterId::new("gate-a")?;
    let state = RouterState {
        id: id.clone(),
        role: Role::Gate,
        region: pair.a.region.parse()?,
        boot: BootId::new(),
        world: world.id,
        applied: Revision(1_000_000),
        busy: std::collections::BTreeSet::new(),
        listen: "127.0.0.1:1".parse()?,
    };
    store.commit(Txn::in_world(&world).put(Key::Router(id), &state)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_is_closed_and_opens_with_every_write_that_it_had() -> anyhow::Result<()> {
    let mut pair = Pair::new(512).await?;
    pair.up().await?;
    gate(&pair).await?;
    pair.sql(false, "INSERT INTO t (v) VALUES ('before')").await?;
    let before = pair.cell()?["epoch"].as_u64().context("no epoch")?;

    let close = ["cell", "close", "c", "--reason", "suspected corruption"];
    let (code, _, err) = pair.domicile(&close)?;
    assert!(code == 64 && err.contains("--yes"), "nobody is asked, so nothing is done: {code} {err}");
    let (code, out, err) = pair.domicile(&[&close[..], &["--yes", "--wait", "--json"]].concat())?;
    assert_eq!(code, 0, "{err}");
    let view: Value = serde_json::from_str(&out)?;
    assert_eq!(
        (&view["status"]["is"], &view["facts"]["stopped_by"]),
        (&"done".into(), &"fenced".into()),
        "{out}"
    );
    assert!(pair.sql(false, "SELECT 1").await.is_err(), "its database is shut");
    let said = pair.status_says(&["suspected corruption", "closed (by an operator)"]).await?;
    assert!(said.contains("ann"), "{said}");
    assert_eq!(pair.cell()?["epoch"], before + 1);
    // Nothing brings it back by itself, not even its agent's restart.
    pair.kill_agent(false).await?;
    pair.start_agent(false)?;
    let back = || async {
        let (_, out, _) =
            pair.domicile(&["--json", "cell", "open", "c", "--reason", "r", "--dry-run"]).ok()?;
        let plan: Value = serde_json::from_str(&out).ok()?;
        let newest = plan["checks"].as_array()?.iter().find(|c| c["name"] == "newest-data")?.clone();
        (newest["verdict"] == "passed").then_some(())
    };
    eventually(SLOW, "its agent is back", back).await?;
    assert!(pair.sql(false, "SELECT 1").await.is_err(), "still shut");
    let (_, out, _) = pair.domicile(&["--json", "failover", "plan", "c", "--to", "us-west-2", "--force"])?;
    assert!(out.contains("domicile cell open c"), "no move takes it elsewhere: {out}");

    let elsewhere = ["cell", "open", "c", "--region", "us-west-2", "--reason", "r", "--yes"];
    let (code, _, err) = pair.domicile(&elsewhere)?;
    assert!(code == 1 && err.contains("is a standby: only a failover"), "{code} {err}");
    let open = ["cell", "open", "c", "--reason", "the pages are sound", "--yes", "--wait"];
    let (code, _, err) = pair.domicile(&open)?;
    assert_eq!(code, 0, "{err}");
    assert_eq!(pair.cell()?["epoch"], before + 2);
    let writes = || async { pair.sql(false, "INSERT INTO t (v) VALUES ('after')").await.is_ok() };
    eventually(SLOW, "it takes writes again", writes).await?;
    assert_eq!(
        pair.sql(false, "SELECT string_agg(DISTINCT v, ' ' ORDER BY v) FROM t").await?,
        "after before"
    );
    pair.healthy().await?;
    let (_, out, _) = pair.domicile(&["failover", "list"])?;
    assert!(out.contains("close") && out.contains("open"), "{out}");
    Ok(())
}
