//! Reports, from what this control plane keeps.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use domicile_api::reports::{RtoReport, SlaReport};
use domicile_model::{MoveId, TenantId};
use jiff::Timestamp;
use serde::Deserialize;

use crate::app::{App, View};
use crate::http::facts::complete;
use crate::http::moves;
use crate::http::problem::{Refusal, bad, missing};
use crate::reports::{self, Month};

/// What is asked of a report on a move.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfMove {
    #[serde(rename = "move")]
    id: String,
    tenant: Option<String>,
}

/// What is asked of a report on a month.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfMonth {
    month: Option<String>,
    tenant: Option<String>,
    /// In percent.
    objective: Option<f64>,
    /// No minute after this is counted.
    until: Option<Timestamp>,
}

fn understood<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
    query.map(|Query(query)| query).map_err(|e| bad(format!("the question is not understood: {e}")))
}

/// Those, or the one that was asked for.
fn tenants(all: BTreeSet<TenantId>, one: Option<String>) -> Result<BTreeSet<TenantId>, Refusal> {
    let Some(one) = one else { return Ok(all) };
    let found = all.into_iter().find(|t| t.as_str() == one);
    found.map(|tenant| [tenant].into()).ok_or_else(|| missing("tenant", &one, "tenant list"))
}

pub(crate) async fn rto(
    State(app): State<Arc<App>>,
    Extension(view): Extension<View>,
    query: Result<Query<OfMove>, QueryRejection>,
) -> Result<Json<RtoReport>, Refusal> {
    let query = understood(query)?;
    let id: MoveId = query.id.parse().map_err(|_| missing("move", &query.id, "failover list"))?;
    let moved = moves::view(&app, id).await?;
    let of_cell = view.current.tenants_of.get(&moved.cell).into_iter().flatten().cloned().collect();
    let tenants = tenants(of_cell, query.tenant)?;
    Ok(Json(reports::rto(&complete(&app)?.history, &moved, &tenants).await?))
}

pub(crate) async fn sla(
    State(app): State<Arc<App>>,
    Extension(view): Extension<View>,
    query: Result<Query<OfMonth>, QueryRejection>,
) -> Result<Json<SlaReport>, Refusal> {
    let query = understood(query)?;
    let now = Timestamp::now();
    let month = match &query.month {
        Some(text) => Month::parse(text),
        None => Month::of(now),
    };
    let month = month.ok_or_else(|| bad("`month` must be written as 2026-11"))?;
    let objective = query.objective.unwrap_or(99.9);
    if !(0.0..=100.0).contains(&objective) {
        return Err(bad("`objective` must be a percentage from 0 to 100"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
    let ppm = (objective * 10_000.0).round() as u64;
    let all = view.current.fleet.tenants.keys().cloned().collect();
    let tenants = tenants(all, query.tenant)?;
    let until = query.until.map_or(now, |until| until.min(now));
    Ok(Json(reports::sla(&complete(&app)?.history, &month, until, ppm, &tenants).await?))
}
