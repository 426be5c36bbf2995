//! The clinic application and the oracle on a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall stop it")]

use std::time::Duration;

use domicile_chaos::app::{self, Answer, NewEncounter};
use domicile_chaos::fleet::file::DatabaseAccess;
use domicile_chaos::fleet::files::SCHEMA;
use domicile_chaos::load::{Kind, Outcome, Record};
use domicile_chaos::oracle;
use domicile_chaos_kit::{ports, postgres, wait};
use domicile_model::SecretRef;

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
    let spec = postgres::Spec { schema: SCHEMA.into(), ..postgres::Spec::default() };
    postgres::prepare_primary(&data, &spec).unwrap();
    let server = postgres::Postgres::start(&data, address).unwrap();
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
        name: spec.database,
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
