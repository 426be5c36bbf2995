//! The registry as the API shows it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::moves::{Approval, MoveKind};
use crate::protection::{BuildingView, RetentionView, UnprotectedView};

use domicile_model::{
    CellId, ClosedCell, Country, EmergencyStop, Epoch, FenceLevel, Freeze, MoveId, Phase, RegionId, RouterId,
    TenantId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Header of answers about the registry: how old the look is that the answer rests on, in milliseconds; 0 for one that
/// was made for this request.
pub const AGE_MS: &str = "domicile-age-ms";
/// Header of answers about the registry: the name of the control plane that leads. Missing while nobody does, and when
/// the answering one can't know.
pub const LEADER: &str = "domicile-leader";

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The name of the control plane that answered.
    pub server: String,
    /// The name of the one that leads; none while nobody does.
    pub leader: Option<String>,
    /// The registry's revision.
    pub revision: i64,
    /// How old the answering server's view is, in milliseconds.
    pub age_ms: u64,
    /// All cells.
    pub cells: Vec<CellView>,
    /// All routers that are probably there.
    pub routers: Vec<RouterView>,
    /// How full the registry is; none where nothing limits it, or before the first look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistryView>,
    /// Who has stopped all moves, if somebody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<EmergencyStop>,
    /// Freezes that are not over.
    #[serde(default)]
    pub freezes: Vec<Freeze>,
    /// Where the registry and what is there differ.
    #[serde(default)]
    pub findings: Vec<FindingView>,
    /// What waits for people's approval. None: the registry did not tell.
    #[serde(default)]
    pub waiting: Option<Vec<WaitingView>>,
}

/// Where the registry and what is there differ, as the answering control plane sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingView {
    /// Stable, for programs: `stray-primary`, `holder-not-writable`, `orphaned-standby`, `unprotected`…
    pub kind: String,
    /// The cell that it is about.
    pub cell: Option<CellId>,
    /// Where.
    pub region: Option<RegionId>,
    /// What is so, and what to do, in a sentence.
    pub what: String,
}

/// Something that waits for people's approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingView {
    /// The move.
    #[serde(rename = "move")]
    pub moving: MoveId,
    /// Which workflow.
    pub kind: MoveKind,
    /// The cell.
    pub cell: CellId,
    /// Who asked for it, and can't approve it.
    pub by: String,
    /// What is asked for, and who has approved.
    pub approval: Approval,
}

/// How full the registry is, on the member that has least room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryView {
    /// Bytes of its database, free pages included: what the server compares with its quota. None: not known.
    pub size_bytes: Option<u64>,
    /// Of these, bytes in use.
    pub in_use_bytes: Option<u64>,
    /// Bytes that it may have.
    pub quota_bytes: Option<u64>,
    /// Bytes until nothing more is taken.
    pub left_bytes: Option<u64>,
    /// Bytes that ordinary changes leave to forced moves.
    pub reserve_bytes: u64,
    /// Alarms that members have raised: `NOSPACE`, `CORRUPT`, with the member's number.
    pub alarms: Vec<String>,
    /// Members that did not answer.
    pub silent: Vec<String>,
    /// Why nothing is known.
    pub problem: Option<String>,
    /// How old this look is, in milliseconds.
    pub age_ms: u64,
}

impl RegistryView {
    /// Whether ordinary changes are refused, because what is left is kept for moves.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.left_bytes.is_none_or(|left| left < self.reserve_bytes)
    }
}

/// `POST /v1/freezes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeRequest {
    /// From when; none: now.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// Until when.
    pub until: Timestamp,
    /// Which cells; none named: all.
    #[serde(default)]
    pub cells: BTreeSet<CellId>,
    /// Why; may not be empty.
    pub reason: String,
}

/// A cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellView {
    /// Its id.
    pub id: CellId,
    /// Where it lives on an ordinary day.
    pub primary: RegionId,
    /// Where it goes in a disaster.
    pub dr: RegionId,
    /// Who serves it now.
    pub holder: Option<RegionId>,
    /// Who follows.
    pub standby: Option<RegionId>,
    /// Its epoch.
    pub epoch: Epoch,
    /// What routers do with its requests.
    pub phase: Phase,
    /// Whether availability comes first now: then nobody stops without a proof, and a forced move needs the database's word.
    #[serde(default)]
    pub availability_first: bool,
    /// The routers that vouch for the holder.
    pub witnesses: Vec<RouterId>,
    /// Its tenants.
    pub tenants: Vec<TenantId>,
    /// The database pair, if it has one.
    pub lag: Option<LagView>,
    /// What is wrong with the database pair. None: it has none, or was never looked at.
    #[serde(default)]
    pub health: Option<HealthView>,
    /// That it has no standby. None: it has one, or has no database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unprotected: Option<UnprotectedView>,
    /// How far the new standby is, while it is built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building: Option<BuildingView>,
    /// What the primary keeps for a standby that is away. None: it has no database, or was not seen yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionView>,
    /// The agents of the database pair, and the keys that they hand over with.
    #[serde(default)]
    pub agents: Vec<AgentView>,
    /// What stops direct writers of each database of the pair; a region that never told is missing.
    #[serde(default)]
    pub fence_levels: Vec<FenceLevelView>,
    /// Why a person has closed it, if one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<ClosedCell>,
    /// The move that is under way.
    #[serde(rename = "move")]
    pub moving: Option<String>,
}

