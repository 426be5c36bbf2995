//! How much memory a tenant costs, and what a change to one of very many costs. In a process of its own, because it
//! looks at the whole of its memory.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;

use domicile_mirror::RoutingTable;
use domicile_model::clock::{BootTime, Clock};
use domicile_model::fleet::HostClaim;
use domicile_model::{
    Cell, CellId, FenceConstants, HostPattern, JurisdictionId, RegionId, Residency, Revision, Tenant,
    TenantId, World, WorldId,
};
use domicile_store::codec::encode;
use domicile_store::{Change, Entry, Header, Key, Listing};

const NOW: BootTime = BootTime::from_nanos(1);
const TENANTS: usize = 100_000;

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn put(key: Key, value: Vec<u8>, revision: i64) -> Change {
    let at = Revision(revision);
    Change::Put(Entry { key, value, created: at, modified: at })
}

fn tenant(n: usize, revision: i64) -> [Change; 2] {
    let id = TenantId::new(&format!("clinic-{n:06}")).unwrap();
    let host = HostPattern::new(&format!("clinic-{n:06}.clinics.example.com")).unwrap();
    let allowed = Some([JurisdictionId::new("US").unwrap()].into());
    let record = Tenant {
        id: id.clone(),
        name: format!("Clinic number {n}"),
        cell: CellId::new(&format!("pool-{}", n % 50)).unwrap(),
        hosts: [host.clone()].into(),
        residency: Residency { allowed, overrides: BTreeMap::new() },
    };
    [
        put(Key::Tenant(id.clone()), encode(&record), revision),
        put(Key::Host(host), encode(&HostClaim { tenant: id }), revision),
    ]
}

fn empty() -> RoutingTable {
    let world = World { id: WorldId::from_u128(1), reconciled: true, constants: FenceConstants::DEFAULT };
    let mut entries = vec![(Key::World, encode(&world))];
    for n in 0..50 {
        let id = CellId::new(&format!("pool-{n}")).unwrap();
        let cell = Cell {
            id: id.clone(),
            primary: RegionId::new("us-east-1").unwrap(),
            dr: RegionId::new("us-west-2").unwrap(),
            availability_first: false,
            rpo_ms: 1,
            ingress: BTreeMap::new(),
            application: BTreeMap::new(),
            mllp: BTreeMap::new(),
            database: None,
        };
        entries.push((Key::Cell(id), encode(&cell)));
    }
    let at = Revision(1);
    let entries =
        entries.into_iter().map(|(key, value)| Entry { key, value, created: at, modified: at }).collect();
    RoutingTable::empty().relist(&Listing { header: Header { cluster: 1, revision: at }, entries }, NOW).0
}

#[test]
fn a_tenant_costs_at_most_300_bytes_and_a_change_does_not_rebuild_the_others() {
    let mut table = empty();
    let before = resident();
    for first in (0..TENANTS).step_by(500) {
        let revision = 2 + i64::try_from(first).unwrap();
        let changes: Vec<Change> = (first..first + 500).flat_map(|n| tenant(n, revision)).collect();
        table = table.apply(&changes, NOW).0;
    }
    let bytes = resident().saturating_sub(before) / TENANTS;
    assert_eq!(table.tenant_count(), TENANTS);
    assert!(bytes <= 300, "a tenant with one host costs {bytes} bytes");
    assert_eq!(
        table.tenant_by_host("clinic-077777.clinics.example.com").unwrap().id.as_str(),
        "clinic-077777"
    );

    // Machine time, with a wide margin: a rebuild of all of them would take a thousand times as long.
    let start = Clock::Machine.now();
    let mut next = table.clone();
    for n in 0..200 {
        let revision = i64::try_from(2 + TENANTS + n).unwrap();
        next = next.apply(&tenant(n, revision), NOW).0;
    }
    let each = Clock::Machine.now().since(start) / 200;
    assert!(each.as_millis() < 10, "a change takes {each:?}");
    let start = Clock::Machine.now();
    for n in 0..1_000 {
        assert!(next.tenant_by_host(HOSTS[n % HOSTS.len()]).is_some());
    }
    let lookup = Clock::Machine.now().since(start) / 1_000;
    println!("{bytes} bytes a tenant, {each:?} a change, {lookup:?} a lookup");
}

const HOSTS: [&str; 3] = [
    "clinic-000001.clinics.example.com",
    "clinic-050001.clinics.example.com",
    "clinic-099999.clinics.example.com",
];
