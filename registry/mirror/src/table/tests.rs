//! What must hold of the table, whatever the registry tells and in whatever portions.

use std::collections::BTreeMap;
use std::time::Duration;

use domicile_model::{Epoch, HostPattern, JurisdictionId, Phase, Placement, Revision, RouterId, TenantId};
use domicile_store::codec::encode;
use domicile_store::{Change, Header, Key, Listing};
use proptest::prelude::*;

use crate::RoutingTable;
use crate::testing::*;

fn epoch(table: &RoutingTable) -> u64 {
    table.placement("c").unwrap().placement.epoch.0
}

fn provable(table: &RoutingTable, region: &str) -> Option<u64> {
    table.provable("c", &region_id(region)).map(|placed| placed.placement.epoch.0)
}

#[test]
fn hosts_lead_to_tenants_exact_names_first_and_wildcards_one_label_deep() {
    let mut records = small();
    records.extend([
        tenant("u", "c", "US"),
        host("*.example.com", "u"),
        host("gone.example.org", "nobody"),
        jurisdiction("EU", "DE"),
        witness("gate-0", 3),
    ]);
    let table = table(records, 5);
    let of = |host: &str| table.tenant_by_host(host).map(|tenant| tenant.id.to_string());
    assert_eq!(of("t.example.com").as_deref(), Some("t"));
    assert_eq!(of("other.example.com").as_deref(), Some("u"));
    for host in [
        "example.com",
        "a.b.example.com",
        "",
        ".",
        "com",
        ".example.com",
        "gone.example.org",
        "*.example.com",
    ] {
        assert_eq!(of(host), None, "{host:?}");
    }
    assert_eq!(table.ingress("c", "us-west-2"), ["10.9.9.9:1".parse().unwrap()], "the cell's own");
    assert_eq!(table.ingress("c", "us-east-1"), ["10.0.0.1:8443".parse().unwrap()], "the region's");
    assert_eq!(table.application("c", "us-east-1").len(), 1);
    assert_eq!(table.mllp("c", "us-east-1").len(), 1);
    assert!(table.mllp("c", "us-west-2").is_empty() && table.mllp("mars", "us-east-1").is_empty());
    assert!(table.application("c", "us-west-2").is_empty() && table.ingress("c", "mars").is_empty());
    assert_eq!(table.jurisdictions().len(), 1);
    assert_eq!(table.witness(&RouterId::new("gate-0").unwrap()).unwrap().quiet, Revision(3));
    assert_eq!((table.applied(), table.cells().count(), table.tenant_count()), (Revision(5), 1, 2));
    assert!(table.cell("c").unwrap().placed.is_some() && table.cell("d").is_none());
}

#[test]
fn old_and_repeated_changes_are_ignored() {
    let before = table(small(), 5);
    let changes = [put(cell("c", 2), 4), put(placement("c", 2, "us-west-2"), 5), put(cell("d", 1), 6)];
    let (after, report) = before.apply(&changes, NOW);
    assert_eq!((report.ignored, report.new, after.applied()), (2, 1, Revision(6)));
    assert_eq!(epoch(&after), 1);
    assert_eq!(after.cell("c").unwrap().cell.rpo_ms, 1);
    let (again, report) = after.apply(&changes, NOW);
    assert_eq!((report.ignored, again.applied()), (3, Revision(6)));
}

