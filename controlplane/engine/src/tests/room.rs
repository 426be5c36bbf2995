//! What a move writes in the registry, and what becomes of one when there is no room.

use std::time::Duration;

use domicile_api::moves::MoveKind;
use domicile_model::Revision;
use domicile_model::clock::pause;
use domicile_store::{Change, Key, Store};

use super::happy::{begin, begin_approved, lead, warm_up};
use super::simulate;
use crate::Options;
use crate::room::MOVE_BYTES;
use crate::testkit::{Ended, Sim, end_of};

/// What etcd counts for a write beside key and value.
const OVERHEAD: usize = 256;

/// Bytes of every version of every key that was written after this revision, as the server counts them; but what routers
/// say of themselves.
async fn written_since(sim: &Sim, revision: Revision) -> (usize, usize) {
    let marker = sim.take_over("nobody").await;
    let mut watch = sim.store.watch(revision.next()).await.unwrap();
    let (mut writes, mut bytes) = (0, 0);
    loop {
        for change in watch.next().await.unwrap().changes {
            match change {
                Change::Put(entry) if entry.modified == marker.fence.0 => return (writes, bytes),
                Change::Put(entry) if !matches!(entry.key, Key::Router(_) | Key::Witness(_)) => {
                    writes += 1;
                    bytes += OVERHEAD + "/domicile/".len() + entry.key.to_string().len() + entry.value.len();
                }
                _ => {}
            }
        }
    }
}

#[test]
fn no_move_writes_more_than_is_counted_for_it() {
    simulate(async {
        let most = usize::try_from(MOVE_BYTES).unwrap();
        let mut largest = 0;
        for kind in crate::definitions::ALL {
            let sim = Sim::start().await;
            let engine = sim.engine(Options::default());
            let leadership = sim.take_over("one").await;
            let leading = lead(&engine, &leadership, &sim);
            warm_up(kind).await;
            let before = sim.store.revision();
            let id = begin_approved(&sim, &engine, kind, &leadership).await;
            let (ended, view) = end_of(&engine, id).await;
            assert_eq!(ended, Ended::Done, "{view:#?}");
            leading.cancel.cancel();
            let (writes, bytes) = written_since(&sim, before).await;
            println!("{kind:?}: {writes} writes, {bytes} bytes");
            // A person's retries and a turn back come on top.
            assert!(2 * bytes < most, "{kind:?} writes {bytes} bytes");
            largest = largest.max(bytes);
        }
        assert!(10 * largest > most, "moves write {largest} bytes: the constant is too large");
    });
}

#[test]
fn a_move_that_meets_a_full_registry_waits_for_room_and_goes_on() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        warm_up(MoveKind::Failover).await;
        let id = begin(&sim, &engine, MoveKind::Failover, &leadership).await;
        let size = sim.store.room().await.unwrap().unwrap().size;
        sim.store.set_quota(Some(size));
        pause(Duration::from_secs(20)).await;
        let view = engine.view(id).await.unwrap().unwrap();
        assert!(!view.status.is_final() && sim.store.room().await.unwrap().unwrap().is_full(), "{view:#?}");
        sim.store.set_quota(None);
        sim.store.disarm();
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done, "{view:#?}");
        assert_eq!(sim.judge(ended, &view).await, Vec::<String>::new(), "{view:#?}");
    });
}
