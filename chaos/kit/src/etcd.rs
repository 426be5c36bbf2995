//! A cluster of real etcd servers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::link::{Control, Link};
use crate::process::{Process, Spec};
use crate::{install, ports, proc, wait};

/// How long a cluster may take to come up on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Quick enough that a test need not wait for an election, slow enough for a machine that compiles meanwhile.
const HEARTBEAT_MS: u32 = 100;
const ELECTION_MS: u32 = 1_000;

/// A cluster. Dropping it kills the members and removes their data.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Member>,
    dir: TempDir,
    token: String,
    quota: Option<u64>,
}

/// One server.
#[derive(Debug)]
pub struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    data: PathBuf,
    process: Option<Process>,
    /// In front of the client port.
    client_link: Option<Link>,
    /// In front of the peer port, with one switch for each member that dials it.
    peer_link: Option<PeerLink>,
}

#[derive(Debug)]
struct PeerLink {
    link: Link,
    from: Vec<Control>,
    pids: Arc<std::sync::Mutex<Vec<u32>>>,
}

impl EtcdCluster {
    /// `n` members that talk to each other directly.
    ///
    /// # Errors
    /// When etcd is not installed or does not come up, with the end of its log.
    pub async fn start(n: usize) -> anyhow::Result<Self> {
        Self::build(n, false, None).await
    }

    /// `n` members with a fault link in front of every client and peer port: see [`Member::client_link`] and
    /// [`EtcdCluster::cut_member`].
    ///
    /// # Errors
    /// As [`EtcdCluster::start`].
    pub async fn start_linked(n: usize) -> anyhow::Result<Self> {
        Self::build(n, true, None).await
    }

    /// `n` members whose databases may have so many bytes.
    ///
    /// # Errors
    /// As [`EtcdCluster::start`].
    pub async fn start_with_quota(n: usize, bytes: u64) -> anyhow::Result<Self> {
        Self::build(n, false, Some(bytes)).await
    }

    async fn build(n: usize, linked: bool, quota: Option<u64>) -> anyhow::Result<Self> {
        let dir = install::scratch_dir("domicile-etcd-")?;
        let token = format!("test-{}-{}", std::process::id(), ports::free()?);
        let mut members = Vec::with_capacity(n);
        for i in 0..n {
            let name = format!("etcd-{i}");
            let (client, peer) = (ports::free_address()?, ports::free_address()?);
            let client_link = if linked { Some(Link::start(client).await?) } else { None };
            let peer_link = if linked { Some(PeerLink::start(peer, n).await?) } else { None };
            let data = dir.path().join(&name);
            members.push(Member { name, client, peer, data, process: None, client_link, peer_link });
        }
        let mut cluster = Self { members, dir, token, quota };
        for i in 0..n {
            cluster.launch(i, "new")?;
        }
        cluster.until_healthy().await?;
        Ok(cluster)
    }

    /// The addresses for clients: those of the links where there are some.
    #[must_use]
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// The same as the routers' and the control plane's `--registry` takes it: `etcd://a,b,c`.
    #[must_use]
    pub fn url(&self) -> String {
        let all: Vec<String> = self.endpoints().iter().map(ToString::to_string).collect();
        format!("etcd://{}", all.join(","))
    }

    /// The members.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// SIGKILLs a member.
    pub fn kill(&mut self, i: usize) {
        self.members[i].process = None;
    }

    /// Stops a member in order (SIGTERM), and kills it if that takes too long.
    ///
    /// # Errors
    /// When it had to be killed.
    pub async fn stop(&mut self, i: usize) -> anyhow::Result<()> {
        if let Some(process) = self.members[i].process.take() {
            process.terminate();
            process.wait(Duration::from_secs(20)).await?;
        }
        Ok(())
    }

    /// SIGSTOPs a member.
    pub fn pause(&self, i: usize) {
        if let Some(process) = &self.members[i].process {
            process.pause();
        }
    }

    /// Lets a paused member go on.
    pub fn resume(&self, i: usize) {
        if let Some(process) = &self.members[i].process {
            process.resume();
        }
    }

