//! How well a cell is protected: what the primary keeps for a standby that is away, and for how long it can.

use serde::{Deserialize, Serialize};

/// What a replication slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotUse {
    /// The standby of the cell streams by it.
    Standby,
    /// It keeps the transactions that the standby has not replayed, to be listed after a forced move.
    Losses,
    /// It is not ours.
    Other,
}

impl SlotUse {
    /// As metrics and tables call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Losses => "losses",
            Self::Other => "other",
        }
    }
}

/// A replication slot of a primary, by `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub used_for: SlotUse,
    /// Whether somebody reads from it now.
    pub active: bool,
    /// Bytes of write-ahead log between its `restart_lsn` and where the primary writes now. None: it keeps none, or lost it.
    pub kept_bytes: Option<u64>,
    /// `reserved`, `extended`, `unreserved` (the next checkpoint may remove what it needs) or `lost`.
    pub wal_status: Option<String>,
    /// Bytes that can still be written before it may be lost; not positive: the next checkpoint may do it. None: lost
    /// already, or nothing bounds what slots keep.
    pub safe_bytes: Option<i64>,
}

/// What a primary keeps of its write-ahead log for others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retention {
    /// Its slots, ours first, then those that keep most; at most twenty. Those that end with their connection are left out.
    pub slots: Vec<Slot>,
    /// The most that slots may keep (`max_slot_wal_keep_size`), in bytes. None: nothing bounds it.
    pub limit_bytes: Option<u64>,
    /// Free bytes on the volume of the write-ahead log. None: no agent told.
    pub free_bytes: Option<u64>,
}

/// What a primary keeps of its write-ahead log, and how long that can go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetentionView {
    /// How old the look at the slots is, in milliseconds.
    pub age_ms: u64,
    /// What was seen.
    pub seen: Retention,
    /// Write-ahead log written of late, in bytes a second. None: not measured.
    pub bytes_per_s: Option<f64>,
    /// For how long the standby can stay away before it has to be built anew, in milliseconds, if writing goes on as it did.
    /// None: it is not away, nothing bounds it, or the rate is not known.
    pub standby_may_stay_away_ms: Option<u64>,
    /// What that rests on, in a sentence; empty while the standby's slot is in use.
    pub because: String,
}

/// What is being done so that a server becomes a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// What the new primary never saw is exported first.
    ExportingLosses,
    /// Its data directory is taken back to the fork (`pg_rewind`).
    Rewinding,
    /// It is copied anew from the primary (`pg_basebackup`).
    BaseBackup,
    /// It is started as a standby (`standby.signal`) and begins to stream.
    Attaching,
    /// It streams, and replays what was written meanwhile.
    CatchingUp,
}

impl Doing {
    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExportingLosses => "exporting lost rows",
            Self::Rewinding => "rewinding",
            Self::BaseBackup => "base backup",
            Self::Attaching => "starting as a standby",
            Self::CatchingUp => "catching up",
        }
    }
}

/// How far a server is on its way to being a standby.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildingView {
    /// Where it stands.
    pub region: domicile_model::RegionId,
    /// What is done now.
    pub doing: Doing,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// Bytes copied. None: this work is not counted in bytes.
    pub done_bytes: Option<u64>,
    /// Bytes to copy in all, as the tool estimated them at its start.
    pub total_bytes: Option<u64>,
    /// Bytes left: to copy, or of write-ahead log to replay. None: not known.
    pub left_bytes: Option<u64>,
    /// How fast they grow fewer, in bytes a second. None: not measured.
    pub bytes_per_s: Option<f64>,
    /// How long this part will take at that rate, in milliseconds. None: not known; never 0.
    pub left_ms: Option<u64>,
    /// What that rests on, in a sentence.
    pub because: String,
    /// How old all of this is, in milliseconds.
    pub age_ms: u64,
}

/// A cell without a standby: losing its region loses its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnprotectedView {
    /// Since when, by a control plane's wall clock. None: not known.
    pub since: Option<jiff::Timestamp>,
    /// For how long, in milliseconds.
    pub for_ms: Option<u64>,
    /// What that rests on, in a sentence.
    pub because: String,
}
