//! Cells taken out of service by a person, and put back.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use domicile_api::moves::{CloseRequest, MoveKind, MoveView, OpenRequest};
use domicile_api::problem::Problem;
use domicile_engine::{MoveError, Service};
use domicile_model::{CellId, MoveId, RegionId};
use http::{HeaderMap, StatusCode, header};

use crate::app::App;
use crate::audit::AuditEntry;
use crate::http::brakes::reason;
use crate::http::input;
use crate::http::moves::{ended, keyed, view};
use crate::http::problem::{Refusal, missing, no_leader};
use crate::operators::Operator;

/// What a person wants.
struct Wanted {
    kind: MoveKind,
    cell: CellId,
    region: Option<RegionId>,
    reason: String,
    dry_run: bool,
}

impl Wanted {
    fn service(&self) -> Service<'_> {
        Service { kind: self.kind, cell: &self.cell, region: self.region.as_ref(), reason: &self.reason }
    }

    /// Its name in the audit log, and what it says there.
    fn told(&self, id: MoveId) -> (&'static str, String) {
        let action = if self.kind == MoveKind::Close { "close-cell" } else { "open-cell" };
        let place = self.region.as_ref().map_or_else(String::new, |r| format!(" in {r}"));
        (action, format!("move {id}: cell {}{place}, because: {}", self.cell, self.reason))
    }
}

/// On the leader only: followers have passed it on.
pub(crate) async fn close(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let asked: CloseRequest = input::json(body, input::SMALL).await?;
    let cell = text.parse().map_err(|_| missing("cell", &text, "cell list"))?;
    let (kind, reason) = (MoveKind::Close, reason(&asked.reason)?);
    let wanted = Wanted { kind, cell, region: None, reason, dry_run: asked.dry_run };
    serve(app, by, &headers, wanted).await
}

/// On the leader only: followers have passed it on.
pub(crate) async fn open(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let asked: OpenRequest = input::json(body, input::SMALL).await?;
    let cell = text.parse().map_err(|_| missing("cell", &text, "cell list"))?;
    let (kind, reason) = (MoveKind::Open, reason(&asked.reason)?);
    let wanted = Wanted { kind, cell, region: asked.region, reason, dry_run: asked.dry_run };
    serve(app, by, &headers, wanted).await
}

async fn serve(
    app: Arc<App>,
    by: Operator,
    headers: &HeaderMap,
    wanted: Wanted,
) -> Result<Response, Refusal> {
    if wanted.dry_run {
        return Ok(Json(app.engine.plan_service(&wanted.service()).await?).into_response());
    }
    let id = match headers.get("idempotency-key") {
        None => MoveId::new(),
        Some(key) => keyed(&by, key.as_bytes())?,
    };
    let led = app.led().ok_or_else(no_leader)?;
    // Its own task: a client that hangs up does not leave it half done.
    let task = tokio::spawn(async move {
        let _turn = app.changes.lock().await;
        if let Some(known) = crate::archive::read::find(&app, id).await? {
            return same(&wanted, known);
        }
        let (action, what) = wanted.told(id);
        let audit = AuditEntry::now(&by.0, &app.name, action, vec![what]).write();
        let own = (id, vec![audit]);
        match app.engine.serve(own, &wanted.service(), &by.0, &led.leadership, &led.world).await {
            Ok(_) => view(&app, id).await,
            // The commit may be applied: look, so that the caller learns which.
            Err(MoveError::Unconfirmed(_)) => match app.engine.view(id).await? {
                Some(known) => Ok(known),
                None => Err(MoveError::Unconfirmed(id).into()),
            },
            Err(error) => Err(error.into()),
        }
    });
    let view = ended(task.await)??;
    let location = format!("/v1/moves/{}", view.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(view)).into_response())
}

/// A repeat is answered with what stands, if it asks for the same.
fn same(wanted: &Wanted, known: MoveView) -> Result<MoveView, Refusal> {
    if known.kind == wanted.kind && known.cell == wanted.cell {
        return Ok(known);
    }
    Err(Problem::new(
        "key-used",
        "Idempotency key used",
        422,
        format!("this Idempotency-Key started something else already, move {}", known.id),
    )
    .hint("use another key for another change")
    .into())
}
