//! The fault proxies of the fleet, one per link.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use domicile_chaos_kit::link::{Control, Faults, Lane, Link};
use domicile_chaos_kit::{ports, proc};

use crate::control::{LinkAct, LinkOrder, RegionAct};
use crate::fleet::files::{Layout, write_links};
use crate::fleet::plan::{Kind, Plan, Unit};

/// All links.
#[derive(Debug)]
pub(crate) struct Links {
    live: Vec<Live>,
    /// What each dialling unit dials instead of an address.
    maps: BTreeMap<String, BTreeMap<SocketAddr, SocketAddr>>,
    peers: BTreeMap<String, SocketAddr>,
    /// The processes of etcd's members, to tell them apart at the peer ports: `(unit, pid)`.
    members: Arc<Mutex<Vec<(String, u32)>>>,
    /// Kept open as long as this lives.
    _proxies: Vec<Link>,
}

#[derive(Debug)]
struct Live {
    from: Unit,
    to: Unit,
    control: Control,
}

impl Links {
    /// Opens every proxy and writes every unit's address map.
    pub(crate) async fn start(plan: &Plan, layout: &Layout) -> anyhow::Result<Self> {
        let (mut live, mut proxies) = (Vec::new(), Vec::new());
        let mut maps: BTreeMap<String, BTreeMap<SocketAddr, SocketAddr>> =
            plan.units.iter().map(|u| (u.name.clone(), BTreeMap::new())).collect();
        for link in plan.links() {
            let unit = |name: &str| plan.unit(name).cloned().context("a link joins units of the plan");
            let proxy = Link::start(link.target).await?;
            live.push(Live {
                from: unit(&link.from)?,
                to: unit(&link.to)?,
                control: proxy.control().clone(),
            });
            maps.entry(link.from).or_default().insert(link.target, proxy.addr());
            proxies.push(proxy);
        }
        for (unit, map) in &maps {
            write_links(layout, unit, map)?;
        }
        let members = Arc::new(Mutex::new(Vec::new()));
        let mut peers = BTreeMap::new();
        for to in plan.all(Kind::Etcd) {
            let mut switches = BTreeMap::new();
            for from in plan.all(Kind::Etcd).filter(|from| from.name != to.name) {
                let control = Control::new();
                switches.insert(from.name.clone(), control.clone());
                live.push(Live { from: from.clone(), to: to.clone(), control });
            }
            let proxy = peer_proxy(to, switches, Arc::clone(&members)).await?;
            peers.insert(to.name.clone(), proxy.addr());
            proxies.push(proxy);
        }
        Ok(Self { live, maps, peers, members, _proxies: proxies })
    }

    /// The proxies in front of etcd's peer ports, by unit.
    pub(crate) fn etcd_peers(&self) -> BTreeMap<String, SocketAddr> {
        self.peers.clone()
    }

    /// What `unit` dials to reach `address`.
    pub(crate) fn dial(&self, unit: &str, address: SocketAddr) -> SocketAddr {
        self.maps.get(unit).and_then(|map| map.get(&address)).copied().unwrap_or(address)
    }

    /// Notes the process of a member of etcd.
    pub(crate) fn note_member(&self, unit: &str, pid: u32) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|(name, _)| name != unit);
        members.push((unit.to_owned(), pid));
    }

    /// Carries out an order; gives how many links it touched.
    pub(crate) fn order(&self, order: &LinkOrder) -> anyhow::Result<usize> {
        let mut touched = 0;
        for link in &self.live {
            let along = link.is_from(&order.from) && link.to.is(&order.to);
            let against = link.is_from(&order.to) && link.to.is(&order.from);
            if !along && !against {
                continue;
            }
            touched += 1;
            let mut faults = link.control.faults();
            change(&mut faults, order.act, order.one_way.then_some(along));
            link.control.set(faults);
        }
        if touched == 0 {
            bail!(
                "no link between `{}` and `{}`: name a unit, a region or a kind on each side (`domicile-chaos status` lists them)",
                order.from,
                order.to
            );
        }
        Ok(touched)
    }

    /// Cuts or heals everything that crosses a region's border; gives how many links.
    pub(crate) fn region(&self, act: RegionAct, region: &str) -> usize {
        let crossing = self.live.iter().filter(|l| (l.from.region == region) != (l.to.region == region));
        crossing
            .map(|link| match act {
                RegionAct::Cut | RegionAct::Kill => link.control.cut(),
                RegionAct::Heal | RegionAct::Start => link.control.heal(),
            })
            .count()
    }

    /// The links that are not healthy.
    pub(crate) fn faults(&self) -> Vec<(String, String, Faults)> {
        let all = self.live.iter().map(|l| (l.from.name.clone(), l.to.name.clone(), l.control.faults()));
        all.filter(|(_, _, faults)| *faults != Faults::HEALED).collect()
    }
}

