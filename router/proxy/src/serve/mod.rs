//! The way of a request through Pingora. Decisions are asked of the core; here they are carried out.

pub mod admission;
pub mod ctx;
pub mod head;
mod record;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domicile_model::Role;
use domicile_router_core::headers::{self, MAX_HOPS};
use domicile_router_core::identify::{By, identify};
use domicile_router_core::{Cause, admit};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::config::Sabotage;
use crate::standing;
use crate::state::Shared;
use crate::tls::peers::PeerName;
use admission::{Request, admit, take_up};
use ctx::Ctx;

/// Where the own listener is probed.
pub const PROBE_PATH: &str = "/.domicile/probe";
/// The header with the probe's token.
pub const PROBE_HEADER: &str = "domicile-probe";

/// How long an idle connection to the next server is kept: shorter than any server's own patience (Pingora's is a
/// minute), or a request meets a closing connection.
const IDLE: Duration = Duration::from_secs(20);

/// The largest head that goes on, in bytes: the same over HTTP/1 as Pingora takes over HTTP/2. Many applications take less.
const MOST_HEAD: usize = 64 << 10;
/// Calls at once over one HTTP/2 connection to the next server.
const MOST_STREAMS: usize = 100;

/// The router as Pingora sees it.
#[derive(Debug, Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

/// What an answer's head means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It is the application's, and may be passed on.
    Passes,
    /// The request belongs elsewhere, and the context says where.
    Follow,
}

impl Router {
    /// A router.
    #[must_use]
    pub const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What it shares with all other parts.
    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends a request with a cause of ours. Never tried again.
    pub(crate) fn refuse(ctx: &mut Ctx, cause: Cause) -> Box<Error> {
        ctx.cause = Some(cause);
        let mut error = Error::explain(ErrorType::HTTPStatus(cause.entry().status), cause.label());
        error.as_in();
        error.set_retry(false);
        error
    }

    pub(crate) async fn answer(&self, session: &mut Session, ctx: &mut Ctx, cause: Cause) -> Result<()> {
        ctx.cause = Some(cause);
        let (head, body) = head::problem(&self.shared, ctx, cause, self.shared.now())?;
        let no_body = session.req_header().method == http::Method::HEAD;
        session.write_response_header(Box::new(head), no_body).await?;
        if !no_body {
            session.write_response_body(Some(Bytes::from(body)), true).await?;
        }
        Ok(())
    }

    pub(crate) async fn admit(&self, session: &Session, ctx: &mut Ctx) -> Result<(), Cause> {
        let head = session.req_header();
        let pass = head.headers.get(headers::PASS).map(http::HeaderValue::as_bytes);
        let bytes = head::size(head);
        admit(&self.shared, ctx, Request { pass, bytes }).await
    }

    /// Identifies and admits; the route is in the context afterwards.
    async fn begin(&self, session: &Session, ctx: &mut Ctx) -> Result<(), Cause> {
        let shared = &self.shared;
        if head::size(session.req_header()) > MOST_HEAD {
            return Err(Cause::HeadTooLarge);
        }
        if ctx.hops >= MAX_HOPS {
            return Err(Cause::TooManyHops);
        }
        if let Some(why) = shared.not_ready() {
            let cause = if shared.is_draining() { None } else { Some(Cause::NoTable) };
            if let Some(cause) = cause {
                tracing::debug!(why, "refused");
                return Err(cause);
            }
        }
        let clues = head::clues(session.req_header(), ctx.trusted);
        // A certificate of several hosts lets a client send all of them over one connection. What was agreed on in the
        // handshake (who may decrypt, whose certificate the client has shown) was agreed on for the names in it only.
        // Who speaks MLLP has no host to name, but the handshake's own or that of its certificate.
        let mllp = ctx.connection.as_ref().is_some_and(|connection| connection.mllp);
        if let Some(secure) = ctx.secure().filter(|s| s.peer.is_none() && !mllp)
            && let Some(host) = clues.host_name()
            && !secure.certificate.covers(&host)
        {
            return Err(Cause::OtherHost);
        }
        let order: &[By] = if shared.is_gate() { &By::GATE } else { &By::EDGE };
        let found = identify(&shared.table(), order, &clues).map(|t| t.id.clone());
        let found = match found {
            // The sender knows a tenant that this table does not have yet: it may be on its way.
            Err(Cause::UnknownHost) if shared.is_gate() && ctx.sent.is_some() => {
                let mut tables = shared.mirror.subscribe();
                let _ = tokio::time::timeout(Duration::from_secs(2), async {
                    while identify(&shared.table(), order, &clues).is_err() && tables.changed().await.is_ok()
                    {
                    }
                })
                .await;
                identify(&shared.table(), order, &clues).map(|t| t.id.clone())
            }
            other => other,
        };
        ctx.tenant = Some(found?);
        self.admit(session, ctx).await
    }

