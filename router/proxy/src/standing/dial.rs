//! Connections to the next server for streams: one of its own for each over HTTP/1.1, shared ones for calls over HTTP/2.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::peers::PeerTerms;

/// What a client sends, piece by piece. An error in it resets the stream.
pub(super) type Outgoing = UnsyncBoxBody<Bytes, io::Error>;

/// A silent connection is asked after this whether it is there…
const ASK: Duration = Duration::from_secs(15);
/// …and counts as broken when it does not answer within that.
const ANSWER: Duration = Duration::from_secs(10);
/// What may be under way to one stream, and to all of one connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The next server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Next {
    /// Its address, as seen from here.
    pub address: SocketAddr,
    /// The name that its certificate must have, with the generation of the own one; in the clear without.
    pub name: Option<(String, u64)>,
}

trait Transport: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Transport for T {}

/// Calls at once over one connection. Servers allow a hundred or more (RFC 9113, section 6.5.2), and one more would wait
/// until another ends: with streams that stand open, for ever.
const MOST_CALLS: usize = 90;

/// A connection that calls share.
#[derive(Debug, Clone)]
struct Line {
    sender: http2::SendRequest<Outgoing>,
    calls: Arc<AtomicUsize>,
}

/// A call's place on its connection, until the call ends.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>);

impl Line {
    /// Takes a place, if there is one.
    fn take(&self) -> Option<Place> {
        let more = |n| (n < MOST_CALLS).then_some(n + 1);
        let taken = self.calls.try_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.ok().map(|_| Place(self.calls.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What became of a request that was sent, and its place on the connection.
pub(super) type Sent = (hyper::Result<http::Response<Incoming>>, Option<Place>);

/// How a server is asked.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) next: &'a Next,
    /// How TLS is spoken with it; none in the clear.
    pub(super) terms: Option<&'a PeerTerms>,
    /// How long a new connection may take.
    pub(super) within: Duration,
    /// Whether the request may still be sent, now that the connection is there.
    pub(super) may: &'a (dyn Fn() -> bool + Sync),
}

impl Ask<'_> {
    fn check(&self) -> io::Result<()> {
        if (self.may)() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

/// Connections.
#[derive(Debug, Default)]
pub struct Dial {
    lines: Mutex<HashMap<Next, Vec<Line>>>,
}

impl Dial {
    /// Sends a request over a connection of its own.
    ///
    /// # Errors
    /// `Ok(Err(_))`: it was sent, perhaps; `Err(_)`: nothing was sent.
    pub(super) async fn alone(
        &self,
        ask: Ask<'_>,
        request: http::Request<Outgoing>,
    ) -> io::Result<hyper::Result<http::Response<Incoming>>> {
        let (mut sender, connection) = bounded(ask.within, async {
            let transport = TokioIo::new(connect(ask, false).await?);
            http1::handshake(transport).await.map_err(io::Error::other)
        })
        .await?;
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        ask.check()?;
        Ok(sender.send_request(request).await)
    }

    /// Sends a request over a connection that calls to this server share.
    ///
    /// # Errors
    /// As [`Dial::alone`].
    pub(super) async fn shared(
        &self,
        ask: Ask<'_>,
        mut request: http::Request<Outgoing>,
    ) -> io::Result<Sent> {
        loop {
            let (mut sender, place, fresh) = match self.known(ask.next) {
                Some((sender, place)) => (sender, place, false),
                None => {
                    let (sender, place) = self.open(ask).await?;
                    (sender, place, true)
                }
            };
            ask.check()?;
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok((Ok(answer), Some(place))),
                Err(mut error) => match error.take_message() {
                    // It closed under the request, which it never saw.
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Ok((Err(error.into_error()), None)),
                },
            }
        }
    }

    /// A connection that is open and has a place.
    fn known(&self, next: &Next) -> Option<(http2::SendRequest<Outgoing>, Place)> {
        let lines = self.lock();
        lines
            .get(next)?
            .iter()
            .filter(|l| !l.sender.is_closed())
            .find_map(|l| Some((l.sender.clone(), l.take()?)))
    }

    async fn open(&self, ask: Ask<'_>) -> io::Result<(http2::SendRequest<Outgoing>, Place)> {
        let (sender, connection) = bounded(ask.within, async {
            let transport = TokioIo::new(connect(ask, true).await?);
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(ASK).keep_alive_timeout(ANSWER);
            builder.keep_alive_while_idle(true).max_header_list_size(64 << 10);
            builder
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW);
            builder.handshake(transport).await.map_err(io::Error::other)
        })
        .await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let calls = Arc::new(AtomicUsize::new(1));
        let place = Place(calls.clone());
        let mut lines = self.lock();
        for all in lines.values_mut() {
            all.retain(|line| !line.sender.is_closed());
        }
        lines.retain(|_, all| !all.is_empty());
        lines.entry(ask.next.clone()).or_default().push(Line { sender: sender.clone(), calls });
        Ok((sender, place))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Next, Vec<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bounded<T>(within: Duration, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(within, what).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect(ask: Ask<'_>, calls: bool) -> io::Result<Box<dyn Transport>> {
    let Ask { next, terms, .. } = ask;
    let socket = TcpStream::connect(next.address).await?;
    socket.set_nodelay(true)?;
    let Some((name, _)) = &next.name else { return Ok(Box::new(socket)) };
    let terms = terms.ok_or_else(|| io::Error::other("no certificate to show"))?;
    let name = ServerName::try_from(name.clone()).map_err(io::Error::other)?;
    let config = if calls { &terms.calls } else { &terms.tunnels };
    Ok(Box::new(TlsConnector::from(config.clone()).connect(name, socket).await?))
}
