//! What the registry holds now, decoded.

use std::collections::{BTreeMap, BTreeSet};

use domicile_model::clock::{BootTime, Clock};
use domicile_model::fleet::HostClaim;
use domicile_model::{
    AgentKey, BarredWitness, CellId, ClosedCell, EmergencyStop, Fleet, Freeze, FreezeId, HostPattern,
    MoveClaim, MoveId, Moved, Placement, RegionId, Revision, RevokedKey, RouterId, RouterState, TenantId,
    WitnessRenewal, WitnessState, World,
};
use domicile_store::{Entry, Key, LeaderRecord, Record, Store, StoreError, codec};
use jiff::Timestamp;

/// The registry's content as far as views and `apply` need it.
#[derive(Debug, Clone)]
pub struct Current {
    /// A revision that everything here has at least.
    pub revision: Revision,
    /// When it was asked for.
    pub asked: BootTime,
    /// Which world the registry is; none before it is one.
    pub world: Option<World>,
    /// The name of the control plane that leads.
    pub leader: Option<String>,
    /// Regions, jurisdictions, cells, tenants and the approval policy.
    pub fleet: Fleet,
    /// Where each of these keys, and each host claim, was last changed.
    pub modified: BTreeMap<Key, Revision>,
    /// Placements, with where they were last changed.
    pub placements: BTreeMap<CellId, (Placement, Revision)>,
    /// Moves under way.
    pub moves: BTreeMap<CellId, MoveId>,
    /// When the holder of each cell last changed.
    pub moved: BTreeMap<CellId, Timestamp>,
    /// Why cells are closed, by a person.
    pub closed: BTreeMap<CellId, ClosedCell>,
    /// Who has stopped all moves, if somebody has.
    pub stop: Option<EmergencyStop>,
    /// Freezes, past ones included.
    pub freezes: BTreeMap<FreezeId, Freeze>,
    /// Routers that are probably there.
    pub routers: BTreeMap<RouterId, RouterState>,
    /// Routers that can vouch.
    pub witnesses: BTreeMap<RouterId, WitnessState>,
    /// Where a person wants other witnesses.
    pub renewals: BTreeMap<CellId, WitnessRenewal>,
    /// Routers whose machines a person has declared destroyed.
    pub barred: BTreeMap<RouterId, BarredWitness>,
    /// Keys that a person has revoked, by their fingerprints.
    pub revoked: BTreeMap<String, RevokedKey>,
    /// By which keys the agents of each cell are believed.
    pub agents: BTreeMap<CellId, BTreeMap<RegionId, AgentKey>>,
    /// Who holds which name; read for `apply` only.
    pub hosts: BTreeMap<HostPattern, TenantId>,
    /// What could not be decoded, in sentences: a newer program wrote it, or it is damaged.
    pub unreadable: Vec<String>,
    /// Tenants of each cell.
    pub tenants_of: BTreeMap<CellId, BTreeSet<TenantId>>,
}

const VIEWS: [&str; 17] = [
    "regions/",
    "jurisdictions/",
    "cells/",
    "tenants/",
    "placements/",
    "moves/",
    "moved/",
    "routers/",
    "witnesses/",
    "freezes/",
    "stop",
    "closed/",
    "approvals",
    "agents/",
    "renewals/",
    "barred/",
    "revoked/",
];

