//! `domicile registry decide`: a person's word on a cell that a restore has closed.
//!
//! It takes no shortcut around the fence: a database that can be written elsewhere stands against it, and one that can't be
//! asked is waited out, with enough of the cell's witnesses refusing the old world meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use domicile_cli::exit::Exit;
use domicile_cli::fail::Failure;
use domicile_cli::out::Out;
use domicile_cli::registry::Ask;
use domicile_model::fleet::HostClaim;
use domicile_model::invariants::may_serve;
use domicile_model::{
    Cell, CellId, ClosedReason, Fleet, LeaderFence, MoveClaim, MoveId, Phase, Placement, RegionId, Revision,
    Token, World,
};
use domicile_server::audit::AuditEntry;
use domicile_store::codec::encode;
use domicile_store::lead::present_leader;
use domicile_store::right::take_right;
use domicile_store::{Key, Precondition, Store, Txn};

use crate::asking::{Asker, Reports};
use crate::content::Content;
use crate::decide::{Said, Seen};
use crate::publish::commit;
use crate::show;
use crate::verbs::{asker, connect, links, silent};

/// A fleet's definitions as records.
pub(crate) fn records(fleet: &Fleet) -> Vec<(Key, Vec<u8>)> {
    let mut found: Vec<(Key, Vec<u8>)> = Vec::new();
    found.extend(fleet.regions.iter().map(|(id, r)| (Key::Region(id.clone()), encode(r))));
    found.extend(fleet.jurisdictions.iter().map(|(id, j)| (Key::Jurisdiction(id.clone()), encode(j))));
    found.extend(fleet.cells.iter().map(|(id, c)| (Key::Cell(id.clone()), encode(c))));
    for tenant in fleet.tenants.values() {
        found.push((Key::Tenant(tenant.id.clone()), encode(tenant)));
        let claim = encode(&HostClaim { tenant: tenant.id.clone() });
        found.extend(tenant.hosts.iter().map(|h| (Key::Host(h.clone()), claim.clone())));
    }
    found.extend(fleet.approvals.iter().map(|a| (Key::Approvals, encode(a))));
    found
}

/// What the registry holds about the cell.
struct Case {
    world: World,
    cell: Cell,
    placement: Placement,
    seen: Revision,
    fleet: Fleet,
    witnesses: BTreeSet<std::net::SocketAddr>,
}

fn not(what: impl Into<String>, hint: &str) -> Failure {
    Failure::new(Exit::NotDone, what).hint(hint)
}

async fn case(store: &dyn Store, id: &CellId) -> Result<Case, Failure> {
    let listing = store.list("").await.map_err(|e| silent(&e))?;
    let found = Content::of(listing.entries.iter().map(|e| (&e.key, e.value.as_slice())));
    let Some(world) = found.world.filter(|w| w.reconciled) else {
        return Err(not(
            "the registry has no reconciled world: nobody can hold anything in it yet",
            "finish `domicile registry restore` or `rebuild` first",
        ));
    };
    let entry = listing.entries.iter().find(|e| e.key == Key::Placement(id.clone()));
    let (Some(entry), Some(cell), Some(placement)) =
        (entry, found.fleet.cells.get(id).cloned(), found.placements.get(id).cloned())
    else {
        return Err(Failure::new(Exit::NotFound, format!("there is no cell {id} in the registry")));
    };
    if listing.entries.iter().any(|e| e.key == Key::Move(id.clone())) {
        return Err(not(
            format!("a move of cell {id} is under way"),
            "see `domicile failover list`: the move has verbs of its own",
        ));
    }
    let witnesses = found.witnesses.iter().map(|w| w.peer).collect();
    Ok(Case { world, cell, placement, seen: entry.modified, fleet: found.fleet, witnesses })
}

