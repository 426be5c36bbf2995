//! The listener for people and probes. It changes nothing.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use domicile_mirror::{Freshness, Source};
use domicile_model::CellId;
use domicile_router_core::admit::{Ask, Outcome, decide};
use domicile_router_core::ending::{Ending, ending};
use domicile_router_core::identify::{By, Clues, host_name, identify};
use domicile_router_core::writer::{Writer, writer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::state::{Proofs, Shared, millis};

/// The routes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/routes", get(routes))
        .route("/table", get(table))
        .route("/inflight", get(inflight))
        .route("/certificates", get(certificates))
        .route("/cells/{id}/writer", get(may_write))
        .with_state(shared)
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.not_ready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let whole = |length: Option<std::time::Duration>| {
        length.map_or(-1, |l| i64::try_from(l.as_millis()).unwrap_or(i64::MAX))
    };
    let m = &shared.metrics;
    m.holding.set(i64::try_from(shared.hold.len()).unwrap_or(i64::MAX));
    m.table_age_ms.set(whole(shared.mirror.freshness().age));
    m.table_revision.set(shared.table().applied().0);
    if let Proofs::Book(book) = &shared.proofs {
        m.proof_age_ms.set(whole(book.load().registry_age(shared.now())));
    } else {
        m.proof_age_ms.set(-1);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], m.text()).into_response()
}

const fn source(freshness: &Freshness) -> &'static str {
    match freshness.source {
        Source::None => "none",
        Source::LastGood => "last-good",
        Source::Live => "live",
    }
}

async fn table(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let (table, fresh) = (shared.table(), shared.mirror.freshness());
    let refused: Vec<_> =
        table.refused().iter().map(|(key, why)| json!({"key": key.to_string(), "why": &**why})).collect();
    Json(json!({
        "id": shared.config.id,
        "role": shared.config.role,
        "region": shared.config.region,
        "boot": shared.boot,
        "revision": table.applied(),
        "world": table.world().map(|w| w.id),
        "source": source(&fresh),
        "age_ms": fresh.age.map(millis),
        "diverged": table.diverged(),
        "refused": refused,
    }))
}

async fn inflight(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "cells": shared.inflight.busy(), "holding": shared.hold.len() }))
}

/// The certificates towards clients: for whom, until when, which files can't be used, and which may not be here.
async fn certificates(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let Some(tls) = &shared.keys.clients else { return Json(json!({"certificates": [], "unusable": []})) };
    let terms = tls.terms();
    let unusable: Vec<_> = terms.unusable.iter().map(|u| json!({"path": u.path, "why": u.why})).collect();
    let kept_out: Vec<_> =
        terms.shelf.kept_out().iter().map(|u| json!({"path": u.path, "why": u.why})).collect();
    let all: Vec<_> = terms.shelf.all().collect();
    Json(json!({ "certificates": all, "unusable": unusable, "kept-out": kept_out }))
}

/// Whether a worker beside this gate may write for the cell. Asked again before the time is over.
async fn may_write(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let no = |why: &str| Json(json!({"cell": id, "writer": false, "why": why})).into_response();
    if !shared.is_gate() {
        return no("this is an edge: ask a gate of the region");
    }
    let Ok(cell) = CellId::new(&id) else {
        return (StatusCode::NOT_FOUND, no("that is no cell id")).into_response();
    };
    let now = shared.now();
    let admitting = |cell: &CellId, epoch| match &shared.proofs {
        // Without a proof, where availability comes first: as long as one would say, so that workers ask again.
        Proofs::Book(book) => {
            let stands = || {
                shared.stands(cell, epoch).then(|| shared.constants().fence() - shared.constants().drain())
            };
            book.load().admitting(cell, epoch, now).or_else(stands).map(Some)
        }
        Proofs::NotNeeded => Some(None),
    };
    match writer(&shared.table(), &cell, &shared.config.region, admitting) {
        // Rounded down: no answer lasts longer than it does.
        Writer::Yes { epoch, lasts } => {
            let lasts = lasts.map(|l| u64::try_from(l.as_millis()).unwrap_or(u64::MAX));
            Json(json!({"cell": cell, "writer": true, "epoch": epoch, "for_ms": lasts})).into_response()
        }
        Writer::No(why) => no(why),
        Writer::Unknown => (StatusCode::NOT_FOUND, no("there is no such cell")).into_response(),
    }
}