#[test]
fn a_placement_never_goes_back_and_what_was_refused_leaves_no_proof() {
    let (five, _) = table(small(), 5).apply(&[put(placement("c", 5, "us-east-1"), 6)], NOW);
    assert_eq!(provable(&five, "us-east-1"), Some(5));
    let same_epoch = Placement { holder: None, ..placed("c", 5, "us-east-1") };
    let bad = [
        placement("c", 4, "us-west-2"),
        (Key::Placement(cell_id("c")), encode(&same_epoch)),
        newer(Key::Placement(cell_id("c"))),
        (Key::Placement(cell_id("c")), encode(&placed("d", 9, "us-west-2"))),
        (Key::Placement(cell_id("c")), b"{}".to_vec()),
    ];
    for record in bad {
        let (after, report) = five.apply(&[put(record, 7)], NOW);
        assert_eq!((epoch(&after), report.refused.len(), after.applied()), (5, 1, Revision(7)));
        assert!(after.placement("c").unwrap().doubt.is_some() && after.refused().len() == 1);
        assert_eq!(
            provable(&after, "us-east-1"),
            None,
            "the region may have lost the cell in what was refused"
        );
        assert_eq!(report.placements, [cell_id("c")]);
        // A good one ends the doubt.
        let (mended, _) = after.apply(&[put(placement("c", 6, "us-east-1"), 8)], NOW);
        assert_eq!((provable(&mended, "us-east-1"), mended.refused().len()), (Some(6), 0));
    }
}

#[test]
fn a_cell_that_was_removed_comes_back_only_above_its_last_epoch() {
    let (removed, _) = table(small(), 5).apply(
        &[put(placement("c", 5, "us-east-1"), 6), Change::Delete(Key::Placement(cell_id("c")), Revision(7))],
        NOW,
    );
    assert!(removed.placement("c").is_none());
    let (refused, report) = removed.apply(&[put(placement("c", 5, "us-west-2"), 8)], NOW);
    assert!(refused.placement("c").is_none() && report.refused.len() == 1);
    let (back, _) = removed.apply(&[put(placement("c", 6, "us-west-2"), 8)], NOW);
    assert_eq!(epoch(&back), 6);
}

#[test]
fn what_a_newer_program_wrote_keeps_the_old_value_and_is_named() {
    let before = table([small(), vec![witness("gate-0", 3), jurisdiction("EU", "DE")]].concat(), 5);
    let keys = [
        Key::World,
        Key::Region(region_id("us-east-1")),
        Key::Jurisdiction(JurisdictionId::new("EU").unwrap()),
        Key::Cell(cell_id("c")),
        Key::Tenant(TenantId::new("t").unwrap()),
        Key::Host(HostPattern::new("t.example.com").unwrap()),
        Key::Witness(RouterId::new("gate-0").unwrap()),
    ];
    let changes: Vec<Change> = keys.iter().map(|key| put(newer(key.clone()), 6)).collect();
    let (after, report) = before.apply(&changes, NOW);
    assert_eq!(shown(&after), shown(&before));
    assert_eq!(report.refused.len(), keys.len());
    assert!(report.refused.iter().all(|refusal| refusal.why.contains("upgrade it")), "{report:?}");
    assert_eq!(
        after.refused().keys().cloned().collect::<std::collections::BTreeSet<_>>(),
        keys.clone().into()
    );
    // A listing in the same state keeps them too.
    let listed = keys.iter().map(|key| newer(key.clone())).chain([placement("c", 1, "us-east-1")]);
    let listed = listed.chain([region("us-west-2", "US")]).collect();
    let (relisted, report) = before.relist(&listing(listed, 9), NOW);
    assert_eq!(shown(&relisted), shown(&before));
    assert_eq!((report.refused.len(), report.other_history), (keys.len(), None));
    // And a readable one takes its place again.
    let (mended, _) = after.apply(&[put(cell("c", 8), 7)], NOW);
    assert_eq!((mended.cell("c").unwrap().cell.rpo_ms, mended.refused().len()), (8, keys.len() - 1));
}

