//! `domicile freeze …`: windows in which no planned move starts.

use domicile_api::views::{FreezeRequest, Status};
use domicile_model::{CellId, Freeze};
use serde_json::Value;

use crate::args::FreezeVerb;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::Out;

/// Runs one of the verbs.
///
/// # Errors
/// When the window is over before it begins, a cell or freeze is unknown, or no leader answers.
pub async fn run(verb: &FreezeVerb, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    match verb {
        FreezeVerb::List => {
            let status: Status = client.get("/v1/status").await?;
            if out.json {
                out.data(&status.freezes)?;
            } else {
                table(&status.freezes, out)?;
            }
        }
        FreezeVerb::Add { cells, from, until, reason } => {
            let cells = cells.iter().cloned().collect();
            let wanted = FreezeRequest { from: *from, until: *until, cells, reason: reason.clone() };
            let made: Freeze = client.verb("/v1/freezes", &wanted).await?;
            if out.json {
                out.data(&made)?;
            } else {
                writeln!(out.stdout, "{}", made.id)?;
            }
        }
        FreezeVerb::Remove { id } => {
            let answer: Value = client.delete(&format!("/v1/freezes/{id}")).await?;
            if out.json {
                out.data(&answer)?;
            } else {
                writeln!(out.stdout, "removed {id}")?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// A table of them.
pub(crate) fn table(freezes: &[Freeze], out: &mut Out) -> Result<(), Failure> {
    let row = |f: &Freeze| {
        let cells: Vec<&str> = f.cells.iter().map(CellId::as_str).collect();
        let cells = if cells.is_empty() { "all".to_owned() } else { cells.join(", ") };
        let (from, until) = (format!("{:.0}", f.from), format!("{:.0}", f.until));
        vec![f.id.to_string(), cells, from, until, f.by.clone(), f.reason.clone()]
    };
    out.table(&["FREEZE", "CELLS", "FROM", "UNTIL", "BY", "REASON"], freezes.iter().map(row).collect())
}
