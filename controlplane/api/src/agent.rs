//! The agent's API: what stands between the PostgreSQL provider and the agent beside a database.
//!
//! HTTP/JSON. Every request carries `Authorization: Bearer <agent secret>`; every effect also carries a [`Token`], and
//! the agent refuses one that ranks below the highest it has on disk. A repeat with the *same* rank is answered from
//! what is already true and does nothing twice.
//!
//! | call | effect |
//! |---|---|
//! | `GET /v1/state` | none: [`AgentState`] |
//! | `POST /v1/settle` | [`Settle`]: CHECKPOINT, so that the stop that follows is short |
//! | `POST /v1/fence` | [`Fence`] → [`Fenced`]: a durable marker, then a clean stop |
//! | `POST /v1/unfence` | [`Unfence`] → [`AgentState`]: marker gone, started for itself alone, a write seen to succeed |
//! | `POST /v1/promote` | [`Promote`] → [`Promoted`] |
//! | `POST /v1/promote/check` | none: [`Promote`] → 204 if the order would be taken, as far as what it rests on goes |
//! | `POST /v1/follow` | [`Follow`] → 202; progress in [`AgentState::follow`] |
//! | `POST /v1/losses` | [`ExportLosses`] → 202; progress in [`AgentState::losses`] |
//! | `GET /v1/losses/{move}` | none: [`LossReport`] |

use std::collections::BTreeMap;
use std::net::SocketAddr;

use domicile_model::token::Lsn;
use domicile_model::{
    CellId, Country, Epoch, FenceLevel, HandoverToken, MoveId, RegionId, SigningKey, TenantId, Token, WorldId,
};
use serde::{Deserialize, Serialize};

/// How the server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Running {
    /// Not at all.
    Stopped,
    /// For the agent alone: nobody else gets in, on any way.
    Private,
    /// For everyone, as a primary, under a proof.
    Open,
    /// For everyone, as a standby: nothing can be written.
    Standby,
}

/// What the agent knows about its database now. Unknown is a value: a field that could not be read is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentState {
    /// The cell that the database belongs to.
    pub cell: CellId,
    /// Where it stands.
    pub region: RegionId,
    /// How it runs.
    pub running: Running,
    /// `system_identifier` of the control file.
    pub system_id: Option<String>,
    /// The control file's own word for its state: `in production`, `shut down`, `in archive recovery`…
    pub control_state: Option<String>,
    /// The newest timeline that the server writes or follows.
    pub timeline: Option<u32>,
    /// Where `timeline` left its parent; none on timeline 1.
    pub fork: Option<Fork>,
    /// Start of the last checkpoint record, by the control file.
    pub checkpoint: Option<Lsn>,
    /// Written and flushed, on a running primary.
    pub flushed: Option<Lsn>,
    /// Replayed, on a running standby.
    pub replayed: Option<Lsn>,
    /// On a standby: whether a walreceiver streams now. On a primary: whether its standby streams from it now.
    pub streaming: Option<bool>,
    /// On a standby that does not stream: why, and what to do, in a sentence. Not among the problems: where the primary is
    /// lost that is how a standby looks, and it can be promoted.
    #[serde(default)]
    pub not_streaming: Option<String>,
    /// The key that this agent signs handovers with; none if it can't be used, and `problems` says why.
    #[serde(default)]
    pub key: Option<SigningKey>,
    /// The highest token seen, from disk.
    pub highest: Option<Token>,
    /// The world that its orders come from, from disk.
    #[serde(default)]
    pub world: Option<WorldId>,
    /// The highest epoch of the cell that it has seen in that world, from disk.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// Whether the data directory is a primary's, running or not. None from an agent that does not say.
    #[serde(default)]
    pub primary: Option<bool>,
    /// The commanded fence in force, from disk, once its stop has ended.
    pub fence: Option<Fenced>,
    /// Whether a commanded fence is in force, its stop ended or not.
    #[serde(default)]
    pub fence_in_force: bool,
    /// The epoch of the proof in hand, and for how many milliseconds it still keeps the database open.
    pub proof: Option<(Epoch, u64)>,
    /// What stops those who write to it directly when the proof ends. None from an agent that does not say.
    #[serde(default)]
    pub fence_level: Option<FenceLevel>,
    /// The slot for losses was made anew while it was needed, and the standby has not replayed all from before that since:
    /// what lies between could not be listed.
    #[serde(default)]
    pub unlisted: bool,
    /// The newest `follow`, if any.
    pub follow: Option<Progress>,
    /// The newest export of losses, if any.
    pub losses: Option<Progress>,
    /// Where lost rows would be exported to; none where no place is configured, and then none can be.
    #[serde(default)]
    pub export: Option<ExportPlace>,
    /// What a `follow` or an export that is under way is at.
    #[serde(default)]
    pub work: Option<Work>,
    /// Free bytes on the volume of the write-ahead log.
    #[serde(default)]
    pub wal_free_bytes: Option<u64>,
    /// What could not be read or done, in sentences.
    pub problems: Vec<String>,
}

