//! Facts of routers, and the reports that rest on them.

use std::path::Path;
use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_facts::{Batch, BatchId, Fact, Head, Minute, Moments, Tally, VERSION};
use domicile_model::{BootId, RegionId, Role, RouterId, TenantId};
use domicile_server::facts::Settings;
use reqwest::Method;
use serde_json::Value;

use crate::common::{FLEET, Plane, Special, operator, registry, with_roles};

const SOON: Duration = Duration::from_secs(20);
const ANN: &str = "a-token-of-ann";
const EDGE: &str = "a-token-of-edge-1";

/// One that knows the others, and so copies from them.
fn among_others(dir: &Path) -> Special {
    let archive = domicile_server::archive::Settings {
        dir: dir.join("archive"),
        keep: domicile_server::archive::Keep { newest: 100, age: Duration::from_secs(3_600) },
        copies: None,
        every: Duration::from_secs(3_600),
        patience: Duration::from_millis(300),
        sabotage: domicile_server::archive::Sabotage::None,
    };
    Special { archive: Some(archive), ..special(dir) }
}

fn special(dir: &Path) -> Special {
    let file = dir.join("tokens");
    let lines =
        [operator("ann", ANN), with_roles("edge-1", EDGE, "router"), with_roles("edge-2", "2", "router")];
    std::fs::write(&file, lines.concat()).unwrap();
    let facts = Some(Settings { dir: dir.join("history"), age: Duration::from_secs(3600 * 24 * 365 * 200) });
    Special { tokens: Some(file), facts, ..Special::default() }
}

/// A minute of 2020 in which mercy had this much good and bad.
fn batch(router: &str, number: u64, minute: u64, (good, failed): (u64, u64)) -> Batch {
    let id = BatchId { router: RouterId::new(router).unwrap(), boot: BootId::from_u128(9), number };
    let region = RegionId::new("us-east-1").unwrap();
    let at = Moments {
        first_bad: (failed > 0).then_some(5),
        last_bad: (failed > 0).then_some(9),
        ..Moments::default()
    };
    let tally = Tally { good, failed, at, ..Tally::default() };
    let fact = Fact { tenant: Some(TenantId::new("mercy").unwrap()), region: Some(region.clone()), tally };
    let facts: Vec<Fact> = (good + failed > 0).then_some(fact).into_iter().collect();
    let minute = Minute(26_300_000 + minute);
    let head =
        Head { version: VERSION, id, role: Role::Edge, region, minute, facts: facts.len(), clock: None };
    Batch { head, facts }
}

