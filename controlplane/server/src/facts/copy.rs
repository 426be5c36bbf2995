//! Copies: every control plane with a history takes from the others what it lacks. One that was away for long, or that lost its
//! directory, has the rest again before it reports. They know each other by the keys of the archive.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domicile_facts::{Batch, BatchId, LARGEST};
use domicile_history::Cursor;
use domicile_model::clock::pause;
use domicile_seal::keys::Purpose;
use domicile_store::lead::present_leader;
use domicile_store::{Key, codec};
use serde::{Deserialize, Serialize};

use super::Kept;
use crate::app::App;
use crate::archive::{Archive, Problem, copies};
use crate::causes::chain;

/// How often the others are asked whether they have more.
const LOOK: Duration = Duration::from_secs(2);
/// How long one may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Names in one answer.
pub(crate) const PAGE: u32 = 1_000;
/// The header that a request is signed in.
pub(crate) const REQUEST: &str = "domicile-facts-request";

const PURPOSE: Purpose = Purpose("domicile/facts-fetch/1");

/// A request to another control plane: for this very path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    by: String,
    path: String,
}

/// What a control plane took, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    /// The names.
    pub(crate) ids: Vec<BatchId>,
    /// Where to go on.
    pub(crate) end: Cursor,
}

/// Where the page after a cursor is.
pub(crate) fn page_path(after: Cursor) -> String {
    format!("/v1/facts/batches?after={}", after.0)
}

/// Where a batch is.
pub(crate) fn batch_path(id: &BatchId) -> String {
    format!("/v1/facts/batches/{}/{}/{}", id.router, id.boot, id.number)
}

/// Whether a control plane whose key the registry knows asks for this very path.
pub(crate) async fn may_fetch(app: &App, path: &str, header: Option<&str>) -> Result<bool, Problem> {
    let asked: Option<(Request, String)> = copies::signed_by(app, PURPOSE, header).await?;
    Ok(asked.is_some_and(|(request, owner)| request.path == path && request.by == owner))
}

/// Takes what is lacked, for as long as the process lives.
pub(crate) async fn follow(app: &App) {
    let (Some(kept), Some(archive)) = (&app.facts, &app.archive) else { return std::future::pending().await };
    let mut read: BTreeMap<String, Cursor> = BTreeMap::new();
    let mut said = None;
    loop {
        let mut failed = None;
        match others(app, archive).await {
            Ok(others) => {
                if others.is_empty() {
                    kept.complete();
                }
                for (name, address) in others {
                    let at = read.entry(name.clone()).or_default();
                    match take(app, kept, archive, address, at).await {
                        Ok(()) => kept.complete(),
                        Err(error) => failed = Some(format!("{name}: {}", chain(&error))),
                    }
                }
            }
            Err(error) => failed = Some(chain(&error)),
        }
        if failed != said {
            if let Some(error) = &failed {
                tracing::info!(error, "what routers told others was not copied; tried again");
            }
            said = failed;
        }
        pause(LOOK).await;
    }
}

/// The other control planes, by name; and has them know this one.
async fn others(app: &App, archive: &Arc<Archive>) -> Result<BTreeMap<String, SocketAddr>, Problem> {
    let (_, world) = app.store.read(&[Key::World]).await?;
    if let Some(world) = world.into_iter().flatten().next() {
        copies::introduce(app, archive, &codec::decode(&world.value)?).await?;
    }
    let mut others: BTreeMap<String, SocketAddr> =
        copies::all(app).await?.into_iter().map(|copy| (copy.server, copy.address)).collect();
    // A leader tells of its own copy only when it has something to archive.
    if let Some(leader) = present_leader(&*app.store).await.map_err(|e| Problem::Other(chain(&e)))? {
        others.insert(leader.record.name, leader.record.address);
    }
    others.remove(&app.name);
    Ok(others)
}

/// Takes from one of them all that it has and that is not here.
async fn take(
    app: &App,
    kept: &Kept,
    archive: &Archive,
    from: SocketAddr,
    at: &mut Cursor,
) -> Result<(), Problem> {
    let other = |what: String| Problem::Other(what);
    loop {
        let Some(bytes) = fetch(app, archive, from, &page_path(*at)).await? else { return Ok(()) };
        let page: Page = serde_json::from_slice(&bytes).map_err(|e| other(e.to_string()))?;
        if page.ids.is_empty() {
            return Ok(());
        }
        for id in kept.history.lacks(&page.ids).await.map_err(|e| other(chain(&e)))? {
            // Forgotten there meanwhile.
            let Some(bytes) = fetch(app, archive, from, &batch_path(&id)).await? else { continue };
            let batch = Batch::decode(&bytes).map_err(|e| other(e.to_string()))?;
            if batch.head.id != id {
                return Err(other(format!("{from} gave another batch than it was asked for")));
            }
            kept.history.store(&batch).await.map_err(|e| other(chain(&e)))?;
        }
        *at = page.end;
    }
}

/// The bytes at a path of another control plane; none if it has nothing there.
async fn fetch(
    app: &App,
    archive: &Archive,
    from: SocketAddr,
    path: &str,
) -> Result<Option<Vec<u8>>, Problem> {
    let other = |what: String| Problem::Other(format!("{from} was asked in vain: {what}"));
    let signed = copies::sign(archive, PURPOSE, Request { by: app.name.clone(), path: path.to_owned() })?;
    let url = format!("http://{}{path}", app.links.dial(from));
    let asked = app.http.get(url).header(REQUEST, signed).timeout(ANSWER).send();
    let mut answer = asked.await.map_err(|e| other(e.without_url().to_string()))?;
    match answer.status().as_u16() {
        200 => {}
        404 => return Ok(None),
        status => return Err(other(format!("it answered {status}"))),
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| other(e.without_url().to_string()))? {
        if bytes.len() + chunk.len() > LARGEST {
            return Err(other("its answer is too large".to_owned()));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}
