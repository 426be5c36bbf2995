//! What the engine asks of databases. Providers implement it; the engine knows no SQL and no HTTP.

use std::time::Duration;

use async_trait::async_trait;
use domicile_api::agent::{Consent, ExportPlace, Fork, LossReport, SequenceGuard, Work};
use domicile_api::protection::Retention;
use domicile_model::token::Lsn;
use domicile_model::{Cell, Epoch, FenceLevel, HandoverToken, MoveId, RegionId, SigningKey, Token};

/// Why an effect has no result. The engine treats each differently.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EffectError {
    /// It certainly did not happen: refused, or never sent. The text says what, where and what to do.
    #[error("{0}")]
    Refused(String),
    /// It may have happened: no answer came. Look before the next try.
    #[error("{0}")]
    Unknown(String),
    /// The other side ranks this token below one that it has seen: this leader is deposed. Stop at once.
    #[error("{0}")]
    Deposed(String),
}

/// What is known of one of a cell's two servers. Unknown is a value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// Whether anybody answered for it: the agent or the database.
    pub reachable: bool,
    /// A running server that is out of recovery: it takes writes, from its agent at least.
    pub writable: Option<bool>,
    /// A running server in recovery.
    pub standby: Option<bool>,
    /// `system_identifier`.
    pub system_id: Option<String>,
    /// The newest timeline.
    pub timeline: Option<u32>,
    /// Where it left its parent.
    pub fork: Option<Fork>,
    /// Flushed, on a primary.
    pub flushed: Option<Lsn>,
    /// Replayed, on a standby.
    pub replayed: Option<Lsn>,
    /// Start of the last checkpoint, by the control file.
    pub checkpoint: Option<Lsn>,
    /// On a standby: its walreceiver streams. On a primary: its standby streams from it.
    pub streaming: Option<bool>,
    /// On a standby that does not stream: why, and what to do, in a sentence.
    pub not_streaming: Option<String>,
    /// The commanded fence in force, by its handover token, and whether the stop was clean.
    pub fence: Option<(HandoverToken, bool)>,
    /// The key that its agent signs handovers with.
    pub key: Option<SigningKey>,
    /// The highest token seen.
    pub highest: Option<Token>,
    /// What stops direct writers when the proof ends. Told only by what would do it, or by a provider that knows that
    /// nothing does; none: nobody told.
    pub fence_level: Option<FenceLevel>,
    /// A job under way or ended: `follow` or `losses`, its token, how, done or the reason of its failure.
    pub follow: Option<Job>,
    /// The newest export of losses.
    pub losses: Option<Job>,
    /// What such a job is at, while it is under way.
    pub work: Option<Work>,
    /// Where it would export lost rows to; none where no place is configured.
    pub export: Option<ExportPlace>,
    /// What stands in a primary beside rows that are replicated and listed; none on a standby, or where it could not be
    /// seen.
    pub beside: Option<Beside>,
    /// What a primary keeps of its write-ahead log; none on a standby, or where it could not be seen.
    pub retention: Option<Retention>,
    /// Whether the logical slot for losses exists and is valid.
    pub loss_slot: Option<bool>,
    /// Prepared transactions that would outlive a stop.
    pub prepared_transactions: Option<u64>,
    /// Data checksums or `wal_log_hints` are on, so that a rewind is possible.
    pub can_rewind: Option<bool>,
    /// What is wrong, in sentences: full disk, refused connection, wrong token.
    pub problems: Vec<String>,
}

/// What stands in a primary beside rows that are replicated and listed. Of names at most 21 each: one more than is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beside {
    /// Tables without a primary key: which of their rows was changed can't be told.
    pub keyless: Vec<String>,
    /// Unlogged tables: they are empty after every move.
    pub unlogged: Vec<String>,
    /// Large objects: replicated, but never in a list of losses.
    pub large_objects: u64,
    /// Logical slots that are not ours: the new primary does not have them.
    pub slots: Vec<String>,
    /// Subscriptions to other servers.
    pub subscriptions: Vec<String>,
    /// Publications that are not ours.
    pub publications: Vec<String>,
    /// Active jobs of pg_cron; none if it is there and can't be read.
    pub jobs: Option<Vec<String>>,
    /// Write-ahead log that the slot for losses keeps, in bytes.
    pub slot_kept_bytes: Option<u64>,
    /// The most that a slot may keep before it is given up (`max_slot_wal_keep_size`), in bytes; none: no limit.
    pub slot_limit_bytes: Option<u64>,
}

impl Beside {
    /// What a list of losses could not show, in sentences.
    #[must_use]
    pub fn unlisted(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.keyless.is_empty() {
            all.push(format!("which row it was in tables without a primary key ({})", named(&self.keyless)));
        }
        if !self.unlogged.is_empty() {
            all.push(format!("unlogged tables, which are empty after any move ({})", named(&self.unlogged)));
        }
        if self.large_objects > 0 {
            all.push(format!("large objects ({} of them)", self.large_objects));
        }
        all
    }
}

/// Names in a sentence, at most twenty.
pub(crate) fn named(names: &[String]) -> String {
    let more = if names.len() > 20 { " and more" } else { "" };
    format!("{}{more}", names.iter().take(20).map(String::as_str).collect::<Vec<_>>().join(", "))
}

