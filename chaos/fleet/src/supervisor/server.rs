//! The control address: orders in, how many things they touched out.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::Fleet;
use crate::control::{FleetStatus, LinkOrder, Refusal, RegionAct, RegionOrder, UnitOrder};

type Shared = State<Arc<Fleet>>;
type Done = Result<Json<usize>, Refused>;

/// An order that could not be carried out.
pub(super) struct Refused(anyhow::Error);

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, Json(Refusal { error: format!("{:#}", self.0) })).into_response()
    }
}

pub(super) fn routes(fleet: Arc<Fleet>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/link", post(link))
        .route("/region", post(region))
        .route("/unit", post(unit))
        .route("/down", post(down))
        .layer(middleware::from_fn_with_state(Arc::clone(&fleet), authorize))
        .with_state(fleet)
}

/// Whoever can connect to loopback is not yet whoever may kill the fleet.
async fn authorize(State(fleet): Shared, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    if given.and_then(|v| v.strip_prefix("Bearer ")) == Some(fleet.token.as_str()) {
        next.run(request).await
    } else {
        let error = "the supervisor's token is missing or wrong: fleet.json says where it lies".to_owned();
        (StatusCode::UNAUTHORIZED, Json(Refusal { error })).into_response()
    }
}

async fn status(State(fleet): Shared) -> Json<FleetStatus> {
    Json(FleetStatus { units: fleet.units.status(), faults: fleet.links.faults() })
}

async fn link(State(fleet): Shared, Json(order): Json<LinkOrder>) -> Done {
    tracing::info!(?order, "link");
    Ok(Json(fleet.links.order(&order)?))
}

async fn region(State(fleet): Shared, Json(order): Json<RegionOrder>) -> Done {
    tracing::info!(?order, "region");
    let links = || fleet.links.region(order.act, &order.region);
    Ok(Json(match order.act {
        RegionAct::Cut | RegionAct::Heal => links(),
        RegionAct::Kill => {
            // A dead region's bytes stop with it: what its links still hold must not arrive afterwards.
            links();
            fleet.units.kill_region(&order.region)?
        }
        RegionAct::Start => {
            links();
            fleet.units.start_region(&order.region, &fleet.links).await?
        }
    }))
}

async fn unit(State(fleet): Shared, Json(order): Json<UnitOrder>) -> Done {
    tracing::info!(?order, "unit");
    Ok(Json(fleet.units.order(&order, &fleet.links).await?))
}

async fn down(State(fleet): Shared) -> Json<usize> {
    fleet.ended.notify_one();
    Json(fleet.plan.units.len())
}
