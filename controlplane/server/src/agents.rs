//! By which keys the word of agents is believed: taken over at first sight, changed by a person only.

use std::time::Duration;

use domicile_api::views::{AgentView, TrustRequest};
use domicile_model::{AgentKey, Cell, CellId, RegionId, SigningKey};
use domicile_seal::handover::read_published;
use domicile_store::{Commit, Key, Precondition, StoreError, Txn, codec};

use crate::app::{App, Led};
use crate::audit::AuditEntry;
use crate::causes::chain;
use crate::current::Current;

/// Longest reason that the audit log takes.
const MOST_REASON: usize = 500;
/// How long a look for agents that nobody knows may take.
const LOOK: Duration = Duration::from_secs(3);

/// Why no key was trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// The agent did not show that key.
    #[error("{0}")]
    NotShown(String),
    /// A person has revoked that key.
    #[error("key {0} was revoked: an agent needs a new one, see runbooks/leaked-key.md")]
    Revoked(String),
    /// Somebody changed it meanwhile, or this control plane leads no more.
    #[error(
        "the key that is trusted was changed meanwhile, or another control plane leads: nothing was changed"
    )]
    Conflict,
    /// The registry.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes over the keys of agents of which none is known. Takes no input, repeats, and keeps no state.
pub(crate) async fn register(app: &App, led: &Led) {
    match tokio::time::timeout(LOOK, first_sight(app, led)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "agents without a trusted key stay so for now");
        }
        Err(_) => tracing::warn!("agents without a trusted key stay so for now: the registry is slow"),
    }
}

async fn first_sight(app: &App, led: &Led) -> Result<(), StoreError> {
    let (cells, agents) = futures::try_join!(app.store.list("cells/"), app.store.list("agents/"))?;
    // One that can't be read is known all the same: a newer program wrote it.
    let known = |key: &Key| agents.entries.iter().any(|entry| entry.key == *key);
    for cell in cells.entries.iter().filter_map(|entry| codec::decode::<Cell>(&entry.value).ok()) {
        for (region, shown) in app.engine.sampler().keys(&cell.id) {
            let key = Key::Agent(cell.id.clone(), region.clone());
            let ours = cell.database.as_ref().is_some_and(|d| d.endpoints.contains_key(&region));
            let revoked = Key::RevokedKey(shown.id.clone());
            if !ours || known(&key) {
                continue;
            }
            if let Err(error) = read_published(&shown) {
                tracing::warn!(cell = %cell.id, %region, %error, "the agent shows a key that is none");
                continue;
            }
            let changed = line(&cell.id, &region, &shown, None, "its first key");
            let audit = AuditEntry::now("control plane", &app.name, "trust-agent", vec![changed.clone()]);
            let agent = AgentKey { cell: cell.id.clone(), region, key: shown, by: None };
            let txn = Txn::fenced(&led.world, &led.leadership)
                .when(Precondition::Absent(key.clone()))
                .when(Precondition::Absent(revoked))
                .put(key, &agent)
                .op(audit.write());
            // Refused: somebody was faster, or leads by now. The next round sees it.
            if let Commit::Done(_) = app.store.commit(txn).await? {
                tracing::info!(changed, "the key of an agent is trusted");
            }
        }
    }
    Ok(())
}

fn line(cell: &CellId, region: &RegionId, new: &SigningKey, old: Option<&AgentKey>, why: &str) -> String {
    let old = old.map_or_else(|| "none".to_owned(), |agent| agent.key.id.clone());
    let why: String = why.chars().take(MOST_REASON).collect();
    format!("cell {cell}, agent in {region}: key {} instead of {old}, because: {why}", new.id)
}

/// A person trusts the key that an agent shows now, instead of the one that was trusted.
pub(crate) async fn trust(
    app: &App,
    led: &Led,
    by: &str,
    cell: &CellId,
    request: &TrustRequest,
) -> Result<(), TrustError> {
    let region = &request.region;
    let shown = app.engine.sampler().keys(cell).remove(region);
    let not_shown =
        |what: String| TrustError::NotShown(format!("the agent of cell {cell} in {region} {what}"));
    let Some(shown) = shown else {
        return Err(not_shown("has shown no key to this control plane yet".to_owned()));
    };
    if shown.id != request.key {
        let asked: String = request.key.chars().take(80).collect();
        return Err(not_shown(format!("shows key {}, not {asked}", shown.id)));
    }
    read_published(&shown).map_err(|error| not_shown(format!("shows a key that is none: {error}")))?;
    let key = Key::Agent(cell.clone(), region.clone());
    let revoked = Key::RevokedKey(shown.id.clone());
    let (_, found) = app.store.read(&[key.clone(), revoked.clone()]).await?;
    let mut found = found.into_iter();
    let (found, gone) = (found.next().flatten(), found.next().flatten());
    if gone.is_some() {
        return Err(TrustError::Revoked(shown.id));
    }
    let old: Option<AgentKey> = found.as_ref().and_then(|entry| codec::decode(&entry.value).ok());
    let changed = line(cell, region, &shown, old.as_ref(), &request.reason);
    let unchanged = match &found {
        Some(entry) => Precondition::ModifiedAt(key.clone(), entry.modified),
        None => Precondition::Absent(key.clone()),
    };
    let agent = AgentKey {
        cell: cell.clone(),
        region: region.clone(),
        key: shown,
        by: Some(by.chars().take(200).collect()),
    };
    let txn = Txn::fenced(&led.world, &led.leadership)
        .when(unchanged)
        .when(Precondition::Absent(revoked))
        .put(key, &agent)
        .op(AuditEntry::now(by, &app.name, "trust-agent", vec![changed]).write());
    match app.store.commit(txn).await? {
        Commit::Done(_) => Ok(()),
        Commit::Refused { .. } => Err(TrustError::Conflict),
    }
}

/// The agents of a cell, and their keys.
pub(crate) fn views(app: &App, current: &Current, cell: &Cell) -> Vec<AgentView> {
    let shown = app.engine.sampler().keys(&cell.id);
    let trusted = current.agents.get(&cell.id);
    let endpoints = cell.database.iter().flat_map(|d| d.endpoints.keys());
    endpoints
        .map(|region| {
            let trusted = trusted.and_then(|agents| agents.get(region));
            AgentView {
                region: region.clone(),
                trusted: trusted.map(|agent| agent.key.id.clone()),
                by: trusted.and_then(|agent| agent.by.clone()),
                shown: shown.get(region).map(|key| key.id.clone()),
            }
        })
        .collect()
}
