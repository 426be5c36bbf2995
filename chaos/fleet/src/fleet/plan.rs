//! The plan: which processes stand where, and who dials whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The regions of the example, with their countries.
pub const REGIONS: [(&str, &str); 6] = [
    ("us-east-1", "US"),
    ("us-west-2", "US"),
    ("eu-west-1", "IE"),
    ("eu-central-1", "DE"),
    ("ap-south-1", "IN"),
    ("ap-southeast-1", "SG"),
];

/// A majority of the registry survives any one of these.
const ETCD_REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "ap-south-1"];
/// Where users come in. One of them dies with the region that the demo kills.
const EDGE_REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];
/// The first one comes up first and so leads.
const CONTROL_REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

/// A cell of the fleet.
#[derive(Debug, Clone, Copy)]
pub struct CellPlan {
    /// Its id.
    pub id: &'static str,
    /// Where it lives.
    pub primary: &'static str,
    /// Where it goes.
    pub dr: &'static str,
    /// Jurisdictions that its tenants allow.
    pub residency: &'static [&'static str],
    /// Its tenants.
    pub tenants: &'static [&'static str],
    /// Whether a database pair with agents stands behind it. Otherwise one plain PostgreSQL, in the primary region:
    /// such a cell is traffic, and does not move.
    pub moves: bool,
}

/// The cells.
pub const CELLS: [CellPlan; 3] = [
    CellPlan {
        id: "mercy-health",
        primary: "us-east-1",
        dr: "us-west-2",
        residency: &["US"],
        tenants: &["mercy-health"],
        moves: true,
    },
    CellPlan {
        id: "nhs-trust-london",
        primary: "eu-west-1",
        dr: "eu-central-1",
        residency: &["EU"],
        tenants: &["nhs-trust-london"],
        moves: true,
    },
    CellPlan {
        id: "clinics-asia",
        primary: "ap-south-1",
        dr: "ap-southeast-1",
        residency: &["IN", "SG"],
        tenants: &[
            "apollo-hospitals",
            "clinic-pune",
            "clinic-kochi",
            "clinic-surat",
            "clinic-nagpur",
            "clinic-indore",
        ],
        moves: false,
    },
];

/// What a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A member of the registry.
    Etcd,
    /// `domicile serve`.
    Control,
    /// `domicile agent`, and the PostgreSQL that it runs.
    Agent,
    /// A PostgreSQL. Where an agent runs it, a name for its processes; elsewhere a process of its own.
    Database,
    /// The clinic application.
    App,
    /// A gate.
    Gate,
    /// An edge.
    Edge,
}

impl Kind {
    /// The word that stands in names and on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Control => "control",
            Self::Agent => "agent",
            Self::Database => "database",
            Self::App => "app",
            Self::Gate => "gate",
            Self::Edge => "edge",
        }
    }
}

/// A thing that runs, and can be paused, killed and cut off by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `<kind>-<region>`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Where it stands.
    pub region: String,
    /// The cell that it serves, where it serves one.
    pub cell: Option<String>,
    /// Its addresses by purpose: `listen` always; `admin` and `peer` where it has them.
    pub addresses: BTreeMap<String, SocketAddr>,
    /// The unit that starts and stops it, if it is no process of the supervisor's.
    pub run_by: Option<String>,
}

impl Unit {
    /// Where it takes requests.
    ///
    /// # Panics
    /// Never: the plan gives every unit this address.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.addresses["listen"]
    }

    /// Another address of it.
    #[must_use]
    pub fn address(&self, purpose: &str) -> Option<SocketAddr> {
        self.addresses.get(purpose).copied()
    }

    /// Whether `word` names it: by name, region or kind.
    #[must_use]
    pub fn is(&self, word: &str) -> bool {
        self.name == word || self.region == word || self.kind.word() == word
    }
}

/// A link: who dials which address of whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkPlan {
    /// The dialling unit.
    pub from: String,
    /// The dialled unit.
    pub to: String,
    /// Which of its addresses.
    pub purpose: String,
    /// That address, as the registry and everybody else knows it.
    pub target: SocketAddr,
}

/// The fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Everything that runs, in the order of its start.
    pub units: Vec<Unit>,
}

