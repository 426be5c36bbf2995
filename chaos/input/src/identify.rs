//! Whose request it is: the same host, however it is written, leads to the same tenant, and no other does.

use std::borrow::Cow;
use std::sync::LazyLock;

use domicile_mirror::RoutingTable;
use domicile_model::clock::BootTime;
use domicile_model::fleet::HostClaim;
use domicile_model::{FenceConstants, Fleet, HostPattern, Revision, TenantId, World, WorldId};
use domicile_router_core::Cause;
use domicile_router_core::identify::{By, Clues, host_name, identify};
use domicile_store::codec::encode;
use domicile_store::{Entry, Header, Key, Listing};

/// A reader of host names.
pub type Read<'r> = &'r dyn for<'b> Fn(&'b [u8]) -> Option<Cow<'b, str>>;

const FLEET: &str = r#"
[regions]
us-east-1 = { country = "US", ingress = ["10.0.1.10:8443"] }
us-west-2 = { country = "US", ingress = ["10.1.1.10:8443"] }
[cells.pool]
primary = "us-east-1"
dr = "us-west-2"
[tenants.a]
cell = "pool"
hosts = ["a.example.com", "*.a.example.com"]
[tenants.b]
cell = "pool"
hosts = ["b.a.example.com", "*.b.example.com"]
"#;

static TENANTS: LazyLock<(Fleet, RoutingTable)> = LazyLock::new(|| {
    let fleet = domicile_config::parse("fleet", FLEET).unwrap_or_else(|report| panic!("{report}"));
    let table = table(&fleet);
    (fleet, table)
});

/// The laws. The first line of the bytes is the authority, the second the Host header, the third the tenant that the
/// request names, each absent where it is empty; a fourth line stands for a second Host header.
///
/// # Panics
/// When one is broken.
pub fn check(bytes: &[u8]) {
    check_reader(&host_name, bytes);
    let mut lines = bytes.split(|b| *b == b'\n').map(|line| Some(line).filter(|line| !line.is_empty()));
    let mut line = || lines.next().flatten();
    let (authority, host, tenant) = (line(), line(), line());
    let hosts = usize::from(host.is_some()) + usize::from(line().is_some());
    check_tenant(&Clues { authority, host, hosts, tenant });
}

/// The laws of a reader of host names.
///
/// # Panics
/// When it breaks one.
pub fn check_reader(read: Read<'_>, bytes: &[u8]) {
    for given in bytes.split(|b| *b == b'\n').chain([bytes]) {
        let Some(name) = read(given) else { continue };
        assert!((1..=253).contains(&name.len()), "{name:?}");
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        assert!(name.bytes().all(plain), "{name:?}");
        let capitals = name.to_ascii_uppercase();
        for again in
            [name.to_string(), capitals, format!("{name}."), format!("{name}:8443"), format!("{name}.:1")]
        {
            assert_eq!(read(again.as_bytes()).as_ref(), Some(&name), "{again:?}");
        }
    }
}

fn check_tenant(clues: &Clues<'_>) {
    let (fleet, table) = &*TENANTS;
    let edge = identify(table, &By::EDGE, clues).map(|t| t.id.clone());
    let gate = identify(table, &By::GATE, clues).map(|t| t.id.clone());
    if clues.hosts > 1 {
        assert_eq!((edge, gate), (Err(Cause::BadRequest), Err(Cause::BadRequest)), "{clues:?}");
        return;
    }
    let name = clues.host_name();
    let by_host = name.as_deref().and_then(|name| owner(fleet, name));
    let named = clues.tenant.and_then(|text| std::str::from_utf8(text).ok());
    let by_name = named.and_then(|text| fleet.tenants.get(text)).map(|t| t.id.clone());
    match (&by_host, &by_name) {
        (Some(owner), _) => assert_eq!(edge.as_ref(), Ok(owner), "an edge goes by the host: {clues:?}"),
        (None, Some(named)) => assert_eq!(edge.as_ref(), Ok(named), "{clues:?}"),
        (None, None) => assert!(edge.is_err(), "{clues:?}: {edge:?}"),
    }
    match (&by_name, clues.tenant, &by_host) {
        (Some(named), _, _) => {
            assert_eq!(gate.as_ref(), Ok(named), "a gate goes by the edge's word: {clues:?}");
        }
        (None, None, Some(owner)) => assert_eq!(gate.as_ref(), Ok(owner), "{clues:?}"),
        (None, None, None) => assert!(gate.is_err(), "{clues:?}: {gate:?}"),
        // A tenant that is no name is an error, one that is unknown here may still have this host.
        (None, Some(_), _) => assert!(gate.is_err() || gate.ok() == by_host, "{clues:?}"),
    }
    if clues.authority.is_some() {
        let alone = Clues { host: None, ..*clues };
        assert_eq!(identify(table, &By::EDGE, &alone).map(|t| t.id.clone()), edge, "the authority wins");
    }
}

/// Whose the host is, by looking at every pattern of every tenant: the exact one comes first.
fn owner(fleet: &Fleet, name: &str) -> Option<TenantId> {
    let holds = |fits: &dyn Fn(&HostPattern) -> bool| {
        fleet.tenants.values().find(|tenant| tenant.hosts.iter().any(fits)).map(|t| t.id.clone())
    };
    let exact = |p: &HostPattern| matches!(p, HostPattern::Exact(host) if host.as_str() == name);
    let below = |p: &HostPattern| match (p, name.split_once('.')) {
        (HostPattern::Wildcard(host), Some((label, rest))) => !label.is_empty() && rest == host.as_str(),
        _ => false,
    };
    holds(&exact).or_else(|| holds(&below))
}

fn table(fleet: &Fleet) -> RoutingTable {
    let at = Revision(1);
    let world = World { id: WorldId::from_u128(1), reconciled: true, constants: FenceConstants::DEFAULT };
    let mut entries = Vec::new();
    let mut put = |key, value| entries.push(Entry { key, value, created: at, modified: at });
    put(Key::World, encode(&world));
    for cell in fleet.cells.values() {
        put(Key::Cell(cell.id.clone()), encode(cell));
    }
    for tenant in fleet.tenants.values() {
        put(Key::Tenant(tenant.id.clone()), encode(tenant));
        for host in &tenant.hosts {
            put(Key::Host(host.clone()), encode(&HostClaim { tenant: tenant.id.clone() }));
        }
    }
    let listing = Listing { header: Header { cluster: 1, revision: at }, entries };
    RoutingTable::empty().relist(&listing, BootTime::from_nanos(1)).0
}
