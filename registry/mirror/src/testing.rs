//! What the tests of this crate share: records, entries, and a table as text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::{BootTime, Clock, pause};
use domicile_model::fleet::HostClaim;
use domicile_model::{
    BootId, Cell, CellId, Country, Epoch, FenceConstants, HostPattern, Jurisdiction, JurisdictionId, Phase,
    Placement, Region, RegionId, Residency, Revision, Role, RouterId, Tenant, TenantId, WitnessSet,
    WitnessState, World, WorldId,
};
use domicile_store::codec::encode;
use domicile_store::memory::{MemoryStore, PREFIX};
use domicile_store::{Change, Commit, Entry, Header, Key, Listing, Store, Txn};

use crate::RoutingTable;

pub(crate) const NOW: BootTime = BootTime::from_nanos(1_000_000_000);

pub(crate) fn cell_id(id: &str) -> CellId {
    CellId::new(id).unwrap()
}

pub(crate) fn region_id(id: &str) -> RegionId {
    RegionId::new(id).unwrap()
}

pub(crate) fn world(id: u128) -> World {
    World { id: WorldId::from_u128(id), reconciled: true, constants: FenceConstants::DEFAULT }
}

pub(crate) fn region(id: &str, country: &str) -> (Key, Vec<u8>) {
    let id = region_id(id);
    let ingress = vec!["10.0.0.1:8443".parse().unwrap()];
    (
        Key::Region(id.clone()),
        encode(&Region { id, country: Country::new(country).unwrap(), ingress, edges: Vec::new() }),
    )
}

pub(crate) fn jurisdiction(id: &str, country: &str) -> (Key, Vec<u8>) {
    let id = JurisdictionId::new(id).unwrap();
    let countries = [Country::new(country).unwrap()].into();
    (Key::Jurisdiction(id.clone()), encode(&Jurisdiction { id, countries }))
}

pub(crate) fn cell(id: &str, rpo_ms: u64) -> (Key, Vec<u8>) {
    let id = cell_id(id);
    let cell = Cell {
        id: id.clone(),
        primary: region_id("us-east-1"),
        dr: region_id("us-west-2"),
        availability_first: false,
        rpo_ms,
        ingress: BTreeMap::from([(region_id("us-west-2"), vec!["10.9.9.9:1".parse().unwrap()])]),
        application: BTreeMap::from([(region_id("us-east-1"), vec!["10.8.8.8:1".parse().unwrap()])]),
        mllp: BTreeMap::from([(region_id("us-east-1"), vec!["10.7.7.7:1".parse().unwrap()])]),
        database: None,
    };
    (Key::Cell(id), encode(&cell))
}

pub(crate) fn tenant(id: &str, cell: &str, allowed: &str) -> (Key, Vec<u8>) {
    let id = TenantId::new(id).unwrap();
    let allowed = Some([JurisdictionId::new(allowed).unwrap()].into());
    let tenant = Tenant {
        id: id.clone(),
        name: id.to_string(),
        cell: cell_id(cell),
        hosts: [].into(),
        residency: Residency { allowed, overrides: BTreeMap::new() },
    };
    (Key::Tenant(id), encode(&tenant))
}

pub(crate) fn host(pattern: &str, tenant: &str) -> (Key, Vec<u8>) {
    let claim = HostClaim { tenant: TenantId::new(tenant).unwrap() };
    (Key::Host(HostPattern::new(pattern).unwrap()), encode(&claim))
}

pub(crate) fn placed(cell: &str, epoch: u64, holder: &str) -> Placement {
    Placement {
        cell: cell_id(cell),
        epoch: Epoch(epoch),
        holder: Some(region_id(holder)),
        standby: None,
        phase: Phase::Serving,
        moving: None,
        availability_first: false,
        witnesses: WitnessSet::of([].into()),
    }
}

pub(crate) fn placement(cell: &str, epoch: u64, holder: &str) -> (Key, Vec<u8>) {
    (Key::Placement(cell_id(cell)), encode(&placed(cell, epoch, holder)))
}