    /// Whether a piece of an answer may leave a gate.
    pub(crate) fn check(&self, ctx: &mut Ctx) -> Result<()> {
        if !self.shared.is_gate() || !ctx.is_local() {
            return Ok(());
        }
        let proven = match (&ctx.cell, &ctx.route) {
            (Some(cell), Some(route)) => self.shared.answers(cell, route.epoch),
            _ => false,
        };
        if proven {
            return Ok(());
        }
        self.shared.metrics.cut.inc();
        Err(Self::refuse(ctx, Cause::OutcomeUnknown))
    }

    /// What an answer's head means for its request: whether it may pass, or says where the request belongs.
    ///
    /// # Errors
    /// Why it must not pass.
    pub(crate) fn judge(
        &self,
        ctx: &mut Ctx,
        status: http::StatusCode,
        headers: &http::HeaderMap,
    ) -> Result<Judged, Cause> {
        ctx.answered.get_or_insert(self.shared.now());
        ctx.released = None;
        let Some(route) = &ctx.route else { return Err(Cause::Internal) };
        if route.local {
            ctx.answer = Some((route.region.clone(), route.epoch));
            return Ok(Judged::Passes);
        }
        if let Some(moved) = head::moved(status, headers) {
            take_up(&self.shared, ctx, &moved)?;
            return Ok(Judged::Follow);
        }
        // A gate may have sent the request on, under a newer epoch.
        let answer = head::answered_by(headers).unwrap_or_else(|| (route.region.clone(), route.epoch));
        if let Some(cell) = &ctx.cell
            && admit::passed(&self.shared.table(), cell, answer.1, &answer.0)
        {
            self.shared.metrics.cut.inc();
            return Err(Cause::OutcomeUnknown);
        }
        ctx.answer = Some(answer);
        Ok(Judged::Passes)
    }

    pub(crate) fn client(session: &Session) -> Option<std::net::IpAddr> {
        session.client_addr().and_then(|a| a.as_inet()).map(std::net::SocketAddr::ip)
    }
}

