//! What an effect carries, so that a late or repeated one does no harm.

use serde::{Deserialize, Serialize};

use crate::epoch::{Epoch, Revision};
use crate::ids::{CellId, MoveId, WorldId};
use crate::signing::HandoverSeal;

/// Which leader. Later leaders compare higher within one world.
///
/// The number is the create revision of the key `leader`. It repeats after a restore of the registry, so whoever
/// compares it with the registry compares the key's random value too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaderFence(pub Revision);

/// Carried by every effect on an agent. Agents keep the highest (leader, attempt) they have seen and refuse less.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The world that the leader leads in.
    pub world: WorldId,
    /// The leader.
    pub leader: LeaderFence,
    /// Counts the effects of one move; rises with each, also across leaders.
    pub attempt: u64,
    /// The move.
    #[serde(rename = "move")]
    pub moving: MoveId,
    /// The step, by its name in the definition.
    pub step: String,
    /// The cell.
    pub cell: CellId,
}

impl Token {
    /// What agents order by.
    #[must_use]
    pub fn rank(&self) -> (LeaderFence, u64) {
        (self.leader, self.attempt)
    }
}

/// What the old primary hands over when it has certainly stopped: promotion waits until the standby has replayed
/// past this point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoverToken {
    /// The cell.
    pub cell: CellId,
    /// The epoch of the close.
    pub epoch: Epoch,
    /// `system_identifier` of the control file, as PostgreSQL prints it.
    pub system_id: String,
    /// The timeline that the old primary wrote.
    pub timeline: u32,
    /// Where its last record, the shutdown checkpoint, begins.
    pub checkpoint: Lsn,
    /// The fence's own token.
    pub token: Token,
    /// The old primary's agent vouches for all of it. None after a stop that was not clean, which hands nothing over, and
    /// from an agent that has no key; no planned move promotes on such a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Box<HandoverSeal>>,
}

/// A position in the write-ahead log, written `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl std::fmt::Debug for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The text is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a position in the write-ahead log (two hexadecimal numbers with a `/` between)")]
pub struct LsnError(String);

impl std::str::FromStr for Lsn {
    type Err = LsnError;
    fn from_str(text: &str) -> Result<Self, LsnError> {
        let error = || LsnError(text.chars().take(40).collect());
        let (high, low) = text.split_once('/').ok_or_else(error)?;
        let part = |t: &str| {
            if t.is_empty() || t.len() > 8 || !t.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            u64::from_str_radix(t, 16).map_err(|_| error())
        };
        Ok(Self(part(high)? << 32 | part(low)?))
    }
}

impl TryFrom<String> for Lsn {
    type Error = LsnError;
    fn try_from(text: String) -> Result<Self, LsnError> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsns_read_and_print_as_postgresql_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.0, 0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!("0/0".parse::<Lsn>().unwrap() < "0/1".parse().unwrap());
        for bad in ["", "0", "/", "0/", "G/0", "0/123456789", "+1/0", "0/0/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
        }
    }
}