pub(crate) fn witness(id: &str, quiet: i64) -> (Key, Vec<u8>) {
    let id = RouterId::new(id).unwrap();
    let state = WitnessState {
        id: id.clone(),
        region: region_id("us-east-1"),
        role: Role::Gate,
        boot: BootId::from_u128(1),
        quiet: Revision(quiet),
        peer: "10.0.0.7:1".parse().unwrap(),
    };
    (Key::Witness(id), encode(&state))
}

/// A record that a newer program wrote.
pub(crate) fn newer(key: Key) -> (Key, Vec<u8>) {
    (key, br#"{"v":99,"data":{"of":"another age"}}"#.to_vec())
}

/// The world, two regions, the cell `c` held by us-east-1 at epoch 1, and the tenant `t` in it.
pub(crate) fn small() -> Vec<(Key, Vec<u8>)> {
    vec![
        (Key::World, encode(&world(1))),
        region("us-east-1", "US"),
        region("us-west-2", "US"),
        cell("c", 1),
        tenant("t", "c", "US"),
        host("t.example.com", "t"),
        placement("c", 1, "us-east-1"),
    ]
}

pub(crate) fn put(record: (Key, Vec<u8>), revision: i64) -> Change {
    Change::Put(entry(record, revision))
}

pub(crate) fn entry((key, value): (Key, Vec<u8>), revision: i64) -> Entry {
    Entry { key, value, created: Revision(revision), modified: Revision(revision) }
}

/// A listing at a revision, of records that were all written at revision 1 unless they say otherwise.
pub(crate) fn listing(records: Vec<(Key, Vec<u8>)>, revision: i64) -> Listing {
    let entries = records.into_iter().map(|record| entry(record, 1)).collect();
    Listing { header: Header { cluster: 7, revision: Revision(revision) }, entries }
}

pub(crate) fn table(records: Vec<(Key, Vec<u8>)>, revision: i64) -> RoutingTable {
    RoutingTable::empty().relist(&listing(records, revision), NOW).0
}

/// Everything that routing can learn from a table, except for when things were applied.
pub(crate) fn shown(table: &RoutingTable) -> Vec<String> {
    let mut lines: Vec<String> = table.tenants().map(|t| format!("{t:?}")).collect();
    lines.extend(table.cells().map(|c| format!("{:?}", c.cell)));
    lines.extend(table.placements().map(|p| format!("{:?} {} {:?}", p.placement, p.modified, p.doubt)));
    lines.extend(table.claims());
    lines.push(format!("{:?} {:?}", table.regions(), table.jurisdictions()));
    lines.push(format!("{:?} {:?}", table.world(), table.diverged()));
    lines.extend(["gate-0", "gate-1"].map(|id| format!("{:?}", table.witness(&RouterId::new(id).unwrap()))));
    lines.sort();
    lines
}

/// Writes records, as one revision.
pub(crate) async fn write(store: &MemoryStore, records: Vec<(Key, Vec<u8>)>) -> Revision {
    let txn = records
        .into_iter()
        .fold(Txn::bare(), |txn, (key, value)| txn.op(domicile_store::Op::Put(key, value, None)));
    match store.commit(txn).await.unwrap() {
        Commit::Done(revision) => revision,
        Commit::Refused { .. } => panic!("nothing was to be compared"),
    }
}

/// A store in memory with these records.
pub(crate) async fn store(records: Vec<(Key, Vec<u8>)>) -> Arc<MemoryStore> {
    let store = MemoryStore::new(Clock::Machine);
    // Something of nobody's, so that revisions and changes are not the same count.
    store.put_raw(&format!("{PREFIX}zebra/1"), b"x");
    write(&store, records).await;
    Arc::new(store)
}

/// Waits until something is the case.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waiting = async {
        while !is() {
            pause(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), waiting).await.is_ok(), "never came: {what}");
}

/// Waits for a future, not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(value) => value,
        Err(_) => panic!("never came: {what}"),
    }
}
