//! Who vouches for a handover: the keys that agents sign with, as the registry and the wire carry them.
//!
//! Texts only. Whether a signature fits is decided where signatures are made and checked, in the control plane.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{CellId, RegionId};

/// The public half of an agent's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// The fingerprint by which people and tokens name it.
    pub id: String,
    /// The public key, in hexadecimal.
    pub public: String,
}

/// The key `agents/<cell>/<region>`: by which key the word of the agent there is believed. Written when the control plane
/// first sees that agent, changed only by a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentKey {
    /// The cell whose database the agent keeps.
    pub cell: CellId,
    /// Where.
    pub region: RegionId,
    /// The key.
    pub key: SigningKey,
    /// Who trusted it: an operator, or none when it was the first one seen.
    pub by: Option<String>,
}

/// The key `revoked/<id>`: a person has revoked this key. No handover that it signed is taken any more, whenever it was
/// signed, and nobody trusts it again. The key is never removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedKey {
    /// The fingerprint.
    pub id: String,
    /// Whose it was, in words.
    pub of: String,
    /// Who revoked it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, by the leader's wall clock.
    pub at: Timestamp,
}

/// The signature under a handover token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverSeal {
    /// Whose word it is: the region of the agent that signed.
    pub region: RegionId,
    /// The id of the key.
    pub key: String,
    /// Over region and token, in hexadecimal.
    pub signature: String,
}
