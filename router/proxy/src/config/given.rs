//! What can be said: arguments, and the same names in a file.

use std::path::PathBuf;

use clap::Parser;
use serde::Deserialize;

/// Routes every tenant's requests to the region that serves it.
#[derive(Debug, Clone, Default, Parser, Deserialize)]
#[command(name = "domicile-router", version, about)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Given {
    /// A TOML file with the same names as these options; what is given here wins over it
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// `edge`: takes user traffic anywhere. `gate`: stands in front of the application in a region [default: edge]
    #[arg(long)]
    pub role: Option<String>,
    /// Fixed name of this router; needed with an etcd registry
    #[arg(long)]
    pub id: Option<String>,
    /// The region that it runs in; needed for a gate and with an etcd registry
    #[arg(long)]
    pub region: Option<String>,
    /// Where the fleet is described: `etcd://host:port,host:port[/prefix]` or `file:regions.toml`
    #[arg(long)]
    pub registry: Option<String>,
    /// Where it takes HTTP in the clear, `ip:port`
    #[arg(long)]
    pub listen: Option<String>,
    /// Where it takes TLS, `ip:port`; needs --tls-certs for users, --peer-cert for routers, or both
    #[arg(long)]
    pub listen_tls: Option<String>,
    /// A folder with certificates and keys, NAME.crt and NAME.key; read again when it changes and on SIGHUP
    #[arg(long, value_name = "DIR")]
    pub tls_certs: Option<PathBuf>,
    /// Certificates of the authorities that may sign clients' certificates, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Whether clients show certificates: `off`, `optional` or `required` [default: optional with --tls-client-ca]
    #[arg(long)]
    pub tls_client_auth: Option<String>,
    /// The oldest TLS that is spoken: `1.2` or `1.3` [default: 1.2]
    #[arg(long)]
    pub tls_min: Option<String>,
    /// The host that is meant by a client that names none, an old device say [default: such clients are refused]
    #[arg(long, value_name = "HOST")]
    pub tls_default_name: Option<String>,
    /// What is done with a hello that has an encrypted one in it: `outer` goes by the name that can be read, as for any
    /// other; `refuse` refuses it, and with it browsers that only pretend to have one [default: outer]
    #[arg(long)]
    pub tls_encrypted_hello: Option<String>,
    /// Certificates of the authority that signs routers' certificates and nothing else, PEM. With it routers speak TLS
    /// with each other, and `Domicile-*` is believed from no network
    #[arg(long, value_name = "FILE")]
    pub peer_ca: Option<PathBuf>,
    /// This router's certificate, for `ROLE.REGION.domicile.internal`, PEM
    #[arg(long, value_name = "FILE")]
    pub peer_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    pub peer_key: Option<PathBuf>,
    /// Milliseconds that a handshake may take [default: 10000]
    #[arg(long)]
    pub handshake_timeout_ms: Option<u64>,
    /// Where it shows its state: /livez, /readyz, /metrics, /routes, /table, /inflight
    #[arg(long)]
    pub admin: Option<String>,
    /// Where it answers other gates and agents about proofs; needed to be a witness
    #[arg(long)]
    pub peer: Option<String>,
    /// A JSON object from addresses in the registry to the addresses to dial from here
    #[arg(long, value_name = "FILE")]
    pub links: Option<PathBuf>,
    /// A folder for what must survive a restart: the last good table and the witness's memory
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Worker threads for traffic [default: 2]
    #[arg(long)]
    pub threads: Option<usize>,
    /// A JSON line per request goes here; `off` for none [default: off]
    #[arg(long, value_name = "FILE|off")]
    pub access_log: Option<String>,
    /// Networks whose `Domicile-*` headers are believed in the clear, separated by commas [default: none; for a gate
    /// without --peer-ca loopback]
    #[arg(long, value_name = "CIDR,…")]
    pub trusted_networks: Option<String>,
    /// Networks of load balancers: every connection from there must begin with a PROXY header (version 1 or 2), and is
    /// that of whom it names, separated by commas [default: none]
    #[arg(long, value_name = "CIDR,…")]
    pub proxy_networks: Option<String>,
    /// The secret shared by routers and agents: `file:/path` or `env:NAME`
    #[arg(long, value_name = "REF")]
    pub peer_secret: Option<String>,
    /// All control planes, `ip:port`, separated by commas: they are told what each tenant saw in each minute (requests by outcome,
    /// holds, bytes), for their reports; needs --facts-token and --state [default: nobody is told]
    #[arg(long, value_name = "ADDR,…")]
    pub facts_to: Option<String>,
    /// What this router shows them, a token with the role `router`: `file:/path` or `env:NAME`
    #[arg(long, value_name = "REF")]
    pub facts_token: Option<String>,
    /// How many requests may wait for a move at once [default: 10000]
    #[arg(long)]
    pub hold_max: Option<usize>,
    /// How many of a cell's waiting requests may be on their way at once after a move [default: 64]
    #[arg(long)]
    pub hold_ramp: Option<usize>,
    /// Milliseconds that the application may take between two pieces of an answer [default: 60000]
    #[arg(long)]
    pub upstream_timeout_ms: Option<u64>,
    /// Milliseconds that the last address of a region may take to accept a connection, others a second at most; a beginning
    /// that is lost on the way is repeated only after a second [default: 3500]
    #[arg(long)]
    pub connect_timeout_ms: Option<u64>,
    /// Milliseconds that the registry may take for one call; further away than that it counts as gone [default: 5000]
    #[arg(long)]
    pub registry_call_ms: Option<u64>,
    /// How many connections may be open at once; more wait in the system's queue [default: 16384]
    #[arg(long)]
    pub max_connections: Option<usize>,
    /// Milliseconds from the first byte of a request's head to its last [default: 10000]
    #[arg(long)]
    pub head_timeout_ms: Option<u64>,
    /// Milliseconds that a connection may stand without a request [default: 60000]
    #[arg(long)]
    pub idle_timeout_ms: Option<u64>,
    /// Milliseconds after a switch within which WebSocket, event, gRPC and MLLP streams to the region that was left are ended;
    /// spread, so that not all come back at once [default: 5000]
    #[arg(long)]
    pub linger_ms: Option<u64>,
    /// Milliseconds between not being ready any more and closing the listener, when told to stop [default: 500]
    #[arg(long)]
    pub drain_ms: Option<u64>,
    /// A unix socket at which this router can be taken over by a new process that is started with the same arguments and
    /// `--upgrade`
    #[arg(long, value_name = "PATH")]
    pub upgrade_socket: Option<PathBuf>,
    /// Takes the place of the router that runs at --upgrade-socket, without a failed request; the running one goes on if
    /// this one can't
    #[arg(long)]
    #[serde(skip)]
    pub upgrade: bool,
}

