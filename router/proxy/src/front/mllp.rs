//! MLLP over TLS: told from HTTP by its first byte, and put before Pingora as one request for a tunnel. So a session is
//! identified, held, admitted, counted, followed and logged by the very code that does so for requests.

use std::future::{Pending, pending};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use domicile_model::Role;
use domicile_router_core::ending::may_decrypt;
use domicile_router_core::mllp::START;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Timeout;
use tokio_rustls::server::TlsStream;

use super::Refused;
use super::stream::Socket;
use crate::standing::mllp::{PATH, PROTOCOL};
use crate::state::Shared;
use crate::tls::Secure;
use crate::tls::shelf::Certificate;

/// The longest head of an answer to our own request.
const MOST_HEAD: usize = 64 << 10;
/// How long a client that was told the end may take to leave.
const LEAVES: Duration = Duration::from_secs(2);

/// Whose a session is: the tenant of the name that was asked for; without one, that of a name in the client's
/// certificate, if it shows one of a tenant's. Nothing of the session was read yet, and nothing will be where this
/// region may not.
///
/// # Errors
/// The tenant's policy does not let TLS end here.
pub(super) fn host(shared: &Shared, secure: &Secure, named: bool) -> Result<String, Refused> {
    if named {
        return Ok(secure.name.clone());
    }
    let table = shared.table();
    let names = secure.client.as_deref().map(Certificate::names_in).unwrap_or_default();
    for name in names.iter().map(|name| name.to_ascii_lowercase()).filter(|name| !name.starts_with("*.")) {
        let Some(tenant) = table.tenant_by_host(&name) else { continue };
        let edge = shared.config.role == Role::Edge;
        return if edge && !may_decrypt(&table, tenant, &shared.config.region) {
            Err(Refused::Outside)
        } else {
            Ok(name)
        };
    }
    Ok(secure.name.clone())
}

/// Reads the first byte, and whatever comes with it. True: MLLP.
pub(super) async fn begins(
    stream: &mut TlsStream<Socket>,
    ahead: &mut BytesMut,
    silent: Duration,
    close: &mut watch::Receiver<bool>,
) -> bool {
    tokio::select! {
        biased;
        read = tokio::time::timeout(silent, stream.read_buf(ahead)) => {
            matches!(read, Ok(Ok(1..))) && ahead.first() == Some(&START)
        }
        // Whoever has said nothing by then is let go as one that waits for its first request.
        _ = close.wait_for(|closing| *closing) => false,
    }
}

/// A session that looks like one request of HTTP/1.1 for a tunnel.
#[derive(Debug)]
pub struct Disguised {
    /// The request, and then what the client has said already.
    request: Bytes,
    ahead: Bytes,
    inner: TlsStream<Socket>,
    answer: Answer,
    waits: Option<Waker>,
    /// Runs from when the client was told the end.
    leaves: Option<Pin<Box<Timeout<Pending<()>>>>>,
}

#[derive(Debug)]
enum Answer {
    /// Of its head this has come.
    Awaited(Vec<u8>),
    /// The tunnel stands.
    Tunnel,
    /// There is none: nothing that is said is for this client, and nothing that it says is heard.
    None,
}

impl Disguised {
    /// A session for a host.
    pub(super) fn new(inner: TlsStream<Socket>, ahead: Bytes, host: &str) -> Self {
        let request = format!(
            "GET {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
        );
        let answer = Answer::Awaited(Vec::new());
        Self { request: request.into(), ahead, inner, answer, waits: None, leaves: None }
    }

    /// What carries it.
    pub(super) const fn inner(&self) -> &TlsStream<Socket> {
        &self.inner
    }

    /// Takes bytes of the answer's head. Returns how many of them it were.
    fn hear(&mut self, bytes: &[u8]) -> usize {
        let Answer::Awaited(head) = &mut self.answer else { return 0 };
        let before = head.len();
        head.extend_from_slice(bytes);
        let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) else {
            if head.len() > MOST_HEAD {
                self.answer = Answer::None;
            }
            return bytes.len();
        };
        let tunnel = head.starts_with(b"HTTP/1.1 101 ");
        self.answer = if tunnel { Answer::Tunnel } else { Answer::None };
        if let Some(waker) = self.waits.take() {
            waker.wake();
        }
        end - before
    }
}

impl AsyncRead for Disguised {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ready = match this.answer {
            _ if this.request.has_remaining() => &mut this.request,
            Answer::Awaited(_) => {
                this.waits = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Answer::None => return Poll::Ready(Ok(())),
            Answer::Tunnel if this.ahead.has_remaining() => &mut this.ahead,
            Answer::Tunnel => return Pin::new(&mut this.inner).poll_read(cx, buf),
        };
        let n = ready.remaining().min(buf.remaining());
        buf.put_slice(&ready.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Disguised {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.answer {
            Answer::Awaited(_) => Poll::Ready(Ok(this.hear(buf))),
            Answer::Tunnel => Pin::new(&mut this.inner).poll_write(cx, buf),
            Answer::None => Poll::Ready(Ok(buf.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    /// Says that it ends, and then waits a while for the client to leave: closing under what it sends would take with it the
    /// last answer, if that is still on its way. One that stays is not waited for: it may be nobody any more.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let leaves = this.leaves.get_or_insert_with(|| Box::pin(tokio::time::timeout(LEAVES, pending())));
        if leaves.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        std::task::ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        let mut rest = [0; 4 << 10];
        loop {
            let mut rest = ReadBuf::new(&mut rest);
            std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, &mut rest))?;
            if rest.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