impl Plan {
    /// Plans the fleet; `port` gives a free address each time.
    ///
    /// # Errors
    /// When `port` fails.
    pub fn new<E>(mut port: impl FnMut() -> Result<SocketAddr, E>) -> Result<Self, E> {
        let mut units = Vec::new();
        let mut add = |kind: Kind, region: &str, cell: Option<&str>, run_by: Option<String>| {
            let purposes: &[&str] = match kind {
                Kind::Etcd => &["listen", "peer"],
                Kind::Gate | Kind::Edge => &["listen", "admin", "peer"],
                _ => &["listen"],
            };
            let mut addresses = BTreeMap::new();
            for purpose in purposes {
                addresses.insert((*purpose).to_owned(), port()?);
            }
            let name = format!("{}-{region}", kind.word());
            let cell = cell.map(str::to_owned);
            units.push(Unit { name, kind, region: region.to_owned(), cell, addresses, run_by });
            Ok(())
        };
        for region in ETCD_REGIONS {
            add(Kind::Etcd, region, None, None)?;
        }
        for cell in CELLS {
            for region in [cell.primary, cell.dr] {
                if cell.moves {
                    let agent = format!("{}-{region}", Kind::Agent.word());
                    add(Kind::Agent, region, Some(cell.id), None)?;
                    add(Kind::Database, region, Some(cell.id), Some(agent))?;
                } else if region == cell.primary {
                    add(Kind::Database, region, Some(cell.id), None)?;
                }
            }
        }
        for region in CONTROL_REGIONS {
            add(Kind::Control, region, None, None)?;
        }
        for cell in CELLS {
            for region in [cell.primary, cell.dr] {
                if cell.moves || region == cell.primary {
                    add(Kind::App, region, Some(cell.id), None)?;
                }
            }
        }
        for (region, _) in REGIONS {
            add(Kind::Gate, region, None, None)?;
        }
        for region in EDGE_REGIONS {
            add(Kind::Edge, region, None, None)?;
        }
        Ok(Self { units })
    }

    /// A unit by name.
    #[must_use]
    pub fn unit(&self, name: &str) -> Option<&Unit> {
        self.units.iter().find(|u| u.name == name)
    }

    /// All units of a kind.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(move |u| u.kind == kind)
    }

    /// The unit of a kind in a region.
    #[must_use]
    pub fn at(&self, kind: Kind, region: &str) -> Option<&Unit> {
        self.all(kind).find(|u| u.region == region)
    }

    /// Every link that gets a proxy. Neighbours within a region talk directly; the registry is behind a proxy for
    /// everyone. Links between the registry's members are not here: they share one address and are told apart by
    /// their process.
    #[must_use]
    pub fn links(&self) -> Vec<LinkPlan> {
        let mut links = Vec::new();
        for from in &self.units {
            for to in &self.units {
                let purposes: &[&str] = match (from.kind, to.kind) {
                    (Kind::Edge | Kind::Gate | Kind::Control | Kind::Agent, Kind::Etcd) => &["listen"],
                    _ if from.region == to.region => &[],
                    (Kind::Edge, Kind::Gate) => &["listen", "peer"],
                    (Kind::Gate, Kind::Gate | Kind::Edge) => &["listen", "peer"],
                    (Kind::Edge, Kind::Edge) => &["peer"],
                    (Kind::Control, Kind::Agent | Kind::Database | Kind::Control) => &["listen"],
                    (Kind::Agent, Kind::Agent | Kind::Database) if from.cell == to.cell => &["listen"],
                    _ => &[],
                };
                for purpose in purposes {
                    links.push(LinkPlan {
                        from: from.name.clone(),
                        to: to.name.clone(),
                        purpose: (*purpose).to_owned(),
                        target: to.addresses[*purpose],
                    });
                }
            }
        }
        links
    }
}

/// The name that users of a tenant type.
#[must_use]
pub fn host_of(tenant: &str) -> String {
    format!("{tenant}.example.com")
}

/// All tenants with their cells.
pub fn tenants() -> impl Iterator<Item = (&'static str, &'static str)> {
    CELLS.iter().flat_map(|cell| cell.tenants.iter().map(|tenant| (*tenant, cell.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let mut next = 20_000;
        Plan::new(|| {
            next += 1;
            Ok::<_, ()>(SocketAddr::from(([127, 0, 0, 1], next)))
        })
        .unwrap()
    }

    #[test]
    fn names_are_unique_and_there_is_enough_to_tell_the_story() {
        let plan = plan();
        let names: std::collections::BTreeSet<_> = plan.units.iter().map(|u| &u.name).collect();
        assert_eq!(names.len(), plan.units.len());
        assert!(tenants().count() >= 8 && CELLS.len() >= 3);
        assert_eq!(plan.all(Kind::Edge).count(), 2);
        assert_eq!(plan.all(Kind::Control).count(), 2);
        assert_eq!(plan.all(Kind::Etcd).count(), 3);
    }

    #[test]
    fn everything_between_regions_goes_through_a_link() {
        let links = plan().links();
        let has = |from: &str, to: &str| links.iter().any(|l| l.from == from && l.to == to);
        assert!(has("edge-eu-west-1", "gate-us-east-1"));
        assert!(has("gate-us-east-1", "gate-us-west-2"));
        assert!(has("agent-us-west-2", "database-us-east-1"), "replication");
        assert!(has("control-eu-west-1", "agent-us-east-1"));
        assert!(has("gate-us-east-1", "etcd-us-east-1"), "the registry, even next door");
        assert!(!has("agent-us-east-1", "database-eu-west-1"));
    }
}
