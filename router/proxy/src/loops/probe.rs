//! The router's question to its own listeners: does a user who comes there get an answer?

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use domicile_model::clock::{BootTime, pause};
use domicile_router_core::wire::proxy_protocol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::acks::PROBED;
use crate::serve::{PROBE_HEADER, PROBE_PATH};
use crate::state::Shared;
use crate::tls::PROBE_NAME;

/// Between two probes.
const EVERY: Duration = Duration::from_millis(500);

/// Asks for as long as the router lives; `seen` has when it was last answered well. All listeners are asked: a user comes
/// to one of them.
pub(super) async fn run(shared: &Shared, seen: &watch::Sender<Option<BootTime>>) {
    loop {
        let asked = shared.now();
        let both = async { tokio::try_join!(plain(shared), secure(shared)) };
        let both = tokio::time::timeout(PROBED, both).await;
        // One that was told to stop closes its listeners, and has requests in flight that somebody may wait for.
        if matches!(both, Ok(Ok(_))) || shared.is_draining() {
            seen.send_replace(Some(asked));
        }
        // At the start the listener comes a moment later.
        let pace = if seen.borrow().is_none() { EVERY / 10 } else { EVERY };
        pause(pace).await;
    }
}

async fn plain(shared: &Shared) -> io::Result<()> {
    let Some(address) = shared.config.listen else { return Ok(()) };
    ask(connect(shared, address).await?, &shared.probe_token).await
}

async fn secure(shared: &Shared) -> io::Result<()> {
    let (Some(address), Some(probe)) = (shared.config.listen_tls, &shared.keys.probe) else { return Ok(()) };
    ask(probe.secure(connect(shared, address).await?).await?, &shared.probe_token).await
}

async fn connect(shared: &Shared, mut address: SocketAddr) -> io::Result<TcpStream> {
    if address.ip().is_unspecified() {
        let here = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(here);
    }
    let mut socket = TcpStream::connect(address).await?;
    let own = socket.local_addr()?.ip();
    if shared.config.balancers.iter().any(|net| net.contains(own)) {
        socket.write_all(&proxy_protocol::LOCAL).await?;
    }
    Ok(socket)
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, token: &str) -> io::Result<()> {
    let head = format!(
        "GET {PROBE_PATH} HTTP/1.1\r\nhost: {PROBE_NAME}\r\n{PROBE_HEADER}: {token}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    if &answer == b"HTTP/1.1 204" { Ok(()) } else { Err(io::Error::other("another answer than expected")) }
}
