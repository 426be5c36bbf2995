//! Values as versioned JSON: `{"v":1,"data":{…}}`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use domicile_model::fleet::HostClaim;
use domicile_model::{
    AgentKey, Approvals, BarredWitness, Cell, ClosedCell, EmergencyStop, Freeze, Jurisdiction, MoveClaim,
    Moved, Placement, Region, RegionFence, RevokedKey, RouterState, Tenant, WitnessRenewal, WitnessState,
    World,
};

/// A type that stands in the registry.
pub trait Record: Serialize + DeserializeOwned {
    /// What people call it.
    const NAME: &'static str;
    /// The newest version that this program knows. It reads this one and all before.
    const VERSION: u32 = 1;

    /// The version that this value is written as: the oldest that says all of it, so that older programs read what they
    /// can, and refuse what they would misunderstand.
    fn version(&self) -> u32 {
        Self::VERSION
    }
}

macro_rules! records {
    ($($type:ty => $name:literal),* $(,)?) => { $(impl Record for $type { const NAME: &'static str = $name; })* };
}
records! {
    World => "world", Region => "region", Jurisdiction => "jurisdiction", Cell => "cell", Tenant => "tenant",
    HostClaim => "host claim", RegionFence => "region fence", MoveClaim => "move claim",
    EmergencyStop => "emergency stop", Freeze => "freeze", Moved => "last move", WitnessState => "witness", RouterState => "router",
    AgentKey => "agent's key", Approvals => "approval policy", ClosedCell => "closed cell",
    WitnessRenewal => "renewal of witnesses", BarredWitness => "barred witness", RevokedKey => "revoked key",
}

impl Record for Placement {
    const NAME: &'static str = "placement";
    const VERSION: u32 = 2;

    /// Who does not know that availability may come first would take waiting for a stop.
    fn version(&self) -> u32 {
        if self.availability_first { 2 } else { 1 }
    }
}

/// Why a value can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A newer program wrote it: reading it could lose what this program does not know, so nothing writes it back.
    #[error("the {what} has version {found}, this program reads up to {known}: upgrade it")]
    Newer {
        /// The record's name.
        what: &'static str,
        /// Its version.
        found: u32,
        /// What this program reads.
        known: u32,
    },
    /// Not what it should be.
    #[error("the {what} can't be read")]
    Malformed {
        /// The record's name.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    data: T,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// The bytes of a record.
///
/// # Panics
/// Never for our own types: their keys are strings and they hold no maps with other keys.
#[must_use]
pub fn encode<T: Record>(record: &T) -> Vec<u8> {
    serde_json::to_vec(&Envelope { v: record.version(), data: record }).expect("records are plain data")
}

/// The record in these bytes.
///
/// # Errors
/// When a newer program wrote it, or it is malformed.
pub fn decode<T: Record>(bytes: &[u8]) -> Result<T, CodecError> {
    let malformed = |source| CodecError::Malformed { what: T::NAME, source };
    let version: Version = serde_json::from_slice(bytes).map_err(malformed)?;
    if version.v > T::VERSION {
        return Err(CodecError::Newer { what: T::NAME, found: version.v, known: T::VERSION });
    }
    serde_json::from_slice::<Envelope<T>>(bytes).map(|e| e.data).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_model::CellId;

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let error = decode::<MoveClaim>(br#"{"v":2,"data":{"new":"shape"}}"#).unwrap_err();
        assert!(matches!(error, CodecError::Newer { what: "move claim", found: 2, known: 1 }));
    }

    #[test]
    fn rubbish_is_an_error_and_not_a_panic() {
        for bad in [&b""[..], b"{}", b"\xff", b"{\"v\":1}", b"[1]"] {
            assert!(matches!(decode::<Placement>(bad), Err(CodecError::Malformed { .. })));
        }
    }

    #[test]
    fn a_placement_is_written_as_the_oldest_version_that_says_all_of_it() {
        let old = br#"{"v":1,"data":{"cell":"c","epoch":4,"holder":"us-east-1","standby":null,"phase":{"is":"serving"},"move":null,"witnesses":{"members":[],"p":1,"r":0}}}"#;
        let placement = decode::<Placement>(old).unwrap();
        assert!(!placement.availability_first);
        assert_eq!(encode(&placement), old);
        let chosen = Placement { availability_first: true, ..placement };
        let text = String::from_utf8(encode(&chosen)).unwrap();
        assert!(text.starts_with(r#"{"v":2,"#) && text.contains(r#""availability_first":true"#), "{text}");
        assert_eq!(decode::<Placement>(text.as_bytes()).unwrap(), chosen);
    }

    #[test]
    fn records_read_back() {
        let fence = RegionFence {
            region: "us-east-1".parse().unwrap(),
            cell: CellId::new("c").unwrap(),
            epoch: domicile_model::Epoch(3),
        };
        assert_eq!(decode::<RegionFence>(&encode(&fence)).unwrap(), fence);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, version: u32, data in "[{\\[\"a-z0-9:,}\\]]{0,30}") {
            let _ = decode::<Placement>(&bytes);
            let _ = decode::<World>(format!("{{\"v\":{version},\"data\":{data}}}").as_bytes());
        }
    }
}
