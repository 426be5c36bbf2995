//! `domicile status`: who serves what now.

use domicile_api::views::{FindingView, RegistryView, Status, WaitingView};

use crate::cell::list::{closed, problems, table};
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::failover::kind;
use crate::out::{Out, bytes, joined, millis, or_dash};

/// Where the registry and what is there differ.
fn drift(findings: &[FindingView], out: &mut Out) -> Result<(), Failure> {
    if findings.is_empty() {
        return Ok(());
    }
    writeln!(out.stdout)?;
    let row = |f: &FindingView| {
        vec![f.kind.clone(), or_dash(f.cell.as_ref()), or_dash(f.region.as_ref()), f.what.clone()]
    };
    out.table(&["FOUND", "CELL", "REGION", "WHAT IS SO, AND WHAT TO DO"], findings.iter().map(row).collect())
}

fn rows(waiting: &[WaitingView]) -> Vec<Vec<String>> {
    let row = |w: &WaitingView| {
        let given: Vec<&String> = w.approval.given.iter().map(|g| &g.by).collect();
        vec![
            w.moving.to_string(),
            kind(w.kind).to_owned(),
            w.cell.to_string(),
            w.by.clone(),
            joined(&given),
            w.approval.need.people().to_string(),
            format!("{:.0}", w.approval.until),
        ]
    };
    waiting.iter().map(row).collect()
}

/// How full the registry is, in a line.
fn room(registry: &RegistryView) -> String {
    let Some((size, in_use)) = registry.size_bytes.zip(registry.in_use_bytes) else {
        return format!("unknown: {}", registry.problem.as_deref().unwrap_or("not told"));
    };
    let quota = registry.quota_bytes.map_or_else(|| "an unknown quota".to_owned(), bytes);
    format!(
        "{} of {quota} ({} in use); {} kept for forced moves",
        bytes(size),
        bytes(in_use),
        bytes(registry.reserve_bytes)
    )
}

/// What must be done about it, if something must.
fn short_of_room(registry: &RegistryView) -> Option<String> {
    let mend =
        "compact etcd's history, `etcdctl defrag` one member after the other, then `etcdctl alarm disarm`";
    if !registry.alarms.is_empty() {
        return Some(format!("THE REGISTRY HAS RAISED {}: {mend}", registry.alarms.join(", ")));
    }
    if registry.size_bytes.is_some() && registry.is_short() {
        return Some(format!(
            "THE REGISTRY IS NEARLY FULL: only forced moves go on, other changes are refused; {mend}"
        ));
    }
    (!registry.silent.is_empty())
        .then(|| format!("registry members that did not answer: {}", registry.silent.join(", ")))
}

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
            ("registry", or_dash(status.registry.as_ref().map(room).as_ref())),
        ])?;
        if let Some(short) = status.registry.as_ref().and_then(short_of_room) {
            writeln!(out.stdout, "\n{short}")?;
        }
        if let Some(stop) = &status.stop {
            writeln!(out.stdout)?;
            writeln!(
                out.stdout,
                "ALL MOVES ARE STOPPED by {} since {:.0}: {}; `domicile failover allow-all` lifts it",
                stop.by, stop.at, stop.reason
            )?;
        }
        if status.waiting.is_none() {
            out.say("whether something waits for approval is unknown: the registry did not tell")?;
        }
        let waiting = status.waiting.as_deref().unwrap_or_default();
        if !waiting.is_empty() {
            writeln!(out.stdout)?;
            out.table(
                &["WAITS FOR APPROVAL", "KIND", "CELL", "ASKED BY", "APPROVED BY", "NEEDS", "UNTIL"],
                rows(waiting),
            )?;
        }
        if !status.freezes.is_empty() {
            writeln!(out.stdout)?;
            crate::freeze::table(&status.freezes, out)?;
        }
        if !status.cells.is_empty() {
            writeln!(out.stdout)?;
            table(&status.cells, out)?;
            closed(&status.cells, out)?;
            drift(&status.findings, out)?;
            problems(&status.cells, out)?;
        }
    }
    if status.leader.is_none() {
        out.say("no leader is known: changes do not work now. A control plane takes over within the lease; if none does, look at their logs")?;
        return Ok(Exit::Temporary);
    }
    Ok(Exit::Ok)
}
