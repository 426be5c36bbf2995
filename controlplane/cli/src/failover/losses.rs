//! `domicile failover losses ID`

use domicile_api::agent::LossReport;
use domicile_model::MoveId;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, joined};

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
                change.tenant.clone().unwrap_or_else(|| "-".into()),
                change.key_digest.clone().unwrap_or_else(|| "-".into()),
            ]);
        }
    }
    out.table(&["XID", "COMMIT", "AT", "OPERATION", "TABLE", "TENANT", "KEY (SHA-256)"], rows)?;
    out.say(&format!(
        "{} transactions lost past {} of timeline {}, {} more of the product's own. The rows lie at {}. Not visible: {}",
        report.transactions.len(),
        report.fork.at,
        report.fork.parent,
        report.own,
        report.rows_at,
        joined(&report.blind_spots)
    ))?;
    Ok(Exit::Ok)
}