    /// Starts a stopped member again, with the data that it had. Does not wait until it is healthy.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn restart(&mut self, i: usize) -> anyhow::Result<()> {
        self.members[i].process = None;
        self.launch(i, "existing")
    }

    /// Ends a member and throws its data away.
    ///
    /// # Errors
    /// When the directory can't be removed.
    pub fn wipe(&mut self, i: usize) -> anyhow::Result<()> {
        self.kill(i);
        std::fs::remove_dir_all(&self.members[i].data).context("can't remove the data of an etcd member")
    }

    /// Every disk of the cluster is lost: an empty cluster begins at the same addresses. Does not wait until it is healthy.
    ///
    /// # Errors
    /// When data can't be removed or a member can't be started.
    pub fn lose_everything(&mut self) -> anyhow::Result<()> {
        for i in 0..self.members.len() {
            self.wipe(i)?;
        }
        (0..self.members.len()).try_for_each(|i| self.launch(i, "new"))
    }

    /// Cuts a member off from the other members, both ways; clients still reach it. Needs links.
    pub fn cut_member(&self, i: usize) {
        self.each_peer_switch(i, Control::cut);
    }

    /// Undoes [`EtcdCluster::cut_member`].
    pub fn heal_member(&self, i: usize) {
        self.each_peer_switch(i, Control::heal);
    }

    fn each_peer_switch(&self, i: usize, act: impl Fn(&Control)) {
        for (j, member) in self.members.iter().enumerate() {
            let Some(peer) = &member.peer_link else { continue };
            if i == j {
                peer.from.iter().for_each(&act);
            } else if let Some(control) = peer.from.get(i) {
                act(control);
            }
        }
    }

    /// Waits until every member that runs answers `GET /health` with `true`: it has a leader and can commit.
    ///
    /// # Errors
    /// When that takes too long, with the logs.
    pub async fn until_healthy(&self) -> anyhow::Result<()> {
        for member in &self.members {
            if let Some(process) = &member.process {
                let at = member.client;
                process.until(START, "the member is healthy", || async move { is_healthy(at).await }).await?;
            }
        }
        Ok(())
    }

    /// The member that leads.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let find = || async {
            for (i, member) in self.members.iter().enumerate() {
                let leads = http_get(member.client, "/metrics")
                    .await
                    .is_ok_and(|text| text.lines().any(|line| line == "etcd_server_is_leader 1"));
                if member.process.is_some() && leads {
                    return Some(i);
                }
            }
            None
        };
        wait::eventually(START, "an etcd member leads", find).await.map_err(|e| anyhow!(e))
    }

    fn launch(&mut self, i: usize, state: &str) -> anyhow::Result<()> {
        let initial: Vec<String> =
            self.members.iter().map(|m| format!("{}=http://{}", m.name, m.advertised_peer())).collect();
        let member = &self.members[i];
        let spec = MemberSpec {
            name: member.name.clone(),
            data: member.data.clone(),
            client: member.client,
            advertised_client: member.endpoint(),
            peer: member.peer,
            advertised_peer: member.advertised_peer(),
            initial_cluster: initial.join(","),
            state: state.to_owned(),
            token: self.token.clone(),
            quota: self.quota,
        };
        let process = Process::start(spec.spec(self.dir.path())?)?;
        self.members[i].process = Some(process);
        let pids: Vec<u32> =
            self.members.iter().map(|m| m.process.as_ref().map_or(0, Process::pid)).collect();
        for member in &self.members {
            if let Some(peer) = &member.peer_link {
                peer.pids.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone_from(&pids);
            }
        }
        Ok(())
    }
}

impl Member {
    /// Where clients connect: the link if there is one.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddr {
        self.client_link.as_ref().map_or(self.client, Link::addr)
    }

    /// The client port itself, around any link.
    #[must_use]
    pub const fn direct(&self) -> SocketAddr {
        self.client
    }

    /// The switch of the link in front of the client port, in a linked cluster.
    #[must_use]
    pub const fn client_link(&self) -> Option<&Link> {
        self.client_link.as_ref()
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_alive)
    }

    fn advertised_peer(&self) -> SocketAddr {
        self.peer_link.as_ref().map_or(self.peer, |p| p.link.addr())
    }
}

impl PeerLink {
    async fn start(peer: SocketAddr, n: usize) -> anyhow::Result<Self> {
        let from: Vec<Control> = (0..n).map(|_| Control::new()).collect();
        let at = ports::free_address()?;
        let pids = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (switches, known) = (from.clone(), Arc::clone(&pids));
        // Who can't be told at the third look is refused and dials again: /proc is not read in one moment, and a single connection of a
        // member that is cut off would carry its higher term to the others and cost them their leader.
        let stranger = Control::new();
        stranger.cut();
        let classify = Arc::new(move |client: SocketAddr| {
            let pids = known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            let owner = (0..3).find_map(|_| proc::owner_of(client, at, &pids));
            let index = owner.and_then(|pid| pids.iter().position(|p| *p == pid));
            index.and_then(|i| switches.get(i)).unwrap_or(&stranger).clone()
        });
        let link = Link::start_at(at, peer, Control::new(), classify).await?;
        Ok(Self { link, from, pids })
    }
}

