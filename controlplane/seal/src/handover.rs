//! The handover token of a planned move: the old primary's agent signs that its server has stopped and where; the new
//! primary's agent promotes on nothing less.

use domicile_model::{
    AgentKey, CellId, Epoch, HandoverSeal, HandoverToken, MoveId, RegionId, SigningKey, Token,
};
use serde::Serialize;

use crate::canonical::JsonError;
use crate::keys::{KeyTextError, PrivateKey, PublicKey, Purpose, Signature, VerifyError};

const PURPOSE: Purpose = Purpose("domicile/handover/1");

/// What is signed: the token, and whose word it is.
#[derive(Serialize)]
struct Word<'t> {
    region: &'t RegionId,
    handover: HandoverToken,
}

/// Who asks, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'e> {
    /// The cell whose standby shall be promoted.
    pub cell: &'e CellId,
    /// Where that standby is: its own word is none.
    pub own: &'e RegionId,
    /// The epoch of the close.
    pub epoch: Epoch,
    /// The order to promote.
    pub order: &'e Token,
    /// The key by which the registry believes the agent that the token names; none if there is none.
    pub trusted: Option<&'e AgentKey>,
}

/// Why a promotion may not rest on a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// Nobody vouches for it.
    #[error(
        "the handover of cell {cell} is not signed: only the agent of the old primary can hand over, after a clean stop; start that agent's present version and retry, or fail over with --force and consent to the loss"
    )]
    Unsigned {
        /// The cell.
        cell: CellId,
    },
    /// Of another cell.
    #[error(
        "the handover is of cell {found}, the order is for cell {expected}: roll the move back and look at what sent it"
    )]
    OtherCell {
        /// The one asked for.
        expected: CellId,
        /// The token's.
        found: CellId,
    },
    /// From the standby itself.
    #[error(
        "the handover of cell {cell} comes from {region}, the very region that shall take over: only the other side can hand over"
    )]
    OwnWord {
        /// The cell.
        cell: CellId,
        /// The region.
        region: RegionId,
    },
    /// Of another close.
    #[error(
        "the handover of cell {cell} is of the close at epoch {found}, this one is at epoch {expected}: the old primary may have written since; fence it again"
    )]
    OtherEpoch {
        /// The cell.
        cell: CellId,
        /// The one asked for.
        expected: Epoch,
        /// The token's.
        found: Epoch,
    },
    /// Of another move, or another world.
    #[error(
        "the handover of cell {cell} belongs to move {found} of another fence, not to move {expected} of this world: fence the old primary again"
    )]
    OtherMove {
        /// The cell.
        cell: CellId,
        /// The order's.
        expected: MoveId,
        /// The token's.
        found: MoveId,
    },
    /// Of a leader or an attempt that comes after the order.
    #[error(
        "the handover of cell {cell} (leader {leader}, attempt {attempt}) is younger than this order: a later leader has fenced the old primary, the move is in its hands"
    )]
    Younger {
        /// The cell.
        cell: CellId,
        /// The token's leader.
        leader: i64,
        /// The token's attempt.
        attempt: u64,
    },
    /// The registry names no key, or another agent's.
    #[error(
        "the registry trusts no key of the agent of cell {cell} in {region}: it is taken over within seconds of that agent's first answer; look with `domicile cell show {cell}`"
    )]
    NoKey {
        /// The cell.
        cell: CellId,
        /// The region of the signer.
        region: RegionId,
    },
    /// A key or signature that is none.
    #[error("the handover of cell {cell}: {source}")]
    Text {
        /// The cell.
        cell: CellId,
        /// Why.
        source: KeyTextError,
    },
    /// The signature does not count.
    #[error(
        "{source}; if the agent of cell {cell} in {region} has a new key by right, `domicile cell trust-agent {cell} --region {region} --key ID`"
    )]
    Signature {
        /// The cell.
        cell: CellId,
        /// The region of the signer.
        region: RegionId,
        /// Why.
        source: Box<VerifyError>,
    },
}

/// A key as registry and wire carry it.
#[must_use]
pub fn published(key: &PublicKey) -> SigningKey {
    SigningKey { id: key.id().to_string(), public: key.to_string() }
}

/// Reads a published key; its id must be that of its public half.
///
/// # Errors
/// When it is none, or the two do not belong together.
pub fn read_published(key: &SigningKey) -> Result<PublicKey, KeyTextError> {
    let public: PublicKey = key.public.parse()?;
    if public.id().to_string() == key.id {
        Ok(public)
    } else {
        Err(KeyTextError::Id(key.id.chars().take(80).collect()))
    }
}

/// The token, signed by the agent of this region. A seal that it has is replaced.
///
/// # Errors
/// When it has no canonical form.
pub fn sign(key: &PrivateKey, region: &RegionId, token: HandoverToken) -> Result<HandoverToken, JsonError> {
    let word = Word { region, handover: HandoverToken { seal: None, ..token } };
    let signature = key.sign(PURPOSE, &word)?;
    let seal = HandoverSeal {
        region: region.clone(),
        key: signature.key.to_string(),
        signature: signature.value.to_string(),
    };
    Ok(HandoverToken { seal: Some(Box::new(seal)), ..word.handover })
}

/// Whether a promotion may rest on this token: it is the trusted word of the other side's agent, about this cell, this
/// close and this move, and not of a later leader than the order.
///
/// # Errors
/// Why not, and what to do.
pub fn check(token: &HandoverToken, expected: &Expected<'_>) -> Result<(), HandoverError> {
    let cell = || expected.cell.clone();
    let order = expected.order;
    if token.cell != *expected.cell || token.token.cell != *expected.cell {
        let found = if token.cell == *expected.cell { &token.token.cell } else { &token.cell };
        return Err(HandoverError::OtherCell { expected: cell(), found: found.clone() });
    }
    let Some(seal) = &token.seal else { return Err(HandoverError::Unsigned { cell: cell() }) };
    if seal.region == *expected.own {
        return Err(HandoverError::OwnWord { cell: cell(), region: seal.region.clone() });
    }
    if token.epoch != expected.epoch {
        return Err(HandoverError::OtherEpoch { cell: cell(), expected: expected.epoch, found: token.epoch });
    }
    if token.token.world != order.world || token.token.moving != order.moving {
        return Err(HandoverError::OtherMove {
            cell: cell(),
            expected: order.moving,
            found: token.token.moving,
        });
    }
    if token.token.rank() > order.rank() {
        return Err(HandoverError::Younger {
            cell: cell(),
            leader: token.token.leader.0.0,
            attempt: token.token.attempt,
        });
    }
    let trusted = expected
        .trusted
        .filter(|agent| agent.cell == *expected.cell && agent.region == seal.region)
        .ok_or_else(|| HandoverError::NoKey { cell: cell(), region: seal.region.clone() })?;
    let text = |source| HandoverError::Text { cell: cell(), source };
    let public = read_published(&trusted.key).map_err(text)?;
    let signature =
        Signature { key: seal.key.parse().map_err(text)?, value: seal.signature.parse().map_err(text)? };
    let word = Word { region: &seal.region, handover: HandoverToken { seal: None, ..token.clone() } };
    let what = format!("the handover of cell {} by its agent in {}", expected.cell, seal.region);
    public.verify(PURPOSE, &word, &signature, &what).map_err(|source| HandoverError::Signature {
        cell: cell(),
        region: seal.region.clone(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests;