/// Runs it.
///
/// # Errors
/// Why the cell stays closed.
pub(crate) async fn run(
    id: &CellId,
    region: &RegionId,
    unseen: bool,
    ask: &Ask,
    out: &mut Out,
) -> Result<Exit, Failure> {
    let asker = asker(ask)?;
    let store = connect(&ask.at.registry, &links(&ask.at)?).await?;
    let case = case(&*store, id).await?;
    permitted(&case, region)?;
    let routers = case.witnesses.iter().chain(&ask.router).copied().collect();
    let reports = asker.all(&routers, &BTreeMap::from([(id.clone(), case.cell.clone())])).await;
    let said = reports.databases.get(id).cloned().unwrap_or_default();
    let own = own(&case, region, &said, unseen)?;
    not_older(region, own.as_ref(), &said)?;
    let waits = rivals(&case, region, &said, &reports)?;
    let lines: Vec<String> = said.iter().map(|(r, s)| show::word(r, s)).collect();
    if ask.dry_run {
        show::ruled(id, region, case.placement.epoch.next(), &lines, out)?;
        out.say("nothing was changed")?;
        return Ok(Exit::Ok);
    }
    for line in &lines {
        out.say(line)?;
    }
    out.confirm(&format!("Shall {region} hold cell {id}?"), ask.yes)?;
    if waits {
        let wait = case.world.constants.wait();
        out.say(&format!(
            "waiting {} ms, until whatever could not be asked has certainly stopped",
            wait.as_millis()
        ))?;
        domicile_model::clock::pause(wait).await;
    }
    let fenced = own.as_ref().is_some_and(|seen| seen.fenced);
    let moving = MoveId::new();
    let (epoch, revision) = place(&*store, &case, region, &said, moving, fenced, ask).await?;
    if fenced {
        lift(&*store, &asker, &case, region, own.as_ref(), moving, revision).await?;
    }
    show::ruled(id, region, epoch, &lines, out)
}

/// Whether no other database was promoted after the region's.
fn not_older(region: &RegionId, own: Option<&Seen>, said: &BTreeMap<RegionId, Said>) -> Result<(), Failure> {
    let Some(timeline) = own.and_then(|seen| seen.timeline) else { return Ok(()) };
    let later = said.iter().find_map(|(other, said)| match said {
        Said::Agent(seen) => seen.timeline.filter(|n| *n > timeline).map(|n| (other, n)),
        _ => None,
    });
    match later {
        None => Ok(()),
        Some((other, n)) => Err(not(
            format!(
                "the database in {other} is on timeline {n}, the one in {region} on {timeline}: {other} was promoted after it"
            ),
            "decide for that region; what only the other one has can be read from it afterwards",
        )),
    }
}

/// Whether the cell may be decided on, and for this region.
fn permitted(case: &Case, region: &RegionId) -> Result<(), Failure> {
    let (cell, placement) = (&case.cell, &case.placement);
    // Repeated for the same region it lifts a fence that is left.
    if let Some(holder) = placement.holder.as_ref().filter(|h| *h != region) {
        return Err(not(
            format!("cell {} is not closed: {holder} holds it", cell.id),
            "use `domicile failover start` to move it",
        ));
    }
    if placement.holder.is_none()
        && !matches!(placement.phase, Phase::Closed { reason: ClosedReason::Conflict, .. })
    {
        return Err(not(
            format!("cell {} was not closed by a restore", cell.id),
            "what a person has closed, `domicile cell open` opens; a move has verbs of its own",
        ));
    }
    if cell.other(region).is_none() {
        return Err(Failure::new(
            Exit::Usage,
            format!("{region} is neither the primary nor the DR region of cell {}", cell.id),
        )
        .hint(format!("use {} or {}", cell.primary, cell.dr)));
    }
    for tenant in case.fleet.tenants.values().filter(|t| t.cell == cell.id) {
        may_serve(&case.fleet, tenant, region).map_err(|e| {
            not(e.to_string(), "there is no way around a residency policy: change the policy first")
        })?;
    }
    Ok(())
}

/// The region's own database: it must be a primary.
fn own(
    case: &Case,
    region: &RegionId,
    said: &BTreeMap<RegionId, Said>,
    unseen: bool,
) -> Result<Option<Seen>, Failure> {
    let cell = &case.cell.id;
    match said.get(region) {
        _ if case.cell.database.is_none() => Ok(None),
        Some(Said::Agent(seen)) if !seen.primary => Err(not(
            format!("the database of cell {cell} in {region} follows another one, and this promotes nothing"),
            "decide for the region of the primary (with --unseen if it is lost), then `domicile failover start` moves the cell here",
        )),
        Some(Said::Agent(seen)) => Ok(Some((**seen).clone())),
        _ if unseen => Ok(None),
        Some(Said::Database { why, .. } | Said::Silent { why }) => Err(not(
            format!("the agent of cell {cell} in {region} could not be asked: {why}"),
            "start it, or say --unseen if that region is lost and a forced failover comes next",
        )),
        None => Err(not(format!("cell {cell} has no database in {region}"), "mend regions.toml first")),
    }
}

