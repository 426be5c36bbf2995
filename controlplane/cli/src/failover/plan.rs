//! `domicile failover plan CELL --to REGION`

use domicile_api::moves::{LossPreview, MovePlan, Verdict};

use domicile_model::Need;

use crate::args::MoveArgs;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::failover::{kind, request};
use crate::out::{Out, joined, millis, or_dash};

/// How long a person may take from reading the preview to consenting.
const DECIDING: std::time::Duration = std::time::Duration::from_secs(30);

/// Runs it. A plan that could not start ends with "not done".
///
/// # Errors
/// When the cell or region does not exist, or no control plane answers.
pub async fn run(args: &MoveArgs, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let plan: MovePlan = client.post("/v1/moves/plan", &request(args, client).await?).await?;
    if out.json {
        out.data(&plan)?;
    } else {
        for line in lines(&plan) {
            out.pairs(&[(line.0, line.1)])?;
        }
        let rows =
            plan.checks.iter().map(|c| vec![verdict(c.verdict).to_owned(), c.name.clone(), c.why.clone()]);
        out.table(&["VERDICT", "CHECK", "WHY"], rows.collect())?;
    }
    Ok(if blocked(&plan) { Exit::NotDone } else { Exit::Ok })
}

/// Whether a check stands against a start.
pub(crate) fn blocked(plan: &MovePlan) -> bool {
    plan.checks.iter().any(|c| c.verdict.blocks())
}

/// A verdict in one word.
pub(crate) const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Noted => "noted",
        Verdict::Failed => "FAILED",
        Verdict::Unknown => "UNKNOWN",
        Verdict::NotApplicable => "not applicable",
    }
}

/// The plan without its checks.
pub(crate) fn lines(plan: &MovePlan) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("move   ", format!("{} of cell {}", kind(plan.kind), plan.cell)),
        ("from   ", or_dash(plan.from.as_ref())),
        ("to     ", plan.to.to_string()),
        ("tenants", joined(&plan.tenants)),
        ("steps  ", plan.steps.join(" → ")),
    ];
    if plan.approval != Need::None {
        let people = plan.approval.people();
        let text = format!(
            "waits {} for the approval of {people} other than the one who asks, and ends without it",
            plan.approval_expires_ms.map_or_else(|| "for a while".to_owned(), millis)
        );
        lines.push(("approve", text));
    }
    if let Some(p) = &plan.preview {
        lines.push(("loss   ", preview(p)));
    }
    lines
}

/// The two parts of a loss, which are never mixed.
fn preview(p: &LossPreview) -> String {
    let count = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), |n| format!("{n} transactions"));
    let age = p.sample_age_ms.map_or_else(|| "of unknown age".into(), |a| format!("{} old", millis(a)));
    let mut text = format!(
        "missing on the other side, by a sample {age}: {}\nacknowledged since, or until the primary has certainly stopped: {}",
        count(p.sampled_transactions),
        count(p.until_stopped_transactions),
    );
    match p.total() {
        Some(total) => {
            let consent = p.consent_within(DECIDING).unwrap_or(total);
            text.push_str(&format!(
                "\ntogether at most {total} now; consent given within {} s is --accept-loss {consent}",
                DECIDING.as_secs()
            ));
        }
        None => text.push_str("\ntogether unknown: consent is --accept-loss N with --accept-unknown"),
    }
    for why in &p.because {
        text.push('\n');
        text.push_str(why);
    }
    text
}
