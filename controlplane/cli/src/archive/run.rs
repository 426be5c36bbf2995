//! `domicile archive run`

use domicile_api::archive::{ArchiveReport, ArchiveRequest};

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::Out;

/// Runs it. A pass that has to wait for copies ends with "not done"; the leader goes on with it by itself.
///
/// # Errors
/// When nobody leads, or the leader keeps no archive.
pub async fn run(dry_run: bool, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    // A repeat archives what is left, which is what was asked for.
    let report: ArchiveReport = client.post("/v1/archive", &ArchiveRequest { dry_run }).await?;
    if out.json {
        out.data(&report)?;
    } else if dry_run {
        writeln!(out.stdout, "{} keys may leave the registry", report.left)?;
    } else {
        writeln!(
            out.stdout,
            "{} keys have left the registry in {} segments; {} more may",
            report.keys, report.segments, report.left
        )?;
    }
    match &report.waiting {
        None => Ok(Exit::Ok),
        Some(why) => {
            out.say(why)?;
            Ok(Exit::NotDone)
        }
    }
}
