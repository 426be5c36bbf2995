//! `domicile tenant show TENANT`

use domicile_api::views::TenantView;
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
    let tenant: TenantView = client.get(&format!("/v1/tenants/{id}")).await?;
    if out.json {
        out.data(&tenant)?;
        return Ok(Exit::Ok);
    }
    out.pairs(&[
        ("tenant", tenant.id.to_string()),
        ("name", tenant.name.clone()),
        ("cell", tenant.cell.to_string()),
        ("served from", or_dash(tenant.region.as_ref())),
        ("phase", phase(tenant.phase)),
        ("epoch", tenant.epoch.to_string()),
        (
            "may live in",
            if tenant.residency.is_empty() { "anywhere".into() } else { joined(&tenant.residency) },
        ),
        ("hosts", tenant.hosts.join("\n")),
    ])?;
    Ok(Exit::Ok)
}
