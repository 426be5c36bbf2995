//! What may become of the registry: a tree of its moments, each made from the one before by the product's own
//! transaction, with the routing table of a router that has come as far.

use std::collections::BTreeMap;

use domicile_mirror::RoutingTable;
use domicile_model::clock::BootTime;
use domicile_model::fleet::HostClaim;
use domicile_model::{
    BootId, Cell, CellId, ClosedReason, Country, Epoch, HostPattern, MoveId, Phase, Placement, Region,
    RegionFence, RegionId, Residency, Revision, Role, RouterId, Silence, Tenant, TenantId, WitnessSet,
    WitnessState, World, WorldId,
};
use domicile_store::codec::{Record, decode, encode};
use domicile_store::right::take_right_on;
use domicile_store::{Change, Entry, Header, Key, Listing, Op, Txn};

use crate::bounds::{Bounds, Fault};

/// The present moment on every clock: what lies back is subtracted from it.
pub(crate) const NOW: BootTime = BootTime::from_nanos(3_600_000_000_000);
/// The move that every close belongs to.
pub(crate) const MOVE: MoveId = MoveId::from_u128(7);
const FIRST: Revision = Revision(10);

/// How a moment came from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Start,
    /// The right is taken away.
    Close,
    /// The other region gets it.
    Switch,
    /// The same region gets it back.
    Back,
    /// The other region gets it, with other witnesses.
    SwitchAnew,
    /// The same region gets it back, with other witnesses.
    BackAnew,
    /// Other witnesses are named.
    Replace,
    /// Another choice of what comes first.
    Choose,
}

impl Kind {
    pub(crate) const fn switches(self) -> bool {
        matches!(self, Self::Switch | Self::SwitchAnew)
    }

    pub(crate) const fn goes_back(self) -> bool {
        matches!(self, Self::Back | Self::BackAnew)
    }
}

/// A moment of the registry.
pub(crate) struct Moment {
    pub(crate) kind: Kind,
    before: Option<u8>,
    pub(crate) placement: Placement,
    /// The placement's modification revision; also the registry's own.
    pub(crate) modified: Revision,
    /// `fences/<region>`, by region.
    pub(crate) fences: [Revision; 2],
    pub(crate) table: RoutingTable,
    epoch: u8,
    /// The region that holds the cell, by number.
    holder: Option<usize>,
    /// How many closes there were.
    pub(crate) closes: u8,
    /// From the beginning to this moment.
    pub(crate) way: Vec<u8>,
    /// The cell's witnesses, one bit each.
    pub(crate) members: u8,
}

/// All of them.
pub(crate) struct Chronicle {
    pub(crate) world: World,
    pub(crate) regions: [RegionId; 2],
    pub(crate) cell: CellId,
    pub(crate) moments: Vec<Moment>,
}

fn witnesses(names: std::ops::Range<usize>) -> WitnessSet {
    WitnessSet::of(names.map(|n| RouterId::new(&format!("w{n}")).expect("a short name")).collect())
}

fn members(numbers: std::ops::Range<usize>) -> u8 {
    numbers.map(|n| 1_u8 << n).sum()
}

impl Chronicle {
    pub(crate) fn new(bounds: &Bounds, fault: Fault) -> Self {
        let at_first = if bounds.named_late { 0 } else { bounds.witnesses };
        let world = World { id: WorldId::from_u128(1), reconciled: true, constants: bounds.constants };
        let regions = ["us-east-1", "us-west-2"].map(|r| RegionId::new(r).expect("a region"));
        let cell = CellId::new("mercy").expect("a cell");
        let placement = Placement {
            cell: cell.clone(),
            epoch: Epoch::FIRST,
            holder: Some(regions[0].clone()),
            standby: Some(regions[1].clone()),
            phase: Phase::Serving,
            moving: None,
            availability_first: bounds.first,
            witnesses: witnesses(0..at_first),
        };
        let table = first_table(&world, &regions, &placement);
        let start = Moment {
            kind: Kind::Start,
            before: None,
            placement,
            modified: FIRST,
            fences: [Revision::ZERO; 2],
            table,
            epoch: 1,
            holder: Some(0),
            closes: 0,
            way: vec![0],
            members: members(0..at_first),
        };
        let mut all = Self { world, regions, cell, moments: vec![start] };
        let mut next = 0;
        while next < all.moments.len() {
            for kind in all.follow(next, bounds, fault) {
                let moment = all.make(next, kind, bounds, fault);
                all.moments.push(moment);
            }
            next += 1;
        }
        all
    }

