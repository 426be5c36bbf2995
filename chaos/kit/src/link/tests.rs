use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;
use crate::wait::eventually;

const LONG: Duration = Duration::from_secs(10);

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    at
}

async fn connected() -> (Link, TcpStream) {
    let link = Link::start(echo().await).await.unwrap();
    let mut client = TcpStream::connect(link.addr()).await.unwrap();
    ping(&mut client).await.unwrap();
    (link, client)
}

/// One byte there and back.
async fn ping(client: &mut TcpStream) -> std::io::Result<()> {
    client.write_all(b"x").await?;
    let mut byte = [0];
    tokio::time::timeout(LONG, client.read_exact(&mut byte)).await.map_err(std::io::Error::other)??;
    Ok(())
}

#[tokio::test]
async fn a_healthy_link_carries_everything_and_the_end() {
    let (link, mut client) = connected().await;
    let sent: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut from, mut to) = client.split();
    let mut back = Vec::new();
    let write = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let ((), read) = tokio::join!(write, from.read_to_end(&mut back));
    read.unwrap();
    assert_eq!(back, sent);
    assert_eq!((link.forward_bytes(), link.backward_bytes()), (1_000_001, 1_000_001));
}

#[tokio::test]
async fn a_cut_resets_connections_and_new_ones_until_healed() {
    let (link, mut client) = connected().await;
    link.cut();
    assert!(client.read_u8().await.is_err());
    let mut refused = TcpStream::connect(link.addr()).await.unwrap();
    assert!(ping(&mut refused).await.is_err());
    link.heal();
    ping(&mut TcpStream::connect(link.addr()).await.unwrap()).await.unwrap();
    eventually(LONG, "no connection is left open", || async { link.connections() == 0 }).await.unwrap();
}

#[tokio::test]
async fn one_direction_can_vanish_and_such_a_connection_ends_when_healed() {
    let (link, mut client) = connected().await;
    link.cut_backward();
    client.write_all(b"lost").await.unwrap();
    eventually(LONG, "the server has got it", || async { link.forward_bytes() == 5 }).await.unwrap();
    let silence = tokio::time::timeout(Duration::from_millis(100), client.read_u8()).await;
    assert!(silence.is_err(), "nothing may come back, not even an end");
    link.heal();
    assert!(client.read_u8().await.is_err(), "a stream with a hole must not go on");
}

#[tokio::test]
async fn what_is_on_its_way_when_a_direction_vanishes_does_not_arrive() {
    let (link, mut client) = connected().await;
    link.delay(Duration::from_secs(3_600));
    client.write_all(b"on its way").await.unwrap();
    // Long enough for the proxy to have taken it.
    assert!(tokio::time::timeout(Duration::from_millis(100), client.read_u8()).await.is_err());
    link.cut_forward();
    let silence = tokio::time::timeout(Duration::from_millis(100), client.read_u8()).await;
    assert!(silence.is_err() && link.forward_bytes() == 1, "{}", link.forward_bytes());
}

#[tokio::test]
async fn a_stall_holds_bytes_back_and_loses_none() {
    let (link, mut client) = connected().await;
    link.stall();
    client.write_all(b"later").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), client.read_u8()).await.is_err());
    link.heal();
    let mut back = [0; 5];
    client.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"later");
}

#[tokio::test]
async fn a_delay_is_pipelined() {
    let (link, mut client) = connected().await;
    link.delay(Duration::from_millis(50));
    let start = Instant::now();
    ping(&mut client).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(100), "each way is delayed");
    let start = Instant::now();
    let (mut from, mut to) = client.split();
    let sent = vec![7; 2_000_000];
    let mut back = vec![0; sent.len()];
    let (wrote, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut back));
    wrote.unwrap();
    read.unwrap();
    // 62 chunks that waited for each other would take 6 s.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_limit_slows_and_healing_ends_it() {
    let (link, mut client) = connected().await;
    link.limit(100_000);
    let start = Instant::now();
    let (mut from, mut to) = client.split();
    let mut back = vec![0; 50_000];
    let (wrote, read) = tokio::join!(to.write_all(&[7; 50_000]), from.read_exact(&mut back));
    wrote.unwrap();
    read.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(400), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_switch_per_client_cuts_one_and_not_the_other() {
    let (mine, others) = (Control::new(), Control::new());
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (a, b) = (mine.clone(), others.clone());
    let classify: Classify =
        Arc::new(move |from| if from.port() == first.port() { a.clone() } else { b.clone() });
    let at = ports::free_address().unwrap();
    let link = Link::start_at(at, echo().await, Control::new(), classify).await.unwrap();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(first).unwrap();
    let mut cut = socket.connect(link.addr()).await.unwrap();
    let mut whole = TcpStream::connect(link.addr()).await.unwrap();
    ping(&mut cut).await.unwrap();
    ping(&mut whole).await.unwrap();
    mine.cut();
    assert!(ping(&mut cut).await.is_err());
    ping(&mut whole).await.unwrap();
}
