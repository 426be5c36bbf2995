//! `domicile report sla`

use domicile_api::reports::{Sla, SlaReport, TenantSla};

use super::line;
use crate::args::SlaArgs;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::Out;

/// Runs it.
///
/// # Errors
/// When no control plane answers, or keeps no history.
pub async fn run(args: &SlaArgs, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let mut asked = vec![format!("objective={}", args.objective)];
    asked.extend(args.month.as_ref().map(|month| format!("month={month}")));
    asked.extend(args.tenant.as_ref().map(|tenant| format!("tenant={tenant}")));
    asked.extend(args.until.map(|until| format!("until={until}")));
    let report: SlaReport = client.get(&format!("/v1/reports/sla?{}", asked.join("&"))).await?;
    let head = [
        "TENANT",
        "AVAILABILITY",
        "MINUTES",
        "AVAILABLE",
        "BAD",
        "IDLE",
        "UNKNOWN",
        "REQUESTS",
        "BAD REQUESTS",
        "WRITES",
        "BUDGET LEFT",
    ];
    if out.json {
        out.data(&report)?;
    } else if args.csv {
        writeln!(out.stdout, "{}", head.map(|name| name.to_lowercase().replace(' ', "_")).join(","))?;
        for tenant in &report.tenants {
            writeln!(out.stdout, "{}", line(&row(tenant)))?;
        }
    } else {
        out.pairs(&[
            ("month", format!("{}, counted from {} to {}", report.month, report.from, report.to)),
            ("objective", percent(report.objective_ppm)),
        ])?;
        writeln!(out.stdout)?;
        out.table(&head, report.tenants.iter().map(row).collect())?;
        writeln!(out.stdout, "\navailability: {}", report.formula)?;
    }
    Ok(Exit::Ok)
}

fn row(tenant: &TenantSla) -> Vec<String> {
    let Sla {
        minutes,
        available,
        bad,
        idle,
        unknown,
        requests,
        bad_requests,
        writes,
        budget,
        budget_left,
        ..
    } = tenant.sla;
    let mut row = vec![tenant.tenant.to_string(), availability(&tenant.sla)];
    row.extend(
        [minutes, available, bad, idle, unknown, requests, bad_requests, writes].map(|n| n.to_string()),
    );
    row.push(format!("{budget_left} of {budget} min"));
    row
}

/// A range, where not everything is known.
fn availability(sla: &Sla) -> String {
    match (sla.least_ppm, sla.most_ppm) {
        (Some(least), Some(most)) if least == most => percent(least),
        (Some(least), Some(most)) => format!("{} to {}", percent(least), percent(most)),
        _ => "not observed".to_owned(),
    }
}

/// Parts of a million as a percentage, never rounded up: 99.9999 % is not 100 %.
fn percent(ppm: u64) -> String {
    let text = format!("{}.{:04}", ppm / 10_000, ppm % 10_000);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_never_rounded_up() {
        assert_eq!(
            [1_000_000, 999_999, 999_000, 5, 0].map(percent),
            ["100 %", "99.9999 %", "99.9 %", "0.0005 %", "0 %"]
        );
        assert_eq!(availability(&Sla::default()), "not observed");
        let range = Sla { least_ppm: Some(500_000), most_ppm: Some(1_000_000), ..Sla::default() };
        assert_eq!(availability(&range), "50 % to 100 %");
    }
}
