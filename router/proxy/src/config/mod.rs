//! What the router is told: arguments, and a TOML file with the same names. Arguments win.
//!
//! Nothing is bound or connected here, and all mistakes are reported at once.

pub mod cidr;
mod facts;
mod given;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use domicile_model::links::AddressMap;
use domicile_model::{RegionId, Role, RouterId, SecretRef};
use domicile_router_core::hold::Limits;
use domicile_store_etcd::EtcdConfig;

pub use given::Given;

use crate::facts::FactsConfig;
use crate::tls::TlsConfig;
use crate::tls::peers::PeerConfig;
use cidr::Cidr;

/// A registry that a router can follow.
#[derive(Debug, Clone)]
pub enum Registry {
    /// An etcd cluster.
    Etcd(EtcdConfig),
    /// `regions.toml` itself. One process decides; there are no proofs.
    File(PathBuf),
}

/// What the router is to do, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Edge or gate.
    pub role: Role,
    /// Fixed name.
    pub id: RouterId,
    /// Where it runs.
    pub region: RegionId,
    /// Where the fleet is described.
    pub registry: Registry,
    /// Traffic in the clear.
    pub listen: Option<SocketAddr>,
    /// Traffic in TLS. One of the two is there.
    pub listen_tls: Option<SocketAddr>,
    /// TLS towards clients.
    pub tls: Option<TlsConfig>,
    /// TLS between routers.
    pub peers: Option<PeerConfig>,
    /// How long the head of a request may take, from its first byte to its last.
    pub head_timeout: Duration,
    /// How long a connection may stand without a request.
    pub idle_timeout: Duration,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// State, for people and probes.
    pub admin: SocketAddr,
    /// Gates and agents.
    pub peer: Option<SocketAddr>,
    /// Addresses as seen from here.
    pub links: AddressMap,
    /// What survives a restart.
    pub state: Option<PathBuf>,
    /// Worker threads for traffic.
    pub threads: usize,
    /// The access log's file.
    pub access_log: Option<PathBuf>,
    /// Whose headers are believed.
    pub trusted: Vec<Cidr>,
    /// From where a connection begins with a PROXY header.
    pub balancers: Vec<Cidr>,
    /// Shared by routers and agents. Read once, at the start.
    pub peer_secret: Option<SecretRef>,
    /// Which control planes are told what was counted.
    pub facts: Option<FactsConfig>,
    /// Bounds of waiting requests.
    pub hold: Limits,
    /// Between two pieces of an answer.
    pub upstream_timeout: Duration,
    /// How long the last address of a region may take to accept a connection. A beginning that was lost, or that met a full
    /// queue, is sent again after one second (RFC 6298, section 2.1), and after two more if that is lost as well.
    pub connect_timeout: Duration,
    /// How long the registry may take for one call. Routers stand in every region, some of them far from a majority of
    /// it: one whose answers come seconds late still hears, proves and acknowledges in time for a hold. A question is
    /// asked of the next member long before that; a commit can't be.
    pub registry_call: Duration,
    /// Connections of clients at once.
    pub max_connections: usize,
    /// How long after a switch the streams of the region that was left may stand.
    pub linger: Duration,
    /// Between not ready and closed.
    pub drain: Duration,
    /// Where a new process asks for this one's place.
    pub upgrade_socket: Option<PathBuf>,
    /// Whether this process takes a running one's place.
    pub upgrade: bool,
    /// Breaks the router on purpose, so that tests of safety can be seen to fail. No argument leads here.
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

impl Config {
    /// Where it takes traffic, to tell others: in the clear if it does, else in TLS.
    #[must_use]
    pub fn traffic_address(&self) -> SocketAddr {
        self.listen.or(self.listen_tls).unwrap_or(self.admin)
    }
}

/// How a test breaks the router: each switch takes away one rule, and the test of that rule must see it.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sabotage {
    /// Not at all.
    #[default]
    None,
    /// A gate lets answers out without looking at its proof again.
    AnswersUnchecked,
    /// A gate sends what it admitted without looking at its proof again, however long the connection took.
    SendsUnchecked,
    /// A request that has waited as long as it may goes on to the region that is being left.
    HoldEndsByTime,
    /// Residency policies are not looked at.
    ResidencyUnchecked,
    /// A 421 is followed to any epoch, an older one too.
    FollowsDownwards,
    /// A gate lets out what the application wrote under our names, as if it had written it itself.
    ApplicationsBelieved,
    /// A gate's certificate may be that of any region.
    AnyRegionsGate,
    /// Streams that stand open are never told to go.
    SilentStreamsStay,
    /// An edge outside a tenant's policy decrypts what it has a key for.
    DecryptsOutside,
    /// What clients write under our names, or say of themselves, goes on.
    ClientsBelieved,
    /// A client may cut off as many requests of a connection as it likes.
    ResetsUncounted,
    /// A session is ended wherever its messages stand.
    CutsMessages,
    /// A process that took another one's place acknowledges for itself alone.
    ForgetsTheOneBefore,
}

