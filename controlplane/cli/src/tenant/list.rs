//! `domicile tenant list`

use domicile_api::views::TenantView;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, joined, or_dash, phase};

/// Runs it.
///
/// # Errors
/// When no control plane answers.
pub async fn run(client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let tenants: Vec<TenantView> = client.get("/v1/tenants").await?;
    if out.json {
        out.data(&tenants)?;
        return Ok(Exit::Ok);
    }
    let rows = tenants
        .iter()
        .map(|t| {
            vec![
                t.id.to_string(),
                t.cell.to_string(),
                or_dash(t.region.as_ref()),
                phase(t.phase),
                if t.residency.is_empty() { "anywhere".into() } else { joined(&t.residency) },
                joined(&t.hosts),
            ]
        })
        .collect();
    out.table(&["TENANT", "CELL", "SERVED FROM", "PHASE", "MAY LIVE IN", "HOSTS"], rows)?;
    Ok(Exit::Ok)
}
