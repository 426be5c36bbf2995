//! The operator: the very command line that a user would type, and nothing behind its back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use domicile_api::agent::LossReport;
use domicile_api::moves::{MovePlan, MoveStatus, MoveView};
use domicile_api::views::Status;
use domicile_chaos_kit::wait;
use domicile_model::clock::{Clock, pause};
use serde::de::DeserializeOwned;

use crate::fleet::FleetFile;
use crate::fleet::commands::Programs;

/// A command that takes longer has hung.
const COMMAND: Duration = Duration::from_secs(60);
/// How long a start that checks have blocked is tried again: one that is still blocked then is no hiccup.
const BLOCKED: Duration = Duration::from_secs(20);
/// Until a new standby has been sampled and everything is fine for a move.
const READY: Duration = Duration::from_secs(90);
/// How far apart: the samples that checks look at come once a second.
const AGAIN: Duration = Duration::from_secs(1);
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

/// A move that was started.
#[derive(Debug)]
pub(crate) struct Started {
    /// It.
    pub(crate) view: MoveView,
    /// How many times checks refused it before.
    pub(crate) blocked: u64,
}

/// A command that did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[error("`domicile {command}` ended with {code}: {said}")]
struct Refused {
    command: String,
    code: i32,
    /// What it printed on stderr.
    said: String,
}

/// What a command printed.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Operator {
    pub(crate) fn new(fleet: &FleetFile) -> anyhow::Result<Self> {
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
                    pause(Duration::from_millis(200)).await;
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
            let (command, code) = (args.join(" "), said.code);
            return Err(Refused { command, code, said: said.err.trim_end().to_owned() }.into());
        }
        serde_json::from_str(&said.out)
            .with_context(|| format!("`domicile {}` printed no such JSON: {}", args.join(" "), said.out))
    }

    /// Prints what a command prints for people.
    pub(crate) async fn show(&self, args: &[&str]) -> anyhow::Result<()> {
        let said = self.run(args).await?;
        if said.code != 0 {
            bail!("`domicile {}` ended with {}: {}", args.join(" "), said.code, said.err);
        }
        println!("$ domicile {}\n{}", args.join(" "), said.out);
        Ok(())
    }

    pub(crate) async fn apply(&self, fleet: &FleetFile) -> anyhow::Result<()> {
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

    /// Waits until every check lets a planned move through.
    ///
    /// # Errors
    /// When something still stands against it after a minute, with its reasons.
    pub(crate) async fn until_movable(&self, cell: &str, to: &str) -> anyhow::Result<()> {
        let passed = wait::eventually(READY, "all checks before the move pass", || async {
            let plan = self.plan(cell, to, &[]).await.ok()?;
            (!plan.checks.iter().any(|check| check.verdict.blocks())).then_some(())
        });
        let Err(late) = passed.await else { return Ok(()) };
        let mut blocking = String::new();
        if let Ok(plan) = self.plan(cell, to, &[]).await {
            for check in plan.checks.iter().filter(|c| c.verdict.blocks()) {
                blocking.push_str(&format!("\n  {}: {}", check.name, check.why));
            }
        }
        bail!("{cell} to {to}: {late}{blocking}")
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
    /// is no failure at once: nothing was done, and an operator would look and try again. Each reason is said on stderr.
    ///
    /// # Errors
    /// When it can't be started for any other reason, or is still blocked after a few seconds.
    pub async fn start(&self, cell: &str, to: &str, extra: &[&str]) -> anyhow::Result<MoveView> {
        Ok(self.start_telling(cell, to, extra, |line| eprintln!("{line}")).await?.view)
    }

    /// As [`Operator::start`], but tells `say` what blocks, each reason once.
    pub(crate) async fn start_telling(
        &self,
        cell: &str,
        to: &str,
        extra: &[&str],
        mut say: impl FnMut(&str),
    ) -> anyhow::Result<Started> {
        let began = Clock::Machine.now();
        let (mut blocked, mut said) = (0, BTreeSet::new());
        loop {
            let key = uuid::Uuid::new_v4().to_string();
            let args = ["--json", "failover", "start", cell, "--to", to, "--yes", "--idempotency-key", &key];
            let error = match self.ask(&[&args, extra].concat()).await {
                Ok(view) => return Ok(Started { view, blocked }),
                Err(error) => error,
            };
            let reasons = error.downcast_ref::<Refused>().and_then(|refused| blocking(&refused.said));
            let Some(reasons) = reasons else { return Err(error) };
            blocked += 1;
            for (check, why) in reasons {
                if said.insert((check.clone(), without_numbers(&why))) {
                    say(&format!("  blocked by {check}: {why}"));
                }
            }
            if Clock::Machine.now().since(began) >= BLOCKED {
                return Err(error.context(format!("{cell} was asked to move {blocked} times in vain")));
            }
            pause(AGAIN).await;
        }
    }

    /// A report; of this control plane where one is named.
    ///
    /// # Errors
    /// When it is not answered.
    pub async fn report<T: DeserializeOwned>(
        &self,
        server: Option<&str>,
        args: &[&str],
    ) -> anyhow::Result<T> {
        let asked = Self { servers: server.unwrap_or(&self.servers).to_owned(), ..self.clone() };
        asked.ask(&[&["--json", "report"], args].concat()).await
    }

    /// All moves, newest first.
    ///
    /// # Errors
    /// When no control plane answers within a minute.
    pub(crate) async fn moves(&self) -> anyhow::Result<Vec<MoveView>> {
        self.ask(&["--json", "failover", "list"]).await
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
    pub(crate) async fn follow(
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
                    pause(Duration::from_millis(150)).await;
                    None
                }
                Err(error) => Some(Err(error)),
            }
        });
        found.await.map_err(|late| anyhow!("move {id}: {late}"))?
    }
}

/// The checks that blocked and why, if that is what the command said. They stand before the sentence itself: the
/// check's name on a line, then its reason, indented.
fn blocking(said: &str) -> Option<Vec<(String, String)>> {
    let lines: Vec<&str> = said.lines().collect();
    lines.iter().find(|line| line.starts_with("error: ") && line.contains(" is blocked by "))?;
    let pairs = lines.windows(2).filter_map(|pair| {
        let why = pair[1].strip_prefix("  ").filter(|_| !pair[0].starts_with(' '))?;
        Some((pair[0].to_owned(), why.trim().to_owned()))
    });
    Some(pairs.collect())
}

/// A reason says how late or how far something is: another number is no other reason.
fn without_numbers(why: &str) -> String {
    why.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blocks_is_read_from_what_the_command_says() {
        let said = "lag\n  the sample is 2300 ms old: wait\ngates\n  none in b\n\
                    error: the move of cell a to b is blocked by 2 checks (said http://x)\nhint: mend them";
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let found = blocking(said).unwrap();
        assert_eq!(found, [pair("lag", "the sample is 2300 ms old: wait"), pair("gates", "none in b")]);
        assert_eq!(blocking("error: the cell is busy\nhint: wait"), None);
        assert_eq!(blocking(""), None);
    }

    #[test]
    fn a_number_makes_no_new_reason() {
        assert_eq!(without_numbers("2300 ms old"), without_numbers("41 ms old"));
        assert_ne!(without_numbers("2300 ms old"), without_numbers("2300 bytes behind"));
    }
}
