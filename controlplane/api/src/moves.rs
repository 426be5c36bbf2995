//! A move of a cell, as people and programs see it.

use std::collections::BTreeSet;

use crate::agent::SequenceGuard;
use crate::protection::BuildingView;
use domicile_model::token::Lsn;
use domicile_model::{CellId, Epoch, FenceLevel, MoveId, Need, RegionId, RouterId, TenantId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Which workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveKind {
    /// Planned: nothing acknowledged is lost, no request fails.
    Switchover,
    /// Forced: the primary is gone or given up.
    Failover,
    /// Building a standby after a move.
    Reprotect,
    /// A person takes the cell out of service where it is.
    Close,
    /// A person puts a closed cell back into service, where its newest data is.
    Open,
}

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRequest {
    /// The cell.
    pub cell: CellId,
    /// Where it shall go.
    pub to: RegionId,
    /// Given up on the old primary: only ever set by a person.
    #[serde(default)]
    pub force: bool,
    /// For a forced move: the most transactions that may be lost, both parts of the preview together.
    #[serde(default)]
    pub accept_loss: Option<u64>,
    /// For a forced move whose preview has an unknown part.
    #[serde(default)]
    pub accept_unknown: bool,
    /// The tenants that the operator knows will move along; needed when the move was asked for by tenant.
    #[serde(default)]
    pub tenants: Vec<TenantId>,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
}

/// `POST /v1/moves/{id}/retry`: a person's answer to a stuck move, with more consent where that was what it lacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct RetryRequest {
    /// For a forced move: the most transactions that may be lost, instead of what was accepted before.
    pub accept_loss: Option<u64>,
    /// For a forced move: an unknown number may be lost.
    pub accept_unknown: bool,
    /// Witnesses whose machines are destroyed: it goes on without their word, and their identities are barred for ever.
    pub destroyed: BTreeSet<RouterId>,
    /// How that is known; may not be empty then.
    pub reason: String,
}

/// `POST /v1/cells/{id}/close`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseRequest {
    /// Why; may not be empty. Shown in status and kept in the audit log.
    pub reason: String,
    /// Show the plan only.
    #[serde(default)]
    pub dry_run: bool,
}

/// `POST /v1/cells/{id}/open`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// Why; may not be empty.
    pub reason: String,
    /// Where; none: where it was closed. Another region only if its database holds the newest data.
    #[serde(default)]
    pub region: Option<RegionId>,
    /// Show the plan only.
    #[serde(default)]
    pub dry_run: bool,
}

/// A check before a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, stable: `lag`, `standby-streaming`, `residency`, `gates`, `loss-slot`…
    pub name: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen, and what to do where it is not fine.
    pub why: String,
}

/// How a check came out. Unknown blocks as a failure does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Fine.
    Passed,
    /// Fine, and a person should know something: nothing waits for it.
    Noted,
    /// Not fine.
    Failed,
    /// Could not be found out.
    Unknown,
    /// Does not apply here.
    NotApplicable,
}

impl Verdict {
    /// Whether a planned move may start under it.
    #[must_use]
    pub const fn blocks(self) -> bool {
        matches!(self, Self::Failed | Self::Unknown)
    }
}

/// What a forced move would lose, in two parts that are never mixed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossPreview {
    /// By the newest sample: transactions that the standby lacks. None: unknown.
    pub sampled_transactions: Option<u64>,
    /// The same in bytes of write-ahead log.
    pub sampled_bytes: Option<u64>,
    /// How old that sample of the primary is, in milliseconds.
    pub sample_age_ms: Option<u64>,
    /// What the primary may still have acknowledged since the sample, and may until it has certainly stopped. None:
    /// nothing bounds it.
    pub until_stopped_transactions: Option<u64>,
    /// The write rate that the second part rests on, in transactions a second.
    pub write_rate_per_s: Option<f64>,
    /// What this rests on, in sentences.
    pub because: Vec<String>,
}

