//! For orchestrators and Prometheus; without a token.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use domicile_api::problem::Problem;

use crate::app::App;
use crate::http::problem::Refusal;

/// The process answers.
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// Reads can be answered: the registry was seen at least once. Stays so when the registry goes away.
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    match app.look().await {
        Ok(_) => "ok\n".into_response(),
        Err(error) => Refusal::from(
            Problem::new("not-ready", "Not ready", 503, format!("the registry was never seen: {error}"))
                .hint("is etcd running, and is --registry right?"),
        )
        .into_response(),
    }
}

/// Counts in Prometheus' text form.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(http::header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.text())
        .into_response()
}