impl Sabotage {
    /// All of them, so that a test can name one to a process of its own.
    pub const ALL: [Self; 14] = [
        Self::None,
        Self::AnswersUnchecked,
        Self::SendsUnchecked,
        Self::HoldEndsByTime,
        Self::ResidencyUnchecked,
        Self::FollowsDownwards,
        Self::ApplicationsBelieved,
        Self::AnyRegionsGate,
        Self::SilentStreamsStay,
        Self::DecryptsOutside,
        Self::ClientsBelieved,
        Self::ResetsUncounted,
        Self::CutsMessages,
        Self::ForgetsTheOneBefore,
    ];
}

/// Everything that is wrong with what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Mistakes(pub Vec<String>);

/// The largest file that is read as configuration, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// Reads a file that is bounded in size.
fn read(path: &std::path::Path) -> Result<String, String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(MOST_BYTES).read_to_string(&mut text))
        .map_err(|e| format!("{}: can't be read: {e}", path.display()))?;
    Ok(text)
}

/// Checks what was given.
///
/// # Errors
/// All mistakes at once.
pub fn parse(given: Given) -> Result<Config, Mistakes> {
    let mut wrong = Vec::new();
    let given = match &given.config {
        None => given,
        Some(path) => match read(path)
            .and_then(|text| toml::from_str::<Given>(&text).map_err(|e| format!("{}: {e}", path.display())))
        {
            Ok(file) => given.over(file),
            Err(why) => return Err(Mistakes(vec![why])),
        },
    };
    let mut note = |name: &str, why: String| wrong.push(format!("--{name}: {why}"));

    let role = match given.role.as_deref() {
        None | Some("edge") => Role::Edge,
        Some("gate") => Role::Gate,
        Some(_) => {
            note("role", "write `edge` or `gate`".into());
            Role::Edge
        }
    };
    let registry = match given.registry.as_deref() {
        None => Err("say where the fleet is described: `etcd://host:port` or `file:regions.toml`".to_owned()),
        Some(text) => match text.strip_prefix("file:") {
            Some("") => Err("name the file: `file:regions.toml`".to_owned()),
            Some(path) => Ok(Registry::File(PathBuf::from(path))),
            None => {
                text.parse().map(Registry::Etcd).map_err(|e: domicile_store_etcd::ConfigError| e.to_string())
            }
        },
    };
    let registry = registry.map_err(|why| note("registry", why)).ok();
    let alone = matches!(registry, Some(Registry::File(_)));

    let id = match given.id.as_deref() {
        Some(id) => RouterId::new(id).map_err(|e| note("id", e.to_string())).ok(),
        None if alone => RouterId::new("router").ok(),
        None => {
            note("id", "a router of an etcd registry needs a fixed name".into());
            None
        }
    };
    let region = match given.region.as_deref() {
        Some(region) => RegionId::new(region).map_err(|e| note("region", e.to_string())).ok(),
        None if alone && role == Role::Edge => RegionId::new("here").ok(),
        None => {
            note("region", "say in which region this router runs".into());
            None
        }
    };
    let mut address = |name: &str, text: Option<&str>, default: Option<&str>| {
        let Some(text) = text.or(default) else {
            note(name, "write an address, `ip:port`".into());
            return None;
        };
        text.parse::<SocketAddr>().map_err(|_| note(name, "write an address, `ip:port`".into())).ok()
    };
    // Not said and not needed is no mistake.
    let listen = match given.listen.as_deref() {
        None if given.listen_tls.is_some() => Some(None),
        listen => address("listen", listen, None).map(Some),
    };
    let listen_tls = given.listen_tls.as_deref().map(|t| address("listen-tls", Some(t), None));
    let admin = address("admin", given.admin.as_deref(), Some("127.0.0.1:9080"));
    let peer = given.peer.as_deref().and_then(|p| address("peer", Some(p), None));

    let links = match given.links.as_deref().map(|path| {
        read(path).and_then(|t| AddressMap::from_json(&t).map_err(|e| format!("{}: {e}", path.display())))
    }) {
        None => AddressMap::default(),
        Some(Ok(map)) => map,
        Some(Err(why)) => {
            note("links", why);
            AddressMap::default()
        }
    };
    let networks = given.trusted_networks.as_deref();
    let networks = networks.unwrap_or(if role == Role::Gate && given.peer_ca.is_none() {
        "127.0.0.0/8,::1"
    } else {
        ""
    });
    let trusted = cidr::list("trusted-networks", networks, &mut note);
    let balancers = cidr::list("proxy-networks", given.proxy_networks.as_deref().unwrap_or(""), &mut note);
    let peer_secret = match given.peer_secret.as_deref().map(SecretRef::new) {
        None => None,
        Some(Ok(secret)) => {
            if let Err(why) = secret.read() {
                note("peer-secret", why.to_string());
            }
            Some(secret)
        }
        Some(Err(why)) => {
            note("peer-secret", why.to_string());
            None
        }
    };
    if peer.is_some() && given.peer_secret.is_none() {
        note("peer-secret", "whoever answers peers needs the secret that they share".into());
    }
    let facts = facts::config(&given, &mut note);
    if given.upgrade && given.upgrade_socket.is_none() {
        note("upgrade", "say at which socket the running router is to be found: --upgrade-socket".into());
    }
    let tls = tls::clients(&given, &mut note);
    let peers = tls::peers(&given, &mut note);
    let mut bounded = |name: &str, value: Option<u64>, default: u64, least: u64, most: u64| {
        let value = value.unwrap_or(default);
        if !(least..=most).contains(&value) {
            note(name, format!("write a number from {least} to {most}"));
        }
        value.clamp(least, most)
    };
    let wide = |n: Option<usize>| n.map(|n| u64::try_from(n).unwrap_or(u64::MAX));
    let threads = bounded("threads", wide(given.threads), 2, 1, 256);
    let requests = bounded("hold-max", wide(given.hold_max), 10_000, 1, 1_000_000);
    let ramp = bounded("hold-ramp", wide(given.hold_ramp), 64, 1, 100_000);
    let upstream = bounded("upstream-timeout-ms", given.upstream_timeout_ms, 60_000, 10, 3_600_000);
    let connect = bounded("connect-timeout-ms", given.connect_timeout_ms, 3_500, 10, 60_000);
    let registry_call = bounded("registry-call-ms", given.registry_call_ms, 5_000, 100, 60_000);
    let connections = bounded("max-connections", wide(given.max_connections), 16_384, 1, 1_000_000);
    let handshake = bounded("handshake-timeout-ms", given.handshake_timeout_ms, 10_000, 10, 600_000);
    let head = bounded("head-timeout-ms", given.head_timeout_ms, 10_000, 10, 600_000);
    let idle = bounded("idle-timeout-ms", given.idle_timeout_ms, 60_000, 1_000, 3_600_000);
    let linger = bounded("linger-ms", given.linger_ms, 5_000, 0, 600_000);
    let drain = bounded("drain-ms", given.drain_ms, 500, 0, 600_000);
    let narrow = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);

    match (id, region, registry, listen, admin) {
        (Some(id), Some(region), Some(registry), Some(listen), Some(admin)) if wrong.is_empty() => {
            Ok(Config {
                role,
                id,
                region,
                registry,
                listen,
                listen_tls: listen_tls.flatten(),
                tls,
                peers,
                head_timeout: Duration::from_millis(head),
                idle_timeout: Duration::from_millis(idle),
                handshake_timeout: Duration::from_millis(handshake),
                admin,
                peer,
                links,
                state: given.state,
                threads: narrow(threads),
                access_log: given.access_log.filter(|a| a != "off").map(PathBuf::from),
                trusted,
                balancers,
                peer_secret,
                facts,
                hold: Limits { requests: narrow(requests), ramp: narrow(ramp), ..Limits::default() },
                upstream_timeout: Duration::from_millis(upstream),
                connect_timeout: Duration::from_millis(connect),
                registry_call: Duration::from_millis(registry_call),
                max_connections: narrow(connections),
                linger: Duration::from_millis(linger),
                drain: Duration::from_millis(drain),
                upgrade_socket: given.upgrade_socket,
                upgrade: given.upgrade,
                sabotage: Sabotage::None,
            })
        }
        _ => Err(Mistakes(wrong)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn given(args: &[&str]) -> Given {
        Given::try_parse_from(std::iter::once(&"domicile-router").chain(args)).unwrap()
    }

    #[test]
    fn a_file_registry_and_a_listener_are_enough() {
        let c = parse(given(&["--registry", "file:regions.toml", "--listen", "127.0.0.1:8080"])).unwrap();
        assert!(matches!(c.registry, Registry::File(_)) && c.role == Role::Edge && c.trusted.is_empty());
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let bad = given(&[
            "--role",
            "door",
            "--registry",
            "etcd://",
            "--listen",
            "here",
            "--id",
            "A B",
            "--peer",
            "127.0.0.1:1",
            "--trusted-networks",
            "10.0.0.0/99",
            "--peer-secret",
            "hunter2",
            "--threads",
            "0",
        ]);
        let Err(Mistakes(wrong)) = parse(bad) else { panic!("accepted") };
        for name in
            ["role", "registry", "listen", "id", "region", "trusted-networks", "peer-secret", "threads"]
        {
            assert!(wrong.iter().any(|w| w.starts_with(&format!("--{name}:"))), "{name} in {wrong:?}");
        }
        assert!(!wrong.join("").contains("hunter2"));
    }

    #[test]
    fn a_file_gives_the_same_and_arguments_win() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("router.toml");
        std::fs::write(&path, "registry = \"file:a\"\nlisten = \"127.0.0.1:1\"\nhold-max = 7\n").unwrap();
        let path = path.to_str().unwrap();
        let c = parse(given(&["--config", path, "--listen", "127.0.0.1:2"])).unwrap();
        assert_eq!((c.listen.unwrap().port(), c.hold.requests), (2, 7));
        std::fs::write(path, "registry = \"file:a\"\nlisen = \"x\"\n").unwrap();
        assert!(parse(given(&["--config", path])).unwrap_err().to_string().contains("lisen"));
    }
}
