//! Which cells have requests in flight here.
//!
//! A request is counted *before* the table is read for its decision. Whoever applies a table and then sees zero
//! therefore knows: every request counted later decides by that table or a newer one. Both sides put a full fence
//! between their two steps, or each could miss the other's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, RwLock};

use domicile_model::{BusyCell, CellId};

type Bell = Box<dyn Fn() + Send + Sync>;

/// Counters per cell. Cheap to clone.
#[derive(Clone)]
pub struct Inflight(Arc<Inner>);

struct Inner {
    cells: RwLock<HashMap<CellId, Arc<AtomicU64>>>,
    /// Whether someone waits for a cell to become idle.
    awaited: AtomicBool,
    bell: Bell,
}

/// One request in flight. Not one any more when dropped.
pub struct Counted {
    counter: Arc<AtomicU64>,
    all: Arc<Inner>,
}

impl std::fmt::Debug for Inflight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflight")
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counted")
    }
}

impl Inflight {
    /// No requests. `bell` is rung when a cell becomes idle while someone waits for that ([`Inflight::await_idle`]).
    pub fn new(bell: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            cells: RwLock::default(),
            awaited: AtomicBool::new(false),
            bell: Box::new(bell),
        }))
    }

    /// Counts a request. Read the table after this.
    #[must_use]
    pub fn enter(&self, cell: &CellId) -> Counted {
        let known = {
            let cells = self.0.cells.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            cells.get(cell).cloned()
        };
        let counter = known.unwrap_or_else(|| {
            let mut cells = self.0.cells.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            cells.entry(cell.clone()).or_default().clone()
        });
        counter.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Counted { counter, all: self.0.clone() }
    }

    /// Requests in flight for a cell. Load the table *before* this.
    #[must_use]
    pub fn count(&self, cell: &CellId) -> u64 {
        fence(Ordering::SeqCst);
        let cells = self.0.cells.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        cells.get(cell).map_or(0, |c| c.load(Ordering::SeqCst))
    }

    /// Asks for the bell at the next cell that becomes idle. Ask, then look: a bell is then never missed.
    pub fn await_idle(&self) {
        self.0.awaited.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// All cells that are busy, with their numbers.
    #[must_use]
    pub fn busy(&self) -> Vec<BusyCell> {
        fence(Ordering::SeqCst);
        let cells = self.0.cells.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut busy: Vec<_> = cells
            .iter()
            .map(|(cell, n)| BusyCell { cell: cell.clone(), in_flight: n.load(Ordering::SeqCst) })
            .filter(|b| b.in_flight > 0)
            .collect();
        busy.sort();
        busy
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let last = self.counter.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.all.awaited.swap(false, Ordering::SeqCst) {
            (self.all.bell)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_until_the_answer_is_done_and_rings_only_for_those_who_wait() {
        let rung = Arc::new(AtomicU64::new(0));
        let bell = rung.clone();
        let all = Inflight::new(move || {
            bell.fetch_add(1, Ordering::SeqCst);
        });
        let cell = CellId::new("c").unwrap();
        let (a, b) = (all.enter(&cell), all.enter(&cell));
        assert_eq!(all.count(&cell), 2);
        assert_eq!(all.busy(), [BusyCell { cell: cell.clone(), in_flight: 2 }]);
        drop(a);
        all.await_idle();
        assert_eq!(rung.load(Ordering::SeqCst), 0);
        drop(b);
        assert_eq!((all.count(&cell), rung.load(Ordering::SeqCst)), (0, 1));
        drop(all.enter(&cell));
        assert_eq!(rung.load(Ordering::SeqCst), 1, "nobody waits any more");
        assert!(all.busy().is_empty());
    }

    /// The heart of a hold: whoever publishes "holding" and then sees zero has no unseen request.
    #[test]
    fn a_request_is_seen_or_sees_the_table() {
        for _ in 0..2_000 {
            let all = Inflight::new(|| {});
            let cell = CellId::new("c").unwrap();
            let holding = Arc::new(AtomicBool::new(false));
            let (a, c, h) = (all.clone(), cell.clone(), holding.clone());
            let request = std::thread::spawn(move || {
                let counted = a.enter(&c);
                (h.load(Ordering::Relaxed), counted)
            });
            holding.store(true, Ordering::Relaxed);
            let seen = all.count(&cell);
            let (saw, _counted) = request.join().unwrap();
            assert!(saw || seen == 1, "a request slipped between the table and the count");
        }
    }
}
