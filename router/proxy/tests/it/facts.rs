//! What a router counts, keeps, and tells the control planes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::wait::eventually;
use domicile_facts::{Batch, BatchId, Tally};
use domicile_model::Role;

use crate::file_mode::{alone_with, regions};
use crate::kit::{Origin, SOON, client};

const TOKEN: &str = "a token of edges";

/// Takes facts as a control plane does: whole batches, each once.
#[derive(Clone, Default)]
struct Taker(Arc<Mutex<BTreeMap<BatchId, Batch>>>);

impl Taker {
    async fn open(self, at: SocketAddr) {
        let listener = tokio::net::TcpListener::bind(at).await.unwrap();
        let app = axum::Router::new()
            .route("/v1/facts", post(take))
            .route("/v1/facts/clock", get(clock))
            .with_state(self);
        tokio::spawn(async move { axum::serve(listener, app).await });
    }

    fn ids(&self) -> Vec<BatchId> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    /// All that a tenant saw, over regions.
    fn tally(&self, tenant: Option<&str>) -> Tally {
        let mut sum = Tally::default();
        for fact in self.0.lock().unwrap().values().flat_map(|batch| &batch.facts) {
            if fact.tenant.as_ref().map(domicile_model::TenantId::as_str) == tenant {
                sum.add(&fact.tally);
            }
        }
        sum
    }
}

async fn take(State(taker): State<Taker>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    if headers.get("authorization").is_none_or(|a| a.as_bytes() != format!("Bearer {TOKEN}").as_bytes()) {
        return (StatusCode::UNAUTHORIZED, String::new());
    }
    let batch = Batch::decode(&body).unwrap();
    let id = batch.head.id.clone();
    let mut all = taker.0.lock().unwrap();
    let known = all.insert(id, batch.clone());
    assert!(known.is_none_or(|known| known == batch), "one name, two contents");
    (StatusCode::OK, String::new())
}

/// A day ahead.
async fn clock() -> String {
    let ms = jiff::Timestamp::now().as_millisecond() + 86_400_000;
    format!("{{\"now_ms\":{ms}}}")
}

fn spooled(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("state").join("facts")).map_or(0, Iterator::count)
}

fn args(dir: &Path, to: &[SocketAddr]) -> Vec<String> {
    let token = dir.join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let to: Vec<String> = to.iter().map(ToString::to_string).collect();
    let state = dir.join("state").display().to_string();
    let token = format!("file:{}", token.display());
    ["--state", &state, "--facts-to", &to.join(","), "--facts-token", &token].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn what_was_counted_is_told_to_all_control_planes_also_later_and_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west) = (Origin::start("east").await, Origin::start("west").await);
    regions(dir.path(), &east, &west, "us-east-1");
    let to = [free_address().unwrap(), free_address().unwrap()];
    let gone = free_address().unwrap();
    let (first, second) = (Taker::default(), Taker::default());
    first.clone().open(to[0]).await;
    let args = args(dir.path(), &to);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();

    let router = alone_with(dir.path(), &args).await;
    for _ in 0..3 {
        assert_eq!(router.get("mercy.example.com", "/").await.unwrap().text().await.unwrap(), "east GET 0");
    }
    for _ in 0..2 {
        let post = client().post(router.url("/")).header("host", "mercy.example.com").body("seven b");
        assert_eq!(post.send().await.unwrap().text().await.unwrap(), "east POST 7");
    }
    assert_eq!(router.get("nobody.example.com", "/").await.unwrap().status(), 404);
    // An application that is gone: nobody answers, and the request was not taken.
    let file = dir.path().join("regions.toml");
    let moved = std::fs::read_to_string(&file).unwrap().replace(&east.addr.to_string(), &gone.to_string());
    std::fs::write(dir.path().join("regions.new"), moved).unwrap();
    std::fs::rename(dir.path().join("regions.new"), &file).unwrap();
    eventually(SOON, "the table is the new one", || async {
        let table = router.admin("/routes?host=mercy.example.com").await.1;
        table.contains(&gone.to_string()).then_some(())
    })
    .await
    .unwrap();
    let status = router.get("mercy.example.com", "/").await.unwrap().status();
    assert_eq!(status, 503);
    router.process.terminate();
    assert_eq!(router.process.wait(SOON).await.unwrap().code(), Some(0));

    let seen = first.tally(Some("mercy"));
    assert_eq!((seen.good, seen.failed, seen.requests(), seen.writes), (5, 1, 6, 2), "{seen:?}");
    assert_eq!((seen.bytes_up, seen.held, seen.decrypted, seen.spliced), (14, 0, 0, 0), "{seen:?}");
    assert!(seen.bytes_down > 3 * 10 && seen.at.first_good_write.is_some() && seen.at.last_bad.is_some());
    assert_eq!(first.tally(None).requests(), 0, "whose host is unknown has no tenant");
    let head = first.0.lock().unwrap().values().next().unwrap().head.clone();
    assert_eq!(
        (head.role, head.region.as_str(), head.id.router.as_str()),
        (Role::Edge, "us-east-1", "router")
    );
    // Two are configured, and one of them has it: it waits.
    let ids = first.ids();
    assert!(spooled(dir.path()) >= 1, "{ids:?}");
    assert!(second.ids().is_empty());

    second.clone().open(to[1]).await;
    let router = alone_with(dir.path(), &args).await;
    eventually(SOON, "all is told, and taken away", || async { spooled(dir.path()) == 0 }).await.unwrap();
    assert!(ids.iter().all(|id| second.ids().contains(id)), "{ids:?} {:?}", second.ids());
    router.counts("domicile_router_facts_dropped_total 0\n").await;
    assert_eq!(router.get("mercy.example.com", "/").await.unwrap().status(), 503);
    router.process.terminate();
    assert_eq!(router.process.wait(SOON).await.unwrap().code(), Some(0));
    for taker in [&first, &second] {
        let seen = taker.tally(Some("mercy"));
        assert_eq!(
            (seen.good, seen.failed, seen.requests()),
            (5, 2, 7),
            "told twice, counted once: {seen:?}"
        );
        // Their clock is a day ahead, and it knows.
        let batches = taker.0.lock().unwrap();
        let bound = batches.values().filter_map(|batch| batch.head.clock).next_back().unwrap();
        assert!(bound.within_ms < 20_000, "{bound:?}");
        assert!(bound.ahead_ms.abs_diff(86_400_000) <= bound.within_ms + 1_000, "{bound:?}");
    }
}

