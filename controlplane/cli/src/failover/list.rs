//! `domicile failover list`

use domicile_api::moves::MoveView;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::failover::{kind, standing};
use crate::out::{Out, or_dash};

/// Runs it.
///
/// # Errors
/// When no control plane answers.
pub async fn run(client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let moves: Vec<MoveView> = client.get("/v1/moves").await?;
    if out.json {
        out.data(&moves)?;
        return Ok(Exit::Ok);
    }
    let rows = moves
        .iter()
        .map(|m| {
            vec![
                m.id.to_string(),
                kind(m.kind).to_owned(),
                m.cell.to_string(),
                or_dash(m.from.as_ref()),
                m.to.to_string(),
                standing(m),
                m.step.clone(),
                m.by.clone(),
                m.created.to_string(),
            ]
        })
        .collect();
    out.table(&["MOVE", "KIND", "CELL", "FROM", "TO", "STATUS", "STEP", "BY", "CREATED"], rows)?;
    Ok(Exit::Ok)
}
