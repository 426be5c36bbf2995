//! Facts of routers come in.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Response};
use domicile_api::problem::Problem;
use domicile_api::reports::{Now, Taken};
use domicile_facts::{Batch, BatchId, LARGEST, NotABatch};
use domicile_history::{Cursor, HistoryError, Stored};
use http::HeaderMap;
use serde::Deserialize;

use crate::app::App;
use crate::causes::chain;
use crate::facts::{Kept, copy, unix_ms};
use crate::http::input;
use crate::http::problem::{Refusal, bad, missing};
use crate::operators::Operator;

impl From<HistoryError> for Refusal {
    fn from(error: HistoryError) -> Self {
        let text = chain(&error);
        tracing::warn!(error = text, "the history can't be used");
        Problem::new("history", "History not usable", 503, text)
            .hint("see the control plane's log; another control plane may answer")
            .into()
    }
}

/// What is kept here.
pub(crate) fn kept(app: &App) -> Result<&Kept, Refusal> {
    app.facts.as_ref().ok_or_else(|| {
        let what = format!("control plane {} keeps no history", app.name);
        Problem::new("no-history", "No history", 503, what)
            .hint("start every control plane with --history-dir")
            .into()
    })
}

/// What reports may rest on: a copy that began empty only once it has what the others have.
pub(crate) fn complete(app: &App) -> Result<&Kept, Refusal> {
    let kept = kept(app)?;
    if kept.is_complete() {
        return Ok(kept);
    }
    let what = format!("the history of control plane {} began empty and is still being copied", app.name);
    Err(Problem::new("copying", "History not complete", 503, what)
        .hint("ask another control plane, or this one in a moment")
        .into())
}

/// What is asked of a list of batches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct After {
    after: Cursor,
}

async fn known(app: &App, headers: &HeaderMap, path: &str) -> Result<(), Refusal> {
    let signed = headers.get(copy::REQUEST).and_then(|v| v.to_str().ok());
    if copy::may_fetch(app, path, signed).await? {
        return Ok(());
    }
    app.metrics.unauthorized.inc();
    let why =
        "facts are handed out to control planes only, by the keys that they have published in the registry";
    Err(Problem::new("unauthorized", "Not authorized", 401, why)
        .hint("operators read `domicile report`")
        .into())
}

/// The names of what was taken here, for another control plane.
pub(crate) async fn names(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<After>, QueryRejection>,
) -> Result<Json<copy::Page>, Refusal> {
    let Query(After { after }) = query.map_err(|e| bad(format!("the question is not understood: {e}")))?;
    known(&app, &headers, &copy::page_path(after)).await?;
    let (ids, end) = kept(&app)?.history.taken_after(after, copy::PAGE).await?;
    Ok(Json(copy::Page { ids, end }))
}

/// A batch, for another control plane.
pub(crate) async fn batch(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path((router, boot, number)): Path<(String, String, u64)>,
) -> Result<Response, Refusal> {
    let id = serde_json::json!({ "router": router, "boot": boot, "number": number });
    let id: BatchId = serde_json::from_value(id).map_err(|_| bad("this is no name of a batch"))?;
    known(&app, &headers, &copy::batch_path(&id)).await?;
    let found = kept(&app)?.history.batch(&id).await?;
    let batch = found.ok_or_else(|| missing("batch", &copy::batch_path(&id), "report sla"))?;
    Ok(([(http::header::CONTENT_TYPE, "application/x-ndjson")], batch.encode()).into_response())
}

/// The time here.
pub(crate) async fn clock() -> Json<Now> {
    Json(Now { now_ms: unix_ms() })
}

/// Takes a batch of the router that calls. What is acknowledged is on the disk.
pub(crate) async fn take(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    body: Body,
) -> Result<Json<Taken>, Refusal> {
    let bytes = input::bytes(body, LARGEST).await?;
    let batch = Batch::decode(&bytes).map_err(|error| {
        let status = if matches!(error, NotABatch::TooLarge) { 413 } else { 422 };
        Problem::new("not-a-batch", "Not a batch of facts", status, error.to_string())
            .hint("routers of this version tell facts that this one reads")
    })?;
    if batch.head.id.router.as_str() != by.0 {
        let what = format!("{} tells facts of {}", by.0, batch.head.id.router);
        return Err(Problem::new("forbidden", "Not allowed", 403, what)
            .hint("a router's line in the operators' file has its own id as the name")
            .into());
    }
    let app2 = Arc::clone(&app);
    // Its own task: a router that hangs up does not stop it half way.
    let task = tokio::spawn(async move { Ok::<_, Refusal>(kept(&app2)?.history.store(&batch).await?) });
    let stored = task
        .await
        .map_err(|_| Problem::new("internal", "Internal error", 500, "a batch was not taken"))??;
    app.metrics.facts.with_label_values(&[label(stored)]).inc();
    match stored {
        Stored::New | Stored::Already => Ok(Json(Taken { already: stored == Stored::Already })),
        Stored::Differs => Err(Problem::new(
            "another-batch",
            "Another batch of that name",
            409,
            "a batch of this name was told before, with another content; that one stays",
        )
        .hint("two routers may have one id and one state folder")
        .into()),
    }
}

/// As metrics name it.
pub(crate) const fn label(stored: Stored) -> &'static str {
    match stored {
        Stored::New => "new",
        Stored::Already => "already",
        Stored::Differs => "differs",
    }
}
