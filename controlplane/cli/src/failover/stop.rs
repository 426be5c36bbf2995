//! `domicile failover stop-all|allow-all`: the emergency stop.

use domicile_api::moves::ReasonRequest;
use domicile_model::EmergencyStop;
use serde_json::Value;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::Out;

/// Pulls it.
///
/// # Errors
/// When no leader answers.
pub async fn stop(reason: &str, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let wanted = ReasonRequest { reason: reason.to_owned() };
    // Pulling it twice changes nothing.
    let standing: EmergencyStop = client.post("/v1/stop", &wanted).await?;
    if out.json {
        out.data(&standing)?;
    } else {
        writeln!(out.stdout, "all moves are stopped, by {} because: {}", standing.by, standing.reason)?;
        out.say("moves in which requests wait are finished or turned back first; `domicile failover list` shows them")?;
    }
    Ok(Exit::Ok)
}

/// Lifts it.
///
/// # Errors
/// When no leader answers.
pub async fn allow(client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let answer: Value = client.delete("/v1/stop").await?;
    if out.json {
        out.data(&answer)?;
    } else {
        writeln!(out.stdout, "moves may start and go on")?;
    }
    Ok(Exit::Ok)
}
