//! An application that is asked by many at once takes no more connections for a moment, and its system does not say so: it
//! drops what asks, which asks again after a second. Much may have happened in that second.

use std::net::{IpAddr, SocketAddr};

use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::wait::eventually;
use domicile_router::config::Sabotage;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::file_mode::{alone, alone_with, regions};
use crate::kit::{Fleet, HOST, Origin, SOON, client};

/// An application whose queue is full.
struct Full {
    listener: TcpListener,
    at: SocketAddr,
    /// Connections in the queue, and those that wait for a place in it.
    _waiting: JoinSet<()>,
    before: usize,
}

impl Full {
    async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(free_address().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let at = listener.local_addr().unwrap();
        let mut waiting = JoinSet::new();
        while opening(at) == 0 {
            waiting.spawn(async move {
                let _there = TcpStream::connect(at).await;
                std::future::pending::<()>().await;
            });
            let n = waiting.len();
            eventually(SOON, "it is asked for", || async { opened(at) + opening(at) >= n }).await.unwrap();
        }
        let before = opening(at);
        Self { listener, at, _waiting: waiting, before }
    }

    async fn kept_waiting(&self, n: usize) {
        eventually(SOON, "they are kept waiting", || async { opening(self.at) == self.before + n })
            .await
            .unwrap();
    }
}

/// Connections to this address that are open on the side that asked.
fn opened(to: SocketAddr) -> usize {
    in_state(to, "01")
}

/// Connections to this address that were asked for, without an answer so far.
fn opening(to: SocketAddr) -> usize {
    in_state(to, "02")
}

/// As the kernel counts them.
fn in_state(to: SocketAddr, state: &str) -> usize {
    let (IpAddr::V4(ip), port) = (to.ip(), to.port()) else { panic!("{to}") };
    let to = format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets()));
    let all = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = all.lines().map(|line| line.split_whitespace().skip(2).take(2).collect::<Vec<_>>());
    fields.filter(|fields| fields[..] == [to.as_str(), state]).count()
}

#[tokio::test]
async fn a_connection_that_is_taken_at_the_second_asking_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west) = (Origin::start("east").await, Origin::start("west").await);
    let path = regions(dir.path(), &east, &west, "us-east-1");
    let full = Full::start().await;
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&east.addr.to_string(), &full.at.to_string())).unwrap();
    let router = alone(dir.path()).await;
    let ask = |accept: &'static str| {
        let request = client().get(router.url("/")).header("host", "mercy.example.com");
        tokio::spawn(request.header("accept", accept).send())
    };
    let asked = [ask("*/*"), ask("text/event-stream")];
    full.kept_waiting(2).await;
    let _app = Origin::on("east", full.listener);
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(west.hits(), 0);
}

/// How long it is waited for is a setting; and with another address to ask, it is not waited for.
#[tokio::test]
async fn a_connection_that_is_not_taken_is_given_up_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (east, west) = (Origin::start("east").await, Origin::start("west").await);
    let path = regions(dir.path(), &east, &west, "us-east-1");
    let full = Full::start().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let with = |addresses: String| text.replace(&format!("\"{}\"", east.addr), &addresses);
    std::fs::write(&path, with(format!("\"{}\"", full.at))).unwrap();
    let router = alone_with(dir.path(), &["--connect-timeout-ms", "300"]).await;
    let answer = router.get("mercy.example.com", "/").await.unwrap();
    assert_eq!(answer.status(), 503);
    std::fs::write(&path, with(format!("\"{}\", \"{}\"", full.at, east.addr))).unwrap();
    eventually(SOON, "the second address answers", || async {
        router.get("mercy.example.com", "/").await.unwrap().status() == 200
    })
    .await
    .unwrap();
    router.counts("domicile_router_next_address_total 1\n").await;
}

/// The cell leaves by force while a gate's connection to the application is awaited: what the two were told, and how many
/// of them the application has seen.
async fn leaves_meanwhile(sabotage: Sabotage) -> (Vec<u16>, usize) {
    let full = Full::start().await;
    let fleet = Fleet::with(full.at, full.at).await;
    let gate = fleet.gate_as(sabotage, "us-east-1").await;
    let says = async |what: &str| {
        eventually(SOON, what, || async { gate.admin("/cells/mercy/writer").await.1.contains(what) })
            .await
            .unwrap();
    };
    says("\"writer\":true").await;
    let ask = |accept: &'static str| {
        tokio::spawn(client().post(gate.url("/")).header("host", HOST).header("accept", accept).send())
    };
    let asked = [ask("*/*"), ask("text/event-stream")];
    full.kept_waiting(2).await;
    fleet.close(0).await;
    says("\"writer\":false").await;
    let app = Origin::on("east", full.listener);
    let mut told = Vec::new();
    for answer in asked {
        told.push(answer.await.unwrap().unwrap().status().as_u16());
    }
    (told, app.hits())
}

#[tokio::test]
async fn what_was_admitted_is_not_sent_when_the_cell_has_left_meanwhile() {
    assert_eq!(leaves_meanwhile(Sabotage::None).await, (vec![503, 503], 0));
}

#[tokio::test]
async fn without_that_look_the_old_region_would_see_it() {
    let (told, hits) = leaves_meanwhile(Sabotage::SendsUnchecked).await;
    assert_eq!(hits, 2, "the test above could not fail: {told:?}");
}
