//! `domicile failover losses ID`

use domicile_api::agent::LossReport;
use domicile_model::MoveId;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, joined, or_dash};

/// Runs it.
///
/// # Errors
/// When the move does not exist, its losses can't be read yet, or no control plane answers.
pub async fn run(id: MoveId, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let report: LossReport = client.get(&format!("/v1/moves/{id}/losses")).await?;
    if out.json {
        out.data(&report)?;
        return Ok(Exit::Ok);
    }
    let mut rows = Vec::new();
    for lost in &report.transactions {
        for change in &lost.changes {
            rows.push(vec![
                lost.xid.to_string(),
                lost.commit.to_string(),
                lost.at.to_string(),
                change.operation.clone(),
                change.table.clone(),
                or_dash(change.tenant.as_ref()),
                change.key_digest.clone().unwrap_or_else(|| "-".into()),
            ]);
        }
    }
    out.table(&["XID", "COMMIT", "AT", "OPERATION", "TABLE", "TENANT", "KEY (HMAC-SHA256)"], rows)?;
    let listed = report.transactions.len();
    let first = if report.more > 0 { format!(" (the first {listed} are listed)") } else { String::new() };
    out.say(&format!(
        "{} transactions lost past {} of timeline {}{first}, {} more of the product's own. The rows lie encrypted at {}. Not visible: {}",
        report.lost(),
        report.fork.at,
        report.fork.parent,
        report.own,
        report.rows_at,
        joined(&report.blind_spots)
    ))?;
    for part in &report.parts {
        out.say(&format!(
            "{}: {} rows in {}; `domicile losses locate {id}` with {} and --reason tells where",
            part.tenant.as_ref().map_or_else(|| "no known tenant".to_owned(), |t| format!("tenant {t}")),
            part.rows,
            part.file,
            part.tenant.as_ref().map_or_else(|| "--unassigned".to_owned(), |t| format!("--tenant {t}")),
        ))?;
    }
    Ok(Exit::Ok)
}
