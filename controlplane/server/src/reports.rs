//! Reports from the history. What they say depends on the batches that are kept and on what is asked, and on nothing else: control
//! planes that keep the same answer the same.

use std::collections::BTreeSet;

use domicile_api::moves::{LogEvent, MoveKind, MoveView};
use domicile_api::reports::{Part, Rto, RtoReport, SlaReport, TenantRto, TenantSla};
use domicile_facts::Minute;
use domicile_history::{History, HistoryError, rto, sla};
use domicile_model::TenantId;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Minutes before and after a move that are looked at: an outage begins before somebody answers it.
const AROUND: u64 = 120;

/// A month, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Month {
    name: String,
    from: Timestamp,
    to: Timestamp,
}

impl Month {
    /// Reads `2026-11`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let first: Date = (text.len() == 7).then(|| format!("{text}-01").parse().ok())??;
        let next = first.checked_add(1.month()).ok()?;
        let utc = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
        let (from, to) = (utc(first)?, utc(next)?);
        (from >= Timestamp::UNIX_EPOCH).then(|| Self { name: text.to_owned(), from, to })
    }

    /// That of a moment.
    pub(crate) fn of(now: Timestamp) -> Option<Self> {
        Self::parse(&now.to_zoned(TimeZone::UTC).strftime("%Y-%m").to_string())
    }
}

fn unix_ms(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

/// What a move cost these tenants.
pub(crate) async fn rto(
    history: &History,
    view: &MoveView,
    tenants: &BTreeSet<TenantId>,
) -> Result<RtoReport, HistoryError> {
    // What comes after the switch is no part of what the move answered, unless no good write parts the two.
    let (from, to) = (unix_ms(view.created), done(view, "switch").unwrap_or_else(|| unix_ms(view.updated)));
    let looked = (Minute(Minute::of(from).0.saturating_sub(AROUND)), Minute(Minute::of(to).0 + AROUND));
    let mut list = Vec::new();
    for tenant in tenants {
        let rows = history.rows(Some(tenant), looked.0, looked.1).await?;
        list.push(TenantRto { tenant: tenant.clone(), rto: rto::observed(&rows, from, to) });
    }
    Ok(RtoReport {
        id: view.id,
        kind: view.kind,
        cell: view.cell.clone(),
        from: view.from.clone(),
        to: view.to.clone(),
        began: view.created,
        ended: view.updated,
        formula: rto::FORMULA.to_owned(),
        split: split(view, &list),
        tenants: list,
    })
}

/// When a step was done.
fn done(view: &MoveView, step: &str) -> Option<u64> {
    let mut entries = view.log.iter().rev();
    entries.find(|e| e.step == step && e.event == LogEvent::Done).map(|e| unix_ms(e.at))
}

/// What a move was at, by its log. The time before it was asked for counts from the first tenant in trouble.
fn split(view: &MoveView, tenants: &[TenantRto]) -> Vec<Part> {
    let first = tenants.iter().filter_map(|t| match t.rto {
        Rto::Observed { first_ms, .. } | Rto::StillOut { first_ms, .. } => Some(first_ms),
        Rto::NotObserved | Rto::Unharmed { .. } => None,
    });
    let decided = unix_ms(view.created);
    let trouble = first.min().filter(|first| view.kind == MoveKind::Failover && *first <= decided);
    let mut parts =
        vec![Part { part: "detect-and-decide".to_owned(), ms: trouble.map(|first| decided - first) }];
    let mut before = Some(decided);
    for (part, step) in [
        ("approve", "approve"),
        ("fence", "fence"),
        ("promote", "promote"),
        ("verify", "verify"),
        ("switch", "switch"),
    ] {
        let end = done(view, step);
        if end.is_none() && !view.steps.iter().any(|s| s == step) {
            continue;
        }
        let ms = end.zip(before).map(|(end, before)| end.saturating_sub(before));
        parts.push(Part { part: part.to_owned(), ms });
        before = end;
    }
    parts
}

/// Service levels of these tenants in a month, as far as it is over.
pub(crate) async fn sla(
    history: &History,
    month: &Month,
    until: Timestamp,
    objective_ppm: u64,
    tenants: &BTreeSet<TenantId>,
) -> Result<SlaReport, HistoryError> {
    let minute = |at: Timestamp| Minute::of(unix_ms(at));
    let (from, end) = (minute(month.from), minute(month.to));
    let to = end.min(minute(until)).max(from);
    let coverage = history.coverage(from, to).await?;
    let mut list = Vec::new();
    for tenant in tenants {
        let rows = history.rows(Some(tenant), from, to).await?;
        let sla = sla::of(&rows, &coverage, (from, to), end.0 - from.0, objective_ppm);
        list.push(TenantSla { tenant: tenant.clone(), sla });
    }
    let to = Timestamp::from_millisecond(i64::try_from(to.start()).unwrap_or(0)).unwrap_or(month.to);
    Ok(SlaReport {
        month: month.name.clone(),
        from: month.from,
        to,
        objective_ppm,
        formula: sla::FORMULA.to_owned(),
        tenants: list,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_read_and_everything_else_is_not() {
        let month = Month::parse("2026-12").unwrap();
        assert_eq!(
            (month.from.to_string(), month.to.to_string()),
            ("2026-12-01T00:00:00Z".into(), "2027-01-01T00:00:00Z".into())
        );
        assert_eq!(Month::of("2026-12-31T23:59:59Z".parse().unwrap()), Some(month));
        for wrong in ["", "2026", "2026-13", "2026-1", "1969-12", "2026-12-01", "9999-12", "x026-12"] {
            assert_eq!(Month::parse(wrong), None, "{wrong}");
        }
    }
}