/// Where a timeline left its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The parent timeline.
    pub parent: u32,
    /// Records of the parent from here on are not part of the new timeline.
    pub at: Lsn,
}

/// A job that takes longer than a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The order that it belongs to.
    pub token: Token,
    /// How it goes about it: `attach`, `rewind`, `rebuild`, `export`.
    pub how: String,
    /// Where it stands.
    pub status: ProgressStatus,
    /// Share done, 0 to 1, where it can be told.
    pub share: Option<f64>,
}

/// What a job that is under way is at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What is done now.
    pub doing: crate::protection::Doing,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// Bytes copied, where the tool tells.
    pub done_bytes: Option<u64>,
    /// Bytes to copy in all, by the tool's own estimate.
    pub total_bytes: Option<u64>,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum ProgressStatus {
    /// Under way.
    Running,
    /// Done.
    Done,
    /// Given up, and why.
    Failed {
        /// In a sentence.
        why: String,
    },
}

/// CHECKPOINT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settle {
    /// Who orders it.
    pub token: Token,
}

/// Stop for certain, until a command with an equal or higher token says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fence {
    /// Who orders it.
    pub token: Token,
    /// The epoch of the close that this fence belongs to.
    pub epoch: Epoch,
    /// How long the clean stop may take, in milliseconds, before the agent answers that it did not succeed.
    pub within_ms: u64,
    /// Stop at once (PostgreSQL's immediate mode) if a clean stop does not succeed in time: for forced moves only.
    pub force: bool,
}

/// The fence's acknowledgement: from here on this database takes no write of that epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fenced {
    /// What the standby must have replayed, and who ordered the stop.
    pub handover: HandoverToken,
    /// Whether the control file says `shut down`. After an immediate stop it does not, and nothing can be handed over
    /// without loss.
    pub clean: bool,
}

/// Turn back: before the intent to promote only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unfence {
    /// Who orders it.
    pub token: Token,
}

/// Become the primary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promote {
    /// Who orders it.
    pub token: Token,
    /// The epoch of the close. The agent reads the registry itself: leader, move and this epoch must stand there,
    /// with nobody holding the cell.
    pub epoch: Epoch,
    /// What must have been replayed: the word of the old primary's agent, signed. Without it only `consent` lets a
    /// promotion happen.
    pub handover: Option<HandoverToken>,
    /// In a forced move, and only there: what was accepted to be lost. The agent compares it with the record of the move.
    #[serde(default)]
    pub consent: Option<Consent>,
    /// The name of the physical slot that the other side will follow by.
    pub slot: String,
}

/// Explicit consent to loss, in place of a handover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// Who asked for the move.
    pub by: String,
    /// The most transactions that may be lost.
    pub accept_loss: Option<u64>,
    /// Whether an unknown number may be.
    pub accept_unknown: bool,
}

/// The new primary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promoted {
    /// `system_identifier`.
    pub system_id: String,
    /// The timeline that it writes.
    pub timeline: u32,
    /// Where that left the old one.
    pub fork: Fork,
    /// What was done so that no number is given out twice; only after a promotion that may have lost something.
    #[serde(default)]
    pub sequences: Option<SequenceGuard>,
}

