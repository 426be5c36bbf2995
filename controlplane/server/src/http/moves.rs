//! Moves: planned, started, followed, answered.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use domicile_api::moves::{ApproveRequest, MovePlan, MoveRequest, MoveView, ReasonRequest, RetryRequest};
use domicile_api::problem::Problem;
use domicile_api::protection::BuildingView;
use domicile_engine::{Consent, Destroyed, MoveError, Said};
use domicile_model::clock::{BootTime, pause};
use domicile_model::{CellId, MoveId, RouterId};
use domicile_store::StoreError;
use futures::stream::{self, Stream};
use http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::archive::read;
use crate::audit::AuditEntry;
use crate::http::archive;
use crate::http::brakes::reason;
use crate::http::input;
use crate::http::problem::{Refusal, bad, missing, no_leader};
use crate::operators::{Operator, Operators};

/// Longest idempotency key, in bytes.
const LONGEST_KEY: usize = 200;
/// How often a followed move is looked at.
const LOOK: Duration = Duration::from_millis(150);
/// Longest life of one stream of events; who wants more connects again.
const LONGEST_STREAM: Duration = Duration::from_secs(3600);
/// How long a stream goes on while the registry does not answer.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

pub(crate) fn id(text: &str) -> Result<MoveId, Refusal> {
    text.parse().map_err(|_| missing("move", text, "failover list"))
}

pub(crate) async fn plan(State(app): State<Arc<App>>, body: Body) -> Result<Json<MovePlan>, Refusal> {
    let request: MoveRequest = input::json(body, input::SMALL).await?;
    Ok(Json(app.engine.plan(&request).await?))
}

/// Those in the registry, and the newest that have left it.
pub(crate) async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Refusal> {
    if let Some(answer) = archive::elsewhere(&app, &headers, "/v1/moves").await {
        return Ok(answer);
    }
    Ok(Json(read::list(&app).await?).into_response())
}

/// With what this control plane sees of the new standby.
fn seen(app: &App, view: MoveView) -> MoveView {
    MoveView { building: app.engine.building(&view), ..view }
}

/// Whether two views say the same; how old a look is changes all the time.
fn same_news(one: &MoveView, other: &MoveView) -> bool {
    let still = |view: &MoveView| {
        let building = view.building.clone().map(|building| BuildingView { age_ms: 0, ..building });
        MoveView { building, ..view.clone() }
    };
    still(one) == still(other)
}

pub(crate) async fn view(app: &App, id: MoveId) -> Result<MoveView, Refusal> {
    let found = read::find(app, id).await?.map(|found| seen(app, found));
    found.ok_or_else(|| missing("move", &id.to_string(), "failover list"))
}

pub(crate) async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(text): Path<String>,
) -> Result<Response, Refusal> {
    let id = id(&text)?;
    if let Some(found) = read::find(&app, id).await? {
        return Ok(Json(seen(&app, found)).into_response());
    }
    match archive::elsewhere(&app, &headers, &format!("/v1/moves/{id}")).await {
        Some(answer) => Ok(answer),
        None => Err(missing("move", &text, "failover list")),
    }
}

