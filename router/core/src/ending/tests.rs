use std::collections::{BTreeMap, BTreeSet};

use domicile_mirror::RoutingTable;
use domicile_model::fleet::HostClaim;
use domicile_model::{
    Category, Cell, CellId, ClosedReason, Country, Epoch, HostPattern, Jurisdiction, JurisdictionId, Phase,
    Placement, Region, RegionId, Residency, Revision, Tenant, TenantId, WitnessSet,
};
use domicile_store::codec::encode;
use domicile_store::{Entry, Header, Key, Listing};
use proptest::prelude::*;

use super::*;
use crate::testing::NOW;

const HOST: &str = "mercy.example.com";
/// Regions of the tests: the cell lives in the first two.
const REGIONS: [(&str, &str); 5] =
    [("us-1", "US"), ("us-2", "US"), ("eu-1", "IE"), ("eu-2", "DE"), ("ap-1", "IN")];

/// A registry with one tenant.
#[derive(Debug, Clone)]
struct Registry {
    /// Indexes into REGIONS of those that exist, each with the number of its edges.
    regions: BTreeMap<usize, usize>,
    allowed: Option<BTreeSet<&'static str>>,
    tls: Option<BTreeSet<&'static str>>,
    holder: Option<usize>,
    standby: Option<usize>,
    phase: Phase,
}

fn region(index: usize) -> RegionId {
    RegionId::new(REGIONS[index].0).unwrap()
}

impl Registry {
    fn table(&self) -> RoutingTable {
        let mut entries = Vec::new();
        let mut put = |key: Key, value: Vec<u8>| {
            entries.push(Entry { key, value, created: Revision(1), modified: Revision(1) });
        };
        for (index, edges) in &self.regions {
            let edges = (1..=*edges).map(|n| format!("10.{index}.0.{n}:443").parse().unwrap()).collect();
            let country = Country::new(REGIONS[*index].1).unwrap();
            let record = Region { id: region(*index), country, ingress: Vec::new(), edges };
            put(Key::Region(region(*index)), encode(&record));
        }
        let eu = JurisdictionId::new("EU").unwrap();
        let countries = ["DE", "IE"].map(|c| Country::new(c).unwrap()).into();
        put(Key::Jurisdiction(eu.clone()), encode(&Jurisdiction { id: eu, countries }));
        let cell = CellId::new("mercy").unwrap();
        let record = Cell {
            id: cell.clone(),
            primary: region(0),
            dr: region(1),
            rpo_ms: 1,
            availability_first: false,
            ingress: BTreeMap::new(),
            application: BTreeMap::new(),
            mllp: BTreeMap::new(),
            database: None,
        };
        put(Key::Cell(cell.clone()), encode(&record));
        let names = |set: &BTreeSet<&str>| set.iter().map(|n| JurisdictionId::new(n).unwrap()).collect();
        let tenant = TenantId::new("mercy").unwrap();
        let host = HostPattern::new(HOST).unwrap();
        put(Key::Host(host.clone()), encode(&HostClaim { tenant: tenant.clone() }));
        let record = Tenant {
            id: tenant.clone(),
            name: "Mercy".into(),
            cell: cell.clone(),
            hosts: BTreeSet::from([host]),
            residency: Residency {
                allowed: self.allowed.as_ref().map(names),
                overrides: self.tls.iter().map(|set| (Category::Tls, names(set))).collect(),
            },
        };
        put(Key::Tenant(tenant), encode(&record));
        let placement = Placement {
            cell: cell.clone(),
            epoch: Epoch(3),
            holder: self.holder.map(region),
            standby: self.standby.map(region),
            phase: self.phase,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of(BTreeSet::new()),
        };
        put(Key::Placement(cell), encode(&placement));
        let listing = Listing { header: Header { cluster: 1, revision: Revision(1) }, entries };
        RoutingTable::empty().relist(&listing, NOW).0
    }

    /// Whether plaintext may be in this region, told by the countries and nothing else.
    fn may_read(&self, index: usize) -> bool {
        let Some(allowed) = self.tls.as_ref().or(self.allowed.as_ref()) else { return true };
        let country = REGIONS[index].1;
        self.regions.contains_key(&index)
            && allowed
                .iter()
                .any(|name| if *name == "EU" { ["IE", "DE"].contains(&country) } else { *name == country })
    }
}

