//! Attacks on HTTP/2 itself: floods of what costs the client little and the router much, and frames that break its rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use domicile_chaos_kit::wait::eventually;
use domicile_model::clock::pause;
use domicile_router::config::Sabotage;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PADDED, PING, PRIORITY, PUSH_PROMISE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, field, frame, preface, request, say,
};
use crate::hardening::{HOST, Stage, regions};
use crate::kit::{Origin, Router, SOON};
use crate::recorder::Reading;

/// Above what it took before.
const MOST_MIB: u64 = 64;
/// What an attacker sends at most, were nobody to stop it.
const MOST_BYTES: usize = 64 << 20;

/// Requests of another client that go on until it is told to stop; each must be answered.
struct Others {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Others {
    fn start(edge: &Router) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counted) = (stop.clone(), answered.clone());
        let (client, url) = (crate::kit::client(), edge.url("/others"));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                let answer = client.get(&url).header("host", HOST).timeout(SOON).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                counted.fetch_add(1, Ordering::SeqCst);
                pause(Duration::from_millis(5)).await;
            }
        });
        Self { stop, answered, task }
    }

    /// At least this many more are answered from here on.
    async fn go_on(&self, more: usize) {
        let before = self.answered.load(Ordering::SeqCst);
        let enough = || async { self.answered.load(Ordering::SeqCst) >= before + more };
        eventually(SOON, "others are answered", enough).await.unwrap();
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }
}

/// An edge in front of an application that answers `/gated` only when it is let go.
async fn edge_of(sabotage: Sabotage, origin: &Origin, more: &[&str]) -> (tempfile::TempDir, Router) {
    let dir = tempfile::tempdir().unwrap();
    let more: Vec<String> = more.iter().map(ToString::to_string).collect();
    let args = [&regions(dir.path(), "edge.toml", origin.addr)[..], &more].concat();
    let edge = Router::start_as(sabotage, "edge", dir.path(), &args).await;
    (dir, edge)
}

fn ask(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&request("GET", HOST, path, &[])))
}

fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Sends a beginning, and then pieces until the connection has ended, or too many were sent. How it ended; a client that does
/// not `listen` learns no more than that it did.
async fn flood(edge: &Router, begin: &[u8], listen: bool, mut piece: impl FnMut(u32) -> Vec<u8>) -> String {
    let mut socket = TcpStream::connect(edge.listen).await.unwrap();
    let (read, mut write) = socket.split();
    write.write_all(begin).await.unwrap();
    let attack = async {
        let mut sent = 0;
        for n in 0.. {
            let bytes = piece(n);
            sent += bytes.len();
            if write.write_all(&bytes).await.is_err() {
                break;
            }
            assert!(sent < MOST_BYTES, "nothing stops it");
        }
    };
    let mut frames = Frames::new(read);
    if !listen {
        tokio::time::timeout(SOON, attack).await.expect("it is not ended");
        return "ended".into();
    }
    tokio::pin!(attack);
    let outcome = frames.outcome(u32::MAX);
    tokio::pin!(outcome);
    tokio::select! {
        outcome = &mut outcome => outcome,
        () = &mut attack => outcome.await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reset_in_bursts_end_their_connection() {
    let origin = Origin::start("east").await;
    let (_dir, edge) = edge_of(Sabotage::None, &origin, &[]).await;
    let others = Others::start(&edge);
    others.go_on(5).await;
    let (before, mut own) = (edge.peak(), 0);
    for _ in 0..20 {
        let burst = |n: u32| {
            let streams = (0..100).map(|i| 2 * (100 * n + i) + 1);
            streams.flat_map(|id| [ask(id, "/gated"), cancel(id)].concat()).collect()
        };
        assert_eq!(flood(&edge, &preface(&[]), true, burst).await, "goaway ENHANCE_YOUR_CALM");
        own += 1;
    }
    others.go_on(5).await;
    let of_others = others.answered.load(Ordering::SeqCst);
    others.end().await;
    // What was not reset before it was looked at: for each connection less than may be open at once.
    let seen = origin.hits() - of_others;
    assert!(seen <= own * 100, "{seen} requests of {own} connections reached the application");
    let more = edge.peak().saturating_sub(before) / 1024;
    assert!(more <= MOST_MIB, "{more} MiB more than before");
    let none = || async { edge.admin("/inflight").await.1.contains("\"cells\":[]") };
    eventually(SOON, "nothing is left in flight", none).await.unwrap();
}

/// Sends requests and cuts each off once the application has it, for so many rounds: whether the connection was ended,
/// and how many reached the application.
async fn cut_off(sabotage: Sabotage, rounds: u32) -> (bool, usize) {
    let origin = Origin::start("east").await;
    let (_dir, edge) = edge_of(sabotage, &origin, &[]).await;
    let mut socket = TcpStream::connect(edge.listen).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (read, mut write) = socket.split();
    write.write_all(&preface(&[])).await.unwrap();
    let mut frames = Frames::new(read);
    let ended = frames.outcome(u32::MAX);
    tokio::pin!(ended);
    let mut over = None;
    for n in 0..rounds {
        let seen = origin.hits();
        if write.write_all(&ask(2 * n + 1, "/gated")).await.is_err() {
            over = Some(ended.await);
            break;
        }
        let there = eventually(SOON, "the application has it", || async { origin.hits() > seen });
        tokio::select! {
            outcome = &mut ended => {
                over = Some(outcome);
                break;
            }
            there = there => there.unwrap(),
        }
        let _ = write.write_all(&cancel(2 * n + 1)).await;
    }
    let hits = origin.hits();
    if let Some(over) = &over {
        assert_eq!(over, "closed");
        edge.counts("domicile_router_connections_cut_total 1\n").await;
    }
    assert_eq!(edge.get(HOST, "/").await.unwrap().status(), 200, "others are answered");
    (over.is_some(), hits)
}

#[tokio::test]
async fn requests_cut_off_one_by_one_end_their_connection() {
    let (ended, hits) = cut_off(Sabotage::None, 5_000).await;
    // On a machine that stands still for a second, some were not early.
    assert!(ended && (500..1_000).contains(&hits), "{ended}, {hits} requests");
}

#[tokio::test]
async fn without_that_rule_the_application_would_see_all_of_them() {
    assert_eq!(cut_off(Sabotage::ResetsUncounted, 1_200).await, (false, 1_200));
}

/// Clients that cut off now and then, as browsers do, are left alone.
#[tokio::test]
async fn half_of_all_requests_may_be_cut_off() {
    let origin = Origin::start("east").await;
    let (_dir, edge) = edge_of(Sabotage::None, &origin, &[]).await;
    let mut socket = TcpStream::connect(edge.listen).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (read, mut write) = socket.split();
    write.write_all(&preface(&[])).await.unwrap();
    let mut frames = Frames::new(read);
    for n in 0..1_200 {
        write.write_all(&[ask(4 * n + 1, "/gated"), ask(4 * n + 3, "/")].concat()).await.unwrap();
        assert_eq!(frames.outcome(4 * n + 3).await, "200", "{n}");
        write.write_all(&cancel(4 * n + 1)).await.unwrap();
    }
}

/// A dynamic table full of one long value, that each byte after it stands for.
fn bomb() -> Vec<u8> {
    let long = "a".repeat(4_000);
    // A literal that is kept: RFC 7541, section 6.2.1.
    let kept = [&[0x40][..], &field(b"x", long.as_bytes())[1..]].concat();
    [block(&request("GET", HOST, "/", &[])), kept, vec![0xbe; 4_000]].concat()
}

/// Name, what begins it, what follows without end, and how it ends.
fn floods() -> Vec<(&'static str, Vec<u8>, Vec<u8>, &'static str)> {
    let head = block(&request("POST", HOST, "/", &[]));
    let begun = frame(HEADERS, 0, 1, &head);
    let long = field(b"x", "a".repeat(10_000).as_bytes());
    // It says that it is of 16 MiB.
    let endless = [&[0, 1, b'x', 0x7f, 0x81, 0xff, 0xff, 0x07][..], &[b'a'; 1_000]].concat();
    let posting = frame(HEADERS, END_HEADERS, 1, &head);
    vec![
        ("empty continuations", begun.clone(), frame(CONTINUATION, 0, 1, &[]), "goaway ENHANCE_YOUR_CALM"),
        (
            "small ones",
            begun.clone(),
            frame(CONTINUATION, 0, 1, &field(b"x", b"1")),
            "goaway ENHANCE_YOUR_CALM",
        ),
        ("large ones", begun.clone(), frame(CONTINUATION, 0, 1, &long), "goaway ENHANCE_YOUR_CALM"),
        (
            "one field without end",
            begun,
            [frame(CONTINUATION, 0, 1, &endless)].concat(),
            "goaway ENHANCE_YOUR_CALM",
        ),
        ("empty pieces of a body", posting.clone(), frame(DATA, 0, 1, &[]), "goaway ENHANCE_YOUR_CALM"),
        (
            "a body in padding",
            posting,
            frame(DATA, PADDED, 1, &[[255].as_slice(), &[0; 255]].concat()),
            "goaway ENHANCE_YOUR_CALM",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end_their_connection_in_little_memory() {
    let s = Stage::new(Reading::Strict, false, &[]).await;
    let others = Others::start(&s.edge);
    others.go_on(5).await;
    let before = s.edge.peak();
    let mut wrong = Vec::new();
    for (name, begin, piece, outcome) in floods() {
        let seen = flood(&s.edge, &[preface(&[]), begin].concat(), true, |_| piece.repeat(16)).await;
        if seen != outcome {
            wrong.push(format!("{name}: {seen}"));
        }
        others.go_on(5).await;
    }
    assert_eq!(wrong, Vec::<String>::new());
    others.end().await;
    let more = s.edge.peak().saturating_sub(before) / 1024;
    assert!(more <= MOST_MIB, "{more} MiB more than before");
}

/// What asks for nothing is no sign of life: such a connection counts as idle, however much it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_without_requests_end_with_the_time_of_idle_connections() {
    let s = Stage::new(Reading::Strict, false, &["--idle-timeout-ms", "2000"]).await;
    let others = Others::start(&s.edge);
    others.go_on(5).await;
    let before = s.edge.peak();
    for (name, piece) in [
        ("pings", frame(PING, 0, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ("answers to no ping", frame(PING, 1, 0, &[0; 8])),
        ("frames of no kind", frame(0x42, 0, 0, &[0; 8])),
    ] {
        assert_eq!(flood(&s.edge, &preface(&[]), false, |_| piece.clone()).await, "ended", "{name}");
        others.go_on(5).await;
    }
    others.end().await;
    let more = s.edge.peak().saturating_sub(before) / 1024;
    assert!(more <= MOST_MIB, "{more} MiB more than before");
}

/// Name, frames, and how it came out.
fn breaches() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let head = block(&request("GET", HOST, "/", &[]));
    let headers = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &head);
    let large = |len: usize| {
        let more = "a".repeat(len / 8);
        let head = block(&request("GET", HOST, "/", &[("x", more.as_str()); 8]));
        let mut pieces = head.chunks(16_000).enumerate().peekable();
        let mut out = Vec::new();
        while let Some((n, piece)) = pieces.next() {
            let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            let (kind, whole) = if n == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
            out.extend(frame(kind, whole | end, 1, piece));
        }
        out
    };
    vec![
        ("a head of 60 KiB", large(60 << 10), "200"),
        ("a head of 70 KiB", large(70 << 10), "431"),
        ("a head of 1 MiB", large(1 << 20), "goaway ENHANCE_YOUR_CALM"),
        (
            "a head of 16 MB in 8 KB",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb()),
            "goaway ENHANCE_YOUR_CALM",
        ),
        ("stream 0", headers(0), "goaway PROTOCOL_ERROR"),
        ("an even stream", headers(2), "goaway PROTOCOL_ERROR"),
        ("a lower stream", [headers(5), headers(3)].concat(), "goaway PROTOCOL_ERROR"),
        ("a body of no request", frame(DATA, 0, 1, b"x"), "goaway PROTOCOL_ERROR"),
        ("a reset of no request", cancel(1), "goaway PROTOCOL_ERROR"),
        ("a body after the end", [headers(1), frame(DATA, 0, 1, b"x")].concat(), "goaway PROTOCOL_ERROR"),
        ("a head after the end", [headers(1), headers(1)].concat(), "goaway PROTOCOL_ERROR"),
        (
            "a push",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &head[..]].concat()),
            "goaway PROTOCOL_ERROR",
        ),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &head), "goaway PROTOCOL_ERROR"),
        (
            "a frame within a head",
            [frame(HEADERS, 0, 1, &head), frame(PING, 0, 0, &[0; 8])].concat(),
            "goaway PROTOCOL_ERROR",
        ),
        (
            "a head that another one goes on with",
            [frame(HEADERS, 0, 1, &head), frame(CONTINUATION, END_HEADERS, 3, &head)].concat(),
            "goaway PROTOCOL_ERROR",
        ),
        ("a frame that is too large", frame(DATA, 0, 1, &[0; 20_000]), "goaway FRAME_SIZE_ERROR"),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7]), "goaway PROTOCOL_ERROR"),
        ("a ping of a stream", frame(PING, 0, 1, &[0; 8]), "goaway PROTOCOL_ERROR"),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5]), "goaway PROTOCOL_ERROR"),
        (
            "a window beyond all bounds",
            frame(SETTINGS, 0, 0, &[0, 4, 255, 255, 255, 255]),
            "goaway PROTOCOL_ERROR",
        ),
        ("a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), "goaway PROTOCOL_ERROR"),
        (
            "a window that overflows",
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
            "goaway FLOW_CONTROL_ERROR",
        ),
        (
            "more than was allowed",
            {
                let post = block(&request("POST", HOST, "/", &[]));
                let body = frame(DATA, 0, 1, &[0; 16_000]).repeat(5);
                [frame(HEADERS, END_HEADERS, 1, &post), body].concat()
            },
            "goaway FLOW_CONTROL_ERROR",
        ),
        (
            "fields that are none",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 20]),
            "goaway PROTOCOL_ERROR",
        ),
    ]
}