/// On the leader only: followers have passed it on.
pub(crate) async fn start(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let request: MoveRequest = input::json(body, input::SMALL).await?;
    let id = match headers.get("idempotency-key") {
        None => MoveId::new(),
        Some(key) => keyed(&by, key.as_bytes())?,
    };
    let led = app.led().ok_or_else(no_leader)?;
    // Its own task: a client that hangs up does not leave it half done.
    let task = tokio::spawn(async move {
        let _turn = app.changes.lock().await;
        // Also one that has left the registry: its key stands for it for ever.
        if let Some(known) = read::find(&app, id).await? {
            return same(&request, known);
        }
        let audit = AuditEntry::now(&by.0, &app.name, "start-move", vec![describe(&request, id)]).write();
        let started =
            app.engine.request_as(id, vec![audit], &request, &by.0, &led.leadership, &led.world).await;
        match started {
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

fn describe(request: &MoveRequest, id: MoveId) -> String {
    let reason: String = request.reason.chars().take(500).collect();
    format!(
        "move {id}: cell {} to {}{}{}",
        request.cell,
        request.to,
        if request.force { ", forced" } else { "" },
        if reason.is_empty() { String::new() } else { format!(", because: {reason}") }
    )
}

fn describe_retry(id: MoveId, consent: Consent) -> String {
    let loss =
        consent.accept_loss.map_or_else(String::new, |n| format!(", up to {n} transactions may be lost"));
    let unknown = if consent.accept_unknown { ", an unknown number may be lost" } else { "" };
    format!("move {id}{loss}{unknown}")
}

/// The move that this operator's key stands for. The same key of another operator is another move.
pub(crate) fn keyed(by: &Operator, key: &[u8]) -> Result<MoveId, Refusal> {
    if key.is_empty() || key.len() > LONGEST_KEY || !key.iter().all(u8::is_ascii_graphic) {
        return Err(bad("Idempotency-Key must be 1 to 200 visible ASCII characters"));
    }
    let mut hash = Sha256::new();
    hash.update(b"domicile move\0");
    hash.update(by.0.as_bytes());
    hash.update(b"\0");
    hash.update(key);
    let hash = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    Ok(MoveId::from_u128(uuid::Builder::from_custom_bytes(bytes).into_uuid().as_u128()))
}

/// A repeat is answered with the move that stands, if it asks for the same.
fn same(request: &MoveRequest, known: MoveView) -> Result<MoveView, Refusal> {
    if known.cell == request.cell && known.to == request.to {
        return Ok(known);
    }
    Err(Problem::new(
        "key-used",
        "Idempotency key used",
        422,
        format!("this Idempotency-Key started the move of cell {} to {} already", known.cell, known.to),
    )
    .hint("use another key for another move")
    .into())
}

pub(crate) fn ended<T>(outcome: Result<T, tokio::task::JoinError>) -> Result<T, Refusal> {
    outcome.map_err(|error| {
        tracing::error!(%error, "a change ended early");
        Problem::new("internal", "Internal error", 500, "the change ended early")
            .hint("see the control plane's log; `domicile failover list` shows whether the move stands")
            .into()
    })
}

/// Builds the standby of a cell. On the leader only.
pub(crate) async fn reprotect(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
) -> Result<Response, Refusal> {
    let cell: CellId = text.parse().map_err(|_| missing("cell", &text, "cell list"))?;
    let led = app.led().ok_or_else(no_leader)?;
    let task = tokio::spawn(async move {
        let _turn = app.changes.lock().await;
        let audit = AuditEntry::now(&by.0, &app.name, "re-protect", vec![format!("cell {cell}")]).write();
        let id = app.engine.reprotect(&cell, vec![audit], &by.0, &led.leadership, &led.world).await?;
        view(&app, id).await
    });
    let view = ended(task.await)??;
    let location = format!("/v1/moves/{}", view.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(view)).into_response())
}

pub(crate) async fn retry(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    body: Body,
) -> Result<Json<MoveView>, Refusal> {
    let id = id(&text)?;
    let bytes = input::bytes(body, input::SMALL).await?;
    let wanted: RetryRequest = if bytes.is_empty() {
        RetryRequest::default()
    } else {
        serde_json::from_slice(&bytes)
            .map_err(|e| bad(format!("the body is not what this path takes: {e}")))?
    };
    let consent = Consent { accept_loss: wanted.accept_loss, accept_unknown: wanted.accept_unknown };
    if wanted.destroyed.is_empty() {
        return say(app, by, id, Verb::Retry(consent)).await;
    }
    if consent != Consent::default() {
        return Err(bad("declare who is destroyed first; consent to a loss is asked for once that is known"));
    }
    let destroyed = Destroyed { witnesses: wanted.destroyed, reason: reason(&wanted.reason)? };
    say(app, by, id, Verb::RetryWithout(destroyed)).await
}

pub(crate) async fn rollback(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
) -> Result<Json<MoveView>, Refusal> {
    say(app, by, id(&text)?, Verb::Rollback).await
}

/// The hash says what is approved: of anything else the approval is refused.
pub(crate) async fn approve(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    body: Body,
) -> Result<Json<MoveView>, Refusal> {
    let wanted: ApproveRequest = input::json(body, input::SMALL).await?;
    let note = match wanted.reason.trim() {
        "" => String::new(),
        text => reason(text)?,
    };
    if wanted.hash.len() != 64 || !wanted.hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad("`hash` is not the 64 hexadecimal digits that the move shows"));
    }
    say(app, by, id(&text)?, Verb::Approve(wanted.hash, note)).await
}

pub(crate) async fn reject(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    body: Body,
) -> Result<Json<MoveView>, Refusal> {
    let wanted: ReasonRequest = input::json(body, input::SMALL).await?;
    say(app, by, id(&text)?, Verb::Reject(reason(&wanted.reason)?)).await
}

pub(crate) async fn resume(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
) -> Result<Json<MoveView>, Refusal> {
    say(app, by, id(&text)?, Verb::Resume).await
}

pub(crate) async fn pause_one(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    body: Body,
) -> Result<Json<MoveView>, Refusal> {
    let wanted: ReasonRequest = input::json(body, input::SMALL).await?;
    say(app, by, id(&text)?, Verb::Pause(reason(&wanted.reason)?)).await
}

pub(crate) async fn skip(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
    body: Body,
) -> Result<Json<MoveView>, Refusal> {
    let wanted: ReasonRequest = input::json(body, input::SMALL).await?;
    say(app, by, id(&text)?, Verb::Skip(reason(&wanted.reason)?)).await
}

/// What a person says to a move that has begun.
enum Verb {
    Retry(Consent),
    RetryWithout(Destroyed),
    Rollback,
    Skip(String),
    Pause(String),
    Resume,
    /// The hash, and what is said with it.
    Approve(String, String),
    Reject(String),
}

impl Verb {
    /// Its name in the audit log, and what it says there of this move.
    fn told(&self, id: MoveId) -> (&'static str, String) {
        match self {
            Self::Retry(consent) => ("retry-move", describe_retry(id, *consent)),
            Self::RetryWithout(destroyed) => {
                let names: Vec<&str> = destroyed.witnesses.iter().map(RouterId::as_str).collect();
                let what = format!(
                    "move {id}: {} declared destroyed, barred for ever, because: {}",
                    names.join(", "),
                    destroyed.reason
                );
                ("strike-out-witnesses", what)
            }
            Self::Rollback => ("rollback-move", format!("move {id}")),
            Self::Skip(why) => ("skip-step", format!("move {id}, because: {why}")),
            Self::Pause(why) => ("pause-move", format!("move {id}, because: {why}")),
            Self::Resume => ("resume-move", format!("move {id}")),
            Self::Approve(hash, note) if note.is_empty() => {
                ("approve-move", format!("move {id}, hash {hash}"))
            }
            Self::Approve(hash, note) => ("approve-move", format!("move {id}, hash {hash}, because: {note}")),
            Self::Reject(why) => ("reject-move", format!("move {id}, because: {why}")),
        }
    }
}

/// Says it, with its entry in the audit log; gives the move as it stands then.
async fn say(app: Arc<App>, by: Operator, id: MoveId, verb: Verb) -> Result<Json<MoveView>, Refusal> {
    let led = app.led().ok_or_else(no_leader)?;
    // Its own task: a client that hangs up does not leave it half done.
    let task = tokio::spawn(async move {
        let (action, what) = verb.told(id);
        let audit = AuditEntry::now(&by.0, &app.name, action, vec![what]).write();
        let said = Said { by: &by.0, leadership: &led.leadership, world: &led.world, also: vec![audit] };
        match &verb {
            Verb::Retry(consent) => app.engine.retry(id, *consent, said).await,
            Verb::RetryWithout(destroyed) => app.engine.retry_without(id, destroyed, said).await,
            Verb::Rollback => app.engine.rollback(id, said).await,
            Verb::Skip(why) => app.engine.skip(id, why, said).await,
            Verb::Pause(why) => app.engine.pause(id, why, said).await,
            Verb::Resume => app.engine.resume(id, said).await,
            Verb::Approve(hash, note) => app.engine.approve(id, hash, note, said).await,
            Verb::Reject(why) => app.engine.reject(id, why, said).await,
        }?;
        view(&app, id).await
    });
    Ok(Json(ended(task.await)??))
}

/// The move after each change, until it is over; or until this control plane is no good source any more, so that the
/// client goes on at another one.
pub(crate) async fn events(
    State(app): State<Arc<App>>,
    Extension(operators): Extension<Arc<Operators>>,
    Path(text): Path<String>,
) -> Result<Response, Refusal> {
    let place = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| too_many_streams())?;
    let first = view(&app, id(&text)?).await?;
    let stream = changes(app, first, operators, place);
    let alive = KeepAlive::new().interval(Duration::from_secs(10)).text("alive");
    Ok(Sse::new(stream).keep_alive(alive).into_response())
}

