//! A new process in the place of a running one: under load, half-way, and while a cell moves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::process::{Process, Spec};
use domicile_chaos_kit::wait::eventually;
use domicile_model::Epoch;
use domicile_router::config::Sabotage;
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::drain::Load;
use crate::kit::{BIN, Fleet, HOST, Origin, Router, SOON, cell, client, region, until_status};

/// A fleet, and the arguments of a router in it that can be upgraded.
struct Site {
    fleet: Fleet,
    args: Vec<String>,
    socket: PathBuf,
}

impl Site {
    async fn new(role: &str, id: &str, region: &str) -> Self {
        let fleet = Fleet::new().await;
        let socket = fleet.dir.path().join("upgrade");
        let mut args = fleet.args(role, id, region);
        let given = |args: &Vec<String>, flag: &str| args.iter().any(|a| a == flag);
        for flag in ["--listen", "--admin"] {
            if !given(&args, flag) {
                args.extend([flag.into(), free_address().unwrap().to_string()]);
            }
        }
        args.extend(["--upgrade-socket".into(), socket.display().to_string()]);
        Self { fleet, args, socket }
    }

    async fn gate() -> Self {
        Self::new("gate", "gate-us-east-1", "us-east-1").await
    }

    async fn start(&self) -> Router {
        let router = Router::start("first", self.fleet.dir.path(), &self.args).await;
        until_status(&router, "/", 200).await;
        router
    }

    async fn upgrade(&self, name: &str, old: &Router) -> Router {
        upgrade(Sabotage::None, name, self.fleet.dir.path(), &self.args, old).await
    }

    /// A process that fails before it serves; what it said.
    async fn failing(&self, name: &str, more: &[&str]) -> String {
        let mut args = self.args.clone();
        args.push("--upgrade".into());
        args.extend(more.iter().map(ToString::to_string));
        let new = Router::launch(name, self.fleet.dir.path(), BIN, &args, None);
        assert_eq!(new.process.wait(SOON).await.unwrap().code(), Some(1), "{}", new.process.tail());
        new.process.tail()
    }

    /// One that begins a conversation and does not go through with it.
    async fn newcomer(&self, name: &str, how: &str, until: &str) -> Process {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/newcomer.py");
        let socket = self.socket.display().to_string();
        let run = Spec::new(name, "/usr/bin/python3", self.fleet.dir.path());
        let args = [script, &socket, "gate", "gate-us-east-1", "us-east-1", how];
        let process = Process::start(run.args(args)).unwrap();
        process.until(SOON, until, || async { process.tail().contains(until) }).await.unwrap();
        process
    }

    fn peer(&self) -> String {
        let at = self.args.iter().position(|a| a == "--peer").unwrap();
        self.args[at + 1].clone()
    }

    /// Whether the witness says that us-east-1 holds the cell under the first epoch.
    async fn vouches(&self) -> bool {
        let asks = json!([{"cell": cell(), "epoch": Epoch::FIRST}]);
        let ask = json!({"world": self.fleet.world.id, "region": region("us-east-1"), "asks": asks});
        let url = format!("http://{}/v1/witness", self.peer());
        let answer = client().post(url).bearer_auth("s3cret").json(&ask).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["answers"][0]["yes"] == true
    }

    async fn until_vouches(&self) {
        eventually(SOON, "it vouches", || self.vouches()).await.unwrap();
    }

    /// A move of the cell that turns back: heard of, and acknowledged.
    async fn holds_and_serves(&self) {
        let revision = self.fleet.hold(30_000).await;
        self.fleet.acknowledged(&["gate-us-east-1"], revision).await;
        let revision = self.fleet.serve("us-east-1").await;
        self.fleet.acknowledged(&["gate-us-east-1"], revision).await;
    }
}

