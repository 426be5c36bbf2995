//! The agent's API over HTTP.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use domicile_api::agent::{ExportLosses, Fence, Follow, Promote, Settle, Unfence};
use domicile_api::problem::CONTENT_TYPE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;

use crate::agent::Agent;
use crate::failure::Failure;

/// Orders are small.
const MOST_BYTES: usize = 64 * 1024;

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&*self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        response
    }
}

type Shared = State<Arc<Agent>>;

/// The routes.
pub(crate) fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/v1/state", get(|State(a): Shared| async move { Json(a.state().await) }))
        .route("/v1/settle", post(settle))
        .route("/v1/fence", post(fence))
        .route("/v1/unfence", post(unfence))
        .route("/v1/promote", post(promote))
        .route("/v1/promote/check", post(check_promotion))
        .route("/v1/follow", post(follow))
        .route("/v1/losses", post(export))
        .route("/v1/losses/{move}", get(report))
        .fallback(|| async {
            Failure::new("no-such-call", "No such call", 404, "the agent has no such call")
        })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&agent), authenticated))
        .with_state(agent)
}

async fn authenticated(State(agent): Shared, request: Request, next: Next) -> Response {
    // Read each time, so that a secret can be changed without a restart.
    let secret = match agent.config.secret.read() {
        Ok(secret) => secret,
        Err(e) => return Failure::machine(format!("the agent's own secret: {e}")).into_response(),
    };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.as_bytes().strip_prefix(b"Bearer "))
        .unwrap_or_default();
    if !bool::from(given.ct_eq(secret.as_bytes())) {
        return Failure::new(
            "unauthorized",
            "Wrong or missing secret",
            401,
            "the bearer secret is not this agent's",
        )
        .hint("give the control plane the same agent secret as this agent's `secret`")
        .into_response();
    }
    next.run(request).await
}

async fn body<T: DeserializeOwned>(request: Request<Body>) -> Result<T, Failure> {
    let bytes: Bytes = axum::body::to_bytes(request.into_body(), MOST_BYTES).await.map_err(|_| {
        Failure::new(
            "too-large",
            "The order is too large",
            413,
            format!("an order has at most {MOST_BYTES} bytes"),
        )
    })?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Failure::new("malformed", "The order can't be read", 400, format!("it is no such order: {e}"))
    })
}

/// Runs an effect to its end, also when the caller hangs up: half an effect is worse than one without a listener.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    tokio::spawn(work).await.map_err(|e| Failure::machine(format!("the agent failed inside: {e}")))?
}

fn json<T: Serialize>(status: StatusCode) -> impl FnOnce(T) -> Response {
    move |value| (status, Json(value)).into_response()
}

async fn settle(State(agent): Shared, request: Request) -> Result<Response, Failure> {
    let order: Settle = body(request).await?;
    whole(async move { agent.settle(&order).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn fence(State(agent): Shared, request: Request) -> Result<Response, Failure> {
    let order: Fence = body(request).await?;
    whole(async move { agent.fence(&order).await }).await.map(json(StatusCode::OK))
}

async fn unfence(State(agent): Shared, request: Request) -> Result<Response, Failure> {
    let order: Unfence = body(request).await?;
    whole(async move { agent.unfence(&order).await }).await.map(json(StatusCode::OK))
}

async fn promote(State(agent): Shared, request: Request) -> Result<Response, Failure> {
    let order: Promote = body(request).await?;
    whole(async move { agent.promote(&order).await }).await.map(json(StatusCode::OK))
}

async fn check_promotion(State(agent): Shared, request: Request) -> Result<Response, Failure> {
    let order: Promote = body(request).await?;
    agent.may_promote(&order).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn follow(State(agent): Shared, request: Request) -> Result<Response, Failure> {
    let order: Follow = body(request).await?;
    whole(async move { agent.follow(order).await }).await.map(json(StatusCode::ACCEPTED))
}

async fn export(State(agent): Shared, request: Request) -> Result<Response, Failure> {
    let order: ExportLosses = body(request).await?;
    whole(async move { agent.export_losses(order).await }).await.map(json(StatusCode::ACCEPTED))
}

async fn report(State(agent): Shared, Path(moving): Path<String>) -> Result<Response, Failure> {
    let moving = moving.parse().map_err(|_| {
        Failure::new("malformed", "Not a move", 400, "the last part of the path is no move's id")
    })?;
    match agent.loss_report(moving)? {
        Some(report) => Ok(Json(report).into_response()),
        None => {
            Err(Failure::new("no-report", "No such report", 404, "this agent has no losses of that move"))
        }
    }
}