    pub(crate) fn at(&self, moment: u8) -> &Moment {
        &self.moments[usize::from(moment)]
    }

    pub(crate) fn epoch(&self, moment: u8) -> u8 {
        self.at(moment).epoch
    }

    /// The region that holds the cell, by number.
    pub(crate) fn holder(&self, moment: u8) -> Option<usize> {
        self.at(moment).holder
    }

    /// The moment that comes of this one in this way.
    pub(crate) fn then(&self, moment: u8, kind: Kind) -> Option<u8> {
        let at = self.moments.iter().position(|m| m.before == Some(moment) && m.kind == kind)?;
        u8::try_from(at).ok()
    }

    /// The moment before.
    pub(crate) fn before(&self, moment: u8) -> Option<u8> {
        self.at(moment).before
    }

    fn follow(&self, at: usize, bounds: &Bounds, fault: Fault) -> Vec<Kind> {
        let moment = &self.moments[at];
        let mut kinds = Vec::new();
        if moment.placement.holder.is_none() {
            kinds.push(Kind::Switch);
            if bounds.turns_back {
                kinds.push(Kind::Back);
            }
            let first = moment.members & 1 != 0;
            if first && (bounds.renews || fault == Fault::RenewedOnWord) {
                kinds.push(Kind::SwitchAnew);
            }
            if first && bounds.turns_back && (bounds.renews || fault == Fault::RenewedInRollback) {
                kinds.push(Kind::BackAnew);
            }
        } else {
            // The other region's database has no agent here, so nothing is taken away from it where agents count.
            let ours = moment.placement.holder.as_ref() == Some(&self.regions[0]);
            if moment.closes < bounds.closes && (ours || !bounds.agent || bounds.returns) {
                kinds.push(Kind::Close);
            }
            let named = bounds.named_late || fault == Fault::WitnessesReplaced;
            if named && moment.kind == Kind::Start {
                kinds.push(Kind::Replace);
            }
            if fault == Fault::ChoiceOnHeld && moment.kind == Kind::Start {
                kinds.push(Kind::Choose);
            }
        }
        kinds
    }

    fn make(&self, at: usize, kind: Kind, bounds: &Bounds, fault: Fault) -> Moment {
        let old = &self.moments[at];
        let mut new = Placement { phase: Phase::Serving, moving: None, ..old.placement.clone() };
        let mut seen = old.placement.clone();
        // Who held it before the close.
        let from = || old.before.and_then(|b| self.at(b).placement.holder.clone());
        match kind {
            Kind::Start => {}
            Kind::Close => {
                new.holder = None;
                new.phase = Phase::Closed { reason: ClosedReason::Moving, for_ms: 60_000 };
                new.moving = Some(MOVE);
            }
            Kind::Switch | Kind::SwitchAnew => {
                new.standby = from();
                new.holder = self.regions.iter().find(|r| Some(*r) != new.standby.as_ref()).cloned();
            }
            Kind::Back | Kind::BackAnew => {
                new.holder = from();
                // The engine keeps it: nothing else stands in the way.
                new.availability_first &= fault != Fault::ChoiceOnTurningBack;
            }
            Kind::Choose => {
                new.availability_first = !new.availability_first;
                // The guard taken away: it lets whoever is given the cell have it under another choice.
                seen.holder = None;
            }
            Kind::Replace if bounds.named_late => new.witnesses = witnesses(0..bounds.witnesses),
            Kind::Replace => {
                new.witnesses = witnesses(bounds.witnesses..2 * bounds.witnesses);
                // The guard taken away: it lets a cell without witnesses have its first ones.
                seen.witnesses = witnesses(0..0);
            }
        }
        let anew = matches!(kind, Kind::SwitchAnew | Kind::BackAnew);
        let silence = anew.then(|| {
            new.witnesses = witnesses(bounds.witnesses..2 * bounds.witnesses);
            // Who may come to this moment has asked for it: see `Rules::silent`. Here all of them are.
            let all: Vec<u8> = vec![u8::MAX; bounds.witnesses];
            self.silence(old, &all).expect("all of them are silent")
        });
        let (mut txn, new) =
            take_right_on(Txn::in_world(&self.world), &seen, old.modified, new, silence.as_ref())
                .expect("the product's own transaction takes the right away");
        if let Some(region) = new.holder.clone().filter(|_| kind == Kind::Choose) {
            let fence = RegionFence { region: region.clone(), cell: new.cell.clone(), epoch: new.epoch };
            txn = txn.put(Key::Fence(region), &fence);
        }
        let members = match kind {
            Kind::Replace if bounds.named_late => members(0..bounds.witnesses),
            Kind::Replace | Kind::SwitchAnew | Kind::BackAnew => {
                members(bounds.witnesses..2 * bounds.witnesses)
            }
            _ => old.members,
        };
        Moment { members, ..self.carried_out(at, kind, &txn, fault) }
    }

