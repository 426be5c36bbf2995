//! Connections to the next server for streams: one of its own for each over HTTP/1.1, one for all calls over HTTP/2.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
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

/// How long a connection may take, as for every other request.
const CONNECT: Duration = Duration::from_secs(1);
/// A silent connection is asked after this whether it is there…
const ASK: Duration = Duration::from_secs(15);
/// …and counts as broken when it does not answer within that.
const ANSWER: Duration = Duration::from_secs(10);
/// What may be under way to one stream, and to all of one connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The next server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Next {
    /// Its address, as seen from here.
    pub address: SocketAddr,
    /// The name that its certificate must have, with the generation of the own one; in the clear without.
    pub name: Option<(String, u64)>,
}

trait Transport: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Transport for T {}

/// Connections.
#[derive(Debug, Default)]
pub struct Dial {
    calls: Mutex<HashMap<Next, http2::SendRequest<Outgoing>>>,
}

impl Dial {
    /// Sends a request over a connection of its own.
    ///
    /// # Errors
    /// `Ok(Err(_))`: it was sent, perhaps; `Err(_)`: nothing was sent.
    pub async fn alone(
        &self,
        next: &Next,
        terms: Option<&PeerTerms>,
        request: http::Request<Outgoing>,
    ) -> io::Result<hyper::Result<http::Response<Incoming>>> {
        let (mut sender, connection) = bounded(async {
            let transport = TokioIo::new(connect(next, terms, false).await?);
            http1::handshake(transport).await.map_err(io::Error::other)
        })
        .await?;
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender.send_request(request).await)
    }

    /// Sends a request over the connection that all calls to this server share.
    ///
    /// # Errors
    /// As [`Dial::alone`].
    pub async fn shared(
        &self,
        next: &Next,
        terms: Option<&PeerTerms>,
        mut request: http::Request<Outgoing>,
    ) -> io::Result<hyper::Result<http::Response<Incoming>>> {
        loop {
            let known = self.lock().get(next).filter(|c| !c.is_closed()).cloned();
            let (mut sender, fresh) = match known {
                Some(sender) => (sender, false),
                None => (self.open(next, terms).await?, true),
            };
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(mut error) => match error.take_message() {
                    // It closed under the request, which it never saw.
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Ok(Err(error.into_error())),
                },
            }
        }
    }

    async fn open(&self, next: &Next, terms: Option<&PeerTerms>) -> io::Result<http2::SendRequest<Outgoing>> {
        let (sender, connection) = bounded(async {
            let transport = TokioIo::new(connect(next, terms, true).await?);
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
        let mut calls = self.lock();
        calls.retain(|_, c| !c.is_closed());
        calls.insert(next.clone(), sender.clone());
        Ok(sender)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Next, http2::SendRequest<Outgoing>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn bounded<T>(what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(CONNECT, what).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect(next: &Next, terms: Option<&PeerTerms>, calls: bool) -> io::Result<Box<dyn Transport>> {
    let socket = TcpStream::connect(next.address).await?;
    socket.set_nodelay(true)?;
    let Some((name, _)) = &next.name else { return Ok(Box::new(socket)) };
    let terms = terms.ok_or_else(|| io::Error::other("no certificate to show"))?;
    let name = ServerName::try_from(name.clone()).map_err(io::Error::other)?;
    let config = if calls { &terms.calls } else { &terms.tunnels };
    Ok(Box::new(TlsConnector::from(config.clone()).connect(name, socket).await?))
}
