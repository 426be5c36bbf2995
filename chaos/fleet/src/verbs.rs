//! What the command line does with a fleet.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use domicile_chaos_kit::{postgres, proc, wait};

use crate::control::Control;
use crate::fleet::commands::Programs;
use crate::fleet::{FleetFile, Kind};
use crate::supervisor::failure_file;

/// The longest that a fleet may take to come up.
const UP: Duration = Duration::from_secs(180);
/// The longest that it may take to end.
const DOWN: Duration = Duration::from_secs(60);

/// Where the fleet of this checkout keeps its files, by default.
#[must_use]
pub fn default_dir() -> PathBuf {
    // The program lies in target/<profile>; from anywhere else, target/ of the working directory.
    let exe = std::env::current_exe().unwrap_or_default();
    let target = exe.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "target"));
    target.map_or_else(|| PathBuf::from("target"), Path::to_owned).join("fleet")
}

/// Starts a fleet and waits until everything in it accepts connections. It stays when this program ends.
///
/// # Errors
/// When one is running already, something is missing, or a process does not come up: with the end of its log.
pub async fn up(dir: &Path, fence: Option<Duration>) -> anyhow::Result<FleetFile> {
    if let Ok(fleet) = FleetFile::read(dir) {
        if is_running(&fleet) {
            bail!(
                "a fleet is running already (supervisor {}): `domicile-chaos down` ends it",
                fleet.supervisor.pid
            );
        }
        std::fs::remove_file(FleetFile::path(dir))?;
    }
    let programs = Programs::beside_us()?;
    std::fs::create_dir_all(dir.join("logs"))?;
    let _ = std::fs::remove_file(failure_file(dir));
    let log = std::fs::File::create(dir.join("logs").join("supervisor.log"))?;
    let mut child = Command::new(&programs.chaos)
        .arg("--dir")
        .arg(dir)
        .arg("supervise")
        .args(fence.iter().flat_map(|fence| ["--fence-ms".to_owned(), fence.as_millis().to_string()]))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Out of reach of the terminal's Ctrl-C: it makes a session of its own as soon as it runs.
        .process_group(0)
        .spawn()
        .context("can't start the supervisor")?;
    let appeared = wait::eventually(UP, "the fleet is up", || {
        let ended = child.try_wait().ok().flatten();
        async move {
            match FleetFile::read(dir) {
                Ok(fleet) => Some(Ok(fleet)),
                Err(_) => ended.map(Err),
            }
        }
    });
    match appeared.await {
        Ok(Ok(fleet)) => Ok(fleet),
        Ok(Err(status)) => {
            let why =
                std::fs::read_to_string(failure_file(dir)).unwrap_or_else(|_| format!("it ended: {status}"));
            bail!("the fleet did not come up: {why}\n(logs: {})", dir.join("logs").display())
        }
        Err(late) => {
            proc::kill_trees(&[&[child.id()], proc::descendants(child.id()).as_slice()].concat());
            let _ = child.wait();
            bail!("{late} (logs: {})", dir.join("logs").display())
        }
    }
}

/// Whether the supervisor of this file is alive, and no other process under its number.
#[must_use]
pub fn is_running(fleet: &FleetFile) -> bool {
    proc::is_running(fleet.supervisor.pid)
        && proc::started(fleet.supervisor.pid) == Some(fleet.supervisor.started)
}

/// Ends the fleet, and whatever a killed supervisor left of it. Nothing else is touched.
///
/// # Errors
/// When something can't be ended.
pub async fn down(dir: &Path) -> anyhow::Result<bool> {
    if !FleetFile::path(dir).exists() {
        return Ok(false);
    }
    let fleet = FleetFile::read(dir)?;
    if is_running(&fleet) {
        let asked = Control::new(&fleet)?.down().await;
        let gone = || async { !is_running(&fleet) };
        if asked.is_err() || wait::eventually(DOWN, "the supervisor has ended", gone).await.is_err() {
            let below = proc::descendants(fleet.supervisor.pid);
            proc::kill_trees(&[&[fleet.supervisor.pid], below.as_slice()].concat());
        }
    }
    // A killed supervisor takes its children along, but not the PostgreSQL servers that an agent has started.
    let data = data_dirs(&fleet);
    let left: Vec<u32> =
        data.iter().flat_map(|d| postgres::processes(d)).filter_map(|pid| u32::try_from(pid).ok()).collect();
    proc::kill_trees(&left);
    for home in homes(&fleet) {
        let _ = std::fs::remove_dir_all(home);
    }
    let _ = std::fs::remove_file(FleetFile::path(dir));
    Ok(true)
}

fn homes(fleet: &FleetFile) -> Vec<PathBuf> {
    let ours = |p: &PathBuf| {
        p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("domicile-fleet-"))
    };
    [fleet.home.clone(), fleet.data.clone()].into_iter().filter(ours).collect()
}

fn data_dirs(fleet: &FleetFile) -> Vec<PathBuf> {
    fleet.units.iter().filter(|u| u.kind == Kind::Database).map(|u| fleet.data.join(&u.name)).collect()
}
