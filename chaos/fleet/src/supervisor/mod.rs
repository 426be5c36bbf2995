//! The one process that owns all others: it starts them, stands between them, and ends them.
//!
//! Detached from the terminal by `up`, told what to do through its control address, and the parent that every process
//! of the fleet falls back to, so that `down` finds them all.

mod links;
mod server;
mod units;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domicile_chaos_kit::{ports, proc};
use domicile_model::Tenant;
use tokio::signal::unix::{SignalKind, signal};

use crate::fleet::commands::{Programs, registry};
use crate::fleet::example;
use crate::fleet::file::{DatabaseAccess, FleetFile, Operator, Supervisor, TenantAccess, VERSION};
use crate::fleet::files::{self, APP_ROLE, DATABASE, Layout};
use crate::fleet::plan::{Kind, Plan, host_of};
use links::Links;
use units::Units;

/// Everything that the control address works on.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) plan: Plan,
    pub(crate) links: Links,
    pub(crate) units: Units,
    pub(crate) token: String,
    pub(crate) ended: tokio::sync::Notify,
}

/// Where a supervisor that could not start says why.
#[must_use]
pub fn failure_file(dir: &Path) -> PathBuf {
    dir.join("failed.txt")
}

/// Runs the fleet until it is told to end. `fence`: its FENCE, if not the product's own.
///
/// # Errors
/// When the fleet can't be started; what had been started is ended.
pub async fn run(dir: &Path, fence: Option<Duration>) -> anyhow::Result<()> {
    let layout = Layout::create(dir)?;
    let result = run_in(dir, &layout, fence).await;
    // Whoever we were parent to by then, PostgreSQL servers that lost their agents included.
    proc::kill_trees(&proc::descendants(std::process::id()));
    layout.remove();
    if let Err(error) = &result {
        std::fs::write(failure_file(dir), format!("{error:#}"))?;
    }
    // Last: as long as it is there, somebody may wait for us.
    let _ = std::fs::remove_file(FleetFile::path(dir));
    result
}

async fn run_in(dir: &Path, layout: &Layout, fence: Option<Duration>) -> anyhow::Result<()> {
    become_supervisor();
    let (mut terminated, mut interrupted) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let plan = Plan { fence, ..Plan::new(example::fleet()?, ports::free_address)? };
    let routers = plan.all(Kind::Edge).chain(plan.all(Kind::Gate)).map(|unit| unit.name.as_str());
    files::write_secrets(layout, &routers.collect::<Vec<_>>())?;
    std::fs::write(layout.regions_toml(), example::on_this_machine(&plan, layout)?)?;
    let links = Links::start(&plan, layout).await?;
    let programs = Programs::beside_us()?.copied_to(&layout.home.join("bin"))?;
    let units = Units::new(plan.clone(), layout.clone(), programs, links.etcd_peers());
    let token = layout.secret("control").read()?;
    let fleet = Arc::new(Fleet { plan, links, units, token, ended: tokio::sync::Notify::new() });
    let control = ports::free_address()?;
    let listener = tokio::net::TcpListener::bind(control).await.context("can't open the control address")?;
    let server = tokio::spawn(axum::serve(listener, server::routes(Arc::clone(&fleet))).into_future());
    let reaper = tokio::spawn(reap_orphans(Arc::clone(&fleet)));
    let body = async {
        fleet.units.bring_up(&fleet.links).await?;
        fleet_file(&fleet.plan, layout, control)?.write(dir)?;
        tracing::info!("the fleet is up");
        tokio::select! {
            () = fleet.ended.notified() => {}
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        anyhow::Ok(())
    };
    let result = body.await;
    fleet.units.kill_all();
    reaper.abort();
    server.abort();
    result
}

/// Waits for the orphans that the supervisor has adopted, as the first process of a machine does. What is a zombie at
/// two looks in a row has nobody else to wait for it; the units have their guards.
async fn reap_orphans(fleet: Arc<Fleet>) {
    let me = std::process::id();
    let mut before: Vec<u32> = Vec::new();
    loop {
        domicile_model::clock::pause(std::time::Duration::from_millis(250)).await;
        let units = fleet.units.pids();
        let now: Vec<u32> = proc::zombies_of(me).into_iter().filter(|pid| !units.contains(pid)).collect();
        for pid in now.iter().filter(|pid| before.contains(pid)) {
            proc::reap(*pid);
        }
        before = now;
    }
}

/// Leaves the terminal's session, adopts orphans, and allows itself enough sockets.
fn become_supervisor() {
    // Each is a help, none a need: a supervisor started by hand works without.
    let _ = rustix::process::setsid();
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}

fn fleet_file(plan: &Plan, layout: &Layout, control: std::net::SocketAddr) -> anyhow::Result<FleetFile> {
    let pid = std::process::id();
    let servers: Vec<String> = plan.all(Kind::Control).map(|u| u.listen().to_string()).collect();
    let database = |unit: &crate::fleet::Unit| DatabaseAccess {
        cell: unit.cell.clone().unwrap_or_default(),
        region: unit.region.clone(),
        address: unit.listen(),
        name: DATABASE.to_owned(),
        user: APP_ROLE.to_owned(),
        password: layout.secret("db-app"),
    };
    let tenant = |tenant: &Tenant| {
        let (id, cell) = (tenant.id.to_string(), tenant.cell.to_string());
        host_of(tenant).map(|host| TenantAccess { id, cell, host })
    };
    Ok(FleetFile {
        version: VERSION,
        supervisor: Supervisor {
            pid,
            started: proc::started(pid).context("can't read /proc")?,
            control: format!("http://{control}"),
            token: layout.secret("control"),
        },
        operator: Operator { servers: servers.join(","), token: layout.secret("operator") },
        registry: registry(plan),
        home: layout.home.clone(),
        data: layout.data.clone(),
        logs: layout.logs(),
        regions_toml: layout.regions_toml(),
        units: plan.units.clone(),
        databases: plan.all(Kind::Database).map(database).collect(),
        tenants: plan.fleet.tenants.values().filter_map(tenant).collect(),
    })
}
