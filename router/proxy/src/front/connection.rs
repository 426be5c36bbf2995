//! One connection: what is known of it, and its life.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domicile_model::clock::pause;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use prometheus::IntCounter;
use tokio::sync::Notify;

use crate::serve::Router;
use crate::tls::Secure;

tokio::task_local! {
    static CONNECTION: Arc<Connection>;
}

/// What is known of a connection.
#[derive(Debug)]
pub struct Connection {
    /// Who speaks.
    pub client: SocketAddr,
    /// What TLS says of it; none in the clear.
    pub secure: Option<Secure>,
    /// Where the present request stands, over HTTP/1.
    pub head: HeadWatch,
    /// How its requests end, over HTTP/2.
    pub streams: Streams,
    /// Whether it carries MLLP instead of HTTP, and its one request is ours.
    pub mllp: bool,
}

/// Counts the requests of a connection of HTTP/2. A request that its client cuts off makes room for the next one at once, so
/// the bound on concurrent ones bounds nothing: each of them has cost a place at the application.
#[derive(Debug, Default)]
pub struct Streams {
    begun: AtomicU64,
    settled: AtomicU64,
    too_many: Notify,
}

/// As many requests of one connection may be cut off early, besides half of all.
const MOST_CUT: u64 = 500;

/// Requests that a router has cut off before they were looked at: one mean client must not end what others do over it.
const MOST_CUT_BY_A_ROUTER: usize = 10_000;

/// Bytes of one answer over HTTP/2 that wait for its client. With h2's own bound a client of a hundred streams that reads
/// nothing takes twice the memory.
const MOST_UNSENT: usize = 64 << 10;

impl Streams {
    /// A request begins. False: too many before it were cut off.
    fn begin(&self) -> bool {
        let begun = self.begun.fetch_add(1, Ordering::AcqRel);
        begun < MOST_CUT.saturating_add(self.settled.load(Ordering::Acquire).saturating_mul(2))
    }

    /// A request has ended as requests end: answered, or given up after some time.
    pub fn settled(&self) {
        self.settled.fetch_add(1, Ordering::AcqRel);
    }
}

/// Watches over the head of a request: from its first byte on it has only so much time, however steadily it drips.
#[derive(Debug, Default)]
pub struct HeadWatch {
    /// Which request, and in the last two bits where it stands.
    stands: AtomicU64,
    begun: Notify,
}

/// Nothing of the request has come.
const AWAITED: u64 = 0;
/// A part of its head has.
const BEGUN: u64 = 1;
/// All of its head has.
const WHOLE: u64 = 2;
const PHASE: u64 = 3;

impl HeadWatch {
    fn becomes(&self, phase: u64, of: impl Fn(u64) -> Option<u64>) -> bool {
        let next = |old: u64| Some(of(old & !PHASE)? | phase);
        self.stands.try_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok()
    }

    /// Another request is awaited.
    fn next(&self) {
        self.becomes(AWAITED, |n| Some(n.wrapping_add(PHASE + 1)));
    }

    /// Bytes have come.
    pub fn bytes(&self) {
        let stands = self.stands.load(Ordering::Acquire);
        let began = stands & PHASE == AWAITED;
        if began
            && self
                .stands
                .compare_exchange(stands, stands | BEGUN, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        {
            self.begun.notify_one();
        }
    }

    /// The head has come.
    pub fn whole(&self) {
        self.becomes(WHOLE, Some);
    }

    /// Returns once a head took longer than it may, and otherwise never.
    async fn late(&self, limit: Duration) {
        loop {
            self.begun.notified().await;
            let begun = self.stands.load(Ordering::Acquire);
            if begun & PHASE != BEGUN {
                continue;
            }
            pause(limit).await;
            if self.stands.load(Ordering::Acquire) == begun {
                return;
            }
        }
    }
}

impl Connection {
    /// The connection that the present request came over. None outside of one.
    #[must_use]
    pub fn current() -> Option<Arc<Self>> {
        CONNECTION.try_with(Clone::clone).ok()
    }
}

/// Pingora's proxy, for one connection: each of its requests knows what it came over.
pub struct Over {
    connection: Arc<Connection>,
    proxy: Arc<HttpProxy<Router>>,
    limits: Limits,
    counters: Counters,
}

/// What is counted when a connection has to end.
pub struct Counters {
    /// Heads that came too slowly.
    pub late: IntCounter,
    /// Connections whose client cut off too many requests.
    pub cut: IntCounter,
}

/// What clients may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time from the first byte of a head to its last.
    pub head: Duration,
    /// Time between two requests, and before the first.
    pub idle: Duration,
    /// Whether the client may cut off as many requests as it likes: a router does so for many clients of its own.
    pub cuts: bool,
}

impl Over {
    /// Serves HTTP over it until it ends.
    pub async fn serve(
        connection: Arc<Connection>,
        proxy: Arc<HttpProxy<Router>>,
        stream: super::stream::ClientStream,
        limits: Limits,
        counters: Counters,
        closing: &ShutdownWatch,
    ) {
        let over = Arc::new(Self { connection, proxy, limits, counters });
        tokio::select! {
            _ = over.process_new(Box::new(stream), closing) => {}
            () = over.connection.streams.too_many.notified() => over.counters.cut.inc(),
        }
    }
}

#[async_trait]
impl HttpServerApp for Over {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let http2 = session.is_http2();
        if http2 && !self.limits.cuts && !self.connection.streams.begin() {
            self.connection.streams.too_many.notify_one();
            return None;
        }
        if !http2 {
            // A request that comes before the answer to the one before waits for its turn (RFC 9112, section 9.3.2).
            session.set_pipelining_enabled(true);
            self.connection.head.next();
            if session.get_keepalive().is_some() {
                session.set_keepalive(Some(self.limits.idle.as_secs().max(1)));
            }
        }
        let within =
            CONNECTION.scope(self.connection.clone(), self.proxy.process_new_http(session, shutdown));
        if http2 {
            // Heads of HTTP/2 come whole, or their connection counts as idle.
            return within.await;
        }
        tokio::select! {
            done = within => done,
            () = self.connection.head.late(self.limits.head) => {
                self.counters.late.inc();
                None
            }
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_send_buffer_size(MOST_UNSENT);
        if self.limits.cuts {
            options.max_pending_accept_reset_streams(MOST_CUT_BY_A_ROUTER);
        }
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_CUT, Streams};

    #[test]
    fn half_of_a_connections_requests_may_be_cut_off_and_some_more() {
        let streams = Streams::default();
        for n in 0..MOST_CUT {
            assert!(streams.begin(), "{n}");
        }
        assert!(!streams.begin(), "none of them has settled");
        let streams = Streams::default();
        for n in 0..10 * MOST_CUT {
            assert!(streams.begin(), "{n}");
            assert!(streams.begin(), "{n}");
            streams.settled();
        }
    }
}
