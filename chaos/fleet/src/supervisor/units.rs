//! The processes of the fleet: starting in the right order, and ending for certain.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use domicile_chaos_kit::process::Process;
use domicile_chaos_kit::{etcd, postgres, proc};
use rustix::process::Signal;

use super::links::Links;
use crate::control::{UnitAct, UnitOrder, UnitStatus};
use crate::fleet::commands::{self, Programs};
use crate::fleet::files::{self, Layout, SLOT};
use crate::fleet::plan::{Kind, Plan, Unit};

/// How long a unit may take until it accepts connections, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// All units.
#[derive(Debug)]
pub(crate) struct Units {
    plan: Plan,
    layout: Layout,
    programs: Programs,
    peers: BTreeMap<String, SocketAddr>,
    running: Mutex<BTreeMap<String, Arc<Process>>>,
}

impl Units {
    pub(crate) fn new(
        plan: Plan,
        layout: Layout,
        programs: Programs,
        peers: BTreeMap<String, SocketAddr>,
    ) -> Self {
        Self { plan, layout, programs, peers, running: Mutex::new(BTreeMap::new()) }
    }

    /// Makes and starts everything. The registry and one control plane (so that it leads) come up while the databases
    /// are made, which takes longest; then the rest side by side.
    pub(crate) async fn bring_up(&self, links: &Links) -> anyhow::Result<()> {
        let all: Vec<&Unit> = self.plan.units.iter().filter(|u| u.run_by.is_none()).collect();
        let first = self.plan.all(Kind::Control).next().context("the plan has a control plane")?;
        let (etcd, rest): (Vec<&Unit>, Vec<&Unit>) =
            all.into_iter().filter(|u| u.name != first.name).partition(|u| u.kind == Kind::Etcd);
        let registry = async {
            self.start_and_wait(&etcd, &[], links).await?;
            self.start_and_wait(&[first], &[], links).await
        };
        tokio::try_join!(self.prepare(links), registry)?;
        self.start_and_wait(&rest, &[], links).await
    }

    /// Makes the databases and the agents' configuration.
    async fn prepare(&self, links: &Links) -> anyhow::Result<()> {
        let registry = commands::registry(&self.plan);
        for agent in self.plan.all(Kind::Agent) {
            files::write_agent(&self.plan, &self.layout, agent, &registry)?;
            postgres::owned_dir(&self.layout.state_of(&agent.name))?;
            postgres::owned_dir(&self.layout.lost_of(&agent.name))?;
        }
        for database in self.plan.all(Kind::Database) {
            postgres::owned_dir(&self.layout.socket_of(&database.name))?;
        }
        for router in self.plan.units.iter().filter(|u| matches!(u.kind, Kind::Gate | Kind::Edge)) {
            std::fs::create_dir_all(self.layout.state_of(&router.name))?;
        }
        let spec = Arc::new(files::database_spec(&self.layout)?);
        let mut jobs = tokio::task::JoinSet::new();
        for cell in self.plan.fleet.cells.values() {
            let of = |kind: Kind, region: &str| {
                self.plan.of(kind, cell.id.as_str(), region).context("a cell has two of everything")
            };
            let (primary, standby) = (cell.primary.as_str(), cell.dr.as_str());
            let (primary, standby, follower) =
                (of(Kind::Database, primary)?, of(Kind::Database, standby)?, of(Kind::Agent, standby)?);
            let upstream = links.dial(&follower.name, primary.listen());
            let (primary, standby) = (self.layout.data_of(&primary.name), self.layout.data_of(&standby.name));
            let spec = Arc::clone(&spec);
            jobs.spawn_blocking(move || {
                postgres::prepare_primary(&primary, &spec)?;
                postgres::prepare_standby(&primary, &standby, upstream, SLOT, &spec)
            });
        }
        while let Some(job) = jobs.join_next().await {
            job??;
        }
        Ok(())
    }

    /// Starts what is not running of these, with `extra` arguments, and waits until each accepts connections.
    async fn start_and_wait(&self, units: &[&Unit], extra: &[String], links: &Links) -> anyhow::Result<()> {
        let mut started = Vec::new();
        for unit in units {
            if let Some(process) = self.start(unit, extra, links)? {
                started.push((*unit, process));
            }
        }
        for (unit, process) in started {
            let at = unit.listen();
            // One member alone may have to wait for the others; all of them must be healthy.
            if unit.kind == Kind::Etcd && units.len() > 1 {
                process.until(START, "the member is healthy", || etcd::is_healthy(at)).await?;
            } else {
                process.until_listening(START, at).await?;
            }
        }
        Ok(())
    }

    /// Starts a unit; none if it runs already.
    fn start(&self, unit: &Unit, extra: &[String], links: &Links) -> anyhow::Result<Option<Arc<Process>>> {
        let mut running = self.running();
        if running.get(&unit.name).is_some_and(|p| p.is_alive()) {
            return Ok(None);
        }
        let peer = |u: &Unit| self.peers.get(&u.name).copied().unwrap_or_else(|| u.listen());
        let spec = commands::spec(unit, &self.plan, &self.layout, &self.programs, peer)?.args(extra);
        let process = Arc::new(Process::start(spec)?);
        if unit.kind == Kind::Etcd {
            links.note_member(&unit.name, process.pid());
        }
        tracing::info!(unit = unit.name, pid = process.pid(), "started");
        running.insert(unit.name.clone(), Arc::clone(&process));
        Ok(Some(process))
    }

