//! The witnesses of a cell: who they are, and the wish for others.

use std::collections::BTreeSet;

use domicile_model::{CellId, RegionId, RouterId, WitnessRenewal};
use serde::{Deserialize, Serialize};

/// `POST /v1/cells/{id}/witnesses`: other witnesses shall be named as soon as that is safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// Routers that shall not be among them.
    #[serde(default)]
    pub without: BTreeSet<RouterId>,
    /// Let the next planned move wait until the present ones are silent, while writes wait.
    #[serde(default)]
    pub wait: bool,
    /// Why; may not be empty.
    pub reason: String,
    /// Only say who would be named now.
    #[serde(default)]
    pub dry_run: bool,
}

/// `GET /v1/cells/{id}/witnesses`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessesView {
    /// The cell.
    pub cell: CellId,
    /// Its witnesses.
    pub members: Vec<WitnessView>,
    /// How many of them carry its holder while the registry can't be reached.
    pub needed_for_proof: u32,
    /// How many of them must be quiet before a forced move promotes without the old primary's word.
    pub needed_quiet: u32,
    /// What somebody wants instead, if that is not done yet.
    pub pending: Option<WitnessRenewal>,
    /// Who would be named now. None: nobody else, or nobody asked and none of them is missing.
    pub instead: Option<BTreeSet<RouterId>>,
}

/// A witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessView {
    /// Its id.
    pub id: RouterId,
    /// Where it runs. None: it never said.
    pub region: Option<RegionId>,
    /// Whether it is registered under a lease now.
    pub alive: bool,
    /// While nobody holds the cell: whether it has refused to vouch since the close for WAIT.
    pub quiet: Option<bool>,
    /// Who declared its machine destroyed, and why.
    pub destroyed: Option<String>,
}