/// How would it be routed?
#[derive(Debug, Deserialize)]
struct Wanted {
    host: Option<String>,
    tenant: Option<String>,
}

async fn routes(State(shared): State<Arc<Shared>>, Query(wanted): Query<Wanted>) -> Response {
    let table = shared.table();
    let clues = Clues {
        host: wanted.host.as_deref().map(str::as_bytes),
        hosts: usize::from(wanted.host.is_some()),
        tenant: wanted.tenant.as_deref().map(str::as_bytes),
        ..Clues::default()
    };
    let tenant = match identify(&table, &By::EDGE, &clues) {
        Ok(tenant) => tenant,
        Err(cause) => {
            let entry = cause.entry();
            let status = StatusCode::from_u16(entry.status).unwrap_or(StatusCode::NOT_FOUND);
            return (status, Json(json!({"outcome": "refuse", "cause": entry.label, "why": entry.title})))
                .into_response();
        }
    };
    let ask = Ask {
        tenant,
        role: shared.config.role,
        own: &shared.config.region,
        sent: None,
        pass: false,
        carry: false,
        now: shared.now(),
    };
    let outcome = match decide(&table, &ask, |cell, epoch| shared.admits(cell, epoch)) {
        Outcome::Forward(r) => json!({
            "outcome": "forward", "region": r.region, "epoch": r.epoch, "addresses": r.addresses, "local": r.local,
        }),
        Outcome::Hold { until } => json!({"outcome": "hold", "left_ms": millis(until.since(ask.now))}),
        Outcome::Misdirected { epoch, region, .. } => {
            json!({"outcome": "misdirected", "epoch": epoch, "region": region})
        }
        Outcome::WaitForTable => json!({"outcome": "wait-for-table"}),
        Outcome::WaitForProof { epoch, .. } => json!({"outcome": "wait-for-proof", "epoch": epoch}),
        Outcome::Refuse(cause) => {
            json!({"outcome": "refuse", "cause": cause.label(), "why": cause.entry().title})
        }
    };
    let tls = wanted.host.as_deref().and_then(|host| host_name(host.as_bytes()));
    let tls = tls.map(|name| match ending(&table, &shared.config.region, &name, false, ask.now) {
        Ending::Here => json!({"ends": "here"}),
        Ending::Elsewhere(splice) => {
            let inside: Vec<_> =
                splice.inside.iter().map(|i| json!({"region": i.region, "edges": i.edges})).collect();
            json!({"ends": "inside", "inside": inside})
        }
        Ending::Wait { until } => json!({"ends": "waits", "left_ms": millis(until.since(ask.now))}),
        Ending::Nowhere(why) => json!({"ends": "nowhere", "why": format!("{why:?}")}),
    });
    let placed = table.placement(tenant.cell.as_str());
    let proof = placed.and_then(|p| match &shared.proofs {
        Proofs::Book(book) => book.load().remaining(&tenant.cell, p.placement.epoch, ask.now).map(millis),
        Proofs::NotNeeded => None,
    });
    let fresh = shared.mirror.freshness();
    Json(json!({
        "tenant": tenant.id,
        "cell": tenant.cell,
        "placement": placed.map(|p| &p.placement),
        "modified": placed.map(|p| p.modified),
        "doubt": placed.and_then(|p| p.doubt.as_deref()),
        "decision": outcome,
        "tls": tls,
        "proof_left_ms": proof,
        "table": {"revision": table.applied(), "source": source(&fresh), "age_ms": fresh.age.map(millis)},
    }))
    .into_response()
}
