//! The room in which requests wait for a move, and the one who lets them out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domicile_mirror::{Mirror, RoutingTable};
use domicile_model::CellId;
use domicile_model::clock::{BootTime, Clock};
use domicile_router_core::Cause;
use domicile_router_core::hold::{Limits, Queue, Ticket};
use tokio::sync::oneshot;

/// Seconds that a request waits for its place on the ramp once the hold has ended.
const MOST_TURNS: u32 = 10;

type Waker = oneshot::Sender<()>;

/// The room.
#[derive(Debug, Clone)]
pub struct HoldRoom(Arc<Mutex<Queue<Waker>>>);

/// A request that was released. While it lives it takes one of the cell's places on the ramp.
#[derive(Debug)]
pub struct Released {
    room: HoldRoom,
    cell: CellId,
}

impl Drop for Released {
    fn drop(&mut self) {
        let next = self.room.queue().done(&self.cell);
        wake(next);
    }
}

/// A request in the queue. Its place is given back however it ends.
struct Waiting {
    room: HoldRoom,
    cell: CellId,
    ticket: Option<Ticket>,
}

impl Waiting {
    fn release(mut self) -> Released {
        self.ticket = None;
        Released { room: self.room.clone(), cell: self.cell.clone() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let next = {
            let mut queue = self.room.queue();
            // Not waiting any more means released just now: the place on the ramp goes to the next one.
            if queue.leave(&ticket) { Vec::new() } else { queue.done(&self.cell) }
        };
        wake(next);
    }
}

/// A waker whose request has just given up gives its place back by itself.
fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        let _ = waker.send(());
    }
}

impl HoldRoom {
    /// An empty room.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Queue::new(limits))))
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue().len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the cell is on hold no more. The time counts from when the hold was applied, and a newer hold
    /// counts anew: only a newer placement changes anything.
    ///
    /// # Errors
    /// [`Cause::HoldFull`] at once, [`Cause::HoldTimeout`] when time is up.
    pub async fn wait(
        &self,
        cell: &CellId,
        bytes: usize,
        mirror: &Mirror,
        clock: &Clock,
    ) -> Result<Released, Cause> {
        let (waker, mut woken) = oneshot::channel();
        let ticket = self.queue().enter(cell, bytes, waker).map_err(|_| Cause::HoldFull)?;
        let waiting = Waiting { room: self.clone(), cell: cell.clone(), ticket: Some(ticket) };
        // The placement may have changed before the ticket was drawn.
        self.let_out(&mirror.table(), std::slice::from_ref(cell));
        let mut turns = 0;
        loop {
            let left = match held_until(&mirror.table(), cell) {
                Some(until) => {
                    let now = clock.now();
                    if now >= until {
                        return Err(Cause::HoldTimeout);
                    }
                    until.since(now)
                }
                // Released in a moment: by the one who lets out, in its turn.
                None if turns >= MOST_TURNS => return Err(Cause::HoldTimeout),
                None => {
                    turns += 1;
                    std::time::Duration::from_secs(1)
                }
            };
            if let Ok(answer) = tokio::time::timeout(left, &mut woken).await {
                return match answer {
                    Ok(()) => Ok(waiting.release()),
                    Err(_) => Err(Cause::Internal),
                };
            }
        }
    }

    /// Lets those out whose cell is on hold no more.
    pub fn let_out(&self, table: &RoutingTable, cells: &[CellId]) {
        for cell in cells {
            if held_until(table, cell).is_none() {
                let go = self.queue().open(cell);
                wake(go);
            }
        }
    }

    /// Lets out for as long as the mirror lives.
    pub async fn run(&self, mirror: &Mirror) {
        let mut changes = mirror.subscribe();
        loop {
            changes.mark_unchanged();
            let waiting = self.queue().waiting_cells();
            if !waiting.is_empty() {
                self.let_out(&mirror.table(), &waiting);
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Until when a cell's requests may wait; none if the cell is not on hold.
#[must_use]
pub fn held_until(table: &RoutingTable, cell: &CellId) -> Option<BootTime> {
    use domicile_model::{ClosedReason, Phase};
    let placed = table.placement(cell.as_str())?;
    match placed.placement.phase {
        // Those who wait are let out to be refused.
        Phase::Closed { reason: ClosedReason::Operator | ClosedReason::Conflict, .. } => None,
        phase => phase.hold().map(|length| placed.applied_at + length),
    }
}
