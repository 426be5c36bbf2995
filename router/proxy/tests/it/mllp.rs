//! HL7 messages over MLLP in TLS: the same tenants, placement, hold and accounting as HTTP, and no message cut in half.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::wait::eventually;
use domicile_model::clock::Clock;
use domicile_router::config::Sabotage;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::{Authority, Pair, curl};
use crate::kit::{Fleet, HOST, Router, SOON};
use crate::splice::Wire;
use crate::streams::Client;

const CLINIC: &str = "clinic.example.com";
const ADT: &str = "MSH|^~\\&|ward||hospital||||ADT^A01|7|P|2.5\rPID|1||4711\r";

fn framed(message: &str) -> Vec<u8> {
    [b"\x0b", message.as_bytes(), b"\x1c\r"].concat()
}

/// An application that takes messages, and answers each with the name of its region.
pub(crate) struct Ward {
    pub(crate) at: SocketAddr,
    taken: Arc<Mutex<Vec<String>>>,
    /// Beginnings of messages that never ended.
    halves: Arc<Mutex<Vec<String>>>,
    /// Bytes of a message that has not ended yet.
    begun: Arc<AtomicUsize>,
    go: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Ward {
    pub(crate) async fn start(region: &'static str) -> Self {
        let listener = TcpListener::bind(free_address().unwrap()).await.unwrap();
        let at = listener.local_addr().unwrap();
        let (taken, halves) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (go, begun) = (Arc::<Notify>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        let (t, h, g, b) = (taken.clone(), halves.clone(), go.clone(), begun.clone());
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                sessions.spawn(Self::session(socket, region, t.clone(), h.clone(), g.clone(), b.clone()));
            }
        });
        Self { at, taken, halves, begun, go, _tasks: tasks }
    }

    async fn session(
        mut socket: TcpStream,
        region: &str,
        taken: Arc<Mutex<Vec<String>>>,
        halves: Arc<Mutex<Vec<String>>>,
        go: Arc<Notify>,
        begun: Arc<AtomicUsize>,
    ) {
        let mut had = Vec::new();
        loop {
            while let Some(end) = had.windows(2).position(|w| w == b"\x1c\r") {
                let message = String::from_utf8(had.drain(..end + 2).collect()).unwrap();
                let waits = message.contains("WAIT");
                taken.lock().unwrap().push(message);
                if waits {
                    go.notified().await;
                }
                let ack = format!("MSH|^~\\&|hospital\rMSA|AA|{region}");
                if socket.write_all(&framed(&ack)).await.is_err() {
                    return;
                }
            }
            begun.store(had.len(), Ordering::SeqCst);
            if socket.read_buf(&mut had).await.unwrap_or(0) == 0 {
                if !had.is_empty() {
                    halves.lock().unwrap().push(String::from_utf8(had).unwrap());
                }
                return;
            }
        }
    }

    fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }
}

/// An edge that takes TLS, two gates, and a ward in each region.
struct Site {
    fleet: Fleet,
    east: Ward,
    west: Ward,
    ca: Authority,
    edge: Router,
    gate: Router,
    _gate: Router,
    at: SocketAddr,
}

/// Where a router takes TLS, and what it is told for it.
fn tls(fleet: &Fleet, ca: &Authority, role: [&str; 3]) -> (SocketAddr, Vec<String>) {
    let certs = fleet.dir.path().join("certs");
    ca.issue(&certs, "mercy", &[HOST], 2040);
    let at = free_address().unwrap();
    let (listen, certs, clients) =
        (at.to_string(), certs.display().to_string(), ca.pem.display().to_string());
    let more = [
        "--listen-tls",
        &listen,
        "--tls-certs",
        &certs,
        "--tls-default-name",
        HOST,
        "--tls-client-ca",
        &clients,
        "--tls-client-auth",
        "optional",
    ];
    (at, [fleet.args(role[0], role[1], role[2]), more.map(ToOwned::to_owned).to_vec()].concat())
}

impl Site {
    async fn new(sabotage: Sabotage) -> Self {
        let (east, west) = (Ward::start("east").await, Ward::start("west").await);
        let fleet = Fleet::with(east.at, west.at).await;
        fleet.tenant("clinic", CLINIC).await;
        let ca = Authority::new(fleet.dir.path(), "ca");
        let (at, args) = tls(&fleet, &ca, ["edge", "edge", "eu-west-1"]);
        let (gate, other) = (fleet.gate_as(sabotage, "us-east-1").await, fleet.gate("us-west-2").await);
        let edge = Router::start_as(sabotage, "edge", fleet.dir.path(), &args).await;
        Self { fleet, east, west, ca, edge, gate, _gate: other, at }
    }

    async fn open(&self) -> Session {
        Session(connect(&self.ca, self.at, true, None).await)
    }

