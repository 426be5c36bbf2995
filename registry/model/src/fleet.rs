//! What the fleet should be: regions, jurisdictions, cells and tenants, as an operator wrote them down.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::approval::Approvals;
use crate::host::HostPattern;
use crate::ids::{CellId, Country, JurisdictionId, RegionId, TenantId};
use crate::residency::Residency;
use crate::secret::SecretRef;

/// Everything that `regions.toml` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Fleet {
    /// By id.
    pub regions: BTreeMap<RegionId, Region>,
    /// Named sets of countries.
    pub jurisdictions: BTreeMap<JurisdictionId, Jurisdiction>,
    /// By id; the silo cells of tenants that named none included.
    pub cells: BTreeMap<CellId, Cell>,
    /// By id.
    pub tenants: BTreeMap<TenantId, Tenant>,
    /// Whose approval changes wait for. None: nothing is said about it.
    pub approvals: Option<Approvals>,
}

/// The key `regions/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its name.
    pub id: RegionId,
    /// Where it is. Never guessed from the name.
    pub country: Country,
    /// Addresses of its gates (or, without gates, of whatever answers there).
    pub ingress: Vec<SocketAddr>,
    /// Where its edges take TLS: edges elsewhere pass on to them what they may not decrypt themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<SocketAddr>,
}

/// A named set of countries that a residency policy may allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jurisdiction {
    /// Its name.
    pub id: JurisdictionId,
    /// The countries in it.
    pub countries: BTreeSet<Country>,
}

/// The key `cells/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Its name.
    pub id: CellId,
    /// Where it lives on an ordinary day.
    pub primary: RegionId,
    /// Where it goes in a disaster and in drills.
    pub dr: RegionId,
    /// Most data, as time in milliseconds, that may be lost: a planned move is refused while the standby is further
    /// behind.
    pub rpo_ms: u64,
    /// The owner's choice for when the region that serves it can prove nothing: go on (and be moved by force only once its
    /// database has said itself that it has stopped) instead of stopping. What is in force stands in the placement.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub availability_first: bool,
    /// Instead of the region's addresses, for this cell.
    pub ingress: BTreeMap<RegionId, Vec<SocketAddr>>,
    /// Where the gate of a region finds this cell's application.
    pub application: BTreeMap<RegionId, Vec<SocketAddr>>,
    /// Where the gate of a region finds what takes this cell's HL7 messages over MLLP.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mllp: BTreeMap<RegionId, Vec<SocketAddr>>,
    /// The database pair, if the control plane is to move it.
    pub database: Option<Database>,
}

impl Cell {
    /// RPO where none is given: one hour, as in the usual contract.
    pub const DEFAULT_RPO_MS: u64 = 3_600_000;

    /// The other one of primary and DR; none if `region` is neither.
    #[must_use]
    pub fn other(&self, region: &RegionId) -> Option<&RegionId> {
        if *region == self.primary {
            Some(&self.dr)
        } else if *region == self.dr {
            Some(&self.primary)
        } else {
            None
        }
    }
}

/// A cell's database pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// The database's name.
    pub name: String,
    /// The role that the control plane looks with. It needs `pg_monitor` and the right to write the heartbeat table.
    pub user: String,
    /// Its password.
    pub password: SecretRef,
    /// One for the primary and one for the DR region.
    pub endpoints: BTreeMap<RegionId, DatabaseEndpoint>,
}

/// One of the two servers of a cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseEndpoint {
    /// PostgreSQL.
    pub address: SocketAddr,
    /// The agent beside it.
    pub agent: SocketAddr,
}

/// The key `tenants/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// What people call it.
    pub name: String,
    /// The cell that it lives in.
    pub cell: CellId,
    /// The names that lead to it. Each is also a claim, `hosts/<pattern>`.
    pub hosts: BTreeSet<HostPattern>,
    /// Where its data may be.
    pub residency: Residency,
}

/// The key `hosts/<pattern>`: creation fails if it exists, so two tenants can't hold one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostClaim {
    /// Who holds the name.
    pub tenant: TenantId,
}
