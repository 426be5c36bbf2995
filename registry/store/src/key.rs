//! The keys of the registry: one per thing, under one prefix that the store's constructor gets.

use std::fmt;
use std::str::FromStr;

use domicile_model::{CellId, FreezeId, HostPattern, JurisdictionId, MoveId, RegionId, RouterId, TenantId};

/// A key. Implementations put the fleet's prefix in front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Format of the registry as a whole.
    Schema,
    /// [`domicile_model::World`].
    World,
    /// Who leads the control plane; under a lease.
    Leader,
    /// [`domicile_model::Region`].
    Region(RegionId),
    /// [`domicile_model::Jurisdiction`].
    Jurisdiction(JurisdictionId),
    /// [`domicile_model::Cell`].
    Cell(CellId),
    /// [`domicile_model::Tenant`].
    Tenant(TenantId),
    /// [`domicile_model::fleet::HostClaim`].
    Host(HostPattern),
    /// [`domicile_model::Placement`].
    Placement(CellId),
    /// [`domicile_model::RegionFence`].
    Fence(RegionId),
    /// [`domicile_model::MoveClaim`].
    Move(CellId),
    /// [`domicile_model::EmergencyStop`].
    Stop,
    /// How far the archive of what has left the registry reaches.
    ArchiveHead,
    /// The public half of a key that segments of the archive are sealed with, by its id.
    ArchiveKey(String),
    /// How far the copy of the archive reaches that the control plane of this name keeps.
    ArchiveCopy(String),
    /// [`domicile_model::Approvals`].
    Approvals,
    /// [`domicile_model::Freeze`].
    Freeze(FreezeId),
    /// [`domicile_model::Moved`].
    Moved(CellId),
    /// [`domicile_model::ClosedCell`].
    Closed(CellId),
    /// [`domicile_model::WitnessState`].
    Witness(RouterId),
    /// [`domicile_model::WitnessRenewal`].
    Renewal(CellId),
    /// [`domicile_model::BarredWitness`].
    Barred(RouterId),
    /// [`domicile_model::RouterState`]; under a lease.
    Router(RouterId),
    /// [`domicile_model::AgentKey`], of the database of this cell in this region.
    Agent(CellId, RegionId),
    /// [`domicile_model::RevokedKey`], by the fingerprint.
    RevokedKey(String),
    /// The record of a workflow.
    Workflow(MoveId),
    /// An entry of a workflow's log, from 1.
    WorkflowLog(MoveId, u64),
    /// What happened to a thing: its kind, its id, and the epoch or version that it got.
    History(&'static str, String, u64),
    /// An entry of the audit log.
    Audit(uuid::Uuid),
}

/// The text is no key of this version. Readers ignore such keys: a newer program may have written them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a key of the registry")]
pub struct KeyError(String);

