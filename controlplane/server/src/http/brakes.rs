//! The emergency stop and freezes: set and lifted by a person, each with its entry in the audit log.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use domicile_api::moves::ReasonRequest;
use domicile_api::views::FreezeRequest;
use domicile_model::{EmergencyStop, Freeze, FreezeId};
use domicile_store::codec::encode;
use domicile_store::{Commit, Key, Op, Precondition, StoreError, Txn};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::app::App;
use crate::audit::AuditEntry;
use crate::http::input;
use crate::http::problem::{Refusal, bad, missing, no_leader};
use crate::operators::Operator;

/// Longest reason, in characters.
const LONGEST_REASON: usize = 500;
/// Most freezes at a time, past ones included until they are removed.
const MOST_FREEZES: usize = 1_000;

/// A reason that says something.
pub(crate) fn reason(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > LONGEST_REASON {
        return Err(bad(format!(
            "say why, in at most {LONGEST_REASON} characters: `reason` is what the audit log keeps"
        )));
    }
    Ok(text.to_owned())
}

/// Commits a change with its audit entry, fenced. `kept`: a key that must be absent besides; whether it was.
pub(crate) async fn commit(
    app: &App,
    by: &Operator,
    (action, what): (&str, String),
    kept: Option<Precondition>,
    op: Op,
) -> Result<bool, Refusal> {
    let led = app.led().ok_or_else(no_leader)?;
    let audit = AuditEntry::now(&by.0, &app.name, action, vec![what]).write();
    let mut txn = Txn::fenced(&led.world, &led.leadership).op(op).op(audit);
    let fences = txn.when.len();
    txn.when.extend(kept.clone());
    match app.store.commit(txn).await? {
        Commit::Done(_) => Ok(true),
        Commit::Refused { current, .. } => {
            // Only what was to hold besides may fail and be told apart; else this control plane does not lead any more.
            let besides = kept.is_some() && current.get(fences).is_some_and(Option::is_some);
            if besides { Ok(false) } else { Err(no_leader()) }
        }
    }
}

/// Nothing starts any more, and what runs goes no further than it must.
pub(crate) async fn stop(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    body: Body,
) -> Result<Json<EmergencyStop>, Refusal> {
    let wanted: ReasonRequest = input::json(body, input::SMALL).await?;
    let record = EmergencyStop { by: by.0.clone(), reason: reason(&wanted.reason)?, at: Timestamp::now() };
    let put = Op::Put(Key::Stop, encode(&record), None);
    let what = ("stop-all", format!("all moves, because: {}", record.reason));
    if commit(&app, &by, what, Some(Precondition::Absent(Key::Stop)), put).await? {
        tracing::warn!(by = by.0, reason = record.reason, "all moves are stopped");
        return Ok(Json(record));
    }
    // A repeat, or somebody else's: what stands is what counts.
    let (_, found) = app.store.read(&[Key::Stop]).await?;
    let found = found.into_iter().next().flatten().ok_or_else(no_leader)?;
    let standing = domicile_store::codec::decode(&found.value)
        .map_err(|e| Refusal::from(StoreError::Refused(e.to_string())))?;
    Ok(Json(standing))
}

/// Moves may start and go on.
pub(crate) async fn allow(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
) -> Result<Json<Value>, Refusal> {
    commit(&app, &by, ("allow-all", "all moves".to_owned()), None, Op::Delete(Key::Stop)).await?;
    tracing::warn!(by = by.0, "all moves are allowed again");
    app.engine.look_again();
    Ok(Json(json!({ "stopped": false })))
}

/// No planned move of these cells in this window.
pub(crate) async fn freeze(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    body: Body,
) -> Result<Json<Freeze>, Refusal> {
    let wanted: FreezeRequest = input::json(body, input::SMALL).await?;
    let now = Timestamp::now();
    let record = Freeze {
        id: FreezeId::new(),
        from: wanted.from.unwrap_or(now),
        until: wanted.until,
        cells: wanted.cells,
        by: by.0.clone(),
        reason: reason(&wanted.reason)?,
    };
    if record.until <= record.from || record.until <= now {
        return Err(bad(format!(
            "a freeze from {} until {} holds nothing: it is over before it begins",
            record.from, record.until
        )));
    }
    let current = app.look().await?.current;
    if let Some(unknown) = record.cells.iter().find(|cell| !current.fleet.cells.contains_key(*cell)) {
        return Err(missing("cell", unknown.as_str(), "cell list"));
    }
    if current.freezes.len() >= MOST_FREEZES {
        return Err(bad(format!("there are {MOST_FREEZES} freezes already: remove those that are over")));
    }
    let cells = match record.cells.len() {
        0 => "all cells".to_owned(),
        _ => record.cells.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let what = format!("{cells} from {} until {}, because: {}", record.from, record.until, record.reason);
    let put = Op::Put(Key::Freeze(record.id), encode(&record), None);
    commit(&app, &by, ("freeze", what), None, put).await?;
    Ok(Json(record))
}

/// A freeze ends early.
pub(crate) async fn thaw(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(text): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let unknown = || missing("freeze", &text, "status");
    let id: FreezeId = text.parse().map_err(|_| unknown())?;
    let current = app.look().await?.current;
    let freeze = current.freezes.get(&id).ok_or_else(unknown)?;
    let what = format!("the freeze {id} of {}: {}", freeze.by, freeze.reason);
    commit(&app, &by, ("thaw", what), None, Op::Delete(Key::Freeze(id))).await?;
    Ok(Json(json!({ "removed": id })))
}