/// How one member is started.
#[derive(Debug, Clone)]
pub struct MemberSpec {
    /// Its name in the cluster, and of its log.
    pub name: String,
    /// Its data directory.
    pub data: PathBuf,
    /// Where it listens for clients.
    pub client: SocketAddr,
    /// Where it says that it listens for clients.
    pub advertised_client: SocketAddr,
    /// Where it listens for members.
    pub peer: SocketAddr,
    /// Where it says that it listens for members.
    pub advertised_peer: SocketAddr,
    /// All members: `name=http://peer,…`.
    pub initial_cluster: String,
    /// `new` or `existing`.
    pub state: String,
    /// Keeps clusters of one machine apart.
    pub token: String,
    /// Bytes that its database may have; none: as many as etcd itself thinks fit.
    pub quota: Option<u64>,
}

impl MemberSpec {
    /// The process to start, with its log in `log_dir`.
    ///
    /// # Errors
    /// When etcd is not installed.
    pub fn spec(&self, log_dir: &std::path::Path) -> anyhow::Result<Spec> {
        let flags = [
            ("--name", self.name.clone()),
            ("--data-dir", self.data.display().to_string()),
            ("--listen-client-urls", format!("http://{}", self.client)),
            ("--advertise-client-urls", format!("http://{}", self.advertised_client)),
            ("--listen-peer-urls", format!("http://{}", self.peer)),
            ("--initial-advertise-peer-urls", format!("http://{}", self.advertised_peer)),
            ("--initial-cluster", self.initial_cluster.clone()),
            ("--initial-cluster-state", self.state.clone()),
            ("--initial-cluster-token", self.token.clone()),
            ("--heartbeat-interval", HEARTBEAT_MS.to_string()),
            ("--election-timeout", ELECTION_MS.to_string()),
            // As README asks for: nothing else forgets the history while no control plane leads.
            ("--auto-compaction-mode", "periodic".to_owned()),
            ("--auto-compaction-retention", "5m".to_owned()),
            ("--logger", "zap".to_owned()),
            ("--log-level", "warn".to_owned()),
        ];
        let mut spec = Spec::new(&self.name, install::program("etcd")?, log_dir);
        for (flag, value) in flags {
            spec = spec.arg(flag).arg(value);
        }
        if let Some(bytes) = self.quota {
            spec = spec.arg("--quota-backend-bytes").arg(bytes.to_string());
        }
        // A member that was cut off asks whether it would be elected before it raises the term: without this, which
        // 3.4 leaves off, its return costs the others their leader. A bare flag: 3.4 takes no separate value.
        Ok(spec.arg("--pre-vote"))
    }
}

/// Whether a member says that it is healthy.
pub async fn is_healthy(client: SocketAddr) -> bool {
    http_get(client, "/health").await.is_ok_and(|body| body.contains("\"true\""))
}

/// A GET without a library: the kit stays small, since everybody's tests build it.
async fn http_get(at: SocketAddr, path: &str) -> std::io::Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(at).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(4 << 20).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(Duration::from_secs(2), ask).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a key through one member; false if it can't.
    async fn put(at: SocketAddr, value: &str) -> bool {
        let etcdctl = install::program("etcdctl").unwrap();
        let endpoint = format!("--endpoints=http://{at}");
        let args = [endpoint.as_str(), "--command-timeout=2s", "put", "key", value];
        tokio::process::Command::new(etcdctl)
            .env("ETCDCTL_API", "3")
            .args(args)
            .output()
            .await
            .unwrap()
            .status
            .success()
    }

    #[tokio::test]
    async fn a_cluster_survives_the_death_of_its_leader_and_the_member_rejoins() {
        let mut cluster = EtcdCluster::start(3).await.unwrap();
        let leader = cluster.leader().await.unwrap();
        cluster.kill(leader);
        let other = cluster.endpoints()[(leader + 1) % 3];
        wait::eventually(START, "the rest commits", || put(other, "after")).await.unwrap();
        cluster.restart(leader).unwrap();
        cluster.until_healthy().await.unwrap();
        assert!(put(cluster.endpoints()[leader], "again").await);
    }

    #[tokio::test]
    async fn a_member_that_is_cut_off_commits_nothing_until_healed() {
        let cluster = EtcdCluster::start_linked(3).await.unwrap();
        let leader = cluster.leader().await.unwrap();
        assert!(put(cluster.endpoints()[leader], "before").await);
        cluster.cut_member(leader);
        assert!(!put(cluster.endpoints()[leader], "alone").await, "a minority must not commit");
        let other = cluster.endpoints()[(leader + 1) % 3];
        wait::eventually(START, "the rest commits", || put(other, "without it")).await.unwrap();
        cluster.heal_member(leader);
        let back = cluster.endpoints()[leader];
        wait::eventually(START, "it commits again", || put(back, "healed")).await.unwrap();
        cluster.members()[0].client_link().unwrap().cut();
        assert!(!put(cluster.endpoints()[0], "cut").await);
    }
}