impl Given {
    /// What stands here, and where nothing does, what stands there.
    #[must_use]
    pub(super) fn over(self, other: Self) -> Self {
        Self {
            config: self.config,
            role: self.role.or(other.role),
            id: self.id.or(other.id),
            region: self.region.or(other.region),
            registry: self.registry.or(other.registry),
            listen: self.listen.or(other.listen),
            listen_tls: self.listen_tls.or(other.listen_tls),
            tls_certs: self.tls_certs.or(other.tls_certs),
            tls_client_ca: self.tls_client_ca.or(other.tls_client_ca),
            tls_client_auth: self.tls_client_auth.or(other.tls_client_auth),
            peer_ca: self.peer_ca.or(other.peer_ca),
            peer_cert: self.peer_cert.or(other.peer_cert),
            peer_key: self.peer_key.or(other.peer_key),
            tls_min: self.tls_min.or(other.tls_min),
            tls_default_name: self.tls_default_name.or(other.tls_default_name),
            tls_encrypted_hello: self.tls_encrypted_hello.or(other.tls_encrypted_hello),
            handshake_timeout_ms: self.handshake_timeout_ms.or(other.handshake_timeout_ms),
            admin: self.admin.or(other.admin),
            peer: self.peer.or(other.peer),
            links: self.links.or(other.links),
            state: self.state.or(other.state),
            threads: self.threads.or(other.threads),
            access_log: self.access_log.or(other.access_log),
            trusted_networks: self.trusted_networks.or(other.trusted_networks),
            proxy_networks: self.proxy_networks.or(other.proxy_networks),
            peer_secret: self.peer_secret.or(other.peer_secret),
            facts_to: self.facts_to.or(other.facts_to),
            facts_token: self.facts_token.or(other.facts_token),
            hold_max: self.hold_max.or(other.hold_max),
            hold_ramp: self.hold_ramp.or(other.hold_ramp),
            upstream_timeout_ms: self.upstream_timeout_ms.or(other.upstream_timeout_ms),
            connect_timeout_ms: self.connect_timeout_ms.or(other.connect_timeout_ms),
            registry_call_ms: self.registry_call_ms.or(other.registry_call_ms),
            max_connections: self.max_connections.or(other.max_connections),
            head_timeout_ms: self.head_timeout_ms.or(other.head_timeout_ms),
            idle_timeout_ms: self.idle_timeout_ms.or(other.idle_timeout_ms),
            linger_ms: self.linger_ms.or(other.linger_ms),
            drain_ms: self.drain_ms.or(other.drain_ms),
            upgrade_socket: self.upgrade_socket.or(other.upgrade_socket),
            upgrade: self.upgrade,
        }
    }
}
