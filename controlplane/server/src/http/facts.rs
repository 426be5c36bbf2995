//! Facts of routers come in.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use domicile_api::problem::Problem;
use domicile_api::reports::{Now, Taken};
use domicile_facts::{Batch, LARGEST, NotABatch};
use domicile_history::{HistoryError, Stored};

use crate::app::App;
use crate::causes::chain;
use crate::facts::{Kept, unix_ms};
use crate::http::input;
use crate::http::problem::Refusal;
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