/// Whether another region may still act for this cell, so that it must be waited out. Refused where it certainly may, or
/// where waiting would prove nothing.
fn rivals(
    case: &Case,
    region: &RegionId,
    said: &BTreeMap<RegionId, Said>,
    reports: &Reports,
) -> Result<bool, Failure> {
    let (cell, world) = (&case.cell.id, case.world.id);
    let mut waits = case.cell.database.is_none();
    for (other, said) in said.iter().filter(|(r, _)| *r != region) {
        if said.writable() {
            return Err(not(
                format!("the database of cell {cell} in {other} can be written"),
                "decide for that region, or stop its agent and have a look at its data first",
            ));
        }
        // One that obeys this world takes no proof of an earlier one.
        let obeys = matches!(said, Said::Agent(seen) if seen.world == Some(world));
        waits |= !obeys && !said.harmless();
    }
    if waits && case.placement.availability_first {
        return Err(not(
            format!(
                "in cell {cell} availability came first: a database that could not be asked may go on without a proof, however long one waits"
            ),
            "start the agents that do not answer: each must say that it follows, is fenced, or obeys this world",
        ));
    }
    let set = &case.placement.witnesses;
    if waits && !set.members.is_empty() {
        let refusing = |t: &&crate::asking::Told| t.vouches_in == Some(world) && set.members.contains(&t.id);
        let n = reports.routers.iter().filter(refusing).count();
        if (n as u64) < u64::from(set.r) {
            return Err(not(
                format!(
                    "of the witnesses of cell {cell} {n} are known to refuse the old world, and {} are needed, because not every database could be asked",
                    set.r
                ),
                "start the agents that do not answer, or the routers that vouch for the cell, and name --peer-secret",
            ));
        }
    }
    Ok(waits)
}

/// The placement, in one transaction with its audit entry; with a claim while a fence has to be lifted.
async fn place(
    store: &dyn Store,
    case: &Case,
    region: &RegionId,
    said: &BTreeMap<RegionId, Said>,
    moving: MoveId,
    fenced: bool,
    ask: &Ask,
) -> Result<(domicile_model::Epoch, Revision), Failure> {
    let id = &case.cell.id;
    let follows = |r: &RegionId| matches!(said.get(r), Some(Said::Agent(seen)) if !seen.primary);
    let standby = case.cell.other(region).filter(|r| case.cell.database.is_none() || follows(r)).cloned();
    let old = &case.placement;
    let new = Placement { holder: Some(region.clone()), standby, phase: Phase::Serving, ..old.clone() };
    let mut told = vec![format!("cell {id}: {region} shall hold it"), format!("reason: {}", ask.reason)];
    // Whoever reads the log must see that nobody has looked at the database that holds the cell since.
    if let Some(Said::Database { why, .. } | Said::Silent { why }) = said.get(region) {
        told.push(format!("--unseen: the agent in {region} could not be asked: {why}"));
    }
    let audit = AuditEntry::now(&ask.by, "domicile", "registry-decide", told);
    let mut base =
        Txn::in_world(&case.world).when(Precondition::Absent(Key::Move(id.clone()))).op(audit.write());
    if fenced {
        base = base.put(Key::Move(id.clone()), &MoveClaim { moving });
    }
    let (txn, new) =
        take_right(base, old, case.seen, new).map_err(|e| Failure::new(Exit::NotDone, e.to_string()))?;
    let done = commit(store, txn).await;
    done.map(|revision| (new.epoch, revision)).map_err(|e| {
        not(
            e.to_string(),
            "the cell changed meanwhile: look at `domicile cell show` and repeat if it is still closed",
        )
    })
}

/// Lifts the fence of a move that the restore has ended. The claim says to the agent that this is the order of this world.
async fn lift(
    store: &dyn Store,
    asker: &Asker,
    case: &Case,
    region: &RegionId,
    own: Option<&Seen>,
    moving: MoveId,
    revision: Revision,
) -> Result<(), Failure> {
    let key = Key::Move(case.cell.id.clone());
    let leader = present_leader(store)
        .await
        .map_err(|e| silent(&e))?
        .map_or(LeaderFence(Revision::ZERO), |l| l.leadership.fence);
    let token = Token {
        world: case.world.id,
        leader,
        attempt: u64::try_from(revision.0).unwrap_or_default(),
        moving,
        step: "decide".into(),
        cell: case.cell.id.clone(),
    };
    let lifted = asker.unfence(&case.cell, region, &token).await;
    let gone =
        Txn::in_world(&case.world).when(Precondition::Holds(key.clone(), encode(&MoveClaim { moving })));
    commit(store, gone.delete(key)).await.map_err(|e| silent(&e))?;
    lifted.map_err(|why| {
        let seen = own.map_or_else(String::new, |s| format!(" (it has seen epoch {})", s.epoch));
        Failure::new(
            Exit::Temporary,
            format!("{region} holds the cell, but its database is still fenced{seen}: {why}"),
        )
        .hint("repeat the same command: it lifts the fence again")
    })
}
