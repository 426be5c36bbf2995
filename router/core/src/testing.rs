//! A small fleet for the tests of this crate.

use std::collections::{BTreeMap, BTreeSet};

use domicile_mirror::RoutingTable;
use domicile_model::clock::BootTime;
use domicile_model::fleet::HostClaim;
use domicile_model::{
    Category, Cell, CellId, Country, Epoch, FenceConstants, HostPattern, JurisdictionId, Phase, Placement,
    Region, RegionId, Residency, Revision, Tenant, TenantId, WitnessSet, World, WorldId,
};
use domicile_store::codec::{Record, encode};
use domicile_store::{Entry, Header, Key, Listing};

pub(crate) const NOW: BootTime = BootTime::from_nanos(3_600_000_000_000);

pub(crate) fn place(cell: &str, epoch: u64, holder: Option<&str>, phase: Phase) -> Placement {
    Placement {
        cell: CellId::new(cell).unwrap(),
        epoch: Epoch(epoch),
        holder: holder.map(|h| RegionId::new(h).unwrap()),
        standby: None,
        phase,
        moving: None,
        availability_first: false,
        witnesses: WitnessSet::of(BTreeSet::new()),
    }
}

/// Everything at epoch 1 in us-east-1.
pub(crate) fn table() -> RoutingTable {
    table_with(&[place("mercy", 1, Some("us-east-1"), Phase::Serving)])
}

pub(crate) fn table_with(placements: &[Placement]) -> RoutingTable {
    let mut entries = Vec::new();
    let mut put = |key: Key, value: Vec<u8>| {
        let at = Revision(1);
        entries.push(Entry { key, value, created: at, modified: at });
    };
    fn of<T: Record>(record: &T) -> Vec<u8> {
        encode(record)
    }
    let world = World { id: WorldId::from_u128(1), reconciled: true, constants: FenceConstants::DEFAULT };
    put(Key::World, of(&world));
    for (id, country) in [("us-east-1", "US"), ("us-west-2", "US"), ("eu-west-1", "IE")] {
        let id = RegionId::new(id).unwrap();
        let ingress = vec!["10.0.0.1:80".parse().unwrap()];
        let region =
            Region { id: id.clone(), country: Country::new(country).unwrap(), ingress, edges: Vec::new() };
        put(Key::Region(id), of(&region));
    }
    for cell in ["mercy", "clinics"] {
        let id = CellId::new(cell).unwrap();
        let application: BTreeMap<_, _> = ["us-east-1", "us-west-2", "eu-west-1"]
            .iter()
            .map(|r| (RegionId::new(r).unwrap(), vec!["10.0.0.2:80".parse().unwrap()]))
            .collect();
        let cell = Cell {
            id: id.clone(),
            primary: RegionId::new("us-east-1").unwrap(),
            dr: RegionId::new("us-west-2").unwrap(),
            availability_first: false,
            rpo_ms: Cell::DEFAULT_RPO_MS,
            ingress: BTreeMap::new(),
            application,
            mllp: BTreeMap::new(),
            database: None,
        };
        put(Key::Cell(id), of(&cell));
    }
    for (id, cell, host, us_only) in
        [("mercy", "mercy", "mercy.example.com", true), ("clinic", "clinics", "*.clinics.example.com", false)]
    {
        let id = TenantId::new(id).unwrap();
        let set = |names: &[&str]| names.iter().map(|n| JurisdictionId::new(n).unwrap()).collect();
        let (us, with_edges): (BTreeSet<_>, BTreeSet<_>) = (set(&["US"]), set(&["US", "IE"]));
        let overrides = us_only.then_some((Category::Tls, with_edges)).into_iter().collect();
        let tenant = Tenant {
            id: id.clone(),
            name: id.to_string(),
            cell: CellId::new(cell).unwrap(),
            hosts: BTreeSet::from([HostPattern::new(host).unwrap()]),
            residency: Residency { allowed: us_only.then_some(us), overrides },
        };
        let host = HostPattern::new(host).unwrap();
        put(Key::Host(host), of(&HostClaim { tenant: id.clone() }));
        put(Key::Tenant(id), of(&tenant));
    }
    for p in placements {
        put(Key::Placement(p.cell.clone()), of(p));
    }
    let listing = Listing { header: Header { cluster: 1, revision: Revision(1) }, entries };
    RoutingTable::empty().relist(&listing, NOW).0
}
