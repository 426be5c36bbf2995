//! `domicile tenant route TENANT`

use domicile_api::views::RouteView;
use domicile_model::TenantId;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, joined, or_dash, phase};

/// Runs it.
///
/// # Errors
/// When the tenant does not exist, or no control plane answers.
pub async fn run(id: &TenantId, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let route: RouteView = client.get(&format!("/v1/tenants/{id}/route")).await?;
    if out.json {
        out.data(&route)?;
        return Ok(Exit::Ok);
    }
    out.pairs(&[
        ("tenant", route.tenant.to_string()),
        ("cell", route.cell.to_string()),
        ("region", or_dash(route.region.as_ref())),
        ("ingress", joined(&route.ingress)),
        ("phase", phase(route.phase)),
        ("epoch", route.epoch.to_string()),
        ("why", route.why.join("\n")),
    ])?;
    Ok(Exit::Ok)
}
