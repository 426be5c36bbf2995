//! The archive over HTTP: how it stands, a pass at once, and segments for other control planes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, RawQuery, State};
use axum::response::{IntoResponse, Response};
use domicile_api::archive::{ArchiveReport, ArchiveRequest, ArchiveView, AuditQuery, MOST_AUDITED};
use domicile_api::problem::Problem;
use domicile_store::{Commit, Txn};
use http::{HeaderMap, StatusCode, header};

use crate::app::App;
use crate::archive::{Problem as Trouble, audit, copies, pass, read};
use crate::audit::AuditEntry;
use crate::causes::chain;
use crate::http::forward::FORWARDED_BY;
use crate::http::input;
use crate::http::problem::{Refusal, bad, missing, no_leader};
use crate::operators::Operator;

/// How long another control plane may take to answer from its copy.
const ELSEWHERE: Duration = Duration::from_secs(10);
/// Largest such answer, in bytes.
const ANSWER: usize = 64 << 20;

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Store(error) => error.into(),
            Trouble::Deposed => no_leader(),
            other => Problem::new("archive", "Archive not usable", 503, chain(&other))
                .hint("`domicile archive status` shows the copies; the control planes' logs say more")
                .into(),
        }
    }
}

/// How the archive stands.
pub(crate) async fn status(State(app): State<Arc<App>>) -> Result<Json<ArchiveView>, Refusal> {
    Ok(Json(read::view(&app).await?))
}

/// A pass now, or what it would do. On the leader only: followers have passed it on.
pub(crate) async fn run(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    body: Body,
) -> Result<Json<ArchiveReport>, Refusal> {
    let request: ArchiveRequest = input::json(body, input::SMALL).await?;
    let led = app.led().ok_or_else(no_leader)?;
    let Some(archive) = app.archive.clone() else {
        return Err(Problem::new(
            "no-archive",
            "No archive",
            409,
            format!("control plane {} leads and keeps no archive: nothing leaves the registry", app.name),
        )
        .hint("start every control plane with --archive-dir")
        .into());
    };
    if request.dry_run {
        return Ok(Json(pass::would(&app, &archive).await?));
    }
    let what = vec!["a pass over what may leave the registry".to_owned()];
    let audit = AuditEntry::now(&by.0, &app.name, "archive", what).write();
    let Commit::Done(_) = app.store.commit(Txn::fenced(&led.world, &led.leadership).op(audit)).await? else {
        return Err(no_leader());
    };
    // Its own task: a client that hangs up does not stop it half way.
    let task = tokio::spawn(async move { pass::pass(&app, &archive, &led).await });
    let report = task.await.map_err(|e| Trouble::Other(format!("the pass ended early: {e}")))??;
    Ok(Json(report))
}

/// The audit log, what has left the registry included.
pub(crate) async fn audited(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    RawQuery(text): RawQuery,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|e| bad(format!("the question is not understood: {e}")))?;
    if query.limit.is_some_and(|limit| !(1..=MOST_AUDITED).contains(&limit)) {
        return Err(bad(format!("`limit` must be 1 to {MOST_AUDITED}")));
    }
    if query.before.as_ref().is_some_and(|id| id.parse::<uuid::Uuid>().is_err()) {
        return Err(bad("`before` must be the id of an entry"));
    }
    let path = text.map_or_else(|| "/v1/audit".to_owned(), |text| format!("/v1/audit?{text}"));
    if let Some(answer) = elsewhere(&app, &headers, &path).await {
        return Ok(answer);
    }
    Ok(Json(audit::read(&app, &query).await?).into_response())
}

/// A segment, for a control plane whose key the registry knows.
pub(crate) async fn segment(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(text): Path<String>,
) -> Result<Response, Refusal> {
    let unknown = || missing("segment", &text, "archive status");
    let n: u64 = text.parse().map_err(|_| unknown())?;
    let signed = headers.get(copies::REQUEST).and_then(|v| v.to_str().ok());
    if !copies::may_fetch(&app, n, signed).await? {
        app.metrics.unauthorized.inc();
        return Err(Problem::new(
            "unauthorized",
            "Not authorized",
            401,
            "segments are handed out to control planes only, by the keys that they have published in the registry",
        )
        .hint("operators read archived moves with `domicile failover show`")
        .into());
    }
    let archive = app.archive.as_ref().ok_or_else(unknown)?;
    let (bytes, end) = copies::hand_out(archive, n).await?.ok_or_else(unknown)?;
    let tag = format!("\"{}\"", end.digest);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    Ok(([(header::CONTENT_TYPE, "application/jsonl".to_owned()), (header::ETAG, tag)], bytes).into_response())
}

/// The same question to another control plane, if this one does not hold everything that has left the registry; none if
/// nobody could say more.
pub(crate) async fn elsewhere(app: &App, headers: &HeaderMap, path: &str) -> Option<Response> {
    if headers.contains_key(FORWARDED_BY) || read::is_complete(app).await.unwrap_or(true) {
        return None;
    }
    for copy in copies::all(app).await.ok()?.into_iter().filter(|c| c.server != app.name && c.segment > 0) {
        let address = app.links.dial(copy.address);
        let mut request = app
            .http
            .get(format!("http://{address}{path}"))
            .header(FORWARDED_BY, &app.name)
            .timeout(ELSEWHERE);
        if let Some(token) = headers.get(header::AUTHORIZATION) {
            request = request.header(header::AUTHORIZATION, token);
        }
        match answer(request).await {
            Ok(bytes) => {
                return Some(([(header::CONTENT_TYPE, "application/json")], bytes).into_response());
            }
            Err(why) => tracing::debug!(asked = copy.server, why, "another copy of the archive was no help"),
        }
    }
    None
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Vec<u8>, String> {
    let mut answer = request.send().await.map_err(|e| e.without_url().to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answered {}", answer.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| e.without_url().to_string())? {
        if bytes.len() + chunk.len() > ANSWER {
            return Err("its answer is too large".to_owned());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
