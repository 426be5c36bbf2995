//! The clinic application and the oracle on a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall stop it")]

use std::path::Path;
use std::time::Duration;

use domicile_chaos::app::{self, Answer, NewEncounter, worker};
use domicile_chaos::fleet::file::DatabaseAccess;
use domicile_chaos::fleet::files::SCHEMA;
use domicile_chaos::load::{Kind, Outcome, Record};
use domicile_chaos::oracle;
use domicile_chaos_kit::process::{Process, Spec};
use domicile_chaos_kit::{ports, postgres, wait};
use domicile_model::SecretRef;
use domicile_model::clock::Clock;

const LONG: Duration = Duration::from_secs(30);

struct Clinic {
    _home: tempfile::TempDir,
    server: Option<postgres::Postgres>,
    access: DatabaseAccess,
    base: String,
    http: reqwest::Client,
}

async fn clinic() -> Clinic {
    let home = postgres::home().unwrap();
    let (data, address) = (home.path().join("data"), ports::free_address().unwrap());
    let spec = spec();
    postgres::prepare_primary(&data, &spec).unwrap();
    let server = postgres::Postgres::start(&data, address).unwrap();
    clinic_at(home, server, &spec).await
}

fn spec() -> postgres::Spec {
    postgres::Spec { schema: SCHEMA.into(), ..postgres::Spec::default() }
}

/// The application at this server.
async fn clinic_at(home: tempfile::TempDir, server: postgres::Postgres, spec: &postgres::Spec) -> Clinic {
    let address = server.address();
    let secret = home.path().join("password");
    std::fs::write(&secret, &spec.app_password).unwrap();
    let password = format!("file:{}", secret.display());
    let listen = ports::free_address().unwrap();
    let options = app::Options {
        listen,
        region: "us-east-1".into(),
        database: address,
        name: spec.database.clone(),
        user: "app".into(),
        password: password.clone(),
        worker: None,
    };
    tokio::spawn(app::run(options));
    let base = format!("http://{listen}");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let healthy = || async { http.get(format!("{base}/healthz")).send().await.is_ok() };
    wait::eventually(LONG, "the application listens", healthy).await.unwrap();
    let access = DatabaseAccess {
        cell: "c".into(),
        region: "us-east-1".into(),
        address,
        name: spec.database.clone(),
        user: "app".into(),
        password: SecretRef::new(&password).unwrap(),
    };
    Clinic { _home: home, server: Some(server), access, base, http }
}

