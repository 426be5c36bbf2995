use std::collections::BTreeMap;

use domicile_model::clock::Clock;
use domicile_model::{CellId, Country, Epoch, FenceConstants, MoveId, Region, WitnessSet, WorldId};
use domicile_store::codec::decode;
use domicile_store::memory::{LostAnswer, MemoryStore};
use domicile_store::world::{init_world, read_world};

use super::*;
use crate::decide::Verdict;

fn fleet() -> Fleet {
    let id = RegionId::new("a").unwrap();
    let region = Region {
        id: id.clone(),
        country: Country::new("US").unwrap(),
        ingress: Vec::new(),
        edges: Vec::new(),
    };
    Fleet { regions: [(id, region)].into(), ..Fleet::default() }
}

fn decision(name: &str, epoch: u64) -> Decision {
    Decision {
        availability_first: false,
        cell: CellId::new(name).unwrap(),
        epoch: Epoch(epoch),
        verdict: Verdict::Holds { region: RegionId::new("a").unwrap(), standby: None },
        witnesses: WitnessSet::of([].into()),
    }
}

fn publication<'a>(fleet: &'a Fleet, decisions: &'a [Decision], replaces: Option<Entry>) -> Publication<'a> {
    let world = World { id: WorldId::new(), reconciled: false, constants: FenceConstants::DEFAULT };
    let records =
        (0..250).map(|n| (Key::Freeze(domicile_model::FreezeId::from_u128(n)), b"x".to_vec())).collect();
    let because = vec!["reason: drill".into()];
    Publication { world, replaces, records, decisions, fleet, by: "ann", action: "registry-restore", because }
}

#[tokio::test]
async fn an_empty_registry_becomes_a_new_world_reconciled_last() {
    let store = MemoryStore::new(Clock::Machine);
    let (fleet, decisions) = (fleet(), (0..120).map(|n| decision(&format!("c{n}"), 9)).collect::<Vec<_>>());
    let it = publication(&fleet, &decisions, None);
    let end = it.publish(&store).await.unwrap();
    let listing = store.list("").await.unwrap();
    let world = listing.entries.iter().find(|e| e.key == Key::World).unwrap();
    assert!(decode::<World>(&world.value).unwrap().reconciled);
    assert_eq!(world.modified, end, "nothing is written after that");
    assert_eq!(listing.entries.iter().filter(|e| matches!(e.key, Key::Placement(_))).count(), 120);
    assert_eq!(listing.entries.iter().filter(|e| matches!(e.key, Key::Freeze(_))).count(), 250);
    assert_eq!(listing.entries.iter().find(|e| matches!(e.key, Key::Fence(_))).unwrap().modified, end);
    assert!(listing.entries.iter().any(|e| matches!(e.key, Key::Audit(_))
        && decode::<AuditEntry>(&e.value).is_ok_and(|a| a.by == "ann" && a.action == "registry-restore")));
}

#[tokio::test]
async fn an_old_copy_is_replaced_and_whoever_led_it_writes_nothing() {
    let store = MemoryStore::new(Clock::Machine);
    let old = init_world(&store, FenceConstants::DEFAULT).await.unwrap();
    let Commit::Done(revision) = store
        .commit(Txn::bare().op(Op::Put(Key::Leader, b"l".to_vec(), None)).op(Op::Put(
            Key::Move(CellId::new("c1").unwrap()),
            b"m".to_vec(),
            None,
        )))
        .await
        .unwrap()
    else {
        panic!()
    };
    let leadership =
        domicile_store::Leadership { fence: domicile_model::LeaderFence(revision), value: b"l".to_vec() };
    let (_, found) = store.read(&[Key::World]).await.unwrap();
    let (fleet, decisions) = (fleet(), [decision("c1", 9)]);
    let it = publication(&fleet, &decisions, found.into_iter().next().unwrap());
    it.publish(&store).await.unwrap();
    let late = Txn::fenced(&old, &leadership).delete(Key::Placement(CellId::new("c1").unwrap()));
    assert!(matches!(store.commit(late).await.unwrap(), Commit::Refused { .. }));
    let listing = store.list("").await.unwrap();
    assert!(!listing.entries.iter().any(|e| matches!(e.key, Key::Leader | Key::Move(_))));
    assert_ne!(read_world(&store).await.unwrap().unwrap().id, old.id);
}

#[tokio::test]
async fn an_interrupted_restore_leaves_a_world_in_which_nothing_holds() {
    let store = MemoryStore::new(Clock::Machine);
    let (fleet, decisions) = (fleet(), [decision("c1", 9)]);
    let it = publication(&fleet, &decisions, None);
    it.begin(&store).await.unwrap();
    let world = read_world(&store).await.unwrap().unwrap();
    assert!(!world.reconciled);
    // Begun again, it takes the place of the first.
    let (_, found) = store.read(&[Key::World]).await.unwrap();
    let again = publication(&fleet, &decisions, found.into_iter().next().unwrap());
    again.publish(&store).await.unwrap();
    assert!(it.publish(&store).await.is_err(), "the first one may not go on");
    assert_eq!(read_world(&store).await.unwrap().unwrap().id, again.world.id);
}

#[tokio::test]
async fn a_lost_answer_is_looked_at() {
    for how in [LostAnswer::Applied, LostAnswer::NotApplied] {
        let store = MemoryStore::new(Clock::Machine);
        let (fleet, decisions) = (fleet(), [decision("c1", 9)]);
        store.lose_next_answer(how);
        publication(&fleet, &decisions, None).publish(&store).await.unwrap();
        assert!(read_world(&store).await.unwrap().unwrap().reconciled);
    }
}

#[test]
fn what_belongs_to_the_old_life_is_not_carried_over() {
    let cell = CellId::new("c").unwrap();
    let (over, under_way) = (MoveId::from_u128(1), MoveId::from_u128(2));
    let keys = vec![
        Key::World,
        Key::Fence(RegionId::new("a").unwrap()),
        Key::Move(cell.clone()),
        Key::Placement(cell.clone()),
        Key::Witness(domicile_model::RouterId::new("w").unwrap()),
        Key::Cell(cell.clone()),
        Key::Workflow(over),
        Key::Workflow(under_way),
        Key::WorkflowLog(under_way, 1),
        Key::Stop,
    ];
    let entries = keys.into_iter().map(|k| (k, Vec::new())).collect();
    let kept: Vec<Key> =
        carried(entries, &BTreeMap::from([(under_way, cell.clone())])).into_iter().map(|(k, _)| k).collect();
    assert_eq!(kept, [Key::Cell(cell), Key::Workflow(over), Key::Stop]);
}
