//! Status, regions, cells, tenants, and `apply`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::middleware::Next;
use axum::{Json, response::IntoResponse, response::Response};
use domicile_api::problem::{Mistake, Problem};
use domicile_api::views::{
    AGE_MS, ApplyReport, ApplyRequest, CellView, FenceLevelView, LEADER, PlannedChange, RegionView,
    RouteView, Status, TenantView, TrustRequest,
};
use domicile_model::{RegionId, Tenant};
use http::HeaderValue;

use crate::agents::{self, TrustError};
use crate::app::{App, View};
use crate::apply::plan::weakens;
use crate::apply::{self, Applier};
use crate::current::Current;
use crate::http::input;
use crate::http::problem::{Refusal, missing, no_leader};
use crate::operators::{Operator, Role, Roles};
use crate::protection;
use crate::reconcile;
use crate::views;
use crate::waiting;

/// Looks at the registry for a read, and says in the answer, whatever it is, how old the look is and who leads. A
/// client that sees an old one, or nobody leading, asks another control plane.
pub(crate) async fn seen(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let view = match app.look().await {
        Ok(view) => view,
        Err(error) => return Refusal::from(error).into_response(),
    };
    let age = HeaderValue::from(millis(view.age));
    let leader = view.leader.as_deref().and_then(|name| HeaderValue::from_str(name).ok());
    request.extensions_mut().insert(view);
    let mut answer = next.run(request).await;
    answer.headers_mut().insert(AGE_MS, age);
    if let Some(leader) = leader {
        answer.headers_mut().insert(LEADER, leader);
    }
    answer
}

fn millis(age: std::time::Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) async fn status(State(app): State<Arc<App>>, Extension(view): Extension<View>) -> Json<Status> {
    let current = &view.current;
    let moves: Vec<_> = current.moves.values().copied().collect();
    let waiting = app.engine.waiting(&moves).await;
    let waiting =
        waiting.inspect_err(|error| tracing::debug!(%error, "what waits for approval is not known")).ok();
    let now = jiff::Timestamp::now();
    let mut findings = reconcile::findings(&app, current);
    findings.extend(waiting.iter().flat_map(|waiting| waiting::findings(waiting, now)));
    Json(Status {
        server: app.name.clone(),
        leader: view.leader,
        revision: current.revision.0,
        age_ms: millis(view.age),
        cells: current.fleet.cells.values().map(|c| cell_view(&app, current, c)).collect(),
        routers: current.routers.values().map(views::router).collect(),
        registry: app.room.view(),
        stop: current.stop.clone(),
        freezes: current.freezes.values().filter(|f| f.until > now).cloned().collect(),
        findings,
        waiting,
    })
}

fn cell_view(app: &App, current: &Current, cell: &domicile_model::Cell) -> CellView {
    let lag = cell.database.as_ref().and_then(|_| app.engine.sampler().lag(&cell.id));
    let health = cell.database.as_ref().and_then(|_| app.engine.sampler().health(&cell.id));
    let retention = cell.database.as_ref().and_then(|_| app.engine.sampler().retention(&cell.id));
    let unprotected = protection::unprotected(app, current, cell);
    let building = protection::building(app, current, cell);
    let agents = agents::views(app, current, cell);
    let told = |region: &RegionId| {
        let (level, age) = app.engine.sampler().fence_level(&cell.id, region)?;
        Some(FenceLevelView { region: region.clone(), level, age_ms: millis(age) })
    };
    let fence_levels = [&cell.primary, &cell.dr].into_iter().filter_map(told).collect();
    CellView {
        health,
        unprotected,
        building,
        retention,
        agents,
        fence_levels,
        ..views::cell(current, cell, lag)
    }
}

pub(crate) async fn regions(Extension(view): Extension<View>) -> Json<Vec<RegionView>> {
    let current = &view.current;
    Json(current.fleet.regions.values().map(|r| views::region(current, r)).collect())
}

pub(crate) async fn cells(
    State(app): State<Arc<App>>,
    Extension(view): Extension<View>,
) -> Json<Vec<CellView>> {
    let current = &view.current;
    Json(current.fleet.cells.values().map(|c| cell_view(&app, current, c)).collect())
}

pub(crate) async fn cell(
    State(app): State<Arc<App>>,
    Extension(view): Extension<View>,
    Path(id): Path<String>,
) -> Result<Json<CellView>, Refusal> {
    let current = &view.current;
    let cell = current.fleet.cells.get(id.as_str()).ok_or_else(|| missing("cell", &id, "cell list"))?;
    Ok(Json(cell_view(&app, current, cell)))
}

