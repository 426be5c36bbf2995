//! Keys that agents sign with: listed, and revoked by a person.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use domicile_api::keys::KeyView;
use domicile_api::moves::ReasonRequest;
use domicile_model::RevokedKey;
use domicile_store::codec::encode;
use domicile_store::{Key, Op, Precondition};
use jiff::Timestamp;

use crate::app::{App, View};
use crate::current::Current;
use crate::http::brakes::{commit, reason};
use crate::http::input;
use crate::http::problem::{Refusal, missing};
use crate::operators::Operator;

fn views(app: &App, current: &Current) -> Vec<KeyView> {
    let mut found: Vec<KeyView> = Vec::new();
    for cell in current.fleet.cells.values() {
        let shown = app.engine.sampler().keys(&cell.id);
        let trusted = current.agents.get(&cell.id);
        for region in cell.database.iter().flat_map(|d| d.endpoints.keys()) {
            let shows = shown.get(region).map(|key| key.id.clone());
            let trusts = trusted.and_then(|agents| agents.get(region)).map(|agent| agent.key.id.clone());
            let mut ids: Vec<&String> = trusts.iter().chain(&shows).collect();
            ids.dedup();
            found.extend(ids.into_iter().map(|id| KeyView {
                id: id.clone(),
                cell: Some(cell.id.clone()),
                region: Some(region.clone()),
                trusted: trusts.as_ref() == Some(id),
                shown: shows.as_ref() == Some(id),
                revoked: current.revoked.get(id).cloned(),
            }));
        }
    }
    let borne: Vec<String> = found.iter().map(|k| k.id.clone()).collect();
    let gone = current.revoked.values().filter(|r| !borne.contains(&r.id));
    found.extend(gone.map(|revoked| KeyView {
        id: revoked.id.clone(),
        cell: None,
        region: None,
        trusted: false,
        shown: false,
        revoked: Some(revoked.clone()),
    }));
    found
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(seen): Extension<View>,
) -> Json<Vec<KeyView>> {
    Json(views(&app, &seen.current))
}

/// Revoking it again changes nothing. On the leader only: followers have passed it on.
pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Vec<KeyView>>, Refusal> {
    let wanted: ReasonRequest = input::json(body, input::SMALL).await?;
    let why = reason(&wanted.reason)?;
    let current = app.look().await?.current;
    let borne: Vec<KeyView> = views(&app, &current).into_iter().filter(|key| key.id == id).collect();
    if borne.is_empty() {
        return Err(missing("key", &id, "key list"));
    }
    let of: Vec<String> = borne
        .iter()
        .filter_map(|key| {
            Some(format!("the agent of cell {} in {}", key.cell.as_ref()?, key.region.as_ref()?))
        })
        .collect();
    let record =
        RevokedKey { id: id.clone(), of: of.join(", "), by: by.0.clone(), reason: why, at: Timestamp::now() };
    let what = format!("key {id} of {}, because: {}", record.of, record.reason);
    let key = Key::RevokedKey(id.clone());
    let put = Op::Put(key.clone(), encode(&record), None);
    if commit(&app, &by, ("revoke-key", what), Some(Precondition::Absent(key)), put).await? {
        tracing::warn!(key = id, by = by.0, "a key is revoked");
    }
    let current = app.look().await?.current;
    Ok(Json(views(&app, &current).into_iter().filter(|key| key.id == id).collect()))
}