    async fn acknowledged(&self, held: domicile_model::Revision) {
        self.fleet.acknowledged(&["gate-us-east-1", "edge"], held).await;
    }

    /// Waits until both routers have heard of the hold, and says for how many the gate waits.
    async fn heard(&self, held: domicile_model::Revision) -> usize {
        let heard = || async {
            let edge = self.fleet.router_state("edge").await.is_some_and(|state| state.applied >= held);
            edge && self.fleet.router_state("gate-us-east-1").await.is_some_and(|state| state.applied >= held)
        };
        eventually(SOON, "all have heard of the hold", heard).await.unwrap();
        self.fleet.router_state("gate-us-east-1").await.unwrap().busy.len()
    }

    /// Waits until the application has so many bytes of a message.
    async fn under_way(&self, bytes: usize) {
        let there = || async { self.east.begun.load(Ordering::SeqCst) == bytes };
        eventually(SOON, "the application has the beginning", there).await.unwrap();
    }
}

async fn connect(ca: &Authority, at: SocketAddr, named: bool, shown: Option<&Pair>) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&ca.pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some(pair) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&pair.chain).unwrap()],
                PrivateKeyDer::from_pem_file(&pair.key).unwrap(),
            )
            .unwrap(),
    };
    config.enable_sni = named;
    let socket = TcpStream::connect(at).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

/// A client's session.
struct Session(TlsStream<TcpStream>);