impl Clinic {
    fn post(&self, key: &str, content: &str) -> reqwest::RequestBuilder {
        let new = NewEncounter { key: key.into(), patient: "p".into(), content: content.into() };
        self.http.post(format!("{}/encounters", self.base)).json(&new)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_name_who_gave_them_and_writes_are_in_the_database_before_they_are_answered() {
    let clinic = clinic().await;
    let answer =
        clinic.post("k1", "well").header("domicile-tenant", "t").header("domicile-epoch", "7").send().await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 201);
    let answer: Answer = answer.json().await.unwrap();
    let (system_id, timeline) = oracle::identity(&clinic.access).await.unwrap();
    assert_eq!((answer.system_id.as_str(), answer.timeline, answer.epoch), (system_id.as_str(), timeline, 7));
    let stored = oracle::stored(&clinic.access).await.unwrap();
    let record = |key: &str| Record {
        kind: Kind::Write,
        writer: Some(0),
        tenant: "t".into(),
        cell: "c".into(),
        key: key.into(),
        content: "well".into(),
        intended: 0,
        sent: 0,
        ended: 1,
        outcome: Outcome::Fine(answer.clone()),
    };
    let records = [record("k1"), record("never-written")];
    let lost = oracle::lost(&records, &stored);
    assert_eq!(lost.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["never-written"]);

    let again = clinic.post("k1", "other").header("domicile-tenant", "t").send().await.unwrap();
    assert_eq!(again.status(), 409, "a key is written once");
    let read = |tenant: &'static str| {
        clinic.http.get(format!("{}/encounters/k1", clinic.base)).header("domicile-tenant", tenant).send()
    };
    assert_eq!(read("t").await.unwrap().json::<Answer>().await.unwrap().content, "well");
    assert_eq!(read("another").await.unwrap().status(), 404, "tenants see only their own");
    assert_eq!(clinic.post("k2", "x").send().await.unwrap().status(), 400, "no gate, no tenant, no write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_is_said_and_a_returned_one_is_used() {
    let mut clinic = clinic().await;
    let write = |clinic: &Clinic, key: &str| clinic.post(key, "well").header("domicile-tenant", "t").send();
    assert_eq!(write(&clinic, "k1").await.unwrap().status(), 201);
    let server = clinic.server.take().unwrap();
    let (data, address) = (server.data_dir().to_owned(), server.address());
    server.stop().unwrap();
    assert_eq!(write(&clinic, "k2").await.unwrap().status(), 503);
    clinic.server = Some(postgres::Postgres::start(&data, address).unwrap());
    // The very first one: connections that died with the server cost a reconnect and no answer.
    assert_eq!(write(&clinic, "k3").await.unwrap().status(), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_were_warm_on_a_standby_write_after_its_promotion() {
    const SLOT: &str = "follower";
    let home = postgres::home().unwrap();
    let (primary, standby) = (home.path().join("primary"), home.path().join("standby"));
    let (at, upstream) = (ports::free_address().unwrap(), ports::free_address().unwrap());
    let spec = spec();
    postgres::prepare_primary(&primary, &spec).unwrap();
    postgres::prepare_standby(&primary, &standby, upstream, SLOT, &spec).unwrap();
    let primary = postgres::Postgres::start(&primary, upstream).unwrap();
    let slot = format!("SELECT pg_create_physical_replication_slot('{SLOT}')");
    primary.superuser("postgres", &slot).unwrap();
    let clinic = clinic_at(home, postgres::Postgres::start(&standby, at).unwrap(), &spec).await;
    let standby = clinic.server.as_ref().unwrap();
    let sessions = || {
        let sql = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' ORDER BY pid";
        standby.superuser("postgres", sql).unwrap()
    };
    let warm = || async { sessions().lines().count() >= app::WARM };
    wait::eventually(LONG, "the application is warm on the standby", warm).await.unwrap();
    let before = sessions();

    primary.stop().unwrap();
    assert_eq!(standby.superuser("postgres", "SELECT pg_promote()").unwrap(), "t");
    // All at once, as those come that a move has held.
    let writes =
        (0..app::WARM).map(|n| clinic.post(&format!("k{n}"), "well").header("domicile-tenant", "t").send());
    for answer in futures::future::join_all(writes).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 201);
        assert_eq!(answer.json::<Answer>().await.unwrap().timeline, 2, "the promoted one has written it");
    }
    assert_eq!(sessions(), before, "the sessions from before the promotion have written, and no other");
    assert_eq!(oracle::stored(&clinic.access).await.unwrap().len(), app::WARM);
}

/// A gate of this region that routes by a file, and whose file says where the cell is.
struct Gate {
    _process: Process,
    admin: std::net::SocketAddr,
    file: std::path::PathBuf,
    http: reqwest::Client,
}

impl Gate {
    async fn start(dir: &Path) -> Self {
        let (listen, admin) = (ports::free_address().unwrap(), ports::free_address().unwrap());
        let file = dir.join("regions.toml");
        std::fs::write(&file, regions("us-east-1", "us-west-2")).unwrap();
        let router = Path::new(env!("CARGO_BIN_EXE_domicile-chaos")).with_file_name("domicile-router");
        let spec = Spec::new("gate", router, dir)
            .args(["--role", "gate", "--id", "gate-a", "--region", "us-east-1"])
            .args(["--registry", &format!("file:{}", file.display())])
            .args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
        let process = Process::start(spec).unwrap();
        let gate = Self { _process: process, admin, file, http: reqwest::Client::new() };
        gate.says(true).await;
        gate
    }

