//! Moves of a whole fleet under load, while something is broken; judged by what the users saw and by what the databases
//! hold afterwards.
//!
//! What each of them rests on is also tested one level lower, beside the switch that breaks it: the check on the way out
//! in `router/proxy/tests/it/proofs.rs`, the agent that closes its database in `controlplane/agent/tests/lapse.rs`, the
//! wait of a forced move and the fence of a deposed leader in `controlplane/engine/src/tests`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what goes wrong in a test shall stop it")]

mod course;
mod cut;
mod facts;
mod gate;
mod late;
mod leader;
mod outcomes;
mod scene;

/// The cell of the planned moves.
const MOVING: &str = "mercy-health";