#[test]
fn a_placement_read_ahead_is_routed_by_but_proves_nothing_until_the_watch_has_come() {
    let before = table(small(), 5);
    let (ahead, _) = before.apply_ahead(&entry(placement("c", 2, "us-west-2"), 8), NOW);
    assert_eq!((epoch(&ahead), ahead.applied(), provable(&ahead, "us-west-2")), (2, Revision(5), None));
    // What the watch still brings of the time before does not turn it back, the removal of another life included.
    let old =
        [put(placement("c", 1, "us-east-1"), 6), Change::Delete(Key::Placement(cell_id("c")), Revision(7))];
    let (still, report) = ahead.apply(&old, NOW);
    assert_eq!((epoch(&still), report.refused.len(), still.applied()), (2, 0, Revision(7)));
    let (come, _) = still.apply(&[put(placement("c", 2, "us-west-2"), 8)], NOW + Duration::from_secs(1));
    assert_eq!(provable(&come, "us-west-2"), Some(2));
    assert_eq!(come.placement("c").unwrap().applied_at, NOW, "it was applied when it was read ahead");
    // A listing from before it does not turn it back either.
    let (relisted, _) = ahead.relist(&listing(small(), 7), NOW);
    assert_eq!((epoch(&relisted), provable(&relisted, "us-west-2")), (2, None));
}

#[test]
fn a_listing_again_does_not_restart_hold_times() {
    let hold = Placement { phase: Phase::Holding { for_ms: 100 }, ..placed("c", 1, "us-east-1") };
    let (held, _) = table(small(), 5).apply(&[put((Key::Placement(cell_id("c")), encode(&hold)), 6)], NOW);
    let mut records = listing(small(), 9);
    records.entries.retain(|entry| entry.key != Key::Placement(cell_id("c")));
    records.entries.push(entry((Key::Placement(cell_id("c")), encode(&hold)), 6));
    let (again, _) = held.relist(&records, NOW + Duration::from_secs(5));
    assert_eq!(again.placement("c").unwrap().applied_at, NOW);
}

fn at_epoch(epoch: u64, holder: &str) -> Vec<(Key, Vec<u8>)> {
    let mut records = small();
    records.retain(|(key, _)| *key != Key::Placement(cell_id("c")));
    records.push(placement("c", epoch, holder));
    records
}

#[test]
fn another_history_lowers_no_epoch_and_proves_nothing() {
    let (seven, _) = table(small(), 5).apply(&[put(placement("c", 7, "us-west-2"), 20)], NOW);
    // A naive restore: the same world and cluster, a lower revision, the placement of that time.
    let (restored, report) = seven.relist(&listing(small(), 6), NOW);
    assert!(report.other_history.is_some() && restored.diverged().is_some());
    assert_eq!((epoch(&restored), restored.applied()), (7, Revision(6)));
    assert_eq!((provable(&restored, "us-west-2"), provable(&restored, "us-east-1")), (None, None));
    // It stays so, however far that registry comes, because its revisions repeat.
    let (later, _) = restored.apply(&[put(placement("c", 8, "us-east-1"), 21)], NOW);
    assert_eq!((epoch(&later), provable(&later, "us-east-1")), (8, None));
    assert!(later.relist(&listing(at_epoch(9, "us-east-1"), 30), NOW).0.diverged().is_some());
    // A new world, reconciled above everything known, ends it.
    let mut records = at_epoch(1 << 20, "us-west-2");
    records[0].1 = encode(&world(2));
    let (rebuilt, report) = later.relist(&listing(records, 4), NOW);
    assert!(report.other_history.is_some() && rebuilt.diverged().is_none());
    assert_eq!(provable(&rebuilt, "us-west-2"), Some(1 << 20));
}

#[test]
fn a_restore_that_has_come_past_our_revision_is_found_by_its_placements() {
    let (seven, _) = table(small(), 5).apply(&[put(placement("c", 7, "us-west-2"), 20)], NOW);
    let (after, report) = seven.relist(&listing(small(), 40), NOW);
    assert!(report.other_history.is_some() && after.diverged().is_some());
    assert_eq!((epoch(&after), provable(&after, "us-west-2")), (7, None));
}