impl LossPreview {
    /// Both parts together; none if either is unknown.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        Some(self.sampled_transactions?.saturating_add(self.until_stopped_transactions?))
    }

    /// What to consent to when deciding takes this long: while nothing stops the old primary, the second part grows at
    /// the measured rate. None if either part is unknown.
    #[must_use]
    pub fn consent_within(&self, deciding: std::time::Duration) -> Option<u64> {
        let more = (self.write_rate_per_s.unwrap_or(0.0) * deciding.as_secs_f64()).ceil();
        // Saturates: a rate is far below what a float can't count any more.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "ceil of a rate, not negative"
        )]
        let more = more.max(0.0) as u64;
        Some(self.total()?.saturating_add(more))
    }
}

/// What a move would do, before anything is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MovePlan {
    /// Which workflow.
    pub kind: MoveKind,
    /// The cell.
    pub cell: CellId,
    /// The present holder.
    pub from: Option<RegionId>,
    /// The next one.
    pub to: RegionId,
    /// Everybody who moves along.
    pub tenants: Vec<TenantId>,
    /// The checks.
    pub checks: Vec<Check>,
    /// For a forced move.
    pub preview: Option<LossPreview>,
    /// The steps, by name and in order.
    pub steps: Vec<String>,
    /// How many people must approve it after its start. None: it waits for nobody.
    #[serde(default)]
    pub approval: Need,
    /// How long it waits for them before it ends, in milliseconds; none where it waits for nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_expires_ms: Option<u64>,
}

/// The approval that a move waits for, or went on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// How many people must approve. Whoever asked for the move is never one of them.
    pub need: Need,
    /// What they approve: SHA-256, in hexadecimal, over the canonical JSON (RFC 8785) of the plan and of what its checks
    /// saw.
    pub hash: String,
    /// What the checks saw, numbers left out: what it says changes only when the situation does.
    pub saw: Vec<Seen>,
    /// Who has approved just that.
    #[serde(default)]
    pub given: Vec<Approved>,
    /// When waiting ends: then the move is over, and nothing was changed.
    pub until: Timestamp,
    /// How long it waits, in milliseconds, each time that it asks.
    pub expires_ms: u64,
    /// How often approvals were void because what the checks saw had changed.
    #[serde(default)]
    pub voided: u32,
}

/// What a check saw, numbers left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The check.
    pub name: String,
    /// How it came out.
    pub verdict: Verdict,
    /// Why, each number replaced by `#`.
    pub why: String,
}

/// One person's approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// Who.
    pub by: String,
    /// When, by the leader's wall clock.
    pub at: Timestamp,
    /// Of what: the hash that this person was shown.
    pub hash: String,
    /// What was said with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// `POST /v1/moves/{id}/approve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApproveRequest {
    /// The hash of what is approved, as the move shows it. Approving something else is refused.
    pub hash: String,
    /// For the audit log and the move's own.
    #[serde(default)]
    pub reason: String,
}

/// How a move stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum MoveStatus {
    /// Going forward.
    Running,
    /// Going back.
    RollingBack,
    /// Every step done.
    Done,
    /// Undone: the old primary serves.
    RolledBack {
        /// What made it turn back.
        why: String,
    },
    /// Waits for a person.
    Stuck {
        /// At which step.
        step: String,
        /// Why, and what can be done.
        why: String,
    },
}

impl MoveStatus {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Done | Self::RolledBack { .. })
    }
}

/// A move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MoveView {
    /// Its id.
    pub id: MoveId,
    /// Which workflow.
    pub kind: MoveKind,
    /// The cell.
    pub cell: CellId,
    /// From where.
    pub from: Option<RegionId>,
    /// To where.
    pub to: RegionId,
    /// How it stands.
    pub status: MoveStatus,
    /// Who holds it up and why, if somebody does: it goes on when that is lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// The approval that it waits for or went on with, where one is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// How far the new standby is, while it is built, as the answering control plane sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building: Option<BuildingView>,
    /// The step that runs, or ran last.
    pub step: String,
    /// All steps of the definition.
    pub steps: Vec<String>,
    /// Who asked for it.
    pub by: String,
    /// When.
    pub created: Timestamp,
    /// When it came to its present status.
    pub updated: Timestamp,
    /// What was measured on the way.
    pub facts: MoveFacts,
    /// The log, in order.
    pub log: Vec<LogEntry>,
}

