//! `domicile failover approve ID`: says yes to what a move is about to do.

use domicile_api::moves::{Approval, ApproveRequest, MoveView};
use domicile_model::MoveId;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::failover::plan::verdict;
use crate::failover::{kind, standing};
use crate::out::{Out, joined, or_dash};

/// How it is said.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// What is approved; none: what the move waits for now, which is shown and asked about.
    pub hash: Option<&'a str>,
    /// For the log.
    pub reason: &'a str,
    /// Only show it.
    pub dry_run: bool,
    /// Do not ask.
    pub yes: bool,
}

/// Runs it.
///
/// # Errors
/// When the move waits for nobody or for the approval of something else, this operator may not approve it, the answer
/// is no, or no leader answers.
pub async fn run(id: MoveId, how: &How<'_>, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let view: MoveView = client.get(&format!("/v1/moves/{id}")).await?;
    let Some(approval) = view.waits_for() else {
        return Err(Failure::new(
            Exit::NotDone,
            format!("move {id} waits for nobody's approval: {}", standing(&view)),
        )
        .hint(format!("look at it with `domicile failover show {id}`")));
    };
    if how.hash.is_some_and(|hash| hash != approval.hash) {
        return Err(Failure::new(
            Exit::NotDone,
            format!("move {id} waits for the approval of {}, which is not what --hash names", approval.hash),
        )
        .hint(format!("look at it again with `domicile failover show {id}`, then approve what you see")));
    }
    if how.hash.is_none() || how.dry_run {
        show(&view, approval, out)?;
    }
    if how.dry_run {
        if out.json {
            out.data(approval)?;
        }
        return Ok(Exit::Ok);
    }
    let question = format!("Approve this {} of cell {}?", kind(view.kind), view.cell);
    out.confirm(&question, how.yes || how.hash.is_some())?;
    let wanted = ApproveRequest { hash: approval.hash.clone(), reason: how.reason.to_owned() };
    // A repeat by the same person changes nothing, so a lost answer may be asked for again elsewhere.
    let now: MoveView = client.post(&format!("/v1/moves/{id}/approve"), &wanted).await?;
    if out.json {
        out.data(&now)?;
    } else {
        writeln!(out.stdout, "{}", now.id)?;
        out.say(&format!("approved; it {}. Follow it with `domicile failover watch {id}`", standing(&now)))?;
    }
    Ok(Exit::Ok)
}

/// What is about to be done, on stderr: what is approved must be seen whatever stdout is used for.
fn show(view: &MoveView, approval: &Approval, out: &mut Out) -> Result<(), Failure> {
    out.say(&format!(
        "{} of cell {} from {} to {}, asked for by {}",
        kind(view.kind),
        view.cell,
        or_dash(view.from.as_ref()),
        view.to,
        view.by
    ))?;
    out.say(&format!("steps: {}", view.steps.join(" → ")))?;
    for seen in &approval.saw {
        out.say(&format!("{:<14} {}: {}", verdict(seen.verdict), seen.name, seen.why))?;
    }
    for (name, value) in lines(approval) {
        out.say(&format!("{name}: {value}"))?;
    }
    Ok(())
}

/// An approval as `show` tells of it.
pub(crate) fn lines(approval: &Approval) -> Vec<(&'static str, String)> {
    let given: Vec<String> = approval
        .given
        .iter()
        .map(|g| match g.note.as_str() {
            "" => format!("{} at {:.0}", g.by, g.at),
            note => format!("{} at {:.0}: {note}", g.by, g.at),
        })
        .collect();
    let mut lines = vec![
        ("approvals needed", approval.need.people().to_string()),
        ("approved by", if given.is_empty() { joined::<String>(&[]) } else { given.join("\n") }),
        ("approval until", format!("{:.0}", approval.until)),
        ("approval hash", approval.hash.clone()),
    ];
    if approval.voided > 0 {
        lines.push(("approvals void", format!("{} times: what was approved had changed", approval.voided)));
    }
    lines
}
