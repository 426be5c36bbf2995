//! `domicile cell close|open CELL --reason …`: a cell is taken out of service, and put back.

use domicile_api::moves::{CloseRequest, MovePlan, MoveView, OpenRequest};
use domicile_model::{CellId, MoveId, RegionId};

use crate::args::Until;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::failover::plan::{blocked, verdict};
use crate::failover::{exit, kind, standing, watch};
use crate::out::{Out, joined};

/// What is wanted, and how it is said.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Whether it opens.
    pub opens: bool,
    /// The cell.
    pub cell: &'a CellId,
    /// Where it opens, if not where it was closed.
    pub region: Option<&'a RegionId>,
    /// Why.
    pub reason: &'a str,
    /// Only show what would be done.
    pub dry_run: bool,
    /// Do not ask.
    pub yes: bool,
    /// Follow it until it is over.
    pub wait: bool,
}

impl Wanted<'_> {
    async fn send<T: serde::de::DeserializeOwned>(
        &self,
        dry_run: bool,
        key: &str,
        client: &Client,
    ) -> Result<T, Failure> {
        let reason = self.reason.to_owned();
        if self.opens {
            let asked = OpenRequest { reason, region: self.region.cloned(), dry_run };
            client.post_once(&format!("/v1/cells/{}/open", self.cell), &asked, key).await
        } else {
            let asked = CloseRequest { reason, dry_run };
            client.post_once(&format!("/v1/cells/{}/close", self.cell), &asked, key).await
        }
    }
}

/// Runs it.
///
/// # Errors
/// When the cell does not exist, a check stands against it, the answer is no, or no leader answers.
pub async fn run(wanted: &Wanted<'_>, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    // A key of our own makes it safe to ask the next server when an answer is lost.
    let key = MoveId::new().to_string();
    let plan: MovePlan = wanted.send(true, &key, client).await?;
    if wanted.dry_run {
        if out.json {
            out.data(&plan)?;
        } else {
            out.pairs(&[
                ("cell", plan.cell.to_string()),
                ("in", plan.to.to_string()),
                ("tenants", joined(&plan.tenants)),
                ("steps", plan.steps.join(" → ")),
            ])?;
            let row = |c: &domicile_api::moves::Check| {
                vec![verdict(c.verdict).to_owned(), c.name.clone(), c.why.clone()]
            };
            out.table(&["VERDICT", "CHECK", "WHY"], plan.checks.iter().map(row).collect())?;
        }
        return Ok(if blocked(&plan) { Exit::NotDone } else { Exit::Ok });
    }
    // What stands against it is told by the server, which looks again.
    if !blocked(&plan) {
        let tenants = joined(&plan.tenants);
        let question = if wanted.opens {
            format!("Open cell {} in {} for {tenants}?", plan.cell, plan.to)
        } else {
            format!(
                "Close cell {} in {}? Nobody serves {tenants} until it is opened again, and what is under way is cut.",
                plan.cell, plan.to
            )
        };
        out.confirm(&question, wanted.yes)?;
    }
    let started: MoveView = wanted.send(false, &key, client).await?;
    let last = match wanted.wait {
        true => watch::follow(started.id, Until::Done, client, out).await?,
        false => started,
    };
    if out.json {
        out.data(&last)?;
    } else {
        writeln!(out.stdout, "{}", last.id)?;
        out.say(&format!(
            "{} of cell {}: {}. Follow it with `domicile failover watch {}`",
            kind(last.kind),
            last.cell,
            standing(&last),
            last.id
        ))?;
    }
    Ok(exit(&last.status))
}