impl Session {
    async fn sends(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// The next acknowledgement's last field; none if the session ended.
    async fn hears(&mut self) -> Option<String> {
        let mut had = Vec::new();
        let read = async {
            while !had.ends_with(b"\x1c\r") {
                if self.0.read_buf(&mut had).await.unwrap_or(0) == 0 {
                    assert!(had.is_empty(), "an answer was cut: {}", String::from_utf8_lossy(&had));
                    return None;
                }
            }
            let text = String::from_utf8(had.clone()).unwrap();
            Some(text.trim_end_matches(['\x1c', '\r']).rsplit('|').next().unwrap().to_owned())
        };
        tokio::time::timeout(SOON, read).await.expect("neither an answer nor an end")
    }

    async fn asks(&mut self, message: &str) -> Option<String> {
        self.sends(&framed(message)).await;
        self.hears().await
    }
}

fn is(said: Option<&str>, region: &str) {
    assert_eq!(said, Some(region));
}

#[tokio::test]
async fn messages_reach_the_tenants_region_byte_by_byte_and_are_answered() {
    let s = Site::new(Sabotage::None).await;
    let mut session = s.open().await;
    is(session.asks(ADT).await.as_deref(), "east");
    // Many pieces, and one that is larger than any buffer.
    for byte in framed(ADT) {
        session.sends(&[byte]).await;
    }
    is(session.hears().await.as_deref(), "east");
    let large = format!("{ADT}OBX|1|ED|{}\r", "x".repeat(3 << 20));
    is(session.asks(&large).await.as_deref(), "east");
    let wanted = [ADT, ADT, &large].map(|m| String::from_utf8(framed(m)).unwrap());
    assert!(s.east.taken() == wanted, "each message came once, as it was");
    for router in [&s.edge, &s.gate] {
        router.counts("domicile_router_mllp_messages_total 3\n").await;
        router.counts("domicile_router_mllp_answers_total 3\n").await;
    }
    drop(session);
    s.edge.counts("domicile_router_streams{kind=\"mllp\"} 0\n").await;
    eventually(SOON, "the session is logged", || async {
        let log = std::fs::read_to_string(s.fleet.dir.path().join("edge.log")).unwrap_or_default();
        log.lines().any(|l| l.contains("\"path\":\"/.domicile/mllp\"") && l.contains("\"tenant\":\"mercy\""))
    })
    .await
    .unwrap();
    assert!(s.west.taken().is_empty());
}

#[tokio::test]
async fn a_client_that_others_wrote_is_answered() {
    let s = Site::new(Sabotage::None).await;
    let mut client = Client::script_with("mllp_send.py", s.at, &s.ca.pem.display().to_string());
    client.says("open").await;
    for _ in 0..2 {
        client.hears("fine").await;
        client.says("MSA|AA|east").await;
    }
    let held = s.fleet.hold(20_000).await;
    s.acknowledged(held).await;
    assert_eq!(s.east.taken().len(), 2);
}

#[tokio::test]
async fn without_a_name_the_clients_certificate_says_whose_it_is() {
    let s = Site::new(Sabotage::None).await;
    let shown = s.ca.issue(s.fleet.dir.path(), "clinic", &["unknown.example.com", CLINIC], 2040);
    let mut session = Session(connect(&s.ca, s.at, false, Some(&shown)).await);
    is(session.asks(ADT).await.as_deref(), "east");
    // A name goes before a certificate, and who has neither is whom the default name means.
    let mut named = Session(connect(&s.ca, s.at, true, Some(&shown)).await);
    is(named.asks(ADT).await.as_deref(), "east");
    let mut nobody = Session(connect(&s.ca, s.at, false, None).await);
    is(nobody.asks(ADT).await.as_deref(), "east");
    drop((session, named, nobody));
    let tenants = || {
        let log = std::fs::read_to_string(s.fleet.dir.path().join("edge.log")).unwrap_or_default();
        let of = |tenant: &str| log.matches(&format!("\"tenant\":\"{tenant}\"")).count();
        (of("clinic"), of("mercy"))
    };
    eventually(SOON, "each is logged for its tenant", || async { tenants() == (1, 2) }).await.unwrap();
    // Where that tenant's policy forbids it, nothing of the session is read here.
    s.fleet.tls_of("clinic", CLINIC, &["US"]).await;
    eventually(SOON, "it is turned away", || async {
        let mut session = Session(connect(&s.ca, s.at, false, Some(&shown)).await);
        let _ = session.0.write_all(&framed(ADT)).await;
        session.hears().await.is_none()
    })
    .await
    .unwrap();
    s.edge.counts("domicile_router_connections_refused_total{why=\"outside\"} 1\n").await;
}

#[tokio::test]
async fn a_session_between_messages_ends_at_the_hold_and_the_next_one_waits() {
    let s = Site::new(Sabotage::None).await;
    let mut session = s.open().await;
    is(session.asks(ADT).await.as_deref(), "east");
    let held = s.fleet.hold(20_000).await;
    assert_eq!(session.hears().await, None, "it ends, and not within a message");
    s.acknowledged(held).await;
    // Opened while the cell is on hold.
    let mut next = s.open().await;
    next.sends(&framed(ADT)).await;
    s.edge.counts("domicile_router_holding 1\n").await;
    s.fleet.close(20_000).await;
    s.fleet.serve("us-west-2").await;
    is(next.hears().await.as_deref(), "west");
    assert_eq!((s.east.taken().len(), s.west.taken().len()), (1, 1));
}

/// The first half of a message has reached the application when the hold begins: what the client hears after it has sent the
/// rest with a whole second message behind it, and how many messages and halves the application has.
async fn half_way_at_the_hold(sabotage: Sabotage) -> (Option<String>, usize, usize) {
    let s = Site::new(sabotage).await;
    let mut session = s.open().await;
    is(session.asks(ADT).await.as_deref(), "east");
    let message = framed(ADT);
    let (first, rest) = message.split_at(20);
    session.sends(first).await;
    s.under_way(first.len()).await;
    let held = s.fleet.hold(20_000).await;
    if sabotage == Sabotage::None {
        assert_eq!(s.heard(held).await, 1, "the move waits for the message");
    } else {
        s.acknowledged(held).await;
    }
    let _ = session.0.write_all(&[rest, &framed(ADT)].concat()).await;
    let said = session.hears().await;
    if said.is_some() {
        assert_eq!(session.hears().await, None, "the second message was not begun");
    }
    s.acknowledged(held).await;
    let halves = s.east.halves.lock().unwrap().len();
    (said, s.east.taken().len(), halves)
}

#[tokio::test]
async fn a_message_that_is_half_way_at_the_hold_is_finished_and_answered() {
    let (said, messages, halves) = half_way_at_the_hold(Sabotage::None).await;
    assert_eq!((said.as_deref(), messages, halves), (Some("east"), 2, 0));
}

#[tokio::test]
async fn without_that_rule_it_would_be_cut_in_half() {
    let (said, messages, halves) = half_way_at_the_hold(Sabotage::CutsMessages).await;
    assert_eq!((said, messages, halves), (None, 1, 1), "the test above could not fail");
}

#[tokio::test]
async fn an_answer_that_is_awaited_at_the_hold_comes() {
    let s = Site::new(Sabotage::None).await;
    let mut session = s.open().await;
    session.sends(&framed("MSH|WAIT")).await;
    eventually(SOON, "the application has it", || async { s.east.taken().len() == 1 }).await.unwrap();
    let held = s.fleet.hold(20_000).await;
    assert_eq!(s.heard(held).await, 1);
    s.east.go.notify_one();
    is(session.hears().await.as_deref(), "east");
    assert_eq!(session.hears().await, None);
    s.acknowledged(held).await;
}

#[tokio::test]
async fn a_message_that_never_ends_is_cut_before_the_hold_ends() {
    let s = Site::new(Sabotage::None).await;
    let mut session = s.open().await;
    session.sends(&framed(ADT)[..20]).await;
    s.under_way(20).await;
    let clock = Clock::Machine;
    let from = clock.now();
    let held = s.fleet.hold(6_000).await;
    assert_eq!(session.hears().await, None);
    let ended = clock.now().since(from);
    s.acknowledged(held).await;
    let acknowledged = clock.now().since(from);
    assert!(ended >= Duration::from_secs(4), "it had its time: {ended:?}");
    assert!(acknowledged < Duration::from_secs(7), "it did not keep the move for long: {acknowledged:?}");
}

#[tokio::test]
async fn a_forced_move_ends_a_session_within_the_time_for_it() {
    let s = Site::new(Sabotage::None).await;
    let mut session = s.open().await;
    is(session.asks(ADT).await.as_deref(), "east");
    s.fleet.serve("us-west-2").await;
    assert_eq!(session.hears().await, None);
    let again = async {
        // Until the edge has heard of it as well, a session may meet the old region's end.
        loop {
            if let Some(said) = s.open().await.asks(ADT).await {
                return said;
            }
        }
    };
    is(tokio::time::timeout(SOON, again).await.ok().as_deref(), "west");
}

#[tokio::test]
async fn a_router_that_stops_ends_sessions_between_messages() {
    for stops in ["edge", "gate"] {
        let s = Site::new(Sabotage::None).await;
        let (mut quiet, mut asks) = (s.open().await, s.open().await);
        is(quiet.asks(ADT).await.as_deref(), "east");
        asks.sends(&framed("MSH|WAIT")).await;
        eventually(SOON, "the application has both", || async { s.east.taken().len() == 2 }).await.unwrap();
        let router = if stops == "edge" { &s.edge } else { &s.gate };
        router.process.terminate();
        assert_eq!(quiet.hears().await, None, "{stops}");
        assert!(router.process.is_alive(), "{stops}: an answer is awaited");
        s.east.go.notify_one();
        is(asks.hears().await.as_deref(), "east");
        assert_eq!(asks.hears().await, None, "{stops}");
        assert_eq!(router.process.wait(SOON).await.unwrap().code(), Some(0), "{stops}");
    }
}

/// A gate loses the registry while a session stands open: what the client hears to its next message, and whether the
/// application has seen it.
async fn without_a_proof(sabotage: Sabotage) -> (Option<String>, usize) {
    let (east, west) = (Ward::start("east").await, Ward::start("west").await);
    let mut fleet = Fleet::with(east.at, west.at).await;
    let ca = Authority::new(fleet.dir.path(), "ca");
    // Alone: one witness of three is not enough.
    let (at, args) = tls(&fleet, &ca, ["gate", "gate-us-east-1", "us-east-1"]);
    let gate = Router::start_as(sabotage, "gate-us-east-1", fleet.dir.path(), &args).await;
    let mut session = Session(connect(&ca, at, true, None).await);
    is(session.asks(ADT).await.as_deref(), "east");
    fleet.etcd.kill(0);
    eventually(SOON, "the proof has ended", || async {
        gate.admin("/cells/mercy/writer").await.1.contains("\"writer\":false")
    })
    .await
    .unwrap();
    let said = session.asks(ADT).await;
    (said, east.taken().len() - 1)
}

#[tokio::test]
async fn no_message_goes_to_the_application_without_a_proof() {
    assert_eq!(without_a_proof(Sabotage::None).await, (None, 0));
}

#[tokio::test]
async fn without_that_look_the_application_would_take_it() {
    let (said, taken) = without_a_proof(Sabotage::SendsUnchecked).await;
    assert_eq!(taken, 1, "the test above could not fail: {said:?}");
}

#[tokio::test]
async fn only_routers_ask_each_other_for_such_a_tunnel() {
    let s = Site::new(Sabotage::None).await;
    let url = format!("https://{HOST}/.domicile/mllp");
    let upgrade =
        ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: mllp", "-w", "|%{http_code}", &url];
    let said = curl(&s.ca, s.at, HOST, &upgrade).await;
    assert!(said.out.ends_with("|400"), "{}", said.out);
    assert!(s.east.taken().is_empty() && s.east.halves.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_edge_outside_passes_it_on_and_the_one_inside_carries_it() {
    let (east, west) = (Ward::start("east").await, Ward::start("west").await);
    let wire = Wire::on(Fleet::with(east.at, west.at).await, Some(&["US"])).await;
    let outside = wire.outside().await;
    let mut session = Session(connect(&wire.ca, wire.at, true, None).await);
    is(session.asks(ADT).await.as_deref(), "east");
    assert_eq!(east.taken().len(), 1);
    outside.counts("domicile_router_splices 1\n").await;
    outside.counts("domicile_router_mllp_messages_total 0\n").await;
}