/// US only; an edge in each of its two regions, one in Ireland, and one nobody may use in Germany.
fn mercy() -> Registry {
    Registry {
        regions: BTreeMap::from([(0, 1), (1, 2), (2, 1), (3, 0)]),
        allowed: Some(BTreeSet::from(["US"])),
        tls: None,
        holder: Some(0),
        standby: Some(1),
        phase: Phase::Serving,
    }
}

const HOLDING: Phase = Phase::Holding { for_ms: 1_000 };
const MOVING: Phase = Phase::Closed { reason: ClosedReason::Moving, for_ms: 1_000 };

fn at(registry: &Registry, own: usize) -> Ending {
    ending(&registry.table(), &region(own), HOST, false, NOW)
}

/// The regions that a connection may go to, in order.
fn goes(ending: &Ending) -> Vec<&str> {
    match ending {
        Ending::Elsewhere(splice) => splice.inside.iter().map(|i| i.region.as_str()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn inside_it_is_decrypted_outside_it_is_passed_on_to_the_holder_first() {
    let mut registry = mercy();
    assert_eq!(at(&registry, 0), Ending::Here);
    assert_eq!(at(&registry, 1), Ending::Here);
    assert_eq!(goes(&at(&registry, 2)), ["us-1", "us-2"]);
    registry.holder = Some(1);
    registry.standby = Some(0);
    assert_eq!(goes(&at(&registry, 2)), ["us-2", "us-1"]);
    // An edge of which nobody knows where it stands is outside of every policy, and of none.
    assert_eq!(goes(&at(&registry, 4)), ["us-2", "us-1"]);
    registry.allowed = None;
    assert_eq!(at(&registry, 4), Ending::Here);
}

#[test]
fn a_region_that_is_being_left_takes_no_new_connections() {
    let mut registry = mercy();
    registry.phase = HOLDING;
    assert_eq!(goes(&at(&registry, 2)), ["us-2"]);
    (registry.phase, registry.holder) = (MOVING, None);
    assert_eq!(goes(&at(&registry, 2)), ["us-2"], "the move goes to the standby");
    // Where there is nobody else, it waits as a request would.
    registry.regions.insert(1, 0);
    let until = NOW + std::time::Duration::from_secs(1);
    assert_eq!(at(&registry, 2), Ending::Wait { until });
    let late = ending(&registry.table(), &region(2), HOST, false, until);
    assert_eq!(late, Ending::Nowhere(Nowhere::Late));
}

#[test]
fn what_is_not_known_is_not_decrypted() {
    let mut registry = mercy();
    let other = ending(&registry.table(), &region(0), "other.example.com", false, NOW);
    assert_eq!(other, Ending::Nowhere(Nowhere::UnknownName));
    let empty = ending(&RoutingTable::empty(), &region(0), HOST, false, NOW);
    assert_eq!(empty, Ending::Nowhere(Nowhere::UnknownName));
    // Two edges that send a connection to and fro.
    let again = ending(&registry.table(), &region(2), HOST, true, NOW);
    assert_eq!(again, Ending::Nowhere(Nowhere::Again));
    assert_eq!(ending(&registry.table(), &region(0), HOST, true, NOW), Ending::Here);
    registry.regions = BTreeMap::from([(0, 0), (1, 0), (2, 3)]);
    assert_eq!(at(&registry, 2), Ending::Nowhere(Nowhere::NobodyInside));
}

#[test]
fn a_connection_that_is_passed_on_ends_with_the_policy_and_after_the_move() {
    let mut registry = mercy();
    let passed = |to: usize, held| Spliced {
        name: HOST.into(),
        tenant: TenantId::new("mercy").unwrap(),
        region: region(to),
        held,
    };
    assert_eq!(fate(&registry.table(), &passed(0, true)), Fate::Stays);
    registry.phase = HOLDING;
    assert_eq!(fate(&registry.table(), &passed(0, true)), Fate::Stays, "what is in flight ends in its time");
    (registry.phase, registry.holder) = (Phase::Serving, Some(1));
    assert_eq!(fate(&registry.table(), &passed(0, true)), Fate::EndsSilent);
    assert_eq!(fate(&registry.table(), &passed(0, false)), Fate::Stays, "it never was the way of the holder");
    registry.tls = Some(BTreeSet::from(["IN"]));
    assert_eq!(fate(&registry.table(), &passed(1, true)), Fate::EndsNow);
    registry.tls = None;
    let other = Spliced { tenant: TenantId::new("other").unwrap(), ..passed(1, true) };
    assert_eq!(fate(&registry.table(), &other), Fate::EndsNow, "the name is another tenant's now");
    registry.regions.remove(&1);
    assert_eq!(fate(&registry.table(), &passed(1, true)), Fate::EndsNow);
}

fn names() -> impl Strategy<Value = Option<BTreeSet<&'static str>>> {
    let set = proptest::collection::btree_set(prop::sample::select(vec!["US", "IE", "DE", "IN", "EU"]), 0..4);
    proptest::option::of(set)
}

fn registries() -> impl Strategy<Value = Registry> {
    let regions = proptest::collection::btree_map(0..REGIONS.len(), 0..3usize, 0..=REGIONS.len());
    let phase = prop::sample::select(vec![
        Phase::Serving,
        HOLDING,
        MOVING,
        Phase::Closed { reason: ClosedReason::Operator, for_ms: 0 },
    ]);
    let place = || proptest::option::of(0..2usize);
    (regions, names(), names(), place(), place(), phase).prop_map(
        |(regions, allowed, tls, holder, standby, phase)| Registry {
            regions,
            allowed,
            tls,
            holder,
            standby,
            phase,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Follows a connection from edge to edge, each with a table of its own, and asks at each of them.
    #[test]
    fn no_edge_outside_ever_decrypts(
        one in registries(), other in registries(), own in 0..REGIONS.len(), late: bool,
    ) {
        let now = if late { NOW + std::time::Duration::from_secs(2) } else { NOW };
        let table = one.table();
        match ending(&table, &region(own), HOST, false, now) {
            Ending::Here => prop_assert!(one.may_read(own)),
            Ending::Elsewhere(splice) => {
                prop_assert!(!one.may_read(own) && !splice.inside.is_empty());
                for inside in &splice.inside {
                    let index = REGIONS.iter().position(|r| r.0 == inside.region.as_str()).unwrap();
                    prop_assert!(one.may_read(index) && index != own && !inside.edges.is_empty());
                    let left = one.phase == HOLDING && one.holder == Some(index);
                    prop_assert!(!left, "into the region that is being left");
                    // The next edge has another table. It decrypts by that, or nobody does.
                    match ending(&other.table(), &inside.region, HOST, true, now) {
                        Ending::Here => prop_assert!(other.may_read(index)),
                        Ending::Nowhere(_) => {}
                        more => prop_assert!(false, "passed on twice: {more:?}"),
                    }
                    // And what the table becomes later ends the connection where it may not stay.
                    let passed = Spliced {
                        name: HOST.into(),
                        tenant: splice.tenant.clone(),
                        region: inside.region.clone(),
                        held: one.holder == Some(index),
                    };
                    let stays = fate(&other.table(), &passed) != Fate::EndsNow;
                    prop_assert_eq!(stays, other.regions.contains_key(&index) && other.may_read(index));
                }
            }
            Ending::Wait { until } => prop_assert!(!one.may_read(own) && now < until),
            Ending::Nowhere(why) => prop_assert!(!one.may_read(own), "refused for nothing: {why:?}"),
        }
    }
}

/// The property above sees something: every outcome comes about.
#[test]
fn random_registries_lead_to_every_outcome() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<&str, usize>::new();
    for _ in 0..2_000 {
        let registry = registries().new_tree(&mut runner).unwrap().current();
        for own in 0..REGIONS.len() {
            let outcome = match at(&registry, own) {
                Ending::Here => "here",
                Ending::Elsewhere(_) => "elsewhere",
                Ending::Wait { .. } => "wait",
                Ending::Nowhere(Nowhere::NobodyInside) => "nobody",
                Ending::Nowhere(_) => "other",
            };
            *seen.entry(outcome).or_default() += 1;
        }
    }
    for outcome in ["here", "elsewhere", "wait", "nobody"] {
        assert!(seen.get(outcome).is_some_and(|n| *n > 20), "{outcome}: {seen:?}");
    }
}