#[test]
fn a_new_world_that_is_not_above_leaves_the_old_placement_in_doubt() {
    let (seven, _) = table(small(), 5).apply(&[put(placement("c", 7, "us-west-2"), 20)], NOW);
    let mut records = small();
    records[0].1 = encode(&world(2));
    let (other, report) = seven.relist(&listing(records, 4), NOW);
    assert_eq!((epoch(&other), provable(&other, "us-west-2"), report.refused.len()), (7, None, 1));
    assert_eq!(other.world().unwrap().id, world(2).id);
    // Reconciliation comes by the watch, at revisions below those of the lost history.
    let (raised, _) = other.apply(&[put(placement("c", 1000, "us-west-2"), 5)], NOW);
    assert_eq!(provable(&raised, "us-west-2"), Some(1000));
    // A cell that the other world does not know stays where it was.
    let mut records = small();
    records[0].1 = encode(&world(2));
    records.truncate(3);
    let (missing, _) = seven.relist(&listing(records, 4), NOW);
    assert_eq!((epoch(&missing), provable(&missing, "us-west-2")), (7, None));
}

#[test]
fn another_cluster_is_another_history_and_a_wiped_registry_takes_nothing() {
    let before = table(small(), 5);
    let mut other = listing(small(), 9);
    other.header.cluster = 8;
    assert!(before.relist(&other, NOW).0.diverged().is_some());
    for records in [vec![], vec![cell("c", 9)]] {
        let (kept, report) = before.relist(&listing(records, 2), NOW);
        assert!(report.rejected && kept.diverged().is_some());
        assert_eq!(
            (kept.tenant_count(), kept.applied(), provable(&kept, "us-east-1")),
            (1, Revision(5), None)
        );
    }
    // The very first table may be empty.
    let (empty, report) = RoutingTable::empty().relist(&listing(vec![], 2), NOW);
    assert!(!report.rejected && empty.diverged().is_none() && empty.world().is_none());
}

#[test]
fn a_change_of_world_under_a_running_watch_applies_nothing() {
    let before = table(small(), 5);
    for change in [put((Key::World, encode(&world(2))), 7), Change::Delete(Key::World, Revision(7))] {
        let (after, report) = before.apply(&[put(placement("c", 9, "us-west-2"), 6), change], NOW);
        assert!(report.other_world);
        assert_eq!((epoch(&after), after.applied()), (1, Revision(5)));
    }
    let reconciling = domicile_model::World { reconciled: false, ..world(1) };
    let (after, report) = before.apply(&[put((Key::World, encode(&reconciling)), 6)], NOW);
    assert!(!report.other_world && !after.world().unwrap().reconciled);
}

/// Something that happens to the registry.
#[derive(Debug, Clone)]
enum Event {
    Put((Key, Vec<u8>)),
    Delete(Key),
    /// The epoch rises; the holder alternates.
    Move(usize),
    Unreadable(Key),
}

