//! What one tenant saw of one region in one minute.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::episodes::Episodes;

/// How a request ended, for whom it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The application answered, and not with a failure of its own.
    Good,
    /// The application answered with a status of 500 and above.
    ApplicationError,
    /// A router refused it for what it was or for whom it was: trying again changes nothing.
    Refused,
    /// It was not served; the application has not seen it.
    Failed,
    /// Nobody can say whether it took effect.
    Unknown,
    /// The client went away before it was over.
    Gone,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Good, Self::ApplicationError, Self::Refused, Self::Failed, Self::Unknown, Self::Gone];

    /// Whether the tenant was without service for this request.
    #[must_use]
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::ApplicationError | Self::Failed | Self::Unknown)
    }
}

/// Moments of one minute, in milliseconds from its beginning. A request counts in the minute in which it ends: it may have come
/// before that began, and that is below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Moments {
    /// The first request that ended badly, by when it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_bad: Option<i32>,
    /// The last one, by when it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_bad: Option<i32>,
    /// The first request that had to wait for a move, by when it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_held: Option<i32>,
    /// The first write that ended well, by when it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_good_write: Option<i32>,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_good_write: Option<i32>,
}

impl Moments {
    /// All of them.
    #[must_use]
    pub const fn all(&self) -> [Option<i32>; 5] {
        [self.first_bad, self.last_bad, self.first_held, self.first_good_write, self.last_good_write]
    }

    fn add(&mut self, other: &Self) {
        for (kept, new) in [
            (&mut self.first_bad, other.first_bad),
            (&mut self.first_held, other.first_held),
            (&mut self.first_good_write, other.first_good_write),
        ] {
            if let Some(new) = new {
                least(kept, new);
            }
        }
        self.last_bad = self.last_bad.max(other.last_bad);
        self.last_good_write = self.last_good_write.max(other.last_good_write);
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Requests that ended in this minute, by outcome.
    #[serde(skip_serializing_if = "is_zero")]
    pub good: u64,
    /// See [`Outcome::ApplicationError`].
    #[serde(skip_serializing_if = "is_zero")]
    pub application_error: u64,
    /// See [`Outcome::Refused`].
    #[serde(skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// See [`Outcome::Failed`].
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// See [`Outcome::Unknown`].
    #[serde(skip_serializing_if = "is_zero")]
    pub unknown: u64,
    /// See [`Outcome::Gone`].
    #[serde(skip_serializing_if = "is_zero")]
    pub gone: u64,
    /// Of all of them, those that were no reads.
    #[serde(skip_serializing_if = "is_zero")]
    pub writes: u64,
    /// Of all of them, those that waited for a move.
    #[serde(skip_serializing_if = "is_zero")]
    pub held: u64,
    /// For how long in all, in milliseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub held_ms: u64,
    /// For how long at most, in milliseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub held_most_ms: u64,
    /// Of all of them, those whose TLS ended at this router.
    #[serde(skip_serializing_if = "is_zero")]
    pub decrypted: u64,
    /// Connections that were passed on undecrypted.
    #[serde(skip_serializing_if = "is_zero")]
    pub spliced: u64,
    /// Bytes of bodies from clients, and everything from them on what was passed on undecrypted.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_up: u64,
    /// The same towards clients.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_down: u64,
    /// When what happened.
    #[serde(flatten)]
    pub at: Moments,
    /// Trouble, each with the first good write after it.
    #[serde(skip_serializing_if = "Episodes::is_empty")]
    pub episodes: Episodes,
}

/// A request that is over.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// How it ended.
    pub outcome: Outcome,
    /// Whether its method is one that may write (RFC 9110, section 9.2.1: not safe).
    pub write: bool,
    /// How long it waited for moves, if it did.
    pub held: Option<Duration>,
    /// Whether its TLS ended here.
    pub decrypted: bool,
    /// Bytes of its body.
    pub bytes_up: u64,
    /// Bytes of its answer's body.
    pub bytes_down: u64,
}

impl Tally {
    /// Counts a request that came and ended at these milliseconds of the minute.
    pub fn count(&mut self, seen: &Seen, came: i32, ended: i32) {
        *self.of(seen.outcome) += 1;
        self.writes += u64::from(seen.write);
        self.decrypted += u64::from(seen.decrypted);
        self.bytes_up = self.bytes_up.saturating_add(seen.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(seen.bytes_down);
        if let Some(held) = seen.held {
            let held = u64::try_from(held.as_millis()).unwrap_or(u64::MAX);
            self.held += 1;
            self.held_ms = self.held_ms.saturating_add(held);
            self.held_most_ms = self.held_most_ms.max(held);
            least(&mut self.at.first_held, came);
        }
        if seen.outcome.is_bad() {
            least(&mut self.at.first_bad, came);
            self.at.last_bad = self.at.last_bad.max(Some(ended));
        }
        if seen.held.is_some() || seen.outcome.is_bad() {
            self.episodes.trouble(came);
            // It may have come before writes that ended well long ago.
            for write in [self.at.first_good_write, self.at.last_good_write].into_iter().flatten() {
                self.episodes.wrote(write);
            }
        }
        if seen.write && seen.outcome == Outcome::Good {
            least(&mut self.at.first_good_write, ended);
            self.at.last_good_write = self.at.last_good_write.max(Some(ended));
            self.episodes.wrote(ended);
        }
    }

    /// Adds what another one has counted in the same minute.
    pub fn add(&mut self, other: &Self) {
        self.good = self.good.saturating_add(other.good);
        self.application_error = self.application_error.saturating_add(other.application_error);
        self.refused = self.refused.saturating_add(other.refused);
        self.failed = self.failed.saturating_add(other.failed);
        self.unknown = self.unknown.saturating_add(other.unknown);
        self.gone = self.gone.saturating_add(other.gone);
        self.writes = self.writes.saturating_add(other.writes);
        self.held = self.held.saturating_add(other.held);
        self.held_ms = self.held_ms.saturating_add(other.held_ms);
        self.held_most_ms = self.held_most_ms.max(other.held_most_ms);
        self.decrypted = self.decrypted.saturating_add(other.decrypted);
        self.spliced = self.spliced.saturating_add(other.spliced);
        self.bytes_up = self.bytes_up.saturating_add(other.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(other.bytes_down);
        self.at.add(&other.at);
        self.episodes.add(&other.episodes);
    }

    fn of(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Good => &mut self.good,
            Outcome::ApplicationError => &mut self.application_error,
            Outcome::Refused => &mut self.refused,
            Outcome::Failed => &mut self.failed,
            Outcome::Unknown => &mut self.unknown,
            Outcome::Gone => &mut self.gone,
        }
    }

    /// All requests that ended in the minute.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.good
            .saturating_add(self.application_error)
            .saturating_add(self.refused)
            .saturating_add(self.failed)
            .saturating_add(self.unknown)
            .saturating_add(self.gone)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn least(kept: &mut Option<i32>, new: i32) {
    *kept = Some(kept.map_or(new, |old| old.min(new)));
}
