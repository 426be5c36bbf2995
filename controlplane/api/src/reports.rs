//! Reports: what tenants saw, by the routers' own facts.

use domicile_model::{CellId, MoveId, RegionId, TenantId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::moves::MoveKind;

/// `GET /v1/facts/clock`: for routers that compare theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// The control plane's clock, in milliseconds since 1970.
    pub now_ms: u64,
}

/// `POST /v1/facts`, from a router: what became of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Whether it was here already.
    pub already: bool,
}

/// What a tenant lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rto", rename_all = "kebab-case")]
pub enum Rto {
    /// Nobody came while it lasted: it is not known, and not nothing.
    NotObserved,
    /// Requests came, and none of them failed or was held.
    Unharmed {
        /// How many.
        requests: u64,
    },
    /// Trouble, and no good write since.
    StillOut {
        /// When the first one came, in milliseconds since 1970.
        first_ms: u64,
        /// When the last one was over.
        last_ms: u64,
    },
    /// It began and ended.
    Observed {
        /// When the first request came that failed or was held, in milliseconds since 1970.
        first_ms: u64,
        /// The last moment at which one failed or came to be held.
        last_ms: u64,
        /// When the first good write after it had ended.
        good_ms: u64,
        /// From the first to the good write, in milliseconds.
        length_ms: u64,
        /// By how much clocks may have been off against each other, in milliseconds; none: a router never compared its own.
        within_ms: Option<u64>,
    },
}

/// `GET /v1/reports/rto?move=ID`: the time that a move, or what it answered, cost each tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtoReport {
    /// The move.
    #[serde(rename = "move")]
    pub id: MoveId,
    /// Planned or forced.
    pub kind: MoveKind,
    /// Which cell.
    pub cell: CellId,
    /// From where.
    pub from: Option<RegionId>,
    /// To where.
    pub to: RegionId,
    /// When it was asked for.
    pub began: Timestamp,
    /// When it last changed.
    pub ended: Timestamp,
    /// How the times of tenants are counted.
    pub formula: String,
    /// What the control plane was at: each part with its length in milliseconds.
    pub split: Vec<Part>,
    /// By tenant.
    pub tenants: Vec<TenantRto>,
}

/// A part of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name: detect-and-decide, approve, fence, promote, verify, switch.
    pub part: String,
    /// How long it took, in milliseconds; none: it is not known, or was not come to.
    pub ms: Option<u64>,
}

/// What a move cost one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRto {
    /// Which.
    pub tenant: TenantId,
    /// What.
    #[serde(flatten)]
    pub rto: Rto,
}

/// A period of one tenant. Availabilities are in parts of a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sla {
    /// Minutes of the period that are over.
    pub minutes: u64,
    /// In which requests came and were served.
    pub available: u64,
    /// In which too many ended badly.
    pub bad: u64,
    /// In which nobody came.
    pub idle: u64,
    /// Of which nothing is known.
    pub unknown: u64,
    /// All requests.
    pub requests: u64,
    /// Those that ended badly.
    pub bad_requests: u64,
    /// Of all of them, those that were no reads.
    pub writes: u64,
    /// Availability if all unknown minutes were bad; none if no minute counts.
    pub least_ppm: Option<u64>,
    /// Availability if all of them were available.
    pub most_ppm: Option<u64>,
    /// Bad minutes that the objective leaves to the whole period.
    pub budget: u64,
    /// What is left of it if all unknown minutes were bad; below zero: it is overdrawn.
    pub budget_left: i64,
}

/// `GET /v1/reports/sla`: service levels of a month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlaReport {
    /// The month, as `2026-11`.
    pub month: String,
    /// Its beginning.
    pub from: Timestamp,
    /// What is counted ends here: the end of the month, or of the last minute that was over.
    pub to: Timestamp,
    /// The objective, in parts of a million.
    pub objective_ppm: u64,
    /// How it is counted.
    pub formula: String,
    /// By tenant.
    pub tenants: Vec<TenantSla>,
}

/// The service level of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSla {
    /// Which.
    pub tenant: TenantId,
    /// What.
    #[serde(flatten)]
    pub sla: Sla,
}
