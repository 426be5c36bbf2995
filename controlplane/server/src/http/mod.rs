//! The HTTP API: reads are answered by every control plane, changes by the leader.

mod archive;
mod auth;
mod brakes;
pub(crate) mod facts;
mod fleet;
mod forward;
mod health;
pub(crate) mod input;
mod keys;
mod losses;
mod moves;
mod openapi;
pub(crate) mod problem;
mod reports;
mod service;
mod witnesses;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use domicile_api::problem::Problem;

use crate::app::App;
use crate::room;
use problem::Refusal;

/// How long a request may take, its body included. A stream of events is answered at once and then goes on.
const REQUEST: Duration = Duration::from_secs(30);

/// All routes.
pub(crate) fn router(app: &Arc<App>) -> Router {
    // What can wait until the registry has room again: everything but moves, what is said to them, and the emergency stop.
    let ordinary = Router::new()
        .route("/v1/cells/{id}/reprotect", post(moves::reprotect))
        .route("/v1/cells/{id}/trust-agent", post(fleet::trust_agent))
        .route("/v1/freezes", post(brakes::freeze))
        .route("/v1/freezes/{id}", delete(brakes::thaw))
        .route_layer(from_fn_with_state(Arc::clone(app), room::leave_room));
    let changes = ordinary
        .route("/v1/apply", post(fleet::apply))
        .route("/v1/archive", post(archive::run))
        .route("/v1/moves", post(moves::start))
        .route("/v1/cells/{id}/close", post(service::close))
        .route("/v1/cells/{id}/open", post(service::open))
        .route("/v1/moves/{id}/retry", post(moves::retry))
        .route("/v1/moves/{id}/rollback", post(moves::rollback))
        .route("/v1/moves/{id}/skip", post(moves::skip))
        .route("/v1/moves/{id}/pause", post(moves::pause_one))
        .route("/v1/moves/{id}/resume", post(moves::resume))
        .route("/v1/cells/{id}/witnesses", post(witnesses::renew).delete(witnesses::keep))
        .route("/v1/keys/{id}/revoke", post(keys::revoke))
        .route("/v1/stop", post(brakes::stop).delete(brakes::allow))
        .route_layer(from_fn(auth::changes));
    let approvals = Router::new()
        .route("/v1/moves/{id}/approve", post(moves::approve))
        .route("/v1/moves/{id}/reject", post(moves::reject))
        .route_layer(from_fn(auth::approves));
    let located = Router::new()
        .route("/v1/moves/{id}/losses/locate", post(losses::locate))
        .route_layer(from_fn(auth::reads_losses));
    let changes = changes
        .merge(approvals)
        .merge(located)
        .route_layer(from_fn_with_state(Arc::clone(app), forward::to_leader));
    let seen = Router::new()
        .route("/v1/status", get(fleet::status))
        .route("/v1/regions", get(fleet::regions))
        .route("/v1/cells", get(fleet::cells))
        .route("/v1/cells/{id}", get(fleet::cell))
        .route("/v1/cells/{id}/witnesses", get(witnesses::show))
        .route("/v1/keys", get(keys::list))
        .route("/v1/tenants", get(fleet::tenants))
        .route("/v1/tenants/{id}", get(fleet::tenant))
        .route("/v1/tenants/{id}/route", get(fleet::route))
        .route("/v1/reports/rto", get(reports::rto))
        .route("/v1/reports/sla", get(reports::sla))
        .route_layer(from_fn_with_state(Arc::clone(app), fleet::seen));
    // Of these each answer is one linearizable read: it is as new as can be, or there is none.
    let reads = Router::new()
        .route("/v1/archive", get(archive::status))
        .route("/v1/audit", get(archive::audited))
        .route("/v1/moves", get(moves::list))
        .route("/v1/moves/plan", post(moves::plan))
        .route("/v1/moves/{id}", get(moves::show))
        .route("/v1/moves/{id}/events", get(moves::events))
        .route("/v1/moves/{id}/losses", get(losses::list));
    // Everything so far is for people; a router's token opens one door, and that one nobody else's.
    let people = changes.merge(seen).merge(reads).route_layer(from_fn(auth::people));
    let told = Router::new()
        .route("/v1/facts", post(facts::take))
        .route("/v1/facts/clock", get(facts::clock))
        .route_layer(from_fn(auth::tells));
    let known = people.merge(told).route_layer(from_fn_with_state(Arc::clone(app), auth::operator));
    Router::new()
        .merge(known)
        .route("/v1/archive/segments/{n}", get(archive::segment))
        .route("/v1/facts/batches", get(facts::names))
        .route("/v1/facts/batches/{router}/{boot}/{number}", get(facts::batch))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/v1/openapi.json", get(openapi::document))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(app), bounded))
        .with_state(Arc::clone(app))
}

async fn nowhere() -> Refusal {
    Problem::new("not-found", "Not found", 404, "there is nothing at this path")
        .hint("the API is described at /v1/openapi.json")
        .into()
}

async fn wrong_method() -> Refusal {
    Problem::new("wrong-method", "Method not allowed", 405, "this path does not take this method")
        .hint("the API is described at /v1/openapi.json")
        .into()
}

/// Bounds the time of every request and counts it.
async fn bounded(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |p| p.as_str().to_owned());
    let answer = match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => Refusal::from(
            Problem::new(
                "too-slow",
                "No answer in time",
                504,
                format!("no answer within {} s", REQUEST.as_secs()),
            )
            .hint("it may still be done: look at the state before asking again"),
        )
        .into_response(),
    };
    app.metrics.requests.with_label_values(&[route.as_str(), answer.status().as_str()]).inc();
    answer
}