fn too_many_streams() -> Refusal {
    Problem::new(
        "too-many-streams",
        "Too many streams",
        503,
        "this control plane has as many streams of events open as it allows; the move itself goes on",
    )
    .hint("follow it at another control plane, or look with `domicile failover show`")
    .into()
}

struct Followed {
    app: Arc<App>,
    last: MoveView,
    said: bool,
    until: BootTime,
    /// When the registry last answered.
    seen: BootTime,
    /// Who may call: a change ends the stream, and those who still may come again.
    operators: Arc<Operators>,
    /// Given back with the stream.
    _place: OwnedSemaphorePermit,
}

fn changes(
    app: Arc<App>,
    first: MoveView,
    operators: Arc<Operators>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let seen = app.clock.now();
    let until = seen + LONGEST_STREAM;
    let start = Followed { app, last: first, said: false, until, seen, operators, _place: place };
    stream::unfold(start, |mut at| async move {
        loop {
            if !at.said {
                at.said = true;
                let data = serde_json::to_string(&at.last).unwrap_or_default();
                return Some((Ok(Event::default().event("move").data(data)), at));
            }
            let now = at.app.clock.now();
            if at.last.status.is_final() || now > at.until || !at.app.roster.is_still(&at.operators) {
                return None;
            }
            pause(LOOK).await;
            match at.app.engine.view(at.last.id).await {
                Ok(Some(view)) => {
                    at.seen = at.app.clock.now();
                    at.said = same_news(&view, &at.last);
                    at.last = view;
                }
                // What was said still stands; but if only this control plane is cut off, another one knows more.
                Err(MoveError::Store(StoreError::Unavailable { .. }))
                    if at.app.clock.now().since(at.seen) < LONGEST_SILENCE => {}
                Ok(None) | Err(_) => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_for_one_move_of_one_operator() {
        let ann = Operator("ann".into());
        let bob = Operator("bob".into());
        assert_eq!(keyed(&ann, b"k").unwrap(), keyed(&ann, b"k").unwrap());
        assert_ne!(keyed(&ann, b"k").unwrap(), keyed(&ann, b"l").unwrap());
        assert_ne!(keyed(&ann, b"k").unwrap(), keyed(&bob, b"k").unwrap());
        for wrong in [&b""[..], b"a b", "ü".as_bytes(), &[b'x'; 201]] {
            assert!(keyed(&ann, wrong).is_err());
        }
    }
}