    /// The product's evidence that the witnesses of a closed moment are silent, where each was last seen quiet for so many
    /// closes.
    pub(crate) fn silence(&self, closed: &Moment, said: &[u8]) -> Option<Silence> {
        let states: Vec<WitnessState> = said
            .iter()
            .enumerate()
            .map(|(n, said)| WitnessState {
                id: RouterId::new(&format!("w{n}")).expect("a short name"),
                region: self.regions[0].clone(),
                role: Role::Gate,
                boot: BootId::from_u128(1),
                quiet: if *said >= closed.closes { closed.modified } else { Revision::ZERO },
                peer: ([127, 0, 0, 1], 1).into(),
            })
            .collect();
        Silence::of(&closed.placement, closed.modified, &states, &std::collections::BTreeSet::new())
    }

    /// The moment after a transaction, as the registry and a watching router see it.
    fn carried_out(&self, at: usize, kind: Kind, txn: &Txn, fault: Fault) -> Moment {
        let old = &self.moments[at];
        let revision = old.modified.next();
        let apart = fault == Fault::FenceApart;
        let mut fences = old.fences;
        if apart && kind != Kind::Close {
            fences = fences.map(|_| revision);
        }
        let (mut placement, mut changes) = (old.placement.clone(), Vec::new());
        for op in &txn.then {
            let Op::Put(key, value, _) = op else { continue };
            match key {
                Key::Placement(_) => placement = decode(value).expect("what was just encoded"),
                Key::Fence(_) if apart => continue,
                Key::Fence(region) => {
                    for (known, fence) in self.regions.iter().zip(&mut fences) {
                        if known == region {
                            *fence = revision;
                        }
                    }
                }
                _ => {}
            }
            let entry = Entry { key: key.clone(), value: value.clone(), created: FIRST, modified: revision };
            changes.push(Change::Put(entry));
        }
        let (table, _) = old.table.apply(&changes, NOW);
        Moment {
            kind,
            before: u8::try_from(at).ok(),
            members: old.members,
            way: old.way.iter().copied().chain(u8::try_from(self.moments.len())).collect(),
            epoch: u8::try_from(placement.epoch.0).expect("a tree of few moments"),
            holder: self.regions.iter().position(|r| placement.holder.as_ref() == Some(r)),
            placement,
            modified: revision,
            fences,
            table,
            closes: old.closes + u8::from(kind == Kind::Close),
        }
    }
}

fn first_table(world: &World, regions: &[RegionId; 2], placement: &Placement) -> RoutingTable {
    fn entry<T: Record>(key: Key, record: &T) -> Entry {
        Entry { key, value: encode(record), created: FIRST, modified: FIRST }
    }
    let (gate, application) = (([127, 0, 0, 1], 80).into(), ([127, 0, 0, 1], 81).into());
    let cell = Cell {
        id: placement.cell.clone(),
        primary: regions[0].clone(),
        dr: regions[1].clone(),
        availability_first: false,
        rpo_ms: Cell::DEFAULT_RPO_MS,
        ingress: BTreeMap::new(),
        application: regions.iter().map(|r| (r.clone(), vec![application])).collect(),
        mllp: BTreeMap::new(),
        database: None,
    };
    let host = HostPattern::new("mercy.example.com").expect("a host");
    let id = TenantId::new("mercy").expect("a tenant");
    let tenant = Tenant {
        id: id.clone(),
        name: id.to_string(),
        cell: placement.cell.clone(),
        hosts: [host.clone()].into(),
        residency: Residency { allowed: None, overrides: BTreeMap::new() },
    };
    let country = Country::new("US").expect("a country");
    let mut entries = vec![entry(Key::World, world), entry(Key::Cell(placement.cell.clone()), &cell)];
    for region in regions {
        let record = Region { id: region.clone(), country, ingress: vec![gate], edges: Vec::new() };
        entries.push(entry(Key::Region(region.clone()), &record));
    }
    entries.push(entry(Key::Tenant(id.clone()), &tenant));
    entries.push(entry(Key::Host(host), &HostClaim { tenant: id }));
    entries.push(entry(Key::Placement(placement.cell.clone()), placement));
    let listing = Listing { header: Header { cluster: 1, revision: FIRST }, entries };
    RoutingTable::empty().relist(&listing, NOW).0
}
