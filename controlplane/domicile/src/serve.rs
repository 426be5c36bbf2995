//! `domicile serve`: a control plane on etcd and PostgreSQL.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domicile_cli::args::ServeArgs;
use domicile_cli::exit::Exit;
use domicile_cli::fail::Failure;
use domicile_engine::FailpointSet;
use domicile_model::SecretRef;
use domicile_model::clock::Clock;
use domicile_model::links::AddressMap;
use domicile_provider_postgres::{PostgresConfig, PostgresDatabases};
use domicile_server::serve::{constants, options};
use domicile_server::{CancellationToken, Config, Limits, Operators, ServeError, Server, chain};
use domicile_server::{archive, facts, room};
use domicile_store_etcd::{EtcdConfig, EtcdStore};

use crate::logs;

fn usage(what: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, what)
}

/// What the arguments say, read and checked; nothing is bound or connected yet.
struct Plan {
    config: Config,
    registry: EtcdConfig,
    secret: SecretRef,
}

fn plan(args: &ServeArgs) -> Result<Plan, Failure> {
    let mut registry: EtcdConfig = args.registry.parse().map_err(|e| usage(format!("--registry: {e}")))?;
    let secret = SecretRef::new(&args.agent_secret).map_err(|e| usage(format!("--agent-secret: {e}")))?;
    // Now, so that a wrong path is seen at the start and not in the middle of a disaster.
    secret.read().map_err(|e| {
        usage(format!("--agent-secret: {}", chain(&e)))
            .hint("write the secret that the agents' configuration names there, readable by this process")
    })?;
    let operators = Operators::load(&args.tokens).map_err(|e| {
        usage(format!("--tokens: {}", chain(&e)))
            .hint("it needs a line `name sha256-of-token` for each operator: printf 'ann %s\\n' \"$(printf %s \"$TOKEN\" | sha256sum | cut -d' ' -f1)\"")
    })?;
    let links = args.links.as_deref().map(links).transpose()?.unwrap_or_default();
    // The registry too may have another address from here.
    for endpoint in &mut registry.endpoints {
        if let Ok(address) = endpoint.parse() {
            *endpoint = links.dial(address).to_string();
        }
    }
    let constants = constants(args.fence);
    let mut options = options(&args.name, args.lease, args.hold, &constants);
    options.min_interval = args.min_interval;
    options.reserve = args.registry_reserve_bytes;
    registry.quota = args.registry_quota_bytes;
    if args.registry_reserve_bytes.is_some_and(|reserve| reserve >= registry.quota) {
        return Err(usage(
            "--registry-reserve-bytes must be less than --registry-quota-bytes: no change would ever be taken",
        ));
    }
    if !args.failpoint.is_empty() {
        let set = FailpointSet::parse(&args.failpoint).map_err(|e| usage(format!("--failpoint: {e}")))?;
        options.failpoints = Arc::new(set);
    }
    let config = Config {
        name: args.name.clone(),
        region: args.region.clone(),
        listen: args.listen,
        advertise: args.advertise,
        operators,
        tokens: Some(args.tokens.clone()),
        limits: Limits::default(),
        constants,
        lease: args.lease,
        links,
        options,
        archive: args.archive_dir.as_ref().map(|dir| archive::Settings {
            dir: dir.clone(),
            keep: archive::Keep { newest: args.archive_keep, age: args.archive_age },
            copies: args.archive_copies.map(usize::from),
            every: Duration::from_secs(60),
            patience: Duration::from_secs(10),
            sabotage: archive::Sabotage::None,
        }),
        facts: args
            .history_dir
            .as_ref()
            .map(|dir| facts::Settings { dir: dir.clone(), age: args.history_age }),
        room: room::Settings { history: (!args.registry_history.is_zero()).then_some(args.registry_history) },
    };
    Ok(Plan { config, registry, secret })
}

fn links(path: &Path) -> Result<AddressMap, Failure> {
    let name = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|e| usage(format!("--links: {name} can't be read: {e}")))?;
    AddressMap::from_json(&text).map_err(|e| {
        usage(format!("--links: {name}: {e}"))
            .hint("write a JSON object from addresses to addresses: {\"10.0.1.10:8443\": \"127.0.0.1:4711\"}")
    })
}

/// Runs it until told to stop.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    logs::start();
    let plan = plan(args)?;
    runtime()?.block_on(async {
        let store = EtcdStore::connect(plan.registry)
            .await
            .map_err(|e| usage(format!("--registry: {e}")).hint("write etcd://host:port,host:port/prefix"))?;
        let mut postgres = PostgresConfig::new(&plan.config.name, plan.secret);
        postgres.links = plan.config.links.clone();
        let databases = PostgresDatabases::new(postgres, Clock::Machine)
            .map_err(|e| Failure::new(Exit::Internal, format!("no client for databases: {e}")))?;
        let server = Server::bind(plan.config, Arc::new(store), Arc::new(databases), Clock::Machine)
            .await
            .map_err(|e| failed(&e))?;
        let cancel = CancellationToken::new();
        let told = cancel.clone();
        tokio::spawn(async move {
            if told_to_stop().await.is_ok() {
                tracing::info!("told to stop: resigning");
            }
            told.cancel();
        });
        server.run(cancel).await;
        Ok(())
    })
}

fn failed(error: &ServeError) -> Failure {
    let exit = match error {
        ServeError::Constants(_) | ServeError::Lease(_) => Exit::Usage,
        ServeError::Listen { .. } | ServeError::Archive(_) | ServeError::History(_) => Exit::Io,
        ServeError::Start(_) => Exit::Internal,
    };
    let hint = match error {
        ServeError::Constants(_) => "the usual value is 10s",
        ServeError::Lease(_) => "the usual value is 3s: how long a dead leader is waited for",
        ServeError::Listen { .. } => "choose another --listen, or stop what is there (`ss -ltnp` names it)",
        ServeError::Archive(_) => {
            "name a directory that only this process writes to, and keep its key: see the error"
        }
        ServeError::History(_) => "name a directory that only this process writes to: see the error",
        ServeError::Start(_) => "this is a bug: report it with this sentence",
    };
    Failure::new(exit, chain(error)).hint(hint)
}

/// The runtime of long-running commands.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Io, format!("no runtime: {e}")))
}

/// Until SIGTERM or SIGINT.
pub(crate) async fn told_to_stop() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let refused = |e: std::io::Error| Failure::new(Exit::Io, format!("signals can't be heard: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
