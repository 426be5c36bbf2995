//! A new process takes the place of a running one, and no request fails of it.
//!
//! The old one listens at a unix socket; the new one connects to it, prepares what needs nothing of the old one's, and asks
//! for the rest. Then the old one lets go of what two must not have (the witness's journal, the last-good table), and hands
//! over its listening sockets. It goes on taking connections until the new one can serve: hears of the fleet at least as
//! much as the old one had acknowledged, and can prove what that could. Only at the old one's word does the new one accept;
//! the old one then answers what it has and ends. A new one that fails before that is made sure to be dead, and the old one
//! takes everything back.
//!
//! Whoever waits for this router to be idle waits for both: the old one tells the new one what it would acknowledge for as
//! long as it lives, and the new one acknowledges no more than that ([`merge`]).

pub mod duties;
pub mod follow;
pub mod leave;
mod merge;
mod sockets;
mod wire;

use tokio::sync::watch;

pub use merge::{Before, Told};
pub use sockets::Sockets;

/// What the parts of a router know of a change of processes.
#[derive(Debug)]
pub struct State {
    /// Set once another process has this one's listeners and serves.
    pub left: watch::Sender<bool>,
    /// Set while nothing is acknowledged: the table is another process's to keep.
    pub resting: watch::Sender<bool>,
    /// The process before this one.
    pub before: watch::Sender<Before>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            left: watch::Sender::new(false),
            resting: watch::Sender::new(false),
            before: watch::Sender::new(Before::Gone),
        }
    }
}

impl State {
    /// Whether another process serves in this one's place.
    #[must_use]
    pub fn has_left(&self) -> bool {
        *self.left.borrow()
    }

    /// Whether another process has what this one had, or is about to.
    #[must_use]
    pub fn is_passed_on(&self) -> bool {
        self.has_left() || *self.resting.borrow()
    }

    /// Returns once another process serves in this one's place.
    pub async fn leaves(&self) {
        // The sender lives in `self`.
        let _ = self.left.subscribe().wait_for(|left| *left).await;
    }

    /// Returns when there may be acknowledgements.
    pub async fn rested(&self) {
        let _ = self.resting.subscribe().wait_for(|resting| !*resting).await;
    }
}