    async fn says(&self, writer: bool) {
        let url = format!("http://{}/cells/mercy-health/writer", self.admin);
        let said = || async {
            let said: serde_json::Value = self.http.get(&url).send().await.ok()?.json().await.ok()?;
            (said["writer"] == writer).then_some(())
        };
        wait::eventually(LONG, "the gate says so", said).await.unwrap();
    }

    async fn moves(&self, primary: &str, dr: &str) {
        std::fs::write(&self.file, regions(primary, dr)).unwrap();
        self.says(primary == "us-east-1").await;
    }
}

fn regions(primary: &str, dr: &str) -> String {
    format!(
        "[regions]\n\
         us-east-1 = {{ country = \"US\", ingress = [\"127.0.0.1:1\"] }}\n\
         us-west-2 = {{ country = \"US\", ingress = [\"127.0.0.1:2\"] }}\n\
         [tenants.mercy-health]\nname = \"Mercy Health\"\nprimary = \"{primary}\"\ndr = \"{dr}\"\n\
         hosts = [\"mercy.example.com\"]\nresidency = [\"US\"]\n[cells.mercy-health.application]\n\
         us-east-1 = [\"127.0.0.1:3\"]\nus-west-2 = [\"127.0.0.1:4\"]\n"
    )
}

/// The worker stops when its region gives the cell up, and begins again under the new epoch. One that believes its first
/// answer for ever writes on: the oracle says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_writes_by_leave_of_its_gate_only_and_one_that_trusts_is_found_out() {
    let clinic = clinic().await;
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::start(dir.path()).await;
    let worker = |trusts: bool| {
        let journal = dir.path().join(format!("journal-{trusts}"));
        let options = app::Options {
            listen: ports::free_address().unwrap(),
            region: if trusts { "trusting" } else { "us-east-1" }.into(),
            database: clinic.access.address,
            name: clinic.access.name.clone(),
            user: clinic.access.user.clone(),
            password: clinic.access.password.to_string(),
            worker: Some(worker::Options {
                worker_gate: gate.admin,
                worker_cell: "mercy-health".into(),
                worker_tenant: "mercy-health".into(),
                worker_journal: journal.clone(),
                worker_trusts: trusts,
            }),
        };
        tokio::spawn(app::run(options));
        journal
    };
    let (asks, trusts) = (worker(false), worker(true));
    let done = |journal: &Path, epoch: u64| -> usize {
        let records = worker::journal(journal).unwrap();
        records.iter().filter_map(Record::answer).filter(|a| a.epoch == epoch).count()
    };
    let reaches = async |journal: &Path, epoch: u64, more: usize| {
        let there = || async { done(journal, epoch) >= more };
        wait::eventually(LONG, "the worker has written", there).await.unwrap();
    };
    reaches(&asks, 1, 2).await;
    reaches(&trusts, 1, 2).await;
    gate.moves("us-west-2", "us-east-1").await;
    let away = Clock::Machine.now().as_nanos();
    let before = done(&trusts, 1);
    reaches(&trusts, 1, before + 4).await;
    let back = Clock::Machine.now().as_nanos();
    gate.moves("us-east-1", "us-west-2").await;
    reaches(&asks, 3, 2).await;
    let before = done(&trusts, 1);
    reaches(&trusts, 1, before + 2).await;

    let asked = worker::journal(&asks).unwrap();
    assert!(!asked.iter().any(|r| r.sent > away && r.sent < back), "without leave: {asked:#?}");
    oracle::check_one_writer(&asked).unwrap();
    let stored = oracle::stored(&clinic.access).await.unwrap();
    assert!(oracle::lost(&asked, &stored).is_empty());
    let both = [asked, worker::journal(&trusts).unwrap()].concat();
    let found = oracle::check_one_writer(&both).unwrap_err();
    assert_eq!(found.invariant, "one-writer", "{found}");
}