    /// Carries out an order on every unit that `word` names; gives how many.
    pub(crate) async fn order(&self, order: &UnitOrder, links: &Links) -> anyhow::Result<usize> {
        let word = order.unit.as_str();
        let units: Vec<&Unit> =
            self.plan.units.iter().filter(|u| u.name == word || u.kind.word() == word).collect();
        if units.is_empty() {
            bail!("no unit is called `{word}`: `domicile-chaos status` lists them");
        }
        match order.act {
            UnitAct::Start => {
                let own: Vec<&Unit> = units.iter().copied().filter(|u| u.run_by.is_none()).collect();
                if own.is_empty() {
                    bail!("`{word}` is started by its agent: start the agent");
                }
                self.start_and_wait(&own, &order.args, links).await?;
            }
            UnitAct::Kill => self.kill(&units),
            UnitAct::Pause => self.signal(&units, Signal::STOP),
            UnitAct::Resume => self.signal(&units, Signal::CONT),
            UnitAct::Terminate => self.terminate(&units).await?,
        }
        Ok(units.len())
    }

    /// Starts everything in a region that is not running.
    pub(crate) async fn start_region(&self, region: &str, links: &Links) -> anyhow::Result<usize> {
        let units: Vec<&Unit> = self.in_region(region)?.into_iter().filter(|u| u.run_by.is_none()).collect();
        // The registry first: the others ask it.
        let (etcd, rest): (Vec<&Unit>, Vec<&Unit>) = units.iter().partition(|u| u.kind == Kind::Etcd);
        self.start_and_wait(&etcd, &[], links).await?;
        self.start_and_wait(&rest, &[], links).await?;
        Ok(units.len())
    }

    /// SIGKILLs everything in a region, at once.
    pub(crate) fn kill_region(&self, region: &str) -> anyhow::Result<usize> {
        let units = self.in_region(region)?;
        self.kill(&units);
        Ok(units.len())
    }

    fn in_region(&self, region: &str) -> anyhow::Result<Vec<&Unit>> {
        let units: Vec<&Unit> = self.plan.units.iter().filter(|u| u.region == region).collect();
        if units.is_empty() {
            bail!("nothing of this fleet stands in `{region}`: `domicile-chaos status` lists the regions");
        }
        Ok(units)
    }

    /// SIGKILLs these and everything that they started, one signal after the other without a pause between.
    fn kill(&self, units: &[&Unit]) {
        let mut processes = Vec::new();
        for unit in units {
            if let Some(process) = self.running().remove(&unit.name) {
                processes.push(process);
            }
        }
        let roots: Vec<u32> = processes.iter().filter(|p| p.is_alive()).map(|p| p.pid()).collect();
        let mut all: Vec<u32> = roots.iter().flat_map(|pid| proc::descendants(*pid)).collect();
        all.extend(units.iter().flat_map(|u| self.database_pids(u)));
        all.extend(&roots);
        // What is paused is killed as well: SIGKILL needs no SIGCONT.
        proc::kill_trees(&all);
        drop(processes);
        // A supervisor of a database may have started it again between the listing and the signal.
        let again: Vec<u32> = units.iter().flat_map(|u| self.database_pids(u)).collect();
        proc::kill_trees(&again);
        let names: Vec<&str> = units.iter().map(|u| u.name.as_str()).collect();
        tracing::info!(units = names.join(" "), "killed");
    }

    /// Ends everything.
    pub(crate) fn kill_all(&self) {
        self.kill(&self.plan.units.iter().collect::<Vec<_>>());
    }

    fn signal(&self, units: &[&Unit], signal: Signal) {
        for unit in units {
            let root = self.running().get(&unit.name).filter(|p| p.is_alive()).map(|p| p.pid());
            let mut pids: Vec<u32> = root.into_iter().collect();
            if unit.kind == Kind::Database {
                pids.extend(self.database_pids(unit));
            }
            for pid in pids {
                if signal == Signal::STOP {
                    proc::stop(pid);
                } else {
                    proc::signal(pid, signal);
                }
            }
        }
    }

    /// SIGTERMs these and waits until they have ended.
    async fn terminate(&self, units: &[&Unit]) -> anyhow::Result<()> {
        for unit in units {
            let Some(process) = self.running().remove(&unit.name) else { continue };
            process.terminate();
            process.wait(START).await.map_err(|e| anyhow!("{} does not end in order: {e}", unit.name))?;
        }
        Ok(())
    }

    /// The processes of a PostgreSQL: the agents' too, whoever their parent is by now.
    fn database_pids(&self, unit: &Unit) -> Vec<u32> {
        let database = match unit.kind {
            Kind::Database | Kind::Agent => unit.database(),
            _ => None,
        };
        let pids = database.map(|name| postgres::processes(&self.layout.data_of(&name))).unwrap_or_default();
        pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect()
    }

    /// The processes that have a guard, ended ones included.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.running().values().map(|p| p.pid()).collect()
    }

    /// What runs.
    pub(crate) fn status(&self) -> Vec<UnitStatus> {
        let one = |unit: &Unit| {
            let own = self.running().get(&unit.name).filter(|p| p.is_alive()).map(|p| p.pid());
            let pid =
                own.or_else(|| unit.run_by.as_ref().and_then(|_| self.database_pids(unit).into_iter().min()));
            let state = match pid.and_then(proc::state) {
                None | Some('Z') => "stopped",
                Some('T' | 't') => "paused",
                Some(_) => "running",
            };
            UnitStatus { name: unit.name.clone(), pid, state: state.to_owned() }
        };
        self.plan.units.iter().map(one).collect()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Process>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
