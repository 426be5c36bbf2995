//! `domicile status`: who serves what now.

use domicile_api::views::Status;

use crate::cell::list::{problems, table};
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, millis, or_dash};

/// Runs it. Without a leader the table is still shown, and the exit code says so.
///
/// # Errors
/// When no control plane answers.
pub async fn run(client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let status: Status = client.get("/v1/status").await?;
    if out.json {
        out.data(&status)?;
    } else {
        out.pairs(&[
            ("answered by", status.server.clone()),
            ("leader", or_dash(status.leader.as_ref())),
            ("revision", status.revision.to_string()),
            ("age of the view", millis(status.age_ms)),
            ("routers", status.routers.len().to_string()),
        ])?;
        if let Some(stop) = &status.stop {
            writeln!(out.stdout)?;
            writeln!(
                out.stdout,
                "ALL MOVES ARE STOPPED by {} since {:.0}: {}; `domicile failover allow-all` lifts it",
                stop.by, stop.at, stop.reason
            )?;
        }
        if !status.freezes.is_empty() {
            writeln!(out.stdout)?;
            crate::freeze::table(&status.freezes, out)?;
        }
        if !status.cells.is_empty() {
            writeln!(out.stdout)?;
            table(&status.cells, out)?;
            problems(&status.cells, out)?;
        }
    }
    if status.leader.is_none() {
        out.say("no leader is known: changes do not work now. A control plane takes over within the lease; if none does, look at their logs")?;
        return Ok(Exit::Temporary);
    }
    Ok(Exit::Ok)
}
