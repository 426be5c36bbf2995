//! What a forced move lost: the list for everybody who may look, and the way to the rows for those who may read them.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use domicile_api::agent::LossReport;
use domicile_api::moves::MoveView;
use domicile_api::problem::Problem;
use domicile_api::views::{LocateRequest, LocatedLosses};
use domicile_engine::MoveError;
use domicile_model::MoveId;
use domicile_store::{Commit, Txn};

use crate::app::App;
use crate::archive::read;
use crate::audit::AuditEntry;
use crate::http::brakes::reason;
use crate::http::input;
use crate::http::moves::id;
use crate::http::problem::{Refusal, no_leader};
use crate::operators::Operator;

async fn report(app: &App, id: MoveId) -> Result<LossReport, Refusal> {
    let told = match app.engine.losses(id).await {
        // Its record may have left the registry; the list stays with the old primary.
        Err(MoveError::NotFound(why)) => match read::find(app, id).await? {
            Some(MoveView { cell, from: Some(from), .. }) => app.engine.losses_of(id, &cell, &from).await?,
            _ => return Err(MoveError::NotFound(why).into()),
        },
        told => told?,
    };
    told.ok_or_else(|| {
        Problem::new(
            "no-losses",
            "No list of losses",
            409,
            format!("move {id} has no list of lost transactions: it was planned, or its old primary can't be read yet"),
        )
        .hint("the list is made when the old primary answers again; see `domicile failover show`")
        .into()
    })
}

/// The list; of the place of the rows only the region.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(text): Path<String>,
) -> Result<Json<LossReport>, Refusal> {
    let mut report = report(&app, id(&text)?).await?;
    if let Some((region, _)) = report.rows_at.split_once(':') {
        report.rows_at = region.to_owned();
    }
    Ok(Json(report))
}

/// The file of one tenant. Told only once the audit log has who asked and why.
pub(crate) async fn locate(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    body: Body,
) -> Result<Json<LocatedLosses>, Refusal> {
    let id = id(&text)?;
    let wanted: LocateRequest = input::json(body, input::SMALL).await?;
    let why = reason(&wanted.reason)?;
    let report = report(&app, id).await?;
    let whose =
        wanted.tenant.as_ref().map_or_else(|| "no known tenant".to_owned(), |t| format!("tenant {t}"));
    let Some(part) = report.part(wanted.tenant.as_ref()) else {
        let what = format!("move {id} lost no rows of {whose}");
        return Err(Problem::new("not-found", "Nothing lost", 404, what)
            .hint(format!("`domicile failover losses {id}` tells whose rows it lost"))
            .into());
    };
    let led = app.led().ok_or_else(no_leader)?;
    let told = format!("move {id}: rows of {whose}, file {}, because: {why}", part.file);
    let audit = AuditEntry::now(&by.0, &app.name, "locate-losses", vec![told]).write();
    match app.store.commit(Txn::fenced(&led.world, &led.leadership).op(audit)).await? {
        Commit::Done(_) => {}
        Commit::Refused { .. } => return Err(no_leader()),
    }
    let (region, directory) = report.rows_at.split_once(':').unwrap_or(("", &report.rows_at));
    Ok(Json(LocatedLosses {
        moving: id,
        tenant: wanted.tenant,
        region: region.to_owned(),
        path: format!("{}/{}", directory.trim_end_matches('/'), part.file),
        rows: part.rows,
        bytes: part.bytes,
        sha256: part.sha256.clone(),
        place: report.place.clone(),
    }))
}