fn some_key() -> impl Strategy<Value = (Key, Vec<u8>)> {
    let name = |n: usize| format!("x{n}");
    prop_oneof![
        (0..3usize, 0..3u64).prop_map(move |(n, rpo)| cell(&name(n), rpo)),
        (0..4usize, 0..3usize, 0..2usize).prop_map(move |(n, c, r)| tenant(
            &name(n),
            &name(c),
            ["US", "EU"][r]
        )),
        (0..4usize, 0..4usize).prop_map(move |(h, t)| host(&format!("h{h}.example.com"), &name(t))),
        (0..2usize, 0..4usize).prop_map(move |(h, t)| host(&format!("*.w{h}.example.com"), &name(t))),
        (0..2usize, 0..2usize).prop_map(|(n, c)| region(["us-east-1", "us-west-2"][n], ["US", "IE"][c])),
        (0..2usize).prop_map(|c| jurisdiction("EU", ["DE", "IE"][c])),
        (0..2usize, 0..3i64).prop_map(|(n, quiet)| witness(&format!("gate-{n}"), quiet)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => some_key().prop_map(Event::Put),
        2 => some_key().prop_map(|(key, _)| Event::Delete(key)),
        3 => (0..3usize).prop_map(Event::Move),
        1 => (0..3usize).prop_map(|n| Event::Delete(Key::Placement(cell_id(&format!("x{n}"))))),
        1 => some_key().prop_map(|(key, _)| Event::Unreadable(key)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However the changes are cut into batches, and wherever a listing comes between, the table is the one that a
    /// full listing gives; and a file would give it back.
    #[test]
    fn the_table_is_that_of_a_full_listing(
        events in prop::collection::vec((event(), 0..4u8), 1..60),
        relist_at in prop::collection::vec(0..60usize, 0..3),
    ) {
        let mut truth: BTreeMap<Key, domicile_store::Entry> = BTreeMap::new();
        let mut epochs = [0_u64; 3];
        let mut revision = 1;
        let start = entry((Key::World, encode(&world(1))), revision);
        truth.insert(Key::World, start);
        let list = |truth: &BTreeMap<Key, domicile_store::Entry>, revision| Listing {
            header: Header { cluster: 7, revision: Revision(revision) },
            entries: truth.values().cloned().collect(),
        };
        let (mut table, _) = RoutingTable::empty().relist(&list(&truth, revision), NOW);
        let mut waiting: Vec<Change> = Vec::new();
        for (at, (event, cut)) in events.into_iter().enumerate() {
            revision += 1;
            let change = match event {
                Event::Put(record) => put(record, revision),
                Event::Delete(key) => Change::Delete(key, Revision(revision)),
                Event::Move(n) => {
                    epochs[n] += 1;
                    let holder = if epochs[n] % 2 == 0 { "us-east-1" } else { "us-west-2" };
                    put(placement(&format!("x{n}"), epochs[n], holder), revision)
                }
                Event::Unreadable(key) => {
                    // Only where there is nothing older to keep: what is kept is tested apart.
                    if truth.contains_key(&key) { continue }
                    // The table must have heard so too: a listing that comes before the deletion is told keeps it.
                    if waiting.iter().any(|change| change.key() == &key) {
                        table = table.apply(&waiting, NOW).0;
                        waiting.clear();
                    }
                    put(newer(key), revision)
                }
            };
            match &change {
                Change::Put(entry) => truth.insert(entry.key.clone(), entry.clone()),
                Change::Delete(key, _) => truth.remove(key),
            };
            waiting.push(change);
            if cut == 0 {
                // The last batch comes once more with it, as from a member that rejoined.
                table = table.apply(&waiting, NOW).0;
                prop_assert_eq!(table.apply(&waiting, NOW).1.new, 0);
                waiting.clear();
            }
            if relist_at.contains(&at) {
                let (next, report) = table.relist(&list(&truth, revision), NOW);
                prop_assert_eq!(report.other_history, None);
                table = next;
                waiting.clear();
            }
        }
        table = table.apply(&waiting, NOW).0;
        let (full, _) = RoutingTable::empty().relist(&list(&truth, revision), NOW);
        prop_assert_eq!(shown(&table), shown(&full));
        prop_assert_eq!(table.refused().keys().collect::<Vec<_>>(), full.refused().keys().collect::<Vec<_>>());
    }

    /// Whatever order placements are told in, the epoch of a cell never falls.
    #[test]
    fn no_sequence_of_placements_lowers_an_epoch(
        told in prop::collection::vec((0..12u64, 0..2usize, 1..40i64, 0..4u8), 1..40),
    ) {
        let mut now = table(small(), 1);
        let mut highest = Epoch(1);
        for (epoch, holder, revision, how) in told {
            let record = placement("c", epoch, ["us-east-1", "us-west-2"][holder]);
            now = match how {
                0 => now.apply_ahead(&entry(record, revision), NOW).0,
                1 => {
                    let mut list = listing(at_epoch(epoch, ["us-east-1", "us-west-2"][holder]), revision);
                    list.header.cluster = 7 + (revision % 2) as u64;
                    now.relist(&list, NOW).0
                }
                _ => now.apply(&[put(record, revision)], NOW).0,
            };
            let found = now.placement("c").map(|placed| placed.placement.epoch).unwrap();
            prop_assert!(found >= highest, "{found} after {highest}");
            highest = found;
        }
    }
}
