//! `domicile region list`

use domicile_api::views::RegionView;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, joined};

/// Runs it.
///
/// # Errors
/// When no control plane answers.
pub async fn run(client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let regions: Vec<RegionView> = client.get("/v1/regions").await?;
    if out.json {
        out.data(&regions)?;
        return Ok(Exit::Ok);
    }
    let rows = regions
        .iter()
        .map(|r| vec![r.id.to_string(), r.country.to_string(), joined(&r.holds), joined(&r.gates)])
        .collect();
    out.table(&["REGION", "COUNTRY", "HOLDS", "GATES"], rows)?;
    Ok(Exit::Ok)
}