/// Sequences that were raised before anybody was let in: the old primary may have given out numbers that this server
/// never saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceGuard {
    /// By how many values each was raised past the last one that is known here, or by its cache if that is more.
    pub values: u64,
    /// How many were raised.
    pub raised: u64,
    /// Those that were not, and why: no room before the end, or they go round. They may give out a number again.
    pub left: Vec<String>,
}

/// Become a standby of `upstream`: by `standby.signal` alone where the own checkpoint is the upstream's fork point,
/// else by rewind, once, else by a rebuild.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Follow {
    /// Who orders it.
    pub token: Token,
    /// The region of the upstream.
    pub region: RegionId,
    /// The upstream PostgreSQL.
    pub upstream: SocketAddr,
    /// The upstream's newest fork.
    pub fork: Option<Fork>,
    /// The physical slot to use there.
    pub slot: String,
}

/// Read the transactions past the fork from the logical slot kept for this, before anything rewinds or rebuilds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportLosses {
    /// Who orders it.
    pub token: Token,
    /// Where the new primary's timeline left this one's.
    pub fork: Fork,
}

/// Where an agent exports lost rows to, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPlace {
    /// Where the directory lies.
    pub country: Country,
    /// Who can decrypt what is written there (`age1…`).
    pub recipient: String,
    /// Why nothing could be written there at this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The transactions that the new primary never saw. Holds no rows and no keys: those lie encrypted beside the old primary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossReport {
    /// The move that lost them.
    #[serde(rename = "move")]
    pub moving: MoveId,
    /// Where the timelines part.
    pub fork: Fork,
    /// In the order of their commits; the first 20,000 of them.
    pub transactions: Vec<LostTransaction>,
    /// Lost transactions beyond those. They are exported like the others.
    #[serde(default)]
    pub more: u64,
    /// Changed rows by table and operation, of all of them.
    #[serde(default)]
    pub counts: BTreeMap<String, BTreeMap<String, u64>>,
    /// Transactions that wrote only the product's own tables: counted apart, not listed.
    pub own: u64,
    /// Where the rows themselves lie, on the old primary's side: region and directory.
    pub rows_at: String,
    /// The files there, one for each tenant that lost rows.
    #[serde(default)]
    pub parts: Vec<LossPart>,
    /// The country in which they lie, and who can decrypt them.
    #[serde(default)]
    pub place: Option<ExportPlace>,
    /// What the write-ahead log cannot show, by name.
    pub blind_spots: Vec<String>,
}

impl LossReport {
    /// How many transactions were lost, the product's own left out.
    #[must_use]
    pub fn lost(&self) -> u64 {
        u64::try_from(self.transactions.len()).unwrap_or(u64::MAX).saturating_add(self.more)
    }

    /// The part of a tenant; of rows without a known tenant for none.
    #[must_use]
    pub fn part(&self, tenant: Option<&TenantId>) -> Option<&LossPart> {
        self.parts.iter().find(|part| part.tenant.as_ref() == tenant)
    }
}

/// The file with the lost rows of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossPart {
    /// Whose rows. None: of no known tenant of the cell, kept under the strictest policy of its tenants.
    pub tenant: Option<TenantId>,
    /// The file's name in the directory of the move.
    pub file: String,
    /// How many changed rows are in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of the file as it lies there, in hexadecimal.
    pub sha256: String,
}

/// A lost transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LostTransaction {
    /// Its number on the old primary.
    pub xid: u32,
    /// Where its commit record lies.
    pub commit: Lsn,
    /// When it committed, by the old primary's clock.
    pub at: jiff::Timestamp,
    /// What it changed. All lists of a report together name no more than 50,000 changes.
    pub changes: Vec<LostChange>,
    /// Changes beyond those.
    #[serde(default)]
    pub more: u64,
}

/// A changed row, without its content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LostChange {
    /// `schema.table`.
    pub table: String,
    /// `insert`, `update`, `delete` or `truncate`.
    pub operation: String,
    /// HMAC-SHA256 of table and key columns, in hexadecimal, under a key that stands only in the encrypted file of this
    /// tenant: whoever may read that can look a row up here, and nobody else can guess one. None where the table has no
    /// key.
    pub key_digest: Option<String>,
    /// The tenant, if the row names one of this cell.
    pub tenant: Option<TenantId>,
}