#[tokio::test]
async fn breaches_end_the_stream_or_the_connection() {
    let s = Stage::new(Reading::Strict, false, &[]).await;
    let mut wrong = Vec::new();
    for (name, frames, outcome) in breaches() {
        let seen = say(s.edge.listen, &frames).await;
        if seen != outcome {
            wrong.push(format!("{name}: {seen}"));
        }
        assert_eq!(say(s.edge.listen, &ask(1, "/after")).await, "200", "after {name}");
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// More requests at once than are allowed are refused, and the others answered.
#[tokio::test]
async fn a_hundred_requests_are_answered_at_once_and_more_are_refused() {
    let origin = Origin::start("east").await;
    let (_dir, edge) = edge_of(Sabotage::None, &origin, &[]).await;
    let mut socket = TcpStream::connect(edge.listen).await.unwrap();
    let (read, mut write) = socket.split();
    let all: Vec<u8> = (0..101).flat_map(|n| ask(2 * n + 1, "/gated")).collect();
    write.write_all(&[preface(&[]), all].concat()).await.unwrap();
    let mut frames = Frames::new(read);
    assert_eq!(frames.outcome(201).await, "reset REFUSED_STREAM");
    eventually(SOON, "a hundred are there", || async { origin.hits() == 100 }).await.unwrap();
    origin.let_go();
    assert_eq!(frames.outcome(199).await, "200");
}

/// Clients that ask for much and take nothing: in little memory, and not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_costs_little_and_not_for_long() {
    let origin = Origin::start("east").await;
    for (name, settings, window) in [
        // No byte of any body may be sent.
        ("no window", [(4, 0)], vec![]),
        // All may be sent, and nobody reads.
        ("no reader", [(4, 0x7fff_ffff)], frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes())),
    ] {
        let (_dir, edge) = edge_of(Sabotage::None, &origin, &["--upstream-timeout-ms", "3000"]).await;
        let (before, seen) = (edge.peak(), origin.hits());
        let mut socket = TcpStream::connect(edge.listen).await.unwrap();
        let all: Vec<u8> = (0..100).flat_map(|n| ask(2 * n + 1, "/source/1073741824")).collect();
        socket.write_all(&[preface(&settings), window, all].concat()).await.unwrap();
        eventually(SOON, "all are asked for", || async { origin.hits() == seen + 100 }).await.unwrap();
        let none = || async { edge.admin("/inflight").await.1.contains("\"cells\":[]") };
        eventually(Duration::from_secs(30), &format!("{name}: all are given up"), none).await.unwrap();
        assert_eq!(edge.get(HOST, "/").await.unwrap().status(), 200, "others are answered");
        let more = edge.peak().saturating_sub(before) / 1024;
        assert!(more <= MOST_MIB, "{name}: {more} MiB more than before");
    }
}

/// What is never said to its end: a head counts as no request, and a body as one that is not answered.
#[tokio::test]
async fn a_head_or_a_body_without_end_is_given_up() {
    let origin = Origin::start("east").await;
    let times = ["--idle-timeout-ms", "2000", "--upstream-timeout-ms", "2000"];
    let (_dir, edge) = edge_of(Sabotage::None, &origin, &times).await;
    let head = block(&request("POST", HOST, "/sink", &[("content-length", "2")]));
    assert_eq!(say(edge.listen, &frame(HEADERS, 0, 1, &head)).await, "closed");
    let half = [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, b"x")].concat();
    let outcome = say(edge.listen, &half).await;
    assert!(outcome == "504" || outcome.starts_with("reset"), "{outcome}");
    assert_eq!(edge.admin("/inflight").await.1, r#"{"cells":[],"holding":0}"#);
}
