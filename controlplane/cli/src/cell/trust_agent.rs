//! `domicile cell trust-agent CELL --region REGION --key ID`

use domicile_api::views::{CellView, TrustRequest};
use domicile_model::CellId;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::Out;

/// Runs it.
///
/// # Errors
/// When the agent does not show that key, or no leader answers.
pub async fn run(
    cell: &CellId,
    request: &TrustRequest,
    client: &Client,
    out: &mut Out,
) -> Result<Exit, Failure> {
    let view: CellView = client.verb(&format!("/v1/cells/{cell}/trust-agent"), request).await?;
    if out.json {
        out.data(&view.agents)?;
    } else {
        out.say(&format!(
            "The agent of {cell} in {} is believed by key {} from now on; what it signed with another key counts no more.",
            request.region, request.key
        ))?;
    }
    Ok(Exit::Ok)
}