#[async_trait]
impl ProxyHttp for Router {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::new(self.shared.now())
    }

    fn init_downstream_modules(&self, _: &mut pingora_core::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        let shared = &self.shared;
        if let Some(connection) = &ctx.connection {
            connection.head.whole();
        }
        // The context is made when the connection is ready; the request begins when its head is here.
        ctx.started = shared.now();
        let probe = session.req_header().headers.get(PROBE_HEADER).map(http::HeaderValue::as_bytes);
        if session.req_header().uri.path() == PROBE_PATH && probe == Some(shared.probe_token.as_bytes()) {
            ctx.probe = true;
            let mut head = ResponseHeader::build(204, Some(1))?;
            head.insert_header("content-length", "0")?;
            session.write_response_header(Box::new(head), true).await?;
            return Ok(true);
        }
        if shared.is_draining() {
            session.set_keepalive(None);
        }
        // A client that reads nothing must not keep a request in flight, and a move waiting, for ever.
        session.set_write_timeout(Some(shared.config.upstream_timeout));
        let trusted = shared.trusts(ctx.secure(), Self::client(session));
        head::remember(ctx, session.req_header(), trusted);
        match self.begin(session, ctx).await {
            Ok(()) => match standing::kind(session, ctx) {
                Ok(None) => Ok(false),
                Ok(Some(kind)) => standing::carry::carry(self, session, ctx, kind).await.map(|()| true),
                Err(cause) => self.answer(session, ctx, cause).await.map(|()| true),
            },
            Err(cause) => {
                self.answer(session, ctx, cause).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> Result<Box<HttpPeer>> {
        ctx.following = false;
        if ctx.route.is_none() {
            // A 421 told less than the own table knows.
            if let Err(cause) = self.admit(session, ctx).await {
                return Err(Self::refuse(ctx, cause));
            }
        }
        let (Some(route), Some(cell)) = (&ctx.route, &ctx.cell) else {
            return Err(Self::refuse(ctx, Cause::Internal));
        };
        // Time may have passed since it was admitted: a second try.
        if !self.shared.sends(cell, route) {
            return Err(Self::refuse(ctx, Cause::NoProof));
        }
        let Some(address) = route.addresses.get(ctx.address).copied() else {
            return Err(Self::refuse(ctx, Cause::Unreachable));
        };
        ctx.asked.get_or_insert(self.shared.now());
        let address = self.shared.config.links.dial(address);
        let mut peer = match self.shared.keys.peers.as_ref().filter(|_| !route.local) {
            None => HttpPeer::new(address, false, String::new()),
            Some(peers) => {
                let terms = peers.terms();
                // The name says which region is meant: a gate of another one is not spoken to.
                let gate = PeerName { role: Role::Gate, region: route.region.clone() };
                let mut peer = HttpPeer::new(address, true, gate.dns());
                peer.options.ca = Some(terms.ca.clone());
                peer.client_cert_key = Some(terms.client.clone());
                peer.group_key = terms.generation;
                peer.options.verify_hostname = self.shared.config.sabotage != Sabotage::AnyRegionsGate;
                peer
            }
        };
        let patience = self.shared.config.upstream_timeout;
        let within = ctx.connect_within(self.shared.config.connect_timeout);
        peer.options.connection_timeout = Some(within);
        peer.options.total_connection_timeout = Some(within);
        peer.options.idle_timeout = Some(IDLE);
        peer.options.write_timeout = Some(patience);
        // A tunnel may be silent for longer than an answer, and so may a call that streams.
        peer.options.read_timeout = (!session.is_upgrade_req() && !ctx.grpc).then_some(patience);
        if ctx.grpc {
            peer.options.set_http_version(2, 2);
            peer.options.max_h2_streams = MOST_STREAMS;
        }
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        // The connection may have taken longer than the proof was good for.
        if let (Some(cell), Some(route)) = (&ctx.cell, &ctx.route)
            && self.shared.config.sabotage != Sabotage::SendsUnchecked
            && !self.shared.sends(cell, route)
        {
            return Err(Self::refuse(ctx, Cause::NoProof));
        }
        head::send_on(&self.shared, ctx, head, Self::client(session))
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        self.check(ctx)?;
        if head.status.is_informational() && head.status != http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        match self.judge(ctx, head.status, &head.headers) {
            Ok(Judged::Passes) => Ok(()),
            Ok(Judged::Follow) => {
                ctx.following = true;
                let mut error = Error::explain(ErrorType::HTTPStatus(421), "following a 421");
                error.as_up();
                error.set_retry(true);
                Err(error)
            }
            Err(cause) => Err(Self::refuse(ctx, cause)),
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> Result<()> {
        if head.status.is_informational() && head.status != http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        if self.shared.is_draining() && head.status != http::StatusCode::SWITCHING_PROTOCOLS {
            session.set_keepalive(None);
        }
        head::pass_answer(&self.shared, ctx, head)
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Ctx,
    ) -> Result<Option<Duration>> {
        self.check(ctx).map(|()| None)
    }

    fn upstream_response_trailer_filter(
        &self,
        _: &mut Session,
        _: &mut http::HeaderMap,
        ctx: &mut Ctx,
    ) -> Result<()> {
        self.check(ctx)
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // Nothing was sent, so the region's next address may have it. Never another region's.
        ctx.address += 1;
        let more = ctx.route.as_ref().is_some_and(|r| ctx.address < r.addresses.len());
        error.set_retry(more);
        if more {
            self.shared.metrics.next_address.inc();
        } else {
            ctx.cause = Some(Cause::Unreachable);
            // Once a second: a region that is down would fill the disk with its requests.
            if self.shared.now_and_then() {
                let region = ctx.route.as_ref().map(|r| r.region.to_string());
                tracing::warn!(region, last = %peer, why = %error.etype().as_str(), "no address of the region accepts connections");
            }
        }
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Ctx,
        client_reused: bool,
    ) -> Box<Error> {
        if ctx.following {
            // The gate says that the application has not seen the request, so any method may go again; unless a part
            // of its body is gone, which a gate that knows our rules does not let happen.
            let whole = !session.as_ref().retry_buffer_truncated();
            error.set_retry(whole);
            if !whole {
                ctx.cause = Some(Cause::TableBehind);
            }
        } else if ctx.cause.is_some()
            || ctx.answered.is_some()
            || !session.req_header().method.is_idempotent()
            || session.as_ref().retry_buffer_truncated()
        {
            error.set_retry(false);
        } else {
            // Only where an idle connection was closed under the request; to the same region.
            error.retry.decide_reuse(client_reused);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Ctx) -> FailToProxy {
        let cause = ctx.cause.unwrap_or_else(|| record::cause_of(error));
        ctx.cause = Some(cause);
        let begun = session.response_written().is_some_and(|h| !h.status.is_informational());
        let gone = *error.esource() == ErrorSource::Downstream
            && matches!(
                error.etype(),
                ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed
            );
        let error_code = if begun || gone {
            // What has begun can only be cut: the client sees that it is not complete.
            0
        } else {
            session.set_keepalive(None);
            if let Err(error) = self.answer(session, ctx, cause).await {
                tracing::debug!(%error, "the client is gone");
            }
            cause.entry().status
        };
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Ctx) {
        record::record(&self.shared, session, error, ctx);
    }

    /// Neither path nor query: they may name a patient.
    fn request_summary(&self, session: &Session, ctx: &Ctx) -> String {
        format!("{} request {}", session.req_header().method, ctx.request_id)
    }

    fn suppress_error_log(&self, _: &Session, ctx: &Ctx, _: &Error) -> bool {
        // It stands in the access log and in the metrics, with its cause.
        ctx.cause.is_some_and(|c| c != Cause::Internal)
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        ctx: &Ctx,
        _: &Error,
        _: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        ctx.following
    }
}