/// A person holds the move up. It stops before its next step at which nobody waits: requests are never left waiting for
/// a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, by the leader's wall clock.
    pub at: Timestamp,
}

/// `POST /v1/moves/{id}/pause|skip`: a person's wish, with the reason that the audit log and the move's log keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonRequest {
    /// Why; may not be empty.
    pub reason: String,
}

/// What was measured on the way. None: not measured, or not yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct MoveFacts {
    /// The epoch of the close.
    pub closed_epoch: Option<Epoch>,
    /// The epoch under which the new holder serves.
    pub serving_epoch: Option<Epoch>,
    /// The new timeline.
    pub timeline: Option<u32>,
    /// Where it left the old one.
    pub fork_at: Option<Lsn>,
    /// The new primary's `system_identifier`.
    pub system_id: Option<String>,
    /// What was accepted to be lost.
    pub accepted_loss: Option<u64>,
    /// The preview that was consented to.
    pub preview: Option<LossPreview>,
    /// The preview as computed again right before promotion.
    pub preview_at_promotion: Option<LossPreview>,
    /// How the old primary was known to have stopped: `fenced` (its own word) or `lapsed` (WAIT and quiet witnesses).
    pub stopped_by: Option<String>,
    /// What was to stop direct writers of the old primary when its proof ended, as it was told last before the move. None:
    /// nobody told.
    pub fence_level: Option<FenceLevel>,
    /// How long was waited for that, in milliseconds.
    pub fence_wait_ms: Option<u64>,
    /// Edges that had not followed by the deadline and were left behind.
    pub edges_left_behind: Vec<String>,
    /// From the close to the switch, in milliseconds.
    pub closed_ms: Option<u64>,
    /// From the switch until a standby streamed again, in milliseconds.
    pub unprotected_ms: Option<u64>,
    /// How the old primary became a standby: `attach`, `rewind`, `rebuild`.
    pub reprotected_by: Option<String>,
    /// Steps that a person has skipped: what they would have done, was not.
    pub skipped: Vec<String>,
    /// Lost transactions found on the old primary, the product's own left out.
    pub lost_transactions: Option<u64>,
    /// Sequences that were raised after a promotion that may have lost something, so that no number is given out twice.
    pub sequences: Option<SequenceGuard>,
    /// From the start until enough people had approved, in milliseconds. None: nobody's approval was asked for.
    pub approval_ms: Option<u64>,
}

impl MoveView {
    /// The approval that the move waits for now; none if it does not wait for people.
    #[must_use]
    pub fn waits_for(&self) -> Option<&Approval> {
        self.approval.as_ref().filter(|_| self.status == MoveStatus::Running && self.step == "approve")
    }
}

/// An entry of a move's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// From 1.
    pub n: u64,
    /// When, by the leader's wall clock: for people, never for decisions.
    pub at: Timestamp,
    /// The leader that wrote it.
    pub leader: String,
    /// The step.
    pub step: String,
    /// What happened to it.
    pub event: LogEvent,
    /// In a sentence, where there is more to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// The alphabet of the log. Anything that would make an illegal order is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogEvent {
    /// The step's intent stands; its effect may follow.
    Intent,
    /// The effect happened and was seen.
    Done,
    /// The effect certainly did not happen.
    Failed,
    /// The effect may have happened: the next try looks first.
    Unknown,
    /// The undo's intent stands.
    UndoIntent,
    /// The undo happened and was seen.
    Undone,
    /// A person is needed.
    Stuck,
    /// A person answered, or asked for something.
    Verb,
    /// A person has decided to go on without it.
    Skipped,
    /// People are asked for their approval; again, where what they approved has changed.
    Asked,
}