/// On the leader only: followers have passed it on.
pub(crate) async fn trust_agent(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<CellView>, Refusal> {
    let request: TrustRequest = input::json(body, input::SMALL).await?;
    let led = app.led().ok_or_else(no_leader)?;
    let unknown = || missing("cell", &id, "cell list");
    let known: domicile_model::CellId = id.parse().map_err(|_| unknown())?;
    let task = {
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let _turn = app.changes.lock().await;
            if !app.look().await?.current.fleet.cells.contains_key(&known) {
                return Ok(false);
            }
            agents::trust(&app, &led, &by.0, &known, &request).await?;
            Ok::<_, Refusal>(true)
        })
    };
    let found = task.await.map_err(|e| {
        tracing::error!(error = %e, "a change of trust ended early");
        Refusal::from(
            Problem::new("internal", "Internal error", 500, "the change ended early")
                .hint("`domicile cell show` tells which key is trusted"),
        )
    })??;
    let current = app.look().await?.current;
    let cell = current.fleet.cells.get(id.as_str()).filter(|_| found).ok_or_else(unknown)?;
    Ok(Json(cell_view(&app, &current, cell)))
}

impl From<TrustError> for Refusal {
    fn from(error: TrustError) -> Self {
        let text = error.to_string();
        match error {
            TrustError::NotShown(_) => Problem::new("key-not-shown", "Key not shown", 409, text)
                .hint("`domicile cell show` tells which key it shows; trust that one only if you know why it changed")
                .into(),
            TrustError::Revoked(_) => Problem::new("key-revoked", "Key revoked", 409, text)
                .hint("`domicile key list` tells who revoked it and why")
                .into(),
            TrustError::Conflict => Problem::new("conflict", "Conflict", 503, text)
                .hint("look with `domicile cell show`, then ask again")
                .into(),
            TrustError::Store(error) => error.into(),
        }
    }
}

pub(crate) async fn tenants(Extension(view): Extension<View>) -> Json<Vec<TenantView>> {
    let current = &view.current;
    Json(current.fleet.tenants.values().map(|t| views::tenant(current, t)).collect())
}

fn find<'a>(current: &'a Current, id: &str) -> Result<&'a Tenant, Refusal> {
    current.fleet.tenants.get(id).ok_or_else(|| missing("tenant", id, "tenant list"))
}

pub(crate) async fn tenant(
    Extension(view): Extension<View>,
    Path(id): Path<String>,
) -> Result<Json<TenantView>, Refusal> {
    Ok(Json(views::tenant(&view.current, find(&view.current, &id)?)))
}

pub(crate) async fn route(
    Extension(view): Extension<View>,
    Path(id): Path<String>,
) -> Result<Json<RouteView>, Refusal> {
    Ok(Json(views::route(&view.current, find(&view.current, &id)?)))
}

/// On the leader only: followers have passed it on.
pub(crate) async fn apply(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Extension(roles): Extension<Roles>,
    body: Body,
) -> Result<Response, Refusal> {
    let request: ApplyRequest = input::json(body, input::FILE).await?;
    let wanted = domicile_config::parse(&request.file, &request.text).map_err(|m| mistaken(&m))?;
    if request.dry_run {
        let (mut plan, current) = apply::look(&*app.store, &app.clock, &wanted, request.prune).await?;
        if let Some(place) = weakens(&current, &wanted, request.prune).filter(|_| !roles.has(Role::Admin)) {
            let why = format!("{place} would ask for fewer people than now: it takes the role `admin`");
            let (action, what, id) = ("refuse".into(), "approvals".into(), "fleet".into());
            plan.changes.push(PlannedChange { action, what, id, why });
        }
        let report = ApplyReport { changes: plan.changes, applied: false, revision: current.revision.0 };
        return Ok(Json(report).into_response());
    }
    let led = app.led().ok_or_else(no_leader)?;
    // Its own task: a client that hangs up does not stop it half way.
    let task = tokio::spawn(async move {
        let _turn = app.changes.lock().await;
        let applier = Applier {
            store: &*app.store,
            clock: &app.clock,
            world: &led.world,
            leadership: &led.leadership,
            server: &app.name,
            by: &by.0,
            may_weaken: roles.has(Role::Admin),
            room: Some(&app.room),
            #[cfg(test)]
            unfenced: false,
        };
        let applied = applier.apply(&wanted, request.prune).await;
        app.changed.notify_one();
        applied
    });
    let report = task.await.map_err(|e| {
        tracing::error!(error = %e, "apply ended early");
        Refusal::from(
            Problem::new("internal", "Internal error", 500, "apply ended early")
                .hint("see the control plane's log"),
        )
    })??;
    Ok(Json(report).into_response())
}

fn mistaken(mistakes: &domicile_config::Mistakes) -> Refusal {
    let n = mistakes.list.len();
    let detail =
        format!("{} has {n} mistake{}; nothing was applied", mistakes.file, if n == 1 { "" } else { "s" });
    let mut problem = Problem::new("mistakes", "Mistakes in the file", 422, detail)
        .hint("mend them all, then apply again; `domicile check FILE` finds them without a server");
    problem.mistakes = mistakes
        .list
        .iter()
        .map(|m| Mistake { line: m.line, what: m.what.clone(), hint: m.hint.clone() })
        .collect();
    problem.into()
}