impl Current {
    /// Reads it; host claims too if `hosts`.
    ///
    /// The parts are read side by side, each linearizable, not all at one revision: what `apply` rests on is compared
    /// again by its transactions.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn read(store: &dyn Store, clock: &Clock, hosts: bool) -> Result<Self, StoreError> {
        let asked = clock.now();
        let prefixes = VIEWS.into_iter().chain(hosts.then_some("hosts/"));
        let listings = futures::future::try_join_all(prefixes.map(|p| store.list(p)));
        let (listings, (_, single)) = futures::try_join!(listings, store.read(&[Key::Leader, Key::World]))?;
        let [leader, world] = <[Option<Entry>; 2]>::try_from(single).unwrap_or_default();
        let mut current = Self {
            revision: listings.iter().map(|l| l.header.revision).min().unwrap_or_default(),
            asked,
            world: None,
            leader: None,
            fleet: Fleet::default(),
            modified: BTreeMap::new(),
            placements: BTreeMap::new(),
            moves: BTreeMap::new(),
            moved: BTreeMap::new(),
            closed: BTreeMap::new(),
            stop: None,
            freezes: BTreeMap::new(),
            routers: BTreeMap::new(),
            witnesses: BTreeMap::new(),
            renewals: BTreeMap::new(),
            barred: BTreeMap::new(),
            revoked: BTreeMap::new(),
            agents: BTreeMap::new(),
            hosts: BTreeMap::new(),
            unreadable: Vec::new(),
            tenants_of: BTreeMap::new(),
        };
        for entry in listings.into_iter().flat_map(|l| l.entries) {
            current.take(entry);
        }
        if let Some(entry) = world {
            current.world = current.decode(&entry);
        }
        if let Some(entry) = leader {
            current.leader = current.decode::<LeaderRecord>(&entry).map(|l| l.name);
        }
        for tenant in current.fleet.tenants.values() {
            current.tenants_of.entry(tenant.cell.clone()).or_default().insert(tenant.id.clone());
        }
        Ok(current)
    }

    fn take(&mut self, entry: Entry) {
        let modified = entry.modified;
        match &entry.key {
            Key::Region(id) => {
                if let Some(region) = self.decode(&entry) {
                    self.fleet.regions.insert(id.clone(), region);
                }
            }
            Key::Jurisdiction(id) => {
                if let Some(set) = self.decode(&entry) {
                    self.fleet.jurisdictions.insert(id.clone(), set);
                }
            }
            Key::Cell(id) => {
                if let Some(cell) = self.decode(&entry) {
                    self.fleet.cells.insert(id.clone(), cell);
                }
            }
            Key::Tenant(id) => {
                if let Some(tenant) = self.decode(&entry) {
                    self.fleet.tenants.insert(id.clone(), tenant);
                }
            }
            Key::Host(pattern) => {
                if let Some(HostClaim { tenant }) = self.decode(&entry) {
                    self.hosts.insert(pattern.clone(), tenant);
                }
            }
            Key::Placement(id) => {
                if let Some(placement) = self.decode(&entry) {
                    self.placements.insert(id.clone(), (placement, modified));
                }
            }
            Key::Move(id) => {
                if let Some(MoveClaim { moving }) = self.decode(&entry) {
                    self.moves.insert(id.clone(), moving);
                }
            }
            Key::Moved(id) => {
                if let Some(Moved { at, .. }) = self.decode(&entry) {
                    self.moved.insert(id.clone(), at);
                }
            }
            Key::Closed(id) => {
                if let Some(closed) = self.decode(&entry) {
                    self.closed.insert(id.clone(), closed);
                }
            }
            Key::Approvals => self.fleet.approvals = self.decode(&entry),
            Key::Stop => self.stop = self.decode(&entry),
            Key::Freeze(id) => {
                if let Some(freeze) = self.decode(&entry) {
                    self.freezes.insert(*id, freeze);
                }
            }
            Key::Router(id) => {
                if let Some(router) = self.decode(&entry) {
                    self.routers.insert(id.clone(), router);
                }
            }
            Key::Witness(id) => {
                if let Some(witness) = self.decode(&entry) {
                    self.witnesses.insert(id.clone(), witness);
                }
            }
            Key::Renewal(id) => {
                if let Some(wish) = self.decode(&entry) {
                    self.renewals.insert(id.clone(), wish);
                }
            }
            Key::RevokedKey(id) => {
                if let Some(revoked) = self.decode(&entry) {
                    self.revoked.insert(id.clone(), revoked);
                }
            }
            Key::Barred(id) => {
                if let Some(barred) = self.decode(&entry) {
                    self.barred.insert(id.clone(), barred);
                }
            }
            Key::Agent(cell, region) => {
                if let Some(agent) = self.decode(&entry) {
                    self.agents.entry(cell.clone()).or_default().insert(region.clone(), agent);
                }
            }
            _ => return,
        }
        self.modified.insert(entry.key, modified);
    }

    fn decode<T: Record>(&mut self, entry: &Entry) -> Option<T> {
        match codec::decode(&entry.value) {
            Ok(record) => Some(record),
            Err(error) => {
                self.unreadable.push(format!("{}: {error}", entry.key));
                None
            }
        }
    }
}