#[tokio::test]
async fn a_control_plane_that_does_not_know_the_token_gets_nothing_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west) = (Origin::start("east").await, Origin::start("west").await);
    regions(dir.path(), &east, &west, "us-east-1");
    let at = free_address().unwrap();
    let taker = Taker::default();
    taker.clone().open(at).await;
    let args = args(dir.path(), &[at]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    std::fs::write(dir.path().join("token"), "another token").unwrap();
    let router = alone_with(dir.path(), &args).await;
    assert_eq!(router.get("mercy.example.com", "/").await.unwrap().status(), 200);
    router.process.terminate();
    assert_eq!(router.process.wait(SOON).await.unwrap().code(), Some(0));
    assert!(taker.ids().is_empty() && spooled(dir.path()) >= 1);
    // Killed in the middle of its life the next time, and still there.
    let router = alone_with(dir.path(), &args).await;
    router.process.kill();
    router.process.wait(SOON).await.unwrap();
    assert!(spooled(dir.path()) >= 1);
    std::fs::write(dir.path().join("token"), TOKEN).unwrap();
    let _router = alone_with(dir.path(), &args).await;
    eventually(SOON, "all is told, and taken away", || async { spooled(dir.path()) == 0 }).await.unwrap();
    assert_eq!(taker.tally(Some("mercy")).good, 1);
}

/// So many clinics that share one cell, and one request of each of the first hundred.
async fn series(clinics: usize) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let east = Origin::start("east").await;
    let mut text = format!(
        "[regions]\nus-east-1 = {{ country = \"US\", ingress = [\"{}\"] }}\nus-west-2 = {{ country = \"US\", ingress = [\"{}\"] }}\n\
         [cells.pool]\nprimary = \"us-east-1\"\ndr = \"us-west-2\"\n[tenants]\n",
        east.addr, east.addr
    );
    for n in 0..clinics {
        use std::fmt::Write;
        writeln!(text, "c{n} = {{ cell = \"pool\", hosts = [\"c{n}.example.com\"] }}").unwrap();
    }
    std::fs::write(dir.path().join("regions.toml"), text).unwrap();
    let taker = Taker::default();
    let at = free_address().unwrap();
    taker.clone().open(at).await;
    let args = args(dir.path(), &[at]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let router = alone_with(dir.path(), &args).await;
    let asked = clinics.min(100);
    for n in 0..asked {
        assert_eq!(router.get(&format!("c{n}.example.com"), "/").await.unwrap().status(), 200);
    }
    let text = router.admin("/metrics").await.1;
    router.process.terminate();
    router.process.wait(SOON).await.unwrap();
    let told = taker.0.lock().unwrap().values().map(|batch| batch.facts.len()).sum::<usize>();
    assert!(told >= asked, "{told} rows of {asked} tenants");
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[tokio::test]
async fn there_are_as_many_series_for_one_tenant_as_for_a_hundred_thousand() {
    let one = series(1).await;
    assert!(one > 50, "{one}");
    assert_eq!([series(1_000).await, series(100_000).await], [one, one]);
}
