//! The front: it takes connections, looks at what they begin with, and hands them to Pingora's proxy.
//!
//! The listeners are ours and not Pingora's. Who may decrypt is decided before the first byte is decrypted, who speaks may be
//! told by a load balancer, and a listener that stops must first take what waits in its queue; Pingora offers no place
//! for any of it.

mod balancer;
pub mod connection;
mod handshake;
pub mod mllp;
mod preface;
pub mod splice;
pub mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::pause;
use futures::FutureExt;
use pingora_core::apps::{HttpServerApp, HttpServerOptions};
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use crate::config::Sabotage;
use crate::metrics::Metrics;
use crate::serve::Router;
use crate::state::Shared;
use crate::tls::Secure;
use balancer::Begun;
use bytes::BytesMut;
use connection::{Connection, Counters, HeadWatch, Limits, Over, Streams};
pub use handshake::Refused;
use mllp::Disguised;
use stream::{ClientStream, GOODBYE, Prefixed, Socket, Transport};

/// After an `accept` that failed for want of descriptors or memory: trying at once would only burn the processor.
const BREATH: Duration = Duration::from_millis(50);
/// How long a connection that was taken last may take to send its first request, before idle ones are closed.
const LAST_FIRST: Duration = Duration::from_millis(500);
/// Tries of one request. Our own counts (addresses, follows) end them earlier; at zero nothing would ever be sent.
const MOST_TRIES: usize = 16;
/// Idle connections to the next servers, per worker thread.
const KEPT: usize = 512;
/// Requests over one connection, so that its memory is given back some day.
const MOST_REQUESTS: u32 = 100_000;

/// What a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// HTTP/1.1, or HTTP/2 with prior knowledge, in the clear.
    Http,
    /// TLS, and in it HTTP/1.1 or HTTP/2.
    Https,
}

/// Everything that a connection needs. Cheap to clone.
#[derive(Clone)]
pub struct Front {
    shared: Arc<Shared>,
    proxy: Arc<HttpProxy<Router>>,
    tasks: TaskTracker,
    room: Arc<Semaphore>,
    closing: watch::Sender<bool>,
    /// Older than any connection: one that is taken last still sees the change.
    close: watch::Receiver<bool>,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("connections", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl Front {
    /// A front without listeners.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let conf = ServerConf {
            threads: shared.config.threads,
            max_retries: MOST_TRIES,
            upstream_keepalive_pool_size: KEPT,
            ..ServerConf::default()
        };
        let mut proxy = HttpProxy::new(Router::new(shared.clone()), Arc::new(conf));
        let mut options = HttpServerOptions::default();
        options.keepalive_request_limit = Some(MOST_REQUESTS);
        options.h2_idle_timeout = Some(shared.config.idle_timeout);
        proxy.server_options = Some(options);
        proxy.handle_init_modules();
        let room = Arc::new(Semaphore::new(shared.config.max_connections));
        let (closing, close) = watch::channel(false);
        Self { shared, proxy: Arc::new(proxy), tasks: TaskTracker::new(), room, closing, close }
    }

    /// Takes connections from a listener until the front closes. Call it on the runtime that is to serve them.
    pub fn open(&self, listener: TcpListener, door: Door) {
        let front = self.clone();
        self.tasks.spawn(async move { front.accept(listener, door).await });
    }

    async fn accept(&self, listener: TcpListener, door: Door) {
        let mut close = self.close.clone();
        loop {
            // Beyond the bound they wait in the listener's queue, which the system bounds.
            let permit = tokio::select! {
                biased;
                _ = close.wait_for(|closing| *closing) => break,
                permit = self.room.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                _ = close.wait_for(|closing| *closing) => break,
            };
            match accepted {
                Ok((socket, from)) => self.take(socket, from, door, permit),
                Err(error) => self.lean_back(&error).await,
            }
        }
        if self.shared.upgrade.has_left() {
            // What waits in the queue is another process's by now.
            return;
        }
        // Whoever waits in the queue was told by nobody that this router stops: closing would reset them.
        while let Some(Ok((socket, from))) = listener.accept().now_or_never() {
            let Ok(permit) = self.room.clone().try_acquire_owned() else { return };
            self.take(socket, from, door, permit);
        }
    }

    async fn lean_back(&self, error: &std::io::Error) {
        // A client that was gone again before it was taken is no news.
        if error.kind() != std::io::ErrorKind::ConnectionAborted {
            if self.shared.now_and_then() {
                tracing::warn!(%error, "a connection can't be taken");
            }
            pause(BREATH).await;
        }
    }

    fn take(&self, socket: TcpStream, from: SocketAddr, door: Door, permit: OwnedSemaphorePermit) {
        let front = self.clone();
        let open = Open::new(&self.shared.metrics, permit);
        self.tasks.spawn(async move {
            let _open = open;
            front.attend(socket, from, door).await;
        });
    }