/// Starts the next process, and waits until it alone accepts connections.
async fn upgrade(sabotage: Sabotage, name: &str, dir: &Path, args: &[String], old: &Router) -> Router {
    let before = boot(old).await;
    let mut args = args.to_vec();
    args.push("--upgrade".into());
    let new = Router::start_as(sabotage, name, dir, &args).await;
    old.process
        .until(SOON, "the old process has left", || async {
            old.process.tail().contains("another process serves")
        })
        .await
        .or_else(|e| if old.process.exit().is_some_and(|s| s.success()) { Ok(()) } else { Err(e) })
        .unwrap_or_else(|e| panic!("{e}\n{}", new.process.tail()));
    assert_ne!(boot(&new).await, before, "another process answers");
    new
}

async fn boot(router: &Router) -> Value {
    let (_, table) = router.admin("/table").await;
    serde_json::from_str::<Value>(&table).unwrap()["boot"].clone()
}

/// Upgrades in a row, under load.
async fn upgraded_under_load(site: Site, http2: bool) {
    let old = site.start().await;
    let hits = site.fleet.east.hits();
    let load = Load::new(old.listen, old.listen);
    let mut tasks: Vec<_> = (0..16).map(|_| tokio::spawn(load.clone().client(http2))).collect();
    let watched = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (admin, seen, stop) = (old.admin, watched.clone(), load.clone());
    tasks.push(tokio::spawn(async move {
        while !stop.stop.load(Ordering::SeqCst) {
            let url = format!("http://{admin}/readyz");
            let status = client().get(url).send().await.map(|a| a.status().as_u16());
            if !matches!(status, Ok(200)) {
                seen.lock().unwrap().push(format!("{status:?}"));
            }
            domicile_model::clock::pause(std::time::Duration::from_millis(20)).await;
        }
    }));
    let done = || load.answered.load(Ordering::SeqCst);
    eventually(SOON, "it runs", || async { done() > 500 }).await.unwrap();
    let before = done();
    let (mut running, mut upgrades) = (old, 0);
    // One takes so little time that few requests fall into it.
    while upgrades < 2 || done() < before + 1_000 {
        upgrades += 1;
        let new = site.upgrade(&format!("next-{upgrades}"), &running).await;
        let code = running.process.wait(SOON).await.unwrap().code();
        assert_eq!(code, Some(0), "{}", running.process.tail());
        eventually(SOON, "the new process knows that the old one has ended", || async {
            new.process.tail().contains("the process before this one has ended")
        })
        .await
        .unwrap();
        running = new;
    }
    let during = done() - before;
    eventually(SOON, "the last one serves", || async { done() > before + during + 500 }).await.unwrap();
    load.stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    println!("{during} requests during {upgrades} upgrades, {} in all", done());
    assert_eq!(load.failed.lock().unwrap().clone(), Vec::<String>::new(), "of {} requests", done());
    assert_eq!(site.fleet.east.hits() - hits, done(), "the application has seen each of them once");
    assert_eq!(watched.lock().unwrap().clone(), Vec::<String>::new(), "it was always ready");
    assert!(during >= 1_000, "{during} requests are too few to say anything");
    assert!(site.socket.exists(), "the next upgrade finds it");
    running.process.terminate();
    assert_eq!(running.process.wait(SOON).await.unwrap().code(), Some(0), "{}", running.process.tail());
    assert!(!site.socket.exists(), "a clean end leaves nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_is_upgraded_and_clients_of_http_1_lose_nothing() {
    let site = Site::new("edge", "edge", "eu-west-1").await;
    let _gate = site.fleet.gate("us-east-1").await;
    upgraded_under_load(site, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_is_upgraded_and_clients_of_http_2_lose_nothing() {
    let site = Site::new("edge", "edge", "eu-west-1").await;
    let _gate = site.fleet.gate("us-east-1").await;
    upgraded_under_load(site, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_is_upgraded_and_clients_of_http_1_lose_nothing() {
    upgraded_under_load(Site::gate().await, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_is_upgraded_and_clients_of_http_2_lose_nothing() {
    upgraded_under_load(Site::gate().await, true).await;
}

#[tokio::test]
async fn wrk_sees_nothing_of_an_upgrade() {
    let site = Site::gate().await;
    let old = site.start().await;
    wrk(&site, &old, &old.url("/")).await;
}

/// In TLS, with certificates that the new process reads for itself.
#[tokio::test]
async fn wrk_sees_nothing_of_an_upgrade_in_tls() {
    let mut site = Site::new("edge", "edge", "eu-west-1").await;
    let _gate = site.fleet.gate("us-east-1").await;
    let certs = site.fleet.dir.path().join("certs");
    Authority::new(site.fleet.dir.path(), "ca").issue(&certs, "mercy", &[HOST], 2040);
    let at = free_address().unwrap().to_string();
    let certs = certs.display().to_string();
    let tls = ["--listen-tls", &at, "--tls-certs", &certs, "--tls-default-name", HOST];
    site.args.extend(tls.map(Into::into));
    let old = site.start().await;
    wrk(&site, &old, &format!("https://{at}/")).await;
}

/// A client that others wrote, which counts every connection that breaks, while the router is upgraded.
async fn wrk(site: &Site, old: &Router, url: &str) {
    let host = format!("Host: {HOST}");
    let mut wrk = tokio::process::Command::new("wrk");
    wrk.args(["-t1", "-c16", "-d8s", "-H", &host, url]);
    let wrk = wrk.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let hits = site.fleet.east.hits();
    eventually(SOON, "it runs", || async { site.fleet.east.hits() > hits + 500 }).await.unwrap();
    let _new = site.upgrade("second", old).await;
    assert_eq!(old.process.wait(SOON).await.unwrap().code(), Some(0), "{}", old.process.tail());
    let said = String::from_utf8(wrk.wait_with_output().await.unwrap().stdout).unwrap();
    println!("{said}");
    let line = said.lines().find(|l| l.contains(" requests in ")).unwrap();
    let requests: usize = line.split_whitespace().next().unwrap().parse().unwrap();
    assert!(requests >= 1_000 && !said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
}

/// What it knows stands on disk: a router that needed the registry for this could not be mended while that is away.
#[tokio::test]
async fn an_edge_is_upgraded_without_a_registry() {
    let mut site = Site::new("edge", "edge", "eu-west-1").await;
    let old = {
        let _gate = site.fleet.gate("us-east-1").await;
        site.start().await
    };
    let revision = site.fleet.placement().await.1;
    site.fleet.acknowledged(&["edge"], revision).await;
    site.fleet.etcd.kill(0);
    let new = site.upgrade("second", &old).await;
    assert_eq!(old.process.wait(SOON).await.unwrap().code(), Some(0), "{}", old.process.tail());
    // The gate is gone as well: that it is looked for there is what the table on disk says.
    assert_eq!(new.get(HOST, "/").await.unwrap().status(), 503);
    assert!(new.admin(&format!("/routes?host={HOST}")).await.1.contains("us-east-1"));
}

#[tokio::test]
async fn a_new_process_that_fails_leaves_the_old_one_as_it_was() {
    let mut site = Site::gate().await;
    let old = site.start().await;
    site.until_vouches().await;
    let first = boot(&old).await;

    // Before anything was let go of.
    let nowhere = site.fleet.dir.path().join("no-such-folder").display().to_string();
    let tls = free_address().unwrap().to_string();
    let said = site.failing("bad", &["--listen-tls", &tls, "--tls-certs", &nowhere]).await;
    assert!(said.contains("no-such-folder"), "{said}");
    assert!(site.vouches().await);

    // With all sockets in its hands: another address than it is told.
    let same = site.args.clone();
    let at = same.iter().position(|a| a == "--peer").unwrap();
    site.args[at + 1] = free_address().unwrap().to_string();
    let said = site.failing("elsewhere", &[]).await;
    assert!(said.contains("another address needs a restart"), "{said}");
    site.args = same;
    site.until_vouches().await;
    site.holds_and_serves().await;

    // Killed when everything was in its hands.
    let newcomer = site.newcomer("killed", "takes", "handed").await;
    assert!(!site.vouches().await, "the memory is another process's");
    newcomer.kill();
    site.until_vouches().await;
    site.holds_and_serves().await;

    // It says that it can't, and lives on: it is ended, or the journal could have two writers.
    let newcomer = site.newcomer("failing", "fails", "handed").await;
    newcomer.wait(SOON).await.unwrap();
    site.until_vouches().await;
    assert_eq!(boot(&old).await, first, "{}", old.process.tail());

    let new = site.upgrade("second", &old).await;
    assert_eq!(old.process.wait(SOON).await.unwrap().code(), Some(0), "{}", old.process.tail());
    site.until_vouches().await;
    site.holds_and_serves().await;
    until_status(&new, "/", 200).await;
}

/// It has everything in its hands and says nothing more: after half a minute it is ended.
#[tokio::test]
async fn a_new_process_that_hangs_is_ended_and_the_old_one_goes_on() {
    let site = Site::gate().await;
    let old = site.start().await;
    site.until_vouches().await;
    let newcomer = site.newcomer("hangs", "takes", "handed").await;
    newcomer.wait(Duration::from_secs(60)).await.unwrap();
    site.until_vouches().await;
    site.holds_and_serves().await;
    assert!(old.process.is_alive());
}

/// What the new process refused as a witness stays refused when the old one goes on.
#[tokio::test]
async fn what_is_taken_back_is_read_from_disk() {
    let site = Site::gate().await;
    let old = site.start().await;
    site.until_vouches().await;
    let newcomer = site.newcomer("killed", "takes", "handed").await;
    // As if it had heard of a newer placement.
    let (mut placement, _) = site.fleet.placement().await;
    placement.epoch = Epoch(7);
    placement.holder = Some(region("us-west-2"));
    let journal = site.fleet.dir.path().join("gate-us-east-1/witness.jsonl");
    let line = format!("{}\n", json!({ "placement": placement }));
    let mut text = std::fs::read_to_string(&journal).unwrap();
    text.push_str(&line);
    std::fs::write(&journal, text).unwrap();
    newcomer.kill();
    let known = || async {
        let url = format!("http://{}/v1/placements", site.peer());
        let answer = client().get(url).bearer_auth("s3cret").send().await.unwrap();
        answer.json::<Value>().await.unwrap()["placements"][0]["epoch"] == 7
    };
    eventually(SOON, "it knows what stands in the journal", known).await.unwrap();
    assert!(!site.vouches().await, "{}", old.process.tail());
}

/// A request stands in the old process while its cell is put on hold. What the new one acknowledges of it then.
async fn acknowledged_busy(sabotage: Sabotage) -> usize {
    let site = Site::gate().await;
    let old = site.start().await;
    let request = tokio::spawn(client().get(old.url("/gated")).header("host", HOST).send());
    eventually(SOON, "it is in flight", || async {
        old.admin("/inflight").await.1.contains("\"in_flight\":1")
    })
    .await
    .unwrap();
    let new = upgrade(sabotage, "second", site.fleet.dir.path(), &site.args, &old).await;
    let boot = boot(&new).await;
    let revision = site.fleet.hold(15_000).await;
    let state = eventually(SOON, "the new process has acknowledged the hold", || async {
        let state = site.fleet.router_state("gate-us-east-1").await?;
        (state.applied >= revision && json!(state.boot) == boot).then_some(state)
    })
    .await
    .unwrap_or_else(|e| panic!("{e}\n{}\n{}", old.process.tail(), new.process.tail()));
    assert!(old.process.is_alive(), "{}", old.process.tail());
    let (_, own) = new.admin("/inflight").await;
    assert!(own.contains("\"cells\":[]"), "it has none of its own: {own}");
    site.fleet.east.let_go();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    site.fleet.acknowledged(&["gate-us-east-1"], revision).await;
    assert_eq!(old.process.wait(SOON).await.unwrap().code(), Some(0), "{}", old.process.tail());
    state.busy.len()
}

#[tokio::test]
async fn a_request_in_the_old_process_keeps_a_move_waiting() {
    assert_eq!(acknowledged_busy(Sabotage::None).await, 1);
}

#[tokio::test]
async fn without_that_rule_a_move_would_not_wait_for_the_old_process() {
    assert_eq!(acknowledged_busy(Sabotage::ForgetsTheOneBefore).await, 0, "the test above could not fail");
}

#[tokio::test]
async fn a_second_upgrade_at_once_is_refused_and_so_is_one_of_nobody() {
    let site = Site::gate().await;
    let said = site.failing("nobody", &[]).await;
    assert!(said.contains("no running router answers at"), "{said}");
    let old = site.start().await;
    let newcomer = site.newcomer("slow", "greets", "welcome").await;
    let said = site.failing("late", &[]).await;
    assert!(said.contains("another upgrade is under way"), "{said}");
    drop(newcomer);
    eventually(SOON, "the slow one is given up", || async {
        old.process.tail().contains("an upgrade came to nothing")
    })
    .await
    .unwrap();
    // While the process before still answers, there is no next one.
    let request = tokio::spawn(client().get(old.url("/gated")).header("host", HOST).send());
    eventually(SOON, "it is in flight", || async {
        old.admin("/inflight").await.1.contains("\"in_flight\":1")
    })
    .await
    .unwrap();
    let _new = site.upgrade("second", &old).await;
    let said = site.failing("early", &[]).await;
    assert!(said.contains("still answers requests"), "{said}");
    site.fleet.east.let_go();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
}

/// Without etcd there is nothing that only one of the two may have.
#[tokio::test]
async fn a_router_with_a_file_is_upgraded_too() {
    let (dir, origin) = (tempfile::tempdir().unwrap(), Origin::start("here").await);
    let path = |name: &str| dir.path().join(name).display().to_string();
    let regions = format!(
        "[regions]\na = {{country = \"US\", ingress = [\"{}\"]}}\nb = {{country = \"US\", ingress = [\"{}\"]}}\n\
         [tenants.mercy]\nprimary = \"a\"\ndr = \"b\"\nhosts = [\"{HOST}\"]\n",
        origin.addr, origin.addr
    );
    std::fs::write(path("regions.toml"), regions).unwrap();
    let (listen, admin) = (free_address().unwrap().to_string(), free_address().unwrap().to_string());
    let args = [
        "--registry",
        &format!("file:{}", path("regions.toml")),
        "--listen",
        &listen,
        "--admin",
        &admin,
        "--upgrade-socket",
        &path("upgrade"),
    ]
    .map(ToOwned::to_owned);
    let old = Router::start("first", dir.path(), &args).await;
    until_status(&old, "/", 200).await;
    let new = upgrade(Sabotage::None, "second", dir.path(), &args, &old).await;
    assert_eq!(new.get(HOST, "/").await.unwrap().status(), 200);
    assert_eq!(old.process.wait(SOON).await.unwrap().code(), Some(0), "{}", old.process.tail());
    assert_eq!(new.get(HOST, "/").await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_address_that_is_taken_ends_the_start() {
    let site = Site::gate().await;
    let taken = std::net::TcpListener::bind(site.fleet.gates["us-east-1"]).unwrap();
    let router = Router::launch("bound", site.fleet.dir.path(), BIN, &site.args, None);
    assert_eq!(router.process.wait(SOON).await.unwrap().code(), Some(1));
    let said = router.process.tail();
    assert!(said.contains("--listen: can't listen on"), "{said}");
    drop(taken);
}
