//! The witnesses of a cell: shown, and the wish for others, which the next silent placement takes up.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use domicile_api::witnesses::{RenewRequest, WitnessView, WitnessesView};
use domicile_engine::renewal::instead;
use domicile_model::{Cell, RouterId, WitnessRenewal, WitnessState};
use domicile_store::codec::encode;
use domicile_store::{Key, Op};
use jiff::Timestamp;

use crate::app::{App, View};
use crate::current::Current;
use crate::http::brakes::{commit, reason};
use crate::http::input;
use crate::http::problem::{Refusal, bad, missing};
use crate::operators::Operator;

/// Most routers that a wish excludes.
const MOST_WITHOUT: usize = 100;

/// What stands, and who would be named under this wish.
fn view(current: &Current, cell: &Cell, wish: Option<&WitnessRenewal>) -> Result<WitnessesView, Refusal> {
    let placed = current.placements.get(&cell.id);
    let (placement, revision) = placed.ok_or_else(|| missing("cell", cell.id.as_str(), "cell list"))?;
    let states: Vec<WitnessState> = current.witnesses.values().cloned().collect();
    let alive = current.routers.keys().cloned().collect();
    let barred = current.barred.keys().cloned().collect();
    let member = |id: &RouterId| WitnessView {
        id: id.clone(),
        region: current.witnesses.get(id).map(|w| w.region.clone()),
        alive: current.routers.contains_key(id),
        quiet: placement
            .holder
            .is_none()
            .then(|| current.witnesses.get(id).is_some_and(|w| w.is_quiet_at(*revision))),
        destroyed: current.barred.get(id).map(|b| format!("{}: {}", b.by, b.reason)),
    };
    Ok(WitnessesView {
        cell: cell.id.clone(),
        members: placement.witnesses.members.iter().map(member).collect(),
        needed_for_proof: placement.witnesses.p,
        needed_quiet: placement.witnesses.r,
        pending: current.renewals.get(&cell.id).cloned(),
        instead: instead(cell, &placement.witnesses, &states, &alive, &barred, wish),
    })
}

fn find<'a>(current: &'a Current, id: &str) -> Result<&'a Cell, Refusal> {
    current.fleet.cells.get(id).ok_or_else(|| missing("cell", id, "cell list"))
}

pub(crate) async fn show(
    Extension(seen): Extension<View>,
    Path(id): Path<String>,
) -> Result<Json<WitnessesView>, Refusal> {
    let cell = find(&seen.current, &id)?;
    Ok(Json(view(&seen.current, cell, seen.current.renewals.get(&cell.id))?))
}

/// A repeat of what stands changes nothing. On the leader only: followers have passed it on.
pub(crate) async fn renew(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<WitnessesView>, Refusal> {
    let wanted: RenewRequest = input::json(body, input::SMALL).await?;
    let why = reason(&wanted.reason)?;
    if wanted.without.len() > MOST_WITHOUT {
        return Err(bad(format!("`without` names more than {MOST_WITHOUT} routers")));
    }
    let current = app.look().await?.current;
    let cell = find(&current, &id)?;
    let wish = WitnessRenewal {
        cell: cell.id.clone(),
        without: wanted.without,
        wait: wanted.wait,
        by: by.0.clone(),
        reason: why,
        at: Timestamp::now(),
    };
    let standing = current.renewals.get(&cell.id);
    let stands = standing.is_some_and(|s| s.without == wish.without && s.wait == wish.wait);
    let shown = view(&current, cell, Some(&wish))?;
    if shown.members.is_empty() {
        return Err(bad(format!("cell {id} has no witnesses yet: it gets its first ones by itself")));
    }
    if wanted.dry_run || stands {
        return Ok(Json(shown));
    }
    let without: Vec<&str> = wish.without.iter().map(RouterId::as_str).collect();
    let without = if without.is_empty() { String::new() } else { format!(" without {}", without.join(", ")) };
    let wait = if wish.wait { ", the next planned move waits for it" } else { "" };
    let what = format!("cell {id}: other witnesses{without}{wait}, because: {}", wish.reason);
    let put = Op::Put(Key::Renewal(cell.id.clone()), encode(&wish), None);
    commit(&app, &by, ("renew-witnesses", what), None, put).await?;
    Ok(Json(WitnessesView { pending: Some(wish), ..shown }))
}

/// The wish goes; who is named stays named.
pub(crate) async fn keep(
    State(app): State<Arc<App>>,
    Extension(by): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<Json<WitnessesView>, Refusal> {
    let current = app.look().await?.current;
    let cell = find(&current, &id)?;
    let shown = view(&current, cell, None)?;
    if current.renewals.contains_key(&cell.id) {
        let what = format!("cell {id}: its witnesses stay");
        let gone = Op::Delete(Key::Renewal(cell.id.clone()));
        commit(&app, &by, ("keep-witnesses", what), None, gone).await?;
    }
    Ok(Json(WitnessesView { pending: None, ..shown }))
}
