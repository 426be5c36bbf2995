//! The verbs, from arguments to streams.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use domicile_cli::exit::Exit;
use domicile_cli::fail::Failure;
use domicile_cli::out::Out;
use domicile_cli::registry::{Ask, At, How, RegistryVerb};
use domicile_model::links::AddressMap;
use domicile_model::{Cell, CellId, Fleet, Placement, SecretRef, World, WorldId};
use domicile_server::chain;
use domicile_store::codec::decode;
use domicile_store::{Entry, Key, Listing, Store};
use domicile_store_etcd::{EtcdConfig, EtcdStore};

use crate::asking::{Asker, Reports};
use crate::content::Content;
use crate::decide::{Decision, Facts, decide};
use crate::file::{self, Backup};
use crate::publish::{Publication, PublishError, carried};
use crate::{ruling, show};

/// Runs a verb of `domicile registry`.
///
/// # Errors
/// When nothing was done, or not all of it, and why.
pub async fn run(verb: &RegistryVerb, out: &mut Out) -> Result<Exit, Failure> {
    match verb {
        RegistryVerb::Backup { file, at } => backup(file, at, out).await,
        RegistryVerb::Verify { file, against } => verify(file, against.as_deref(), out).await,
        RegistryVerb::Restore { file, how } => restore(file, how, out).await,
        RegistryVerb::Rebuild { from, fence, how } => rebuild(from, *fence, how, out).await,
        RegistryVerb::Decide { cell, region, unseen, ask } => {
            ruling::run(cell, region, *unseen, ask, out).await
        }
    }
}

pub(crate) fn usage(what: impl Into<String>) -> Failure {
    Failure::new(Exit::Usage, what)
}

/// What went wrong at the registry, as a failure.
pub(crate) fn silent(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Temporary, chain(error))
        .hint("check --registry, and that etcd has a quorum; nothing was lost")
}

pub(crate) fn links(at: &At) -> Result<AddressMap, Failure> {
    let Some(path) = &at.links else { return Ok(AddressMap::default()) };
    let name = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|e| usage(format!("--links: {name} can't be read: {e}")))?;
    AddressMap::from_json(&text).map_err(|e| usage(format!("--links: {name}: {e}")))
}

pub(crate) async fn connect(registry: &str, links: &AddressMap) -> Result<Arc<dyn Store>, Failure> {
    let mut config: EtcdConfig = registry.parse().map_err(|e| usage(format!("--registry: {e}")))?;
    for endpoint in &mut config.endpoints {
        if let Ok(address) = endpoint.parse() {
            *endpoint = links.dial(address).to_string();
        }
    }
    // Nobody waits for a request here, and a registry that was just started may be slow.
    config.call_timeout = std::time::Duration::from_secs(5);
    let store = EtcdStore::connect(config).await;
    Ok(Arc::new(store.map_err(|e| usage(format!("--registry: {e}")))?))
}

pub(crate) fn asker(ask: &Ask) -> Result<Asker, Failure> {
    let secret = |name: &str, text: &str| {
        let secret = SecretRef::new(text).map_err(|e| usage(format!("{name}: {e}")))?;
        secret.read().map_err(|e| usage(format!("{name}: {}", chain(&e))))?;
        Ok::<_, Failure>(secret)
    };
    let agents = secret("--agent-secret", &ask.agent_secret)?;
    let peers = ask.peer_secret.as_deref().map(|text| secret("--peer-secret", text)).transpose()?;
    Asker::new(agents, peers, links(&ask.at)?)
        .map_err(|e| Failure::new(Exit::Internal, format!("no client for agents: {e}")))
}

fn content(listing: &Listing) -> Content {
    Content::of(listing.entries.iter().map(|e| (&e.key, e.value.as_slice())))
}

async fn backup(path: &Path, at: &At, out: &mut Out) -> Result<Exit, Failure> {
    let store = connect(&at.registry, &links(at)?).await?;
    let listing = store.list("").await.map_err(|e| silent(&e))?;
    let found = content(&listing);
    let Some(world) = &found.world else {
        return Err(Failure::new(
            Exit::NotDone,
            format!("{}: the registry has no world: it is empty, or damaged", at.registry),
        )
        .hint("check the prefix in --registry; nothing was written"));
    };
    let broken = |e: &dyn std::error::Error| Failure::new(Exit::Io, chain(e));
    let (head, text) = file::text(world.id, &listing, jiff::Timestamp::now()).map_err(|e| broken(&e))?;
    file::write(path, &text).map_err(|e| broken(&e))?;
    show::head(path, &head, text.len(), out)?;
    if !world.reconciled {
        out.say("this registry is in the middle of a restore: keep the backup that it comes from")?;
    }
    for wrong in &found.wrong {
        out.say(&format!("in the registry, and so in the backup: {wrong}"))?;
    }
    Ok(Exit::Ok)
}

