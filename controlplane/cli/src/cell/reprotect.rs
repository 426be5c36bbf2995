//! `domicile cell reprotect CELL`

use domicile_api::moves::MoveView;
use domicile_model::CellId;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, or_dash};

/// Runs it. Returns once the work has begun, which may take days.
///
/// # Errors
/// When the cell does not exist, is being moved or has no database, or no leader answers.
pub async fn run(cell: &CellId, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let view: MoveView = client.verb(&format!("/v1/cells/{cell}/reprotect"), &serde_json::json!({})).await?;
    if out.json {
        out.data(&view)?;
    } else {
        writeln!(out.stdout, "{}", view.id)?;
        out.say(&format!(
            "{} becomes a standby of {}. Follow it with `domicile failover watch {}`",
            or_dash(view.from.as_ref()),
            view.to,
            view.id
        ))?;
    }
    Ok(Exit::Ok)
}