/// The agent of a cell in a region, by the ids of its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Where it is.
    pub region: RegionId,
    /// By which key its word is believed. None: by none yet, and no planned move leaves from there.
    pub trusted: Option<String>,
    /// Who trusted it; none when it was the first one seen.
    pub by: Option<String>,
    /// The key that it showed last to the answering control plane.
    pub shown: Option<String>,
}

/// What stops those who write to a database directly when its region's last proof ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceLevelView {
    /// Where the database is.
    pub region: RegionId,
    /// As it was told last.
    pub level: FenceLevel,
    /// How long ago that was, in milliseconds.
    pub age_ms: u64,
}

/// `POST /v1/cells/{id}/trust-agent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustRequest {
    /// Which agent of the cell.
    pub region: RegionId,
    /// The id of the key, which the agent must show now.
    pub key: String,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
}

/// What was wrong with a database pair when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// How long ago that was, in milliseconds.
    pub age_ms: u64,
    /// Sentences that say what, where and what to do; empty: nothing.
    pub problems: Vec<String>,
}

/// How far the standby is behind, by the newest samples. None: unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LagView {
    /// Age of the newest data on the standby, in milliseconds, when it was sampled.
    pub data_age_ms: Option<u64>,
    /// Bytes of write-ahead log that it has not replayed.
    pub bytes: Option<u64>,
    /// Transactions that it has not replayed.
    pub transactions: Option<u64>,
    /// How old the sample of the primary is, in milliseconds.
    pub primary_sample_age_ms: Option<u64>,
    /// How old the sample of the standby is, in milliseconds.
    pub standby_sample_age_ms: Option<u64>,
    /// Whether the standby streams.
    pub streaming: Option<bool>,
    /// Write-ahead log that the primary's slot for losses keeps, in bytes: it grows while the standby is away.
    #[serde(default)]
    pub loss_slot_kept_bytes: Option<u64>,
    /// The most it may keep before it is given up (`max_slot_wal_keep_size`), and with it the list of what a forced move
    /// loses. None: no limit, or unknown.
    #[serde(default)]
    pub loss_slot_limit_bytes: Option<u64>,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionView {
    /// Its id.
    pub id: RegionId,
    /// Where it is.
    pub country: Country,
    /// Cells that it holds now.
    pub holds: Vec<CellId>,
    /// Gates that are probably there.
    pub gates: Vec<RouterId>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantView {
    /// Its id.
    pub id: TenantId,
    /// What people call it.
    pub name: String,
    /// Its cell.
    pub cell: CellId,
    /// The names that lead to it.
    pub hosts: Vec<String>,
    /// Where it is served from now.
    pub region: Option<RegionId>,
    /// Under which epoch.
    pub epoch: Epoch,
    /// What routers do with its requests.
    pub phase: Phase,
    /// Jurisdictions that it is restricted to; empty: none.
    pub residency: Vec<String>,
}

/// A router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouterView {
    /// Its id.
    pub id: RouterId,
    /// `edge` or `gate`.
    pub role: domicile_model::Role,
    /// Where it runs.
    pub region: RegionId,
    /// The revision that it has applied.
    pub applied: i64,
}

/// `GET /v1/tenants/{id}/route`: where a request of this tenant goes now, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteView {
    /// The tenant.
    pub tenant: TenantId,
    /// Its cell.
    pub cell: CellId,
    /// The region that answers; none while nobody may.
    pub region: Option<RegionId>,
    /// Where the request is sent in that region.
    pub ingress: Vec<SocketAddr>,
    /// Under which epoch.
    pub epoch: Epoch,
    /// What routers do with the request.
    pub phase: Phase,
    /// How this came about, step by step, in sentences.
    pub why: Vec<String>,
}

/// `POST /v1/apply`: the file as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// The name of the file, for messages.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Show the plan only.
    #[serde(default)]
    pub dry_run: bool,
    /// Remove what the file no longer names.
    #[serde(default)]
    pub prune: bool,
}

/// What `apply` would do, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyReport {
    /// In order.
    pub changes: Vec<PlannedChange>,
    /// Whether it was done.
    pub applied: bool,
    /// The registry's revision afterwards.
    pub revision: i64,
}

/// One change of `apply`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedChange {
    /// `add`, `change`, `remove`, `keep` (would be removed by `--prune`), `refuse`.
    pub action: String,
    /// `region`, `jurisdiction`, `cell`, `tenant`.
    pub what: String,
    /// Its id.
    pub id: String,
    /// Why it is refused, or what changes.
    pub why: String,
}

/// `POST /v1/moves/{id}/losses/locate`: where the lost rows of one tenant lie. Takes the role `losses`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocateRequest {
    /// Whose rows. None: those of no known tenant.
    #[serde(default)]
    pub tenant: Option<TenantId>,
    /// Why somebody reads patient data; the audit log keeps it. May not be empty.
    pub reason: String,
}

/// Where the lost rows of one tenant lie. The rows themselves never pass through the control plane: fetch the file there,
/// and decrypt it with the recipient's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocatedLosses {
    /// The move that lost them.
    #[serde(rename = "move")]
    pub moving: MoveId,
    /// Whose rows. None: those of no known tenant.
    pub tenant: Option<TenantId>,
    /// The region whose agent exported them.
    pub region: String,
    /// The file, on that agent's machine.
    pub path: String,
    /// How many changed rows are in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The country in which it lies, and who can decrypt it.
    pub place: Option<crate::agent::ExportPlace>,
}
