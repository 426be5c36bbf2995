//! `domicile report rto`

use domicile_api::reports::{Rto, RtoReport, TenantRto};
use domicile_model::{MoveId, TenantId};

use super::{line, moment};
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, millis, or_dash};

/// Runs it.
///
/// # Errors
/// When no control plane answers, or keeps no history.
pub async fn run(
    id: MoveId,
    tenant: Option<&TenantId>,
    csv: bool,
    client: &Client,
    out: &mut Out,
) -> Result<Exit, Failure> {
    let tenant = tenant.map(|tenant| format!("&tenant={tenant}")).unwrap_or_default();
    let report: RtoReport = client.get(&format!("/v1/reports/rto?move={id}{tenant}")).await?;
    if out.json {
        out.data(&report)?;
    } else if csv {
        writeln!(out.stdout, "tenant,rto,ms,within_ms,first,last,good_write")?;
        for tenant in &report.tenants {
            writeln!(out.stdout, "{}", line(&fields(tenant)))?;
        }
    } else {
        table(&report, out)?;
    }
    Ok(Exit::Ok)
}

fn table(report: &RtoReport, out: &mut Out) -> Result<(), Failure> {
    let kind = format!("{:?}", report.kind).to_lowercase();
    let split: Vec<String> = report
        .split
        .iter()
        .map(|p| format!("{} {}", p.part, p.ms.map_or_else(|| "unknown".into(), millis)))
        .collect();
    out.pairs(&[
        ("move", report.id.to_string()),
        (&kind, format!("{}: {} to {}", report.cell, or_dash(report.from.as_ref()), report.to)),
        ("asked for", format!("{:.3}", report.began)),
        ("split", split.join(", ")),
    ])?;
    writeln!(out.stdout)?;
    let rows = report.tenants.iter().map(|t| {
        let [tenant, rto, _, _, first, _, good] = fields(t);
        vec![tenant, said(&t.rto).unwrap_or(rto), first, good]
    });
    out.table(&["TENANT", "RTO", "FIRST FAILED OR HELD", "FIRST GOOD WRITE"], rows.collect())?;
    writeln!(out.stdout, "\nrto: {}", report.formula)?;
    Ok(())
}

/// A length, where there is one.
fn said(rto: &Rto) -> Option<String> {
    match rto {
        Rto::Observed { length_ms, within_ms, .. } => {
            let bound =
                within_ms.map_or_else(|| "clock bound unknown".to_owned(), |ms| format!("± {}", millis(ms)));
            Some(format!("{} ({bound})", millis(*length_ms)))
        }
        Rto::Unharmed { requests } => Some(format!("none of {requests} requests failed or was held")),
        Rto::NotObserved | Rto::StillOut { .. } => None,
    }
}

fn fields(tenant: &TenantRto) -> [String; 7] {
    let dash = || "-".to_owned();
    let id = tenant.tenant.to_string();
    match tenant.rto {
        Rto::NotObserved => [id, "not observed".into(), dash(), dash(), dash(), dash(), dash()],
        Rto::Unharmed { .. } => [id, "unharmed".into(), dash(), dash(), dash(), dash(), dash()],
        Rto::StillOut { first_ms, last_ms } => {
            [id, "still out".into(), dash(), dash(), moment(first_ms), moment(last_ms), dash()]
        }
        Rto::Observed { first_ms, last_ms, good_ms, length_ms, within_ms } => [
            id,
            "observed".into(),
            length_ms.to_string(),
            or_dash(within_ms),
            moment(first_ms),
            moment(last_ms),
            moment(good_ms),
        ],
    }
}