/// The kinds of things whose history is kept.
const HISTORY_KINDS: [&str; 6] = ["placement", "cell", "tenant", "region", "jurisdiction", "approvals"];

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schema => f.write_str("schema"),
            Self::World => f.write_str("world"),
            Self::Leader => f.write_str("leader"),
            Self::Region(id) => write!(f, "regions/{id}"),
            Self::Jurisdiction(id) => write!(f, "jurisdictions/{id}"),
            Self::Cell(id) => write!(f, "cells/{id}"),
            Self::Tenant(id) => write!(f, "tenants/{id}"),
            Self::Host(pattern) => write!(f, "hosts/{pattern}"),
            Self::Placement(id) => write!(f, "placements/{id}"),
            Self::Fence(id) => write!(f, "fences/{id}"),
            Self::Move(id) => write!(f, "moves/{id}"),
            Self::Stop => f.write_str("stop"),
            Self::ArchiveHead => f.write_str("archive/head"),
            Self::ArchiveKey(id) => write!(f, "archive/keys/{id}"),
            Self::ArchiveCopy(name) => write!(f, "archive/copies/{name}"),
            Self::Approvals => f.write_str("approvals"),
            Self::Freeze(id) => write!(f, "freezes/{id}"),
            Self::Moved(id) => write!(f, "moved/{id}"),
            Self::Closed(id) => write!(f, "closed/{id}"),
            Self::Witness(id) => write!(f, "witnesses/{id}"),
            Self::Renewal(id) => write!(f, "renewals/{id}"),
            Self::Barred(id) => write!(f, "barred/{id}"),
            Self::Router(id) => write!(f, "routers/{id}"),
            Self::Agent(cell, region) => write!(f, "agents/{cell}/{region}"),
            Self::RevokedKey(id) => write!(f, "revoked/{id}"),
            Self::Workflow(id) => write!(f, "workflows/{id}"),
            // Padded, so that a listing is in order.
            Self::WorkflowLog(id, n) => write!(f, "workflows/{id}/log/{n:010}"),
            Self::History(kind, id, version) => write!(f, "history/{kind}/{id}/{version:020}"),
            Self::Audit(id) => write!(f, "audit/{id}"),
        }
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        fn id<T, E>(parsed: Result<T, E>) -> Option<T> {
            parsed.ok()
        }
        /// A name of a control plane, or the digits of a key's id.
        fn plain(text: &str) -> Option<String> {
            let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            ((1..=64).contains(&text.len()) && text.bytes().all(fine)).then(|| text.to_owned())
        }
        let parts: Vec<&str> = text.split('/').collect();
        let key = match parts.as_slice() {
            ["schema"] => Some(Self::Schema),
            ["world"] => Some(Self::World),
            ["leader"] => Some(Self::Leader),
            ["regions", x] => id(RegionId::new(x)).map(Self::Region),
            ["jurisdictions", x] => id(JurisdictionId::new(x)).map(Self::Jurisdiction),
            ["cells", x] => id(CellId::new(x)).map(Self::Cell),
            ["tenants", x] => id(TenantId::new(x)).map(Self::Tenant),
            ["hosts", x] => id(HostPattern::new(x)).map(Self::Host),
            ["placements", x] => id(CellId::new(x)).map(Self::Placement),
            ["fences", x] => id(RegionId::new(x)).map(Self::Fence),
            ["moves", x] => id(CellId::new(x)).map(Self::Move),
            ["stop"] => Some(Self::Stop),
            ["archive", "head"] => Some(Self::ArchiveHead),
            ["archive", "keys", x] => plain(x).map(Self::ArchiveKey),
            ["archive", "copies", x] => plain(x).map(Self::ArchiveCopy),
            ["approvals"] => Some(Self::Approvals),
            ["freezes", x] => id(x.parse()).map(Self::Freeze),
            ["moved", x] => id(CellId::new(x)).map(Self::Moved),
            ["closed", x] => id(CellId::new(x)).map(Self::Closed),
            ["witnesses", x] => id(RouterId::new(x)).map(Self::Witness),
            ["renewals", x] => id(CellId::new(x)).map(Self::Renewal),
            ["barred", x] => id(RouterId::new(x)).map(Self::Barred),
            ["routers", x] => id(RouterId::new(x)).map(Self::Router),
            ["agents", x, y] => id(CellId::new(x)).zip(id(RegionId::new(y))).map(|(x, y)| Self::Agent(x, y)),
            ["revoked", x] => plain(x).map(Self::RevokedKey),
            ["workflows", x] => id(x.parse()).map(Self::Workflow),
            ["workflows", x, "log", n] => {
                id(x.parse()).zip(n.parse().ok()).map(|(x, n)| Self::WorkflowLog(x, n))
            }
            ["history", kind, x, n] => HISTORY_KINDS
                .iter()
                .find(|k| *k == kind)
                .zip(n.parse().ok())
                .map(|(kind, n)| Self::History(kind, (*x).to_owned(), n)),
            ["audit", x] => id(x.parse()).map(Self::Audit),
            _ => None,
        };
        // Only the one spelling that we write: another one (`log/3`, a host in capitals) would make two keys of the
        // server look like one.
        key.filter(|key| key.to_string() == text).ok_or_else(|| KeyError(text.chars().take(200).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back() {
        let cell = CellId::new("c").unwrap();
        let region = RegionId::new("us-east-1").unwrap();
        let router = RouterId::new("gate-1").unwrap();
        let id = MoveId::from_u128(7);
        for key in [
            Key::Schema,
            Key::World,
            Key::Leader,
            Key::Region(region.clone()),
            Key::Jurisdiction(JurisdictionId::new("EU").unwrap()),
            Key::Cell(cell.clone()),
            Key::Tenant(TenantId::new("t").unwrap()),
            Key::Host(HostPattern::new("*.a.com").unwrap()),
            Key::Placement(cell.clone()),
            Key::Fence(region.clone()),
            Key::Move(cell.clone()),
            Key::Stop,
            Key::ArchiveHead,
            Key::ArchiveKey("0f".into()),
            Key::ArchiveCopy("control-1.eu".into()),
            Key::Approvals,
            Key::Freeze(FreezeId::from_u128(4)),
            Key::Moved(cell.clone()),
            Key::Closed(cell.clone()),
            Key::Witness(router.clone()),
            Key::Renewal(cell.clone()),
            Key::Barred(router.clone()),
            Key::Router(router),
            Key::Agent(cell, region),
            Key::RevokedKey("0f".into()),
            Key::Workflow(id),
            Key::WorkflowLog(id, 3),
            Key::History("placement", "c".into(), 9),
            Key::Audit(uuid::Uuid::from_u128(5)),
        ] {
            assert_eq!(key.to_string().parse(), Ok(key));
        }
    }

    #[test]
    fn a_key_of_another_version_is_no_key() {
        for bad in
            ["", "cells", "cells/", "cells/A", "cells/a/b", "zebra/1", "history/unknown/c/1", "hosts/A.com"]
        {
            assert!(bad.parse::<Key>().is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_text_is_one_key_or_none(text in "((cells|hosts|history/cell|workflows|audit|leader)/)?\\PC{0,40}") {
            if let Ok(key) = text.parse::<Key>() {
                proptest::prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
