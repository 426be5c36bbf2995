//! The agent beside a self-managed PostgreSQL: fences, promotes, follows, and stops it without proof.
//!
//! It owns the server's process. What runs follows from three things: the directory (a standby's runs as a standby,
//! open for reading), the fence on disk (in force: stopped, whatever else), and the proof in hand (without one a
//! primary runs for the agent alone). See `domicile_api::agent` for what it can be told.

mod agent;
pub mod config;
mod disk;
mod effects;
mod failure;
mod http;
mod keeper;
mod key;
mod os;
pub mod pg;
mod proof;
pub mod supervise;

use std::sync::Arc;
use std::time::Duration;

use domicile_store::Store;
use domicile_store_etcd::{EtcdConfig, EtcdStore};

pub use agent::Agent;
pub use config::{AgentConfig, ConfigError};
pub use failure::Failure;
pub use pg::furniture::{LOSS_SLOT, PUBLICATION};

/// Runs the agent of this configuration until it fails: what `domicile agent` does.
///
/// # Errors
/// When it can't start, or its listener fails.
pub async fn run(config: AgentConfig) -> Result<(), Failure> {
    let mut etcd: EtcdConfig =
        config.registry.parse().map_err(|e| Failure::machine(format!("`registry`: {e}")))?;
    // One member that hangs must leave time for the next before a proof runs out.
    etcd.call_timeout = Duration::from_millis(800);
    let store = EtcdStore::connect(etcd).await.map_err(|e| Failure::registry(e.to_string()))?;
    run_on(config, Arc::new(store)).await
}

/// Runs an agent on this registry until it is dropped or its listener fails. Dropping it ends PostgreSQL too, through
/// the supervisor.
///
/// # Errors
/// When it can't start: directories, another agent, the port.
pub async fn run_on(config: AgentConfig, store: Arc<dyn Store>) -> Result<(), Failure> {
    let listen = config.listen;
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .map_err(|e| Failure::machine(format!("{listen} can't be listened on: {e}")))?;
    let agent = Agent::new(config, store)?;
    keeper::watchdog(&agent);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(keeper::keep(Arc::clone(&agent)));
    tasks.spawn(proof::prove(Arc::clone(&agent)));
    tasks.spawn(proof::notice_world(Arc::clone(&agent)));
    tasks.spawn(keeper::follow_losses(Arc::clone(&agent)));
    tracing::info!(%listen, cell = %agent.config.cell, region = %agent.config.region, "the agent answers");
    let app = http::router(Arc::clone(&agent));
    tokio::select! {
        served = axum::serve(listener, app) => {
            served.map_err(|e| Failure::machine(format!("the API's listener failed: {e}")))
        }
        // None of them ends by itself: one that did has failed, and an agent without it is not one.
        ended = tasks.join_next() => {
            agent.kill().await;
            Err(Failure::machine(format!("a part of the agent ended: {ended:?}")))
        }
    }
}
