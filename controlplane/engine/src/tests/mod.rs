//! What must hold of every definition, proved in simulation; each safety check is also seen failing.

mod approving;
mod availability;
mod beside;
mod closing;
mod conformance;
mod deposed;
mod faults;
mod fence_level;
mod handover;
mod happy;
mod killed;
mod late;
mod loss;
mod random;
mod renewal;
mod room;
mod telling;
mod told;
mod watching;

use std::future::Future;

use domicile_store::Leadership;

use crate::Said;
use crate::testkit::Sim;

/// An operator speaks, passed on by this leader.
fn said<'a>(leadership: &'a Leadership, sim: &'a Sim) -> Said<'a> {
    Said { by: "an operator", leadership, world: &sim.registry, also: Vec::new() }
}

/// This operator speaks.
fn said_by<'a>(by: &'a str, leadership: &'a Leadership, sim: &'a Sim) -> Said<'a> {
    Said { by, ..said(leadership, sim) }
}

/// Runs one simulation in a runtime of its own, with paused time. Whatever it spawned ends with it, so that a test
/// of a hundred simulations does not drag the finished ones along.
fn simulate<T>(simulation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O always starts").block_on(simulation)
}