/// A long effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The order that it belongs to.
    pub token: Token,
    /// `attach`, `rewind`, `rebuild`, `export`.
    pub how: String,
    /// None while it runs, then its result.
    pub outcome: Option<Result<(), String>>,
}

/// The new primary.
#[derive(Debug, Clone, PartialEq)]
pub struct Promoted {
    /// `system_identifier`.
    pub system_id: String,
    /// The timeline that it writes.
    pub timeline: u32,
    /// Where that left the old one.
    pub fork: Fork,
    /// What was done so that no number is given out twice, where something may have been lost.
    pub sequences: Option<SequenceGuard>,
}

/// The databases of cells. Every effect carries a token; implementations pass it on to where it is checked.
///
/// Calls return within a bounded time that is below the leader's lease, without retries of their own.
#[async_trait]
pub trait Databases: Send + Sync + 'static {
    /// Looks, changes nothing. Never fails: what could not be seen is none, and `problems` says why.
    async fn observe(&self, cell: &Cell, region: &RegionId) -> Observation;

    /// Makes the stop that follows short (CHECKPOINT). Harmless when repeated or late.
    async fn settle(&self, cell: &Cell, region: &RegionId, token: &Token) -> Result<(), EffectError>;

    /// Stops the server for certain until a command with an equal or higher token. `force`: also when a clean stop
    /// does not succeed within `within`; then the second value is false.
    async fn fence(
        &self,
        cell: &Cell,
        region: &RegionId,
        token: &Token,
        epoch: Epoch,
        within: Duration,
        force: bool,
    ) -> Result<(HandoverToken, bool), EffectError>;

    /// Turns a fence back and sees a write succeed. The server opens for others once its region has a proof again.
    async fn unfence(&self, cell: &Cell, region: &RegionId, token: &Token) -> Result<(), EffectError>;

    /// Whether the standby would be promoted on this handover. Changes nothing. Asked before the intent to promote is
    /// recorded: whoever promotes checks it again, but from then on nothing turns back.
    async fn accepts(
        &self,
        cell: &Cell,
        region: &RegionId,
        token: &Token,
        epoch: Epoch,
        handover: &HandoverToken,
    ) -> Result<(), EffectError>;

    /// Makes the standby the primary. Refused until it has replayed past the handover's position. What it rests on is
    /// checked where it is done: the old primary's signed word, or `consent`, which only a forced move carries.
    async fn promote(
        &self,
        cell: &Cell,
        region: &RegionId,
        token: &Token,
        epoch: Epoch,
        handover: Option<&HandoverToken>,
        consent: Option<&Consent>,
    ) -> Result<Promoted, EffectError>;

    /// Writes a canary row and reads it back; only on a server that is out of recovery. Late repeats do no harm: the
    /// row is keyed by the move.
    async fn verify(&self, cell: &Cell, region: &RegionId, token: &Token) -> Result<(), EffectError>;

    /// Starts making this server a standby of `upstream`; progress is in [`Observation::follow`].
    async fn follow(
        &self,
        cell: &Cell,
        region: &RegionId,
        upstream: &RegionId,
        fork: Option<Fork>,
        token: &Token,
    ) -> Result<(), EffectError>;

    /// Starts reading the transactions past the fork; progress is in [`Observation::losses`].
    async fn export_losses(
        &self,
        cell: &Cell,
        region: &RegionId,
        fork: Fork,
        token: &Token,
    ) -> Result<(), EffectError>;

    /// The finished list of lost transactions of a move, if this server has it.
    async fn losses(
        &self,
        cell: &Cell,
        region: &RegionId,
        moving: MoveId,
    ) -> Result<Option<LossReport>, EffectError>;

    /// One sample for lag and for the preview of a loss. Both sides are looked at, each with its own time.
    async fn sample(&self, cell: &Cell, holder: &RegionId) -> Sample;
}

/// What was seen of a primary and its standby. None: it did not answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// The primary.
    pub primary: Option<PrimarySample>,
    /// The standby.
    pub standby: Option<StandbySample>,
}

/// A primary at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct PrimarySample {
    /// When it was asked, on the asker's clock.
    pub asked: domicile_model::clock::BootTime,
    /// Flushed.
    pub flushed: Lsn,
    /// The next transaction number: the difference of two counts the writing transactions between them.
    pub next_xid: u64,
    /// The oldest transaction that was still running; `next_xid` if none was. Those from here on may commit after this
    /// moment, those below had ended.
    pub oldest_xid: u64,
    /// Whether its standby streams from it.
    pub streaming: bool,
}

/// A standby at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct StandbySample {
    /// When it was asked, on the asker's clock.
    pub asked: domicile_model::clock::BootTime,
    /// Replayed.
    pub replayed: Lsn,
    /// Every transaction with a lower number has ended there. None: it does not say.
    pub ended_below: Option<u64>,
    /// Age of the newest heartbeat row that it has, in milliseconds, by the two servers' wall clocks.
    pub data_age_ms: Option<u64>,
    /// Whether its walreceiver streams.
    pub streaming: bool,
}
