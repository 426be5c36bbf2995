//! The plan: which processes stand where, and who dials whom. Regions, cells and tenants are the example's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use domicile_model::{Fleet, HostPattern, Tenant};
use serde::{Deserialize, Serialize};

/// A majority of the registry survives any one of these.
const ETCD_REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "ap-south-1"];
/// Where users come in. One of them dies with the region that the demo kills.
const EDGE_REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];
/// The first one comes up first and so leads.
const CONTROL_REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];

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
    /// `<kind>-<cell>-<region>` of what belongs to a cell, since several cells may share a region; otherwise
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

    /// The name of the database that this agent runs, or that this application or database is about: that of its cell
    /// in its region. None for what belongs to no cell.
    #[must_use]
    pub fn database(&self) -> Option<String> {
        self.cell.as_deref().map(|cell| name_of(Kind::Database, Some(cell), &self.region))
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

/// A unit's name.
fn name_of(kind: Kind, cell: Option<&str>, region: &str) -> String {
    match cell {
        Some(cell) => format!("{}-{cell}-{region}", kind.word()),
        None => format!("{}-{region}", kind.word()),
    }
}

/// The fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What its file says: regions, cells, tenants. The addresses in it are not those of this machine.
    pub fleet: Fleet,
    /// Everything that runs, in the order of its start.
    pub units: Vec<Unit>,
    /// FENCE of the fleet, if not the product's own.
    pub fence: Option<Duration>,
}

impl Plan {
    /// Plans the processes for this fleet; `port` gives a free address each time.
    ///
    /// # Errors
    /// When `port` fails.
    pub fn new<E>(fleet: Fleet, mut port: impl FnMut() -> Result<SocketAddr, E>) -> Result<Self, E> {
        let mut units = Vec::new();
        let mut add = |kind: Kind, region: &str, cell: Option<&str>| {
            let purposes: &[&str] = match kind {
                Kind::Etcd => &["listen", "peer"],
                Kind::Gate | Kind::Edge => &["listen", "admin", "peer"],
                _ => &["listen"],
            };
            let mut addresses = BTreeMap::new();
            for purpose in purposes {
                addresses.insert((*purpose).to_owned(), port()?);
            }
            units.push(Unit {
                name: name_of(kind, cell, region),
                kind,
                region: region.to_owned(),
                cell: cell.map(str::to_owned),
                addresses,
                run_by: (kind == Kind::Database).then(|| name_of(Kind::Agent, cell, region)),
            });
            Ok(())
        };
        for region in ETCD_REGIONS {
            add(Kind::Etcd, region, None)?;
        }
        for region in CONTROL_REGIONS {
            add(Kind::Control, region, None)?;
        }
        for kinds in [[Kind::Agent, Kind::Database].as_slice(), &[Kind::App]] {
            for cell in fleet.cells.values() {
                for region in [&cell.primary, &cell.dr] {
                    for kind in kinds {
                        add(*kind, region.as_str(), Some(cell.id.as_str()))?;
                    }
                }
            }
        }
        for region in fleet.regions.keys() {
            add(Kind::Gate, region.as_str(), None)?;
        }
        for region in EDGE_REGIONS {
            add(Kind::Edge, region, None)?;
        }
        Ok(Self { fleet, units, fence: None })
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

    /// The unit of a kind in a region, of those that belong to no cell.
    #[must_use]
    pub fn at(&self, kind: Kind, region: &str) -> Option<&Unit> {
        self.unit(&name_of(kind, None, region))
    }

    /// A cell's unit of a kind in a region.
    #[must_use]
    pub fn of(&self, kind: Kind, cell: &str, region: &str) -> Option<&Unit> {
        self.unit(&name_of(kind, Some(cell), region))
    }

    /// The database beside an agent or an application.
    #[must_use]
    pub fn database_of(&self, unit: &Unit) -> Option<&Unit> {
        self.unit(&unit.database()?)
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
                    (Kind::Edge | Kind::Gate, Kind::Control) => &["listen"],
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

/// A name that users of a tenant type: a whole one where it has one, otherwise one below its wildcard.
#[must_use]
pub fn host_of(tenant: &Tenant) -> Option<String> {
    tenant.hosts.iter().next().map(|pattern| match pattern {
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Wildcard(host) => format!("www.{host}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::example;

    fn plan() -> Plan {
        let mut next = 20_000;
        let port = || {
            next += 1;
            Ok::<_, ()>(SocketAddr::from(([127, 0, 0, 1], next)))
        };
        Plan::new(example::fleet().unwrap(), port).unwrap()
    }

    #[test]
    fn names_are_unique_and_there_is_enough_to_tell_the_story() {
        let plan = plan();
        let names: std::collections::BTreeSet<_> = plan.units.iter().map(|u| &u.name).collect();
        assert_eq!(names.len(), plan.units.len());
        assert!(plan.fleet.tenants.len() >= 8 && plan.fleet.cells.len() >= 3);
        assert_eq!(plan.all(Kind::Edge).count(), 2);
        assert_eq!(plan.all(Kind::Control).count(), 2);
        assert_eq!(plan.all(Kind::Etcd).count(), 3);
        for unit in &plan.units {
            let known = plan.fleet.regions.keys().any(|region| region.as_str() == unit.region);
            assert!(known, "{} stands where the example has nothing", unit.name);
        }
    }

    #[test]
    fn every_cell_has_two_of_everything_and_neighbours_share_nothing() {
        let plan = plan();
        for cell in plan.fleet.cells.values() {
            for region in [&cell.primary, &cell.dr] {
                let of = |kind| plan.of(kind, cell.id.as_str(), region.as_str()).unwrap();
                let (agent, database) = (of(Kind::Agent), of(Kind::Database));
                assert_eq!(database.run_by.as_ref(), Some(&agent.name));
                assert_eq!(plan.database_of(agent), Some(database));
                assert_eq!(plan.database_of(of(Kind::App)), Some(database));
            }
        }
        // These two cells live in each other's DR region.
        let there = |cell| plan.of(Kind::Database, cell, "us-east-1").unwrap().name.clone();
        assert_eq!(there("mercy-health"), "database-mercy-health-us-east-1");
        assert_eq!(there("clinics"), "database-clinics-us-east-1");
    }

    #[test]
    fn everything_between_regions_goes_through_a_link() {
        let links = plan().links();
        let has = |from: &str, to: &str| links.iter().any(|l| l.from == from && l.to == to);
        assert!(has("edge-eu-west-1", "gate-us-east-1"));
        assert!(has("gate-us-east-1", "gate-us-west-2"));
        assert!(has("agent-mercy-health-us-west-2", "database-mercy-health-us-east-1"), "replication");
        assert!(has("control-eu-west-1", "agent-mercy-health-us-east-1"));
        assert!(has("gate-us-east-1", "etcd-us-east-1"), "the registry, even next door");
        assert!(!has("agent-mercy-health-us-west-2", "database-clinics-us-east-1"), "another cell's");
    }

    #[test]
    fn a_tenant_is_called_by_a_whole_name_where_it_has_one() {
        let mut tenant =
            plan().fleet.tenants.into_values().find(|t| t.id.as_str() == "foothill-group").unwrap();
        assert_eq!(host_of(&tenant).unwrap(), "foothill.example.com");
        tenant.hosts.retain(|host| matches!(host, HostPattern::Wildcard(_)));
        assert_eq!(host_of(&tenant).unwrap(), "www.foothill.example.com");
    }
}
