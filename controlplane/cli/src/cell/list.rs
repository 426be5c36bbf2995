//! `domicile cell list`

use domicile_api::views::{CellView, LagView};

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, millis, or_dash, phase};

/// Runs it.
///
/// # Errors
/// When no control plane answers.
pub async fn run(client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let cells: Vec<CellView> = client.get("/v1/cells").await?;
    if out.json {
        out.data(&cells)?;
    } else {
        table(&cells, out)?;
    }
    Ok(Exit::Ok)
}

/// The table of cells, shared with `status`.
pub(crate) fn table(cells: &[CellView], out: &mut Out) -> Result<(), Failure> {
    let rows = cells
        .iter()
        .map(|c| {
            vec![
                c.id.to_string(),
                or_dash(c.holder.as_ref()),
                or_dash(c.standby.as_ref()),
                phase(c.phase),
                c.epoch.to_string(),
                c.lag.as_ref().map_or_else(|| "no database".into(), lag),
                c.tenants.len().to_string(),
                or_dash(c.moving.as_ref()),
            ]
        })
        .collect();
    out.table(&["CELL", "SERVED FROM", "STANDBY", "PHASE", "EPOCH", "BEHIND", "TENANTS", "MOVE"], rows)
}

/// The cells that a person has closed, and why.
pub(crate) fn closed(cells: &[CellView], out: &mut Out) -> Result<(), Failure> {
    let row = |c: &domicile_model::ClosedCell| {
        vec![c.cell.to_string(), c.region.to_string(), c.by.clone(), format!("{:.0}", c.at), c.reason.clone()]
    };
    let rows: Vec<_> = cells.iter().filter_map(|c| c.closed.as_ref()).map(row).collect();
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out.stdout)?;
    out.table(&["CLOSED", "IN", "BY", "SINCE", "BECAUSE"], rows)
}

/// A look at the databases that is older than this counts as none.
const FRESH_MS: u64 = 15_000;

/// What is wrong with the databases of cells, a line each; what is not known is said to be unknown.
pub(crate) fn problems(cells: &[CellView], out: &mut Out) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = cells
        .iter()
        .filter(|c| c.lag.is_some() || c.health.is_some())
        .flat_map(|c| {
            let said = match &c.health {
                Some(health) if health.age_ms <= FRESH_MS => health.problems.clone(),
                Some(health) => vec![format!(
                    "its databases were last looked at {} ago: what is wrong now is unknown; ask another control plane",
                    millis(health.age_ms)
                )],
                None => vec!["its databases were not looked at yet: ask again in some seconds".to_owned()],
            };
            said.into_iter().map(|problem| vec![c.id.to_string(), problem])
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out.stdout)?;
    out.table(&["CELL", "WHAT IS WRONG"], rows)
}

/// How far the standby is behind, in a few words; what is not known is called unknown.
pub(crate) fn lag(lag: &LagView) -> String {
    let age = lag.data_age_ms.map_or_else(|| "unknown".into(), millis);
    match lag.streaming {
        Some(true) => age,
        Some(false) => format!("{age}, not streaming"),
        None => format!("{age}, streaming unknown"),
    }
}
