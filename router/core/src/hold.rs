//! Requests that wait while their cell moves: bounded in number and bytes, released in order and with a ramp.
//!
//! A queue says who goes next; it neither waits nor reads a clock. How long a request may wait is the placement's
//! business ([`crate::admit`]): running out of time releases nothing.

use std::collections::{BTreeMap, HashMap};

use domicile_model::CellId;

/// How much may wait at once, in all cells together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests.
    pub requests: usize,
    /// Bytes of request heads kept in memory meanwhile.
    pub bytes: usize,
    /// Of one cell's waiting requests, how many may be on their way to the application at once after the release.
    pub ramp: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: 10_000, bytes: 64 << 20, ramp: 64 }
    }
}

/// A place in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    cell: CellId,
    number: u64,
}

/// Too much waits already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait already")]
pub struct Full;

/// The queue. `W` is what wakes a waiting request.
#[derive(Debug)]
pub struct Queue<W> {
    limits: Limits,
    next: u64,
    requests: usize,
    bytes: usize,
    cells: HashMap<CellId, Line<W>>,
}

#[derive(Debug)]
struct Line<W> {
    waiting: BTreeMap<u64, (W, usize)>,
    /// Released, and not yet past its first contact with the application.
    released: usize,
    open: bool,
}

impl<W> Queue<W> {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, next: 0, requests: 0, bytes: 0, cells: HashMap::new() }
    }

    /// A request begins to wait.
    ///
    /// # Errors
    /// [`Full`] when too much waits already.
    pub fn enter(&mut self, cell: &CellId, bytes: usize, waker: W) -> Result<Ticket, Full> {
        if self.requests >= self.limits.requests || self.bytes.saturating_add(bytes) > self.limits.bytes {
            return Err(Full);
        }
        self.next += 1;
        self.requests += 1;
        self.bytes += bytes;
        let line = self.cells.entry(cell.clone()).or_insert_with(|| Line {
            waiting: BTreeMap::new(),
            released: 0,
            open: false,
        });
        // Someone who waits again means that the cell is on hold again.
        line.open = false;
        line.waiting.insert(self.next, (waker, bytes));
        Ok(Ticket { cell: cell.clone(), number: self.next })
    }

    /// A request that still waits gives up: out of time, or its client is gone. Whether it was still waiting.
    pub fn leave(&mut self, ticket: &Ticket) -> bool {
        let Some(line) = self.cells.get_mut(&ticket.cell) else { return false };
        let Some((_, bytes)) = line.waiting.remove(&ticket.number) else { return false };
        self.requests -= 1;
        self.bytes -= bytes;
        self.tidy(&ticket.cell);
        true
    }

    /// The cell is served again: those who go first, at most the ramp's width, in the order of their coming.
    #[must_use]
    pub fn open(&mut self, cell: &CellId) -> Vec<W> {
        if let Some(line) = self.cells.get_mut(cell) {
            line.open = true;
        }
        self.pull(cell)
    }

    /// A released request has reached the application (or failed): those who go next.
    #[must_use]
    pub fn done(&mut self, cell: &CellId) -> Vec<W> {
        if let Some(line) = self.cells.get_mut(cell) {
            line.released = line.released.saturating_sub(1);
        }
        let next = self.pull(cell);
        self.tidy(cell);
        next
    }

    /// Cells in which someone waits.
    #[must_use]
    pub fn waiting_cells(&self) -> Vec<CellId> {
        self.cells.iter().filter(|(_, l)| !l.waiting.is_empty()).map(|(c, _)| c.clone()).collect()
    }

    /// How many requests wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.requests
    }

    /// Whether nobody waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.requests == 0
    }

    fn pull(&mut self, cell: &CellId) -> Vec<W> {
        let mut out = Vec::new();
        let Some(line) = self.cells.get_mut(cell) else { return out };
        while line.open && line.released < self.limits.ramp.max(1) {
            let Some((_, (waker, bytes))) = line.waiting.pop_first() else { break };
            line.released += 1;
            self.requests -= 1;
            self.bytes -= bytes;
            out.push(waker);
        }
        out
    }

    fn tidy(&mut self, cell: &CellId) {
        if self.cells.get(cell).is_some_and(|l| l.waiting.is_empty() && l.released == 0) {
            self.cells.remove(cell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell() -> CellId {
        CellId::new("c").unwrap()
    }

    #[test]
    fn release_is_in_order_and_ramped() {
        let mut q = Queue::new(Limits { ramp: 2, ..Limits::default() });
        for n in 0..5 {
            q.enter(&cell(), 1, n).unwrap();
        }
        assert_eq!(q.open(&cell()), [0, 1]);
        assert_eq!(q.open(&cell()), [0; 0], "a second news of the same opening releases nobody more");
        assert_eq!(q.done(&cell()), [2]);
        assert_eq!(q.done(&cell()), [3]);
        assert_eq!(q.done(&cell()), [4]);
        assert!(q.is_empty());
        for _ in 0..2 {
            assert_eq!(q.done(&cell()), [0; 0]);
        }
        assert!(q.cells.is_empty(), "nothing stays behind");
    }

    #[test]
    fn a_cell_that_holds_again_stops_the_ramp() {
        let mut q = Queue::new(Limits { ramp: 1, ..Limits::default() });
        for n in 0..3 {
            q.enter(&cell(), 1, n).unwrap();
        }
        assert_eq!(q.open(&cell()), [0]);
        q.enter(&cell(), 1, 9).unwrap();
        assert_eq!(q.done(&cell()), [0; 0]);
        assert_eq!(q.open(&cell()), [1]);
    }

    #[test]
    fn numbers_and_bytes_are_bounded_and_come_back() {
        let mut q = Queue::new(Limits { requests: 2, bytes: 10, ramp: 1 });
        let a = q.enter(&cell(), 6, ()).unwrap();
        assert_eq!(q.enter(&cell(), 6, ()), Err(Full));
        q.enter(&cell(), 4, ()).unwrap();
        assert_eq!(q.enter(&cell(), 0, ()), Err(Full));
        assert!(q.leave(&a) && !q.leave(&a));
        assert!(q.enter(&cell(), 6, ()).is_ok());
    }

    proptest::proptest! {
        /// Whatever happens, nobody is lost, nobody goes twice, and the counts come back to zero.
        #[test]
        fn everyone_leaves_once(ops in proptest::collection::vec(0u8..5, 0..200), ramp in 1usize..4) {
            let mut q = Queue::new(Limits { requests: 50, bytes: 500, ramp });
            let (mut next, mut tickets, mut out, mut running) = (0u32, Vec::new(), Vec::new(), 0usize);
            for op in ops {
                match op {
                    0 | 1 => if let Ok(t) = q.enter(&cell(), 7, next) { tickets.push((t, next)); next += 1; },
                    2 => { let go = q.open(&cell()); running += go.len(); out.extend(go); }
                    3 if running > 0 => { running -= 1; let go = q.done(&cell()); running += go.len(); out.extend(go); }
                    4 => if let Some((t, n)) = tickets.pop() && q.leave(&t) { out.push(n); },
                    _ => {}
                }
                proptest::prop_assert!(running <= ramp);
            }
            loop {
                let go = q.open(&cell());
                running += go.len();
                out.extend(go);
                if running == 0 { break; }
                running -= 1;
                let go = q.done(&cell());
                running += go.len();
                out.extend(go);
            }
            out.sort_unstable();
            proptest::prop_assert_eq!(out, (0..next).collect::<Vec<_>>());
            proptest::prop_assert_eq!((q.len(), q.bytes, q.cells.len()), (0, 0, 0));
        }
    }
}
