//! The operator: the very command line that a user would type, and nothing behind its back.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use domicile_api::agent::LossReport;
use domicile_api::moves::{MovePlan, MoveStatus, MoveView};
use domicile_api::views::Status;
use domicile_chaos_kit::wait;
use serde::de::DeserializeOwned;

use crate::fleet::FleetFile;
use crate::fleet::commands::Programs;

/// A command that takes longer has hung.
const COMMAND: Duration = Duration::from_secs(60);
/// How often a start that checks have blocked is tried.
const TRIES: usize = 30;
/// `EX_TEMPFAIL` of the documented exit codes: nobody leads yet, or the registry does not answer yet.
const TEMPORARY: i32 = 75;
/// No control plane could be reached.
const UNAVAILABLE: i32 = 69;

/// Runs `domicile`.
#[derive(Debug, Clone)]
pub struct Operator {
    program: PathBuf,
    servers: String,
    token: String,
}

/// What a command printed.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Operator {
    pub(super) fn new(fleet: &FleetFile) -> anyhow::Result<Self> {
        Ok(Self::with(Programs::beside_us()?.domicile, fleet))
    }

    /// With this `domicile`: tests do not lie beside it.
    #[must_use]
    pub fn with(program: PathBuf, fleet: &FleetFile) -> Self {
        let (servers, token) = (fleet.operator.servers.clone(), fleet.operator.token.to_string());
        Self { program, servers, token }
    }

    async fn run(&self, args: &[&str]) -> anyhow::Result<Said> {
        let child = tokio::process::Command::new(&self.program)
            .args(["--server", &self.servers, "--token", &self.token])
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(COMMAND, child)
            .await
            .map_err(|_| anyhow!("`domicile {}` has not ended after {COMMAND:?}", args.join(" ")))?
            .context("can't run domicile")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Ok(Said { code, out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// Runs a command as often as it says "not yet", and gives its JSON.
    async fn ask<T: DeserializeOwned>(&self, args: &[&str]) -> anyhow::Result<T> {
        let last = std::sync::Mutex::new(String::new());
        let asked = wait::eventually(COMMAND, "the control plane answers", || async {
            match self.run(args).await {
                Ok(said) if matches!(said.code, TEMPORARY | UNAVAILABLE) => {
                    *last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = said.err;
                    // A command that is started again at once is load of its own.
                    domicile_model::clock::pause(Duration::from_millis(200)).await;
                    None
                }
                other => Some(other),
            }
        });
        let said = match asked.await {
            Ok(said) => said?,
            Err(late) => {
                let last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                bail!("`domicile {}`: {late}; last it said: {}", args.join(" "), last.trim())
            }
        };
        if said.code != 0 {
            bail!("`domicile {}` ended with {}: {}", args.join(" "), said.code, said.err.trim());
        }
        serde_json::from_str(&said.out)
            .with_context(|| format!("`domicile {}` printed no such JSON: {}", args.join(" "), said.out))
    }

    /// Prints what a command prints for people.
    pub(super) async fn show(&self, args: &[&str]) -> anyhow::Result<()> {
        let said = self.run(args).await?;
        if said.code != 0 {
            bail!("`domicile {}` ended with {}: {}", args.join(" "), said.code, said.err);
        }
        println!("$ domicile {}\n{}", args.join(" "), said.out);
        Ok(())
    }

    pub(super) async fn apply(&self, fleet: &FleetFile) -> anyhow::Result<()> {
        let file = fleet.regions_toml.display().to_string();
        let report: domicile_api::views::ApplyReport = self.ask(&["--json", "apply", &file]).await?;
        eprintln!(
            "$ domicile apply {file}\n  {} changes, revision {}",
            report.changes.len(),
            report.revision
        );
        if report.applied { Ok(()) } else { bail!("apply changed nothing: {report:?}") }
    }

    /// What the control plane sees.
    ///
    /// # Errors
    /// When none answers within a minute.
    pub async fn status(&self) -> anyhow::Result<Status> {
        self.ask(&["--json", "status"]).await
    }

    /// The plan of a move; `extra` as on the command line.
    ///
    /// # Errors
    /// When there is no plan: nobody leads, or there is no such cell.
    pub async fn plan(&self, cell: &str, to: &str, extra: &[&str]) -> anyhow::Result<MovePlan> {
        // A plan that names what stands against it ends with 1, and a forced one always lacks the consent.
        let said = self.run(&[&["--json", "failover", "plan", cell, "--to", to], extra].concat()).await?;
        serde_json::from_str(&said.out).with_context(|| format!("no plan: {}", said.err.trim()))
    }

    /// Starts a move; `extra` as on the command line. A check that blocks (a sample that came late on a busy machine)
    /// is no failure: nothing was done, and an operator would look and try again.
    ///
    /// # Errors
    /// When it can't be started for any other reason, or is still blocked after half a minute.
    pub async fn start(&self, cell: &str, to: &str, extra: &[&str]) -> anyhow::Result<MoveView> {
        let mut last = None;
        for _ in 0..TRIES {
            let key = uuid::Uuid::new_v4().to_string();
            let args = ["--json", "failover", "start", cell, "--to", to, "--yes", "--idempotency-key", &key];
            match self.ask(&[&args, extra].concat()).await {
                Ok(view) => return Ok(view),
                Err(error) if error.to_string().contains("is blocked") => last = Some(error),
                Err(error) => return Err(error),
            }
            domicile_model::clock::pause(Duration::from_secs(1)).await;
        }
        Err(last.unwrap_or_else(|| anyhow!("{cell} was never asked to move")))
    }

    /// What a forced move lost.
    ///
    /// # Errors
    /// When it is not known yet.
    pub async fn losses(&self, id: &str) -> anyhow::Result<LossReport> {
        self.ask(&["--json", "failover", "losses", id]).await
    }

    /// A move, as it stands.
    ///
    /// # Errors
    /// When no control plane answers within a minute.
    pub async fn show_move(&self, id: &str) -> anyhow::Result<MoveView> {
        self.ask(&["--json", "failover", "show", id]).await
    }

    /// Follows a move until `there`, and fails when it ends otherwise.
    pub(super) async fn follow(
        &self,
        id: &str,
        within: Duration,
        what: &str,
        there: impl Fn(&MoveView) -> bool,
    ) -> anyhow::Result<MoveView> {
        let found = wait::eventually(within, what, || async {
            match self.show_move(id).await {
                Ok(view) if there(&view) => Some(Ok(view)),
                Ok(view)
                    if matches!(view.status, MoveStatus::Stuck { .. } | MoveStatus::RolledBack { .. }) =>
                {
                    Some(Err(anyhow!("move {id} is at `{}`: {:?}", view.step, view.status)))
                }
                Ok(_) => {
                    // A command per look: often enough to see each step, seldom enough not to be load.
                    domicile_model::clock::pause(Duration::from_millis(150)).await;
                    None
                }
                Err(error) => Some(Err(error)),
            }
        });
        found.await.map_err(|late| anyhow!("move {id}: {late}"))?
    }
}