impl Live {
    /// Whether `word` names the dialling side. What an agent dials of a database, its own database dials: replication.
    fn is_from(&self, word: &str) -> bool {
        let replication = self.from.kind == Kind::Agent && self.to.kind == Kind::Database;
        self.from.is(word)
            || (replication
                && (word == Kind::Database.word() || self.from.database().as_deref() == Some(word)))
    }
}

/// Changes the faults of one link. `one_way`: none for both ways, else whether the order runs along the dialling
/// direction.
fn change(faults: &mut Faults, act: LinkAct, one_way: Option<bool>) {
    let lane = match act {
        LinkAct::Cut => Lane { vanish: true, ..Lane::FINE },
        LinkAct::Delay { ms } => Lane { delay_ms: ms, ..Lane::FINE },
        LinkAct::Stall => Lane { stall: true, ..Lane::FINE },
        LinkAct::Limit { bytes_per_s } => Lane { bytes_per_s: Some(bytes_per_s), ..Lane::FINE },
        LinkAct::Heal => Lane::FINE,
    };
    match one_way {
        None => {
            *faults =
                if act == LinkAct::Cut { Faults { cut: true, ..Faults::HEALED } } else { Faults::both(lane) }
        }
        Some(true) => faults.forward = lane,
        Some(false) => faults.backward = lane,
    }
}

/// A proxy that all members dial, with a switch for each of them.
async fn peer_proxy(
    to: &Unit,
    switches: BTreeMap<String, Control>,
    members: Arc<Mutex<Vec<(String, u32)>>>,
) -> anyhow::Result<Link> {
    let at = ports::free_address()?;
    let stranger = Control::new();
    // /proc is not read in one moment: a connection whose owner is not found could pass a cut. Its owner dials again.
    stranger.cut();
    let classify = Arc::new(move |client: SocketAddr| {
        let members = members.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pids: Vec<u32> = members.iter().map(|(_, pid)| *pid).collect();
        let owner = (0..3).find_map(|_| proc::owner_of(client, at, &pids));
        let name = members.iter().find(|(_, pid)| Some(*pid) == owner).map(|(name, _)| name);
        name.and_then(|name| switches.get(name)).unwrap_or(&stranger).clone()
    });
    let peer = to.address("peer").context("an etcd member has a peer address")?;
    Link::start_at(at, peer, Control::new(), classify).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::example;

    async fn links() -> (Links, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { dir: dir.path().into(), home: dir.path().into(), data: dir.path().into() };
        std::fs::create_dir(dir.path().join("links")).unwrap();
        let plan = Plan::new(example::fleet().unwrap(), ports::free_address).unwrap();
        (Links::start(&plan, &layout).await.unwrap(), dir)
    }

    fn order(act: LinkAct, from: &str, to: &str, one_way: bool) -> LinkOrder {
        LinkOrder { act, from: from.into(), to: to.into(), one_way }
    }

    #[tokio::test]
    async fn replication_is_a_link_between_databases_whichever_way_it_is_named() {
        const A: &str = "database-mercy-health-us-east-1";
        const B: &str = "database-mercy-health-us-west-2";
        let (links, _dir) = links().await;
        let slow = LinkAct::Limit { bytes_per_s: 1 };
        // Each may follow the other, so there are two.
        assert_eq!(links.order(&order(slow, A, B, true)).unwrap(), 2);
        let faults = links.faults();
        let lane = Lane { bytes_per_s: Some(1), ..Lane::FINE };
        let of = |from: &str| faults.iter().find(|(f, ..)| f == from).map(|(_, _, faults)| *faults).unwrap();
        assert_eq!(
            of("agent-mercy-health-us-west-2"),
            Faults { backward: lane, ..Faults::HEALED },
            "what the primary sends"
        );
        assert_eq!(of("agent-mercy-health-us-east-1"), Faults { forward: lane, ..Faults::HEALED });
        assert_eq!(faults.len(), 2, "another cell's between the same regions is left alone: {faults:?}");
        links.order(&order(LinkAct::Heal, "us-east-1", "us-west-2", false)).unwrap();
        assert!(links.faults().is_empty());
    }

    #[tokio::test]
    async fn a_region_that_is_cut_off_reaches_no_other_and_its_neighbours_are_whole() {
        let (links, _dir) = links().await;
        assert!(links.region(RegionAct::Cut, "eu-west-1") > 10);
        for (from, to, faults) in links.faults() {
            assert!(faults.cut && (from.ends_with("eu-west-1") != to.ends_with("eu-west-1")), "{from} {to}");
        }
        links.region(RegionAct::Heal, "eu-west-1");
        assert!(links.faults().is_empty());
    }

    #[tokio::test]
    async fn an_order_that_matches_nothing_says_so() {
        let (links, _dir) = links().await;
        let error = links.order(&order(LinkAct::Cut, "mars", "us-east-1", false)).unwrap_err().to_string();
        assert!(error.contains("mars") && error.contains("domicile-chaos status"));
    }
}