    /// The life of one connection.
    async fn attend(&self, socket: TcpStream, from: SocketAddr, door: Door) {
        // Without it the last piece of an answer waits for the client's acknowledgement of the one before.
        let _ = socket.set_nodelay(true);
        let patience = self.shared.config.handshake_timeout;
        let told =
            tokio::time::timeout(patience, balancer::read(&self.shared.config.balancers, socket, from));
        let mut begun = match told.await.unwrap_or(Err(Refused::Late)) {
            Ok(begun) => begun,
            Err(why) => return self.refused(why),
        };
        let client = begun.client;
        let mut mllp = false;
        let (transport, version, secure) = match door {
            Door::Http => match preface::read(begun, self.shared.config.idle_timeout).await {
                Some((socket, version)) => (Transport::Plain(socket), version, None),
                None => return,
            },
            Door::Https => {
                let keys = &self.shared.keys;
                let hello = tokio::time::timeout(patience, handshake::hello(&mut begun)).await;
                let hello = hello.unwrap_or(Err(Refused::Late));
                let named = hello.as_ref().is_ok_and(|hello| hello.name.is_some());
                let name = match hello.and_then(|hello| handshake::name(keys, hello)) {
                    Ok(name) => name,
                    Err(why) => return self.turn_away(begun, why).await,
                };
                // Nothing was decrypted up to here. What may not be goes on as it came.
                match splice::decide(&self.shared, &name, begun.spliced).await {
                    Ok(None) => {}
                    Ok(Some(to)) => match splice::dial(&self.shared, &begun, &to).await {
                        Some(next) => {
                            return splice::carry(&self.shared, begun, name, to, next, self.close.clone())
                                .await;
                        }
                        None => return self.turn_away(begun, Refused::Outside).await,
                    },
                    Err(why) => return self.turn_away(begun, why).await,
                }
                let socket = Prefixed::new(begun.ahead.freeze(), begun.socket);
                let shaken = tokio::time::timeout(patience, handshake::accept(keys, socket, name));
                match shaken.await.unwrap_or(Err(Refused::Late)) {
                    Ok((stream, version, secure)) => {
                        let transport = match self.undress(stream, &secure, named).await {
                            Ok(transport) => transport,
                            Err(why) => return self.refused(why),
                        };
                        mllp = matches!(transport, Transport::Mllp(_));
                        (transport, version, Some(secure))
                    }
                    Err(why) => return self.refused(why),
                }
            }
        };
        let shared = &self.shared;
        let router = shared.trusts(secure.as_ref(), Some(client.ip()));
        let (head, streams) = (HeadWatch::default(), Streams::default());
        let connection = Arc::new(Connection { client, secure, head, streams, mllp });
        let stream = ClientStream::new(transport, connection.clone(), version);
        let config = &shared.config;
        let limits = Limits {
            head: config.head_timeout,
            idle: config.idle_timeout,
            cuts: router || config.sabotage == Sabotage::ResetsUncounted,
        };
        let counters = Counters {
            late: shared.metrics.connections_refused.with_label_values(&[Refused::SlowHead.label()]),
            cut: shared.metrics.connections_cut.clone(),
        };
        Over::serve(connection, self.proxy.clone(), stream, limits, counters, &self.close).await;
    }

    /// Looks at what a client speaks in TLS, unless the handshake has said it.
    async fn undress(
        &self,
        mut stream: TlsStream<Socket>,
        secure: &Secure,
        named: bool,
    ) -> Result<Transport, Refused> {
        let mut ahead = BytesMut::new();
        if stream.get_ref().1.alpn_protocol().is_none() && !handshake::own(&secure.name) {
            let host = mllp::host(&self.shared, secure, named)?;
            let (silent, mut close) = (self.shared.config.idle_timeout, self.close.clone());
            if mllp::begins(&mut stream, &mut ahead, silent, &mut close).await {
                return Ok(Transport::Mllp(Box::new(Disguised::new(stream, ahead.freeze(), &host))));
            }
        }
        Ok(Transport::Tls(Box::new(Prefixed::new(ahead.freeze(), stream))))
    }

    /// Says goodbye to a client that has sent its hello, as far as it would understand.
    async fn turn_away(&self, mut begun: Begun, why: Refused) {
        let _ = tokio::time::timeout(GOODBYE, handshake::say(&mut begun.socket, why)).await;
        self.refused(why);
    }

    fn refused(&self, why: Refused) {
        self.shared.metrics.connections_refused.with_label_values(&[why.label()]).inc();
    }

    /// Closes the listeners once they have taken what waits, then every connection once its last answer is out. Returns
    /// whether all of them are gone; what is left `within` this time is left to its fate.
    pub async fn close(&self, within: Duration) -> bool {
        self.tasks.close();
        // HTTP/2: GOAWAY, and streams that are open end; HTTP/1: no further request. Listeners end.
        self.closing.send_replace(true);
        let gone = async {
            if tokio::time::timeout(LAST_FIRST, self.tasks.wait()).await.is_err() {
                // Those who wait for a next request.
                self.proxy.http_cleanup().await;
                self.tasks.wait().await;
            }
        };
        tokio::time::timeout(within, gone).await.is_ok()
    }
}

/// A connection's place, given back however it ends.
struct Open {
    gauge: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn new(metrics: &Metrics, permit: OwnedSemaphorePermit) -> Self {
        let gauge = metrics.connections.clone();
        gauge.inc();
        Self { gauge, _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
