//! The listener for gates (witness proofs) and agents (a gate's proof).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use domicile_model::proof::Verdict;
use domicile_model::{CellId, Placement};
use domicile_router_core::bearer;

use super::wire::{Asked, PlacementsAnswer, ProofAnswer, ProofRequest, VouchAnswer, VouchRequest};
use crate::state::{Proofs, Shared};

/// Questions in one call.
const MOST_ASKS: usize = 1_000;
/// Bytes in one call.
const MOST_BYTES: usize = 1 << 20;

/// The routes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/witness", post(witness))
        .route("/v1/proof", post(proof))
        .route("/v1/placements", get(placements))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .layer(from_fn_with_state(shared.clone(), authenticated))
        .with_state(shared)
}

async fn authenticated(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map(axum::http::HeaderValue::as_bytes);
    match &shared.secret {
        Some(secret) if bearer::carries(given, secret) => next.run(request).await,
        _ => problem(
            StatusCode::UNAUTHORIZED,
            "peer-unknown",
            "Send the secret that routers and agents share.",
        ),
    }
}

fn problem(status: StatusCode, kind: &str, detail: &str) -> Response {
    let body = serde_json::json!({
        "type": format!("https://domicile.dev/problems/{kind}"),
        "title": "The peer's question was not answered",
        "status": status.as_u16(),
        "detail": detail,
    });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

async fn witness(State(shared): State<Arc<Shared>>, Json(request): Json<VouchRequest>) -> Response {
    if request.asks.len() > MOST_ASKS {
        return problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-many-asks",
            "Ask about at most 1000 cells at once.",
        );
    }
    Json(shared.vouch(&request)).into_response()
}

async fn proof(State(shared): State<Arc<Shared>>, Json(request): Json<ProofRequest>) -> Response {
    match shared.proof_for(&request) {
        Some(answer) => Json(answer).into_response(),
        None => problem(
            StatusCode::CONFLICT,
            "no-proof",
            "This gate has no proof that its region holds the cell; ask another one, or the registry.",
        ),
    }
}

async fn placements(State(shared): State<Arc<Shared>>) -> Json<PlacementsAnswer> {
    Json(shared.placements())
}

impl Shared {
    /// The highest placements that this router knows.
    #[must_use]
    pub fn placements(&self) -> PlacementsAnswer {
        let table = self.table();
        let mut newest: BTreeMap<CellId, Placement> = BTreeMap::new();
        let mut take = |p: &Placement| {
            if newest.get(&p.cell).is_none_or(|known| known.epoch < p.epoch) {
                newest.insert(p.cell.clone(), p.clone());
            }
        };
        table.placements().for_each(|p| take(&p.placement));
        let book = self.witness.as_ref().map(|b| b.lock().unwrap_or_else(PoisonError::into_inner));
        book.iter().flat_map(|b| b.known()).for_each(take);
        PlacementsAnswer {
            id: self.config.id.clone(),
            region: self.config.region.clone(),
            world: table.world().cloned(),
            vouches_in: book.and_then(|b| b.world()),
            placements: newest.into_values().collect(),
        }
    }

    /// What this router says as a witness. Without a memory, or for another world: no. In a world that is not reconciled
    /// nobody holds anything yet.
    #[must_use]
    pub fn vouch(&self, request: &VouchRequest) -> VouchAnswer {
        let unreconciled =
            self.table().world().is_some_and(|world| world.id == request.world && !world.reconciled);
        let book = self.witness.as_ref().filter(|_| !unreconciled);
        let book = book.map(|b| b.lock().unwrap_or_else(PoisonError::into_inner));
        let answers = request
            .asks
            .iter()
            .map(|ask| {
                let (verdict, newer) = match &book {
                    Some(book) => book.verdict(request.world, &ask.cell, ask.epoch, &request.region),
                    None => (Verdict::No, None),
                };
                Asked {
                    cell: ask.cell.clone(),
                    epoch: ask.epoch,
                    yes: verdict == Verdict::Yes,
                    placement: newer.cloned(),
                }
            })
            .collect();
        VouchAnswer { answers }
    }

    /// The proof that this gate has for a cell now, if its region is the asker's.
    #[must_use]
    pub fn proof_for(&self, request: &ProofRequest) -> Option<ProofAnswer> {
        let Proofs::Book(book) = &self.proofs else { return None };
        if !self.is_gate() || request.region != self.config.region {
            return None;
        }
        let table = self.table();
        let placed = table.provable(request.cell.as_str(), &request.region)?;
        let epoch = placed.placement.epoch;
        let left = book.load().remaining(&request.cell, epoch, self.now())?;
        // Rounded down: a proof never lasts longer than it does.
        Some(ProofAnswer { epoch, remaining_ms: u64::try_from(left.as_millis()).unwrap_or(0) })
    }
}