fn open(path: &Path) -> Result<Backup, Failure> {
    file::read(path).map_err(|e| {
        let exit = if matches!(e, file::FileError::Io { .. }) { Exit::Io } else { Exit::NotDone };
        Failure::new(exit, chain(&e))
            .hint("use another backup; `domicile registry rebuild` works without one")
    })
}

/// A backup and what it holds; refused if anything in it is wrong.
fn sound(path: &Path) -> Result<(Backup, Content), Failure> {
    let backup = open(path)?;
    let content = Content::of(backup.entries.iter().map(|(k, v)| (k, v.as_slice())));
    if content.wrong.is_empty() {
        return Ok((backup, content));
    }
    let mut failure = Failure::new(
        Exit::NotDone,
        format!("{}: {} of the things in it can't be used", path.display(), content.wrong.len()),
    )
    .hint("use an older backup, or `domicile registry rebuild` from the regions.toml");
    failure.mistakes = content.wrong;
    Err(failure)
}

async fn verify(path: &Path, against: Option<&str>, out: &mut Out) -> Result<Exit, Failure> {
    let (backup, content) = sound(path)?;
    let differences = match against {
        None => None,
        Some(registry) => {
            let store = connect(registry, &AddressMap::default()).await?;
            let listing = store.list("").await.map_err(|e| silent(&e))?;
            Some(show::differences(&backup, &content, &listing))
        }
    };
    show::verified(path, &backup.head, &content, differences.as_deref(), out)?;
    Ok(Exit::Ok)
}

/// The record of the world that is to be replaced; none where the registry is empty. Refused where it is something else
/// than the operator said.
async fn vacant(store: &dyn Store, replace: Option<WorldId>) -> Result<Option<Entry>, Failure> {
    let listing = store.list("").await.map_err(|e| silent(&e))?;
    let entry = listing.entries.iter().find(|e| e.key == Key::World).cloned();
    let found = entry.as_ref().and_then(|e| decode::<World>(&e.value).ok());
    let not = |what: String, hint: &str| Err(Failure::new(Exit::NotDone, what).hint(hint));
    match (found, replace) {
        (None, None) if listing.entries.is_empty() => Ok(None),
        (Some(world), Some(id)) if world.id == id => Ok(entry),
        (Some(world), None) => not(
            format!(
                "the registry is not empty: it holds world {}{}",
                world.id,
                if world.reconciled { "" } else { ", which is not reconciled" }
            ),
            "if it is an old copy, or a restore that was interrupted, repeat with --replace-world and that id; everything in it is replaced. Stop all control planes first",
        ),
        (Some(world), Some(id)) => not(
            format!("the registry holds world {}, not {id}", world.id),
            "look again which registry this is",
        ),
        (None, Some(id)) if listing.entries.is_empty() => not(
            format!("the registry is empty: there is no world {id} to replace"),
            "leave --replace-world out",
        ),
        (None, _) => not(
            "the registry holds keys, but no world that can be read: it was damaged".into(),
            "start an empty etcd cluster, or remove everything under the prefix, and repeat",
        ),
    }
}

fn routers(witnesses: &[domicile_model::WitnessState], ask: &Ask) -> BTreeSet<std::net::SocketAddr> {
    witnesses.iter().map(|w| w.peer).chain(ask.router.iter().copied()).collect()
}

/// The decision for each cell.
fn decisions(
    cells: &BTreeMap<CellId, Cell>,
    backup: &BTreeMap<CellId, Placement>,
    reports: &Reports,
) -> Result<Vec<Decision>, Failure> {
    let none = BTreeMap::new();
    let of = |cell: &Cell| {
        let routers = reports.known(&cell.id);
        let databases = reports.databases.get(&cell.id).unwrap_or(&none);
        decide(&Facts { cell, backup: backup.get(&cell.id), routers: &routers, databases })
    };
    let decided: Result<Vec<_>, _> = cells.values().map(of).collect();
    decided.map_err(|e| Failure::new(Exit::NotDone, e.to_string()))
}

