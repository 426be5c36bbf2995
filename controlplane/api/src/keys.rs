//! Keys that agents sign handovers with.

use domicile_model::{CellId, RegionId, RevokedKey};
use serde::{Deserialize, Serialize};

/// An element of `GET /v1/keys`, newest knowledge first: what is trusted, what is shown, what was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// The fingerprint.
    pub id: String,
    /// The cell of the agent. None: no agent bears it now.
    pub cell: Option<CellId>,
    /// Where that agent is.
    pub region: Option<RegionId>,
    /// Whether the registry believes that agent by this key.
    pub trusted: bool,
    /// Whether that agent shows it now.
    pub shown: bool,
    /// Who revoked it, and why, if somebody did.
    pub revoked: Option<RevokedKey>,
}
