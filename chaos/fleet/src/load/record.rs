//! What is remembered of a request. Times are nanoseconds on one clock, `CLOCK_BOOTTIME`.

use crate::app::Answer;

/// What kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `GET /encounters/{key}` of an encounter that is known to be there.
    Read,
    /// `POST /encounters`.
    Write,
    /// `POST /uploads/{key}`, the body in pieces.
    Upload,
    /// A row of the worker beside the application: no user's request.
    Job,
}

/// A request and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What kind.
    pub kind: Kind,
    /// Who sent it: a writer's number; readers and uploads have none.
    pub writer: Option<usize>,
    /// For whom.
    pub tenant: String,
    /// The tenant's cell.
    pub cell: String,
    /// The encounter's key.
    pub key: String,
    /// The content that was sent, or is expected.
    pub content: String,
    /// When it was to be sent: an open loop counts from then.
    pub intended: u64,
    /// When it was sent.
    pub sent: u64,
    /// When its answer was complete, or the wait was over.
    pub ended: u64,
    /// What came.
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The expected status and body, in time. A write of this outcome is *acknowledged*.
    Fine(Answer),
    /// An answer that says no, or is not what it should be. Whether a write of this outcome happened, the answer says:
    /// see [`Outcome::surely_not_written`].
    Refused {
        /// The status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// No complete answer in time: nobody knows whether it happened.
    Unanswered {
        /// In a sentence.
        why: String,
    },
}

impl Outcome {
    /// Whether a write with this outcome can't have happened: refused before the application saw it. Everything else
    /// but an acknowledgement counts as unanswered.
    #[must_use]
    pub fn surely_not_written(&self) -> bool {
        match self {
            // Cut on the way out, or lost upstream: the application may have committed. So may it where its database
            // went away while it waited for the answer.
            Self::Refused { status, body } => {
                let unknown = ["outcome-unknown", "the database can't answer"];
                matches!(status, 400..=499)
                    || (*status == 503 && !unknown.iter().any(|why| body.contains(why)))
            }
            _ => false,
        }
    }
}

impl Record {
    /// Whether a user sent it, and so a user waits for it.
    #[must_use]
    pub fn by_user(&self) -> bool {
        self.kind != Kind::Job
    }

    /// Whether it failed: anything but the expected status and body within the time.
    #[must_use]
    pub const fn failed(&self) -> bool {
        !matches!(self.outcome, Outcome::Fine(_))
    }

    /// Whether it is a write that was acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> bool {
        self.kind != Kind::Read && !self.failed()
    }

    /// The answer, if it was fine.
    #[must_use]
    pub const fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Fine(answer) => Some(answer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_before_the_application_is_certain() {
        let refused = |status, body: &str| Outcome::Refused { status, body: body.into() };
        assert!(refused(421, "").surely_not_written());
        assert!(refused(503, "held too long").surely_not_written());
        assert!(!refused(502, "").surely_not_written());
        assert!(!refused(503, "…/problems/outcome-unknown").surely_not_written());
        assert!(!refused(503, "the database can't answer now: no answer").surely_not_written());
        assert!(!Outcome::Unanswered { why: "timeout".into() }.surely_not_written());
    }
}
