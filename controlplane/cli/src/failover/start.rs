//! `domicile failover start CELL --to REGION`: planned, unless the operator forces it.

use domicile_api::moves::{MovePlan, MoveView};
use domicile_model::MoveId;

use crate::args::StartArgs;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::failover::plan::lines;
use crate::failover::{kind, request, status, watch};
use crate::out::{Out, joined};

/// Runs it.
///
/// # Errors
/// When a check stands against it, consent is missing, the answer is no, or no leader answers. Nothing is started then.
pub async fn run(args: &StartArgs, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let mut wanted = request(&args.which, client).await?;
    // A repeat with the operator's own key must find its move again, so it is not planned anew: the first one would
    // stand in its way.
    let plan: MovePlan = client.post("/v1/moves/plan", &wanted).await?;
    for (name, value) in lines(&plan) {
        for (n, line) in value.lines().enumerate() {
            out.say(&format!("{}  {line}", if n == 0 { name } else { "       " }))?;
        }
    }
    if let Some(preview) = plan.preview.as_ref().filter(|_| wanted.force)
        && wanted.accept_loss.is_none()
    {
        let consent = match preview.total() {
            Some(n) => format!("--accept-loss {n}"),
            None => "--accept-loss N --accept-unknown".to_owned(),
        };
        return Err(Failure::new(Exit::Usage, "a forced move loses data, and nobody consented to that")
            .hint(format!("if that is what you want: --force {consent}")));
    }
    if let Some(tenant) = &args.which.tenant {
        let others: Vec<_> = plan.tenants.iter().filter(|t| *t != tenant).cloned().collect();
        if !others.is_empty() {
            out.say(&format!(
                "{tenant} shares cell {} with others, who move along: {}",
                plan.cell,
                joined(&others)
            ))?;
            out.confirm(
                &format!("Move all {} tenants of cell {}?", plan.tenants.len(), plan.cell),
                args.yes,
            )?;
        }
        wanted.tenants = plan.tenants.clone();
    }
    // A key of our own makes it safe to ask the next server when an answer is lost.
    let key = args.idempotency_key.clone().unwrap_or_else(|| MoveId::new().to_string());
    let started: MoveView = client.post_once("/v1/moves", &wanted, &key).await?;
    out.say(&format!("{} {} of cell {} to {}", kind(started.kind), started.id, started.cell, started.to))?;
    let last = match args.wait {
        Some(until) => watch::follow(started.id, until, client, out).await?,
        None => started,
    };
    if let Some(approval) = last.waits_for() {
        let people = approval.need.people();
        out.say(&format!(
            "it waits until {:.0} for the approval of {people} other than {}: `domicile failover approve {}`",
            approval.until, last.by, last.id
        ))?;
    }
    if out.json {
        out.data(&last)?;
    } else {
        writeln!(out.stdout, "{}", last.id)?;
    }
    if args.wait.is_some() {
        out.say(&status(&last.status))?;
    }
    Ok(crate::failover::exit(&last.status))
}
