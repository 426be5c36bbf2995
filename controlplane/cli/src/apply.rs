//! `domicile apply FILE`: shows the plan, asks before anything is removed, applies it.

use domicile_api::views::{ApplyReport, ApplyRequest, PlannedChange};

use crate::args::ApplyArgs;
use crate::check;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::Out;

/// Runs it.
///
/// # Errors
/// When the file has mistakes, something is refused, or no leader answers. Nothing is applied then.
pub async fn run(args: &ApplyArgs, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let mut request = ApplyRequest {
        file: args.file.display().to_string(),
        text: check::read(&args.file)?,
        dry_run: true,
        prune: args.prune,
    };
    let plan: ApplyReport = client.post("/v1/apply", &request).await?;
    let refused = count(&plan.changes, "refuse");
    if args.dry_run || refused > 0 || nothing_to_do(&plan.changes) {
        show(&plan, out)?;
        out.say(&summary(&plan.changes))?;
        if refused > 0 {
            return Err(Failure::new(
                Exit::NotDone,
                format!("{refused} of the changes are refused; nothing was applied"),
            )
            .hint("each refusal above says why and what to do instead"));
        }
        return Ok(Exit::Ok);
    }
    let removals = count(&plan.changes, "remove");
    if removals > 0 {
        for change in plan.changes.iter().filter(|c| c.action == "remove") {
            out.say(&format!("remove {} {}: {}", change.what, change.id, change.why))?;
        }
        out.confirm(&format!("Remove {removals} things from the registry?"), args.yes)?;
    }
    request.dry_run = false;
    let done: ApplyReport = client.post("/v1/apply", &request).await?;
    show(&done, out)?;
    out.say(&format!("applied at revision {}: {}", done.revision, summary(&done.changes)))?;
    Ok(Exit::Ok)
}

fn nothing_to_do(changes: &[PlannedChange]) -> bool {
    changes.iter().all(|c| c.action == "keep")
}

fn count(changes: &[PlannedChange], action: &str) -> usize {
    changes.iter().filter(|c| c.action == action).count()
}

fn summary(changes: &[PlannedChange]) -> String {
    let parts: Vec<String> = [
        ("add", "added"),
        ("change", "changed"),
        ("remove", "removed"),
        ("refuse", "refused"),
        ("keep", "kept though the file does not name it (--prune removes)"),
    ]
    .iter()
    .filter_map(|(action, word)| {
        let n = count(changes, action);
        (n > 0).then(|| format!("{n} {word}"))
    })
    .collect();
    if parts.is_empty() { "nothing to change".into() } else { parts.join(", ") }
}

fn show(report: &ApplyReport, out: &mut Out) -> Result<(), Failure> {
    if out.json {
        return out.data(report);
    }
    if report.changes.is_empty() {
        return Ok(());
    }
    let rows = report
        .changes
        .iter()
        .map(|c| vec![c.action.clone(), c.what.clone(), c.id.clone(), c.why.clone()])
        .collect();
    out.table(&["ACTION", "WHAT", "ID", "WHY"], rows)
}
