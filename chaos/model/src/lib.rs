//! The rules of one writer as a state space. Every interleaving within [`Bounds`] is walked through, and each step asks
//! the product's own functions: the arithmetic of proofs, the gate's book of proofs and its admission, the witness's
//! book, the transaction that takes the right away, the routing table, the rules of agent and engine. What the model
//! adds is who may act when: anybody, at any time, or never.
//!
//! A link is cut by an action that is not taken, in either direction: wherever a question changes something at the other
//! end (a commit, an order to fence, a promotion), question and answer are two actions. A process is paused by not
//! acting while the time goes on. Time is counted in ticks since what a rule counts from, on clocks of different rates,
//! so that the space is finite although time has no bound.
//!
//! The search is a breadth-first one of our own ([`search`]) and not a library's: it keeps whole states rather than
//! their fingerprints, so no collision can hide one, and a step costs the same at any depth.

mod bounds;
mod chronicle;
mod laws;
mod rules;
pub mod search;
mod state;
mod step;

pub use bounds::{Bounds, Fault};
pub use laws::{LAWS, sights};
pub use state::State;
pub use step::{Action, Fleet};