async fn restore(path: &Path, how: &How, out: &mut Out) -> Result<Exit, Failure> {
    let ask = &how.ask;
    let asker = asker(ask)?;
    let (backup, content) = sound(path)?;
    let Some(old) = &content.world else { return Err(usage("the backup has no world")) };
    let links = links(&ask.at)?;
    let store = connect(&ask.at.registry, &links).await?;
    let replaces = vacant(&*store, how.replace_world).await?;
    let asked = routers(&content.witnesses, ask);
    out.say(&format!(
        "asking {} routers and the databases of {} cells",
        asked.len(),
        content.fleet.cells.len()
    ))?;
    let reports = asker.all(&asked, &content.fleet.cells).await;
    let decisions = decisions(&content.fleet.cells, &content.placements, &reports)?;
    let mut because = vec![
        format!("reason: {}", ask.reason),
        format!("backup of world {} at revision {}, taken {}", old.id, backup.head.revision, backup.head.at),
    ];
    because.extend(content.unfinished.iter().map(|(id, cell)| {
        format!("move {id} of cell {cell} had not ended in the backup: it is not taken up again")
    }));
    let world = World { id: WorldId::new(), reconciled: false, constants: old.constants };
    let publication = Publication {
        world,
        replaces,
        records: carried(backup.entries, &content.unfinished),
        decisions: &decisions,
        fleet: &content.fleet,
        by: &ask.by,
        action: "registry-restore",
        because,
    };
    carry_out(&*store, &publication, &content.placements, &reports, &content.fleet, ask, out).await
}

async fn rebuild(from: &Path, fence: std::time::Duration, how: &How, out: &mut Out) -> Result<Exit, Failure> {
    let ask = &how.ask;
    let asker = asker(ask)?;
    let fleet = fleet(from)?;
    let store = connect(&ask.at.registry, &links(&ask.at)?).await?;
    let replaces = vacant(&*store, how.replace_world).await?;
    let asked = routers(&[], ask);
    out.say(&format!("asking {} routers and the databases of {} cells", asked.len(), fleet.cells.len()))?;
    let reports = asker.all(&asked, &fleet.cells).await;
    let decisions = decisions(&fleet.cells, &BTreeMap::new(), &reports)?;
    // A proof that somebody still has must end within the WAIT that the new world counts.
    let known = reports.routers.iter().filter_map(|t| t.world.as_ref()).map(|w| w.constants);
    let wanted = domicile_server::serve::constants(fence);
    let constants = known.chain([wanted]).max_by_key(|c| c.fence_ms).unwrap_or(wanted);
    if let Some(problem) = constants.problem() {
        return Err(usage(format!("--fence: {problem}")));
    }
    let world = World { id: WorldId::new(), reconciled: false, constants };
    let publication = Publication {
        world,
        replaces,
        records: ruling::records(&fleet),
        decisions: &decisions,
        fleet: &fleet,
        by: &ask.by,
        action: "registry-rebuild",
        because: vec![format!("reason: {}", ask.reason), format!("definitions from {}", from.display())],
    };
    carry_out(&*store, &publication, &BTreeMap::new(), &reports, &fleet, ask, out).await
}

fn fleet(path: &Path) -> Result<Fleet, Failure> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| usage(format!("{name} can't be read: {e}")))?;
    domicile_config::parse(&name, &text).map_err(|mistakes| {
        let mut failure = usage(format!("{name} has {} mistakes", mistakes.list.len()))
            .hint("mend them all and repeat; nothing was changed");
        failure.mistakes = vec![mistakes.to_string()];
        failure
    })
}

async fn carry_out(
    store: &dyn Store,
    publication: &Publication<'_>,
    backup: &BTreeMap<CellId, Placement>,
    reports: &Reports,
    fleet: &Fleet,
    ask: &Ask,
    out: &mut Out,
) -> Result<Exit, Failure> {
    let closed = publication.decisions.iter().filter(|d| d.placement().holder.is_none()).count();
    let report =
        show::Report::new(publication, backup, reports, &reports.strangers(&fleet.cells), !ask.dry_run);
    report.show(out)?;
    if ask.dry_run {
        out.say("nothing was changed")?;
        return Ok(Exit::Ok);
    }
    let what = match &publication.replaces {
        None => "Write this as a new world?",
        Some(_) => "Replace everything in the registry by this?",
    };
    out.confirm(what, ask.yes)?;
    let revision = publication.publish(store).await.map_err(|e| {
        let id = publication.world.id;
        let exit = if matches!(e, PublishError::Store(_)) { Exit::Temporary } else { Exit::NotDone };
        Failure::new(exit, chain(&e)).hint(format!(
            "if the registry holds world {id} now, repeat with --replace-world {id}: nothing can be done in it until that has ended"
        ))
    })?;
    out.say(&format!(
        "world {} is reconciled at revision {revision}: control planes may lead",
        publication.world.id
    ))?;
    if closed > 0 {
        out.say(&format!(
            "{closed} cells are closed: look which database is the right one, then `domicile registry decide CELL REGION`"
        ))?;
        return Ok(Exit::NotDone);
    }
    Ok(Exit::Ok)
}