async fn tell(plane: &Plane, token: &str, bytes: Vec<u8>) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/v1/facts", plane.address);
    let answer = client.post(url).bearer_auth(token).body(bytes).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_router_tells_its_own_facts_and_nothing_else_is_open_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start_with("a", registry(), special(dir.path())).await;
    let mine = batch("edge-1", 0, 0, (1, 0));
    assert_eq!(tell(&plane, EDGE, mine.encode()).await.1["already"], false);
    let (status, said) = tell(&plane, EDGE, mine.encode()).await;
    assert_eq!((status, &said["already"]), (200, &Value::Bool(true)));
    let said = plane.send(Method::GET, "/v1/facts/clock", None, Some(EDGE), &[]).await.1;
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    assert!(said["now_ms"].as_u64().unwrap().abs_diff(now) < 60_000, "{said}");

    let mut other = mine.clone();
    other.facts[0].tally.good = 2;
    let told = async |token: &str, bytes: Vec<u8>| {
        let (status, problem) = tell(&plane, token, bytes).await;
        (
            status,
            problem["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(told(EDGE, other.encode()).await, (409, "another-batch".into()));
    assert_eq!(told("2", mine.encode()).await, (403, "forbidden".into()), "as somebody else");
    assert_eq!(told(ANN, mine.encode()).await, (403, "forbidden".into()), "an operator is no router");
    assert_eq!(told("nobody's", mine.encode()).await, (401, "unauthorized".into()));
    assert_eq!(told(EDGE, mine.encode()[..60].to_vec()).await, (422, "not-a-batch".into()));
    assert_eq!(told(EDGE, vec![b'x'; 9 << 20]).await, (413, "too-large".into()));
    for path in ["/v1/status", "/v1/tenants", "/v1/moves", "/v1/reports/sla"] {
        assert_eq!(plane.send(Method::GET, path, None, Some(EDGE), &[]).await.0, 403, "{path}");
    }
    let metrics = plane.get("/metrics").await.1.to_string();
    for line in ["{became=\\\"new\\\"} 1", "{became=\\\"already\\\"} 1", "{became=\\\"differs\\\"} 1"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn a_control_plane_without_a_history_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start_with("a", registry(), Special { facts: None, ..special(dir.path()) }).await;
    for (status, problem) in
        [tell(&plane, EDGE, batch("edge-1", 0, 0, (1, 0)).encode()).await, plane.get("/v1/reports/sla").await]
    {
        assert_eq!(status, 503);
        assert!(problem["type"].as_str().unwrap().ends_with("/no-history"), "{problem}");
    }
}

/// Two control planes are told the same, in another order; one of them loses its memory, and its process. What they report is
/// the same to the byte, and what was told says.
#[tokio::test]
async fn two_that_were_told_the_same_report_the_same_also_after_a_restart() {
    let (dirs, store) = ([tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()], registry());
    let one = Plane::start_with("a", store.clone(), special(dirs[0].path())).await;
    let two = Plane::start_with("b", store.clone(), special(dirs[1].path())).await;
    one.led().await;
    let (status, said) =
        one.post("/v1/apply", &serde_json::json!({ "file": "regions.toml", "text": FLEET })).await;
    assert_eq!(status, 200, "{said}");
    let mut batches = Vec::new();
    for (n, counts) in (0..10).zip([(100, 0), (94, 6), (0, 0), (1, 0)].into_iter().cycle()) {
        batches.push((EDGE, batch("edge-1", n, n, counts)));
        batches.push(("2", batch("edge-2", n, n, (0, 0))));
    }
    for (token, batch) in &batches {
        assert_eq!(tell(&one, token, batch.encode()).await.0, 200);
    }
    for (token, batch) in batches.iter().rev() {
        assert_eq!(tell(&two, token, batch.encode()).await.0, 200);
    }
    let start = jiff::Timestamp::from_second(26_300_000 * 60).unwrap();
    let month = start.strftime("%Y-%m").to_string();
    let path = format!("/v1/reports/sla?month={month}&objective=99.5");
    let report = one.get(&path).await.1;
    assert_eq!(two.get(&path).await.1.to_string(), report.to_string());
    let tenant =
        |id: &str| report["tenants"].as_array().unwrap().iter().find(|t| t["tenant"] == id).unwrap().clone();
    let (mercy, clinic) = (tenant("mercy"), tenant("clinic"));
    let of = |t: &Value, names: &[&str]| names.iter().map(|n| t[*n].as_u64().unwrap()).collect::<Vec<_>>();
    // Minutes 0 to 9: 100/0, 94/6, none, 1/0, and over again.
    assert_eq!(of(&mercy, &["available", "bad", "idle", "requests", "bad_requests"]), [5, 3, 2, 602, 18]);
    assert_eq!(of(&clinic, &["available", "bad", "idle", "requests"]), [0, 0, 10, 0]);
    assert_eq!(clinic["least_ppm"], Value::Null, "nobody came: no availability");
    let minutes = mercy["minutes"].as_u64().unwrap();
    assert!(minutes >= 28 * 1440, "{minutes}");
    assert_eq!(of(&mercy, &["unknown", "budget"]), [minutes - 10, minutes * 5_000 / 1_000_000]);

    two.stop().await;
    let two = Plane::start_with("b", store, special(dirs[1].path())).await;
    assert_eq!(two.get(&path).await.1.to_string(), report.to_string());
    for (query, status) in [
        ("month=2020-13", 400),
        ("month=2020-01&objective=101", 400),
        ("month=2020-01&tenant=nobody", 404),
        ("until=yesterday", 400),
        ("made=up", 400),
    ] {
        assert_eq!(two.get(&format!("/v1/reports/sla?{query}")).await.0, status, "{query}");
    }
    assert_eq!(two.get("/v1/reports/rto?move=x").await.0, 404);
}

/// Both the process of the leader and its directory are lost; the other one was away while half of it was told.
#[tokio::test]
async fn what_only_the_leader_was_told_is_reported_by_the_other_one_after_the_leader_is_gone() {
    let (dirs, store) = ([tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()], registry());
    let leader = Plane::start_with("a", store.clone(), among_others(dirs[0].path())).await;
    leader.led().await;
    let (status, said) =
        leader.post("/v1/apply", &serde_json::json!({ "file": "regions.toml", "text": FLEET })).await;
    assert_eq!(status, 200, "{said}");
    for n in 0..5 {
        assert_eq!(tell(&leader, EDGE, batch("edge-1", n, n, (10, n)).encode()).await.0, 200);
    }
    let month = jiff::Timestamp::from_second(26_300_000 * 60).unwrap().strftime("%Y-%m").to_string();
    let path = format!("/v1/reports/sla?month={month}");
    let other = Plane::start_with("b", store.clone(), among_others(dirs[1].path())).await;
    // Told to either, after that.
    assert_eq!(tell(&leader, EDGE, batch("edge-1", 5, 5, (10, 0)).encode()).await.0, 200);
    assert_eq!(tell(&other, "2", batch("edge-2", 0, 6, (10, 10)).encode()).await.0, 200);
    let mut report = String::new();
    eventually(SOON, "both report the same, and all of it", || async {
        let (one, two) = (leader.get(&path).await, other.get(&path).await);
        let mercy = one.1["tenants"].as_array()?.iter().find(|t| t["tenant"] == "mercy")?;
        let all = mercy["requests"] == 7 * 10 + 10 + 10;
        (all && one.0 == 200 && one.1 == two.1).then_some(())
    })
    .await
    .unwrap();
    report.push_str(&leader.get(&path).await.1.to_string());
    leader.kill();
    let gone = dirs[0].path().join("history");
    std::fs::remove_dir_all(&gone).unwrap();
    assert_eq!(other.get(&path).await.1.to_string(), report);

    // It comes back with nothing, and says nothing before it has it all again.
    let back = Plane::start_with("a", store.clone(), among_others(dirs[0].path())).await;
    eventually(SOON, "it has copied the rest", || async {
        let (status, said) = back.get(&path).await;
        if status == 503 {
            assert!(said["type"].as_str().unwrap().ends_with("/copying"), "{said}");
            return None;
        }
        assert_eq!((status, said.to_string()), (200, report.clone()), "half of it was told");
        Some(())
    })
    .await
    .unwrap();
    // Nobody but control planes is handed what was told.
    for path in
        ["/v1/facts/batches?after=0", "/v1/facts/batches/edge-1/00000000-0000-0000-0000-000000000009/0"]
    {
        for token in [ANN, EDGE] {
            assert_eq!(back.send(Method::GET, path, None, Some(token), &[]).await.0, 401, "{path}");
        }
    }
}
