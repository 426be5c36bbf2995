//! A stream from its admission to its end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use domicile_model::Role;
use domicile_model::clock::{BootTime, pause};
use domicile_router_core::Cause;
use domicile_router_core::standing::{Kind, Stream, leaves};
use futures::StreamExt;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use pingora_core::protocols::http::HttpTask;
use pingora_error::{Error, Result};
use pingora_proxy::Session;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::dial::{Ask, Next, Outgoing, Place};
pub use super::goodbye::Why;
use super::{Stands, head};
use crate::config::Sabotage;
use crate::serve::ctx::Ctx;
use crate::serve::{Judged, Router, head as heads};
use crate::state::Shared;
use crate::tls::peers::PeerName;

/// Pieces of a client's body that wait for the next server.
const AHEAD: usize = 4;
/// A client that takes nothing is cut this long after it was to be told goodbye.
const MANNERS: Duration = Duration::from_secs(1);

/// One stream.
pub(super) struct Carried<'a> {
    pub(super) router: &'a Router,
    pub(super) ctx: &'a mut Ctx,
    pub(super) kind: Kind,
    stands: Stands,
    turn: f64,
    /// When a piece passed last; none before the answer has begun, and for an answer that must be whole.
    moved_at: Option<BootTime>,
    /// Whether what was asked for as a stream of events is something else: an answer that must be whole.
    whole: bool,
    /// Its place on a shared connection.
    _place: Option<Place>,
}

/// A number for each stream, so that they take turns.
static TURN: AtomicU64 = AtomicU64::new(0);

/// Carries a request that was admitted, to the end of its answer.
///
/// # Errors
/// What ends the connection: nothing more can be said to this client.
pub async fn carry(router: &Router, session: &mut Session, ctx: &mut Ctx, kind: Kind) -> Result<()> {
    let shared = router.shared().clone();
    let Some(cell) = ctx.cell.clone() else { return Err(Router::refuse(ctx, Cause::Internal)) };
    let stands = shared.standing.enter(&cell, kind, &shared.table(), &shared.metrics);
    // By the golden ratio: however many there are, their turns are spread.
    let n = TURN.fetch_add(1, Ordering::Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "any spread will do")]
    let turn = (n as f64 * 0.618_033_988_749_895).fract() * 0.8;
    let mut carried = Carried { router, ctx, kind, stands, turn, moved_at: None, whole: false, _place: None };
    // A tunnel or a call may be silent for as long as it likes.
    session.set_read_timeout(None);
    carried.run(&shared, session).await
}

impl Carried<'_> {
    async fn run(&mut self, shared: &Arc<Shared>, session: &mut Session) -> Result<()> {
        if self.kind == Kind::Mllp && self.ctx.is_local() {
            return super::mllp::to_application(self, shared, session).await;
        }
        let (answer, body) = match self.ask(shared, session).await {
            Ok(both) => both,
            Err(cause) => return self.router.answer(session, self.ctx, cause).await,
        };
        self.ctx.released = None;
        let (parts, incoming) = answer.into_parts();
        let protocol = head::protocol(self.kind);
        let tunnel = protocol.filter(|_| parts.status == http::StatusCode::SWITCHING_PROTOCOLS);
        let chunked = !session.is_http2() && session.req_header().version == http::Version::HTTP_11;
        let mut head = head::answer(&parts, tunnel, chunked)?;
        heads::pass_answer(shared, self.ctx, &mut head)?;
        if shared.is_draining() && tunnel.is_none() {
            session.set_keepalive(None);
        }
        let events = || {
            let kind =
                parts.headers.get(http::header::CONTENT_TYPE).map_or(&b""[..], http::HeaderValue::as_bytes);
            kind.get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
        };
        self.whole = self.kind == Kind::EventStream && !events();
        self.alive(shared);
        // A gRPC call that fails at once has its status in the head, which then is all there is.
        let end = tunnel.is_none() && incoming.is_end_stream();
        if self.write(shared, session, HttpTask::Header(Box::new(head), end)).await? || end {
            return Ok(());
        }
        if tunnel.is_some() {
            let response = http::Response::from_parts(parts, incoming);
            let Ok(next) = hyper::upgrade::on(response).await else {
                return Err(self.cut(shared, Why::Broken));
            };
            let next = TokioIo::new(next);
            return match self.kind {
                Kind::Mllp => super::mllp::run(self, shared, session, next).await,
                _ => super::tunnel::run(self, shared, session, next).await,
            };
        }
        self.stream(shared, session, incoming, body).await
    }

    /// Sends the request, to the next address or the next region where that is right; the answer's head was judged.
    async fn ask(
        &mut self,
        shared: &Arc<Shared>,
        session: &mut Session,
    ) -> Result<(http::Response<Incoming>, Upload), Cause> {
        loop {
            if self.ctx.route.is_none() {
                self.router.admit(session, self.ctx).await?;
            }
            let (next, terms) = self.next(shared)?;
            self.ctx.asked.get_or_insert(shared.now());
            let (upload, outgoing) = Upload::new(self.kind);
            let mut request = head::without_hop(session.req_header());
            heads::send_on(shared, self.ctx, &mut request, Router::client(session))
                .map_err(|_| Cause::Internal)?;
            let request = head::request(&request, self.kind, outgoing).ok_or(Cause::BadRequest)?;
            let (kind, within) = (self.kind, self.ctx.connect_within(shared.config.connect_timeout));
            let (cell, route) = (self.ctx.cell.clone(), self.ctx.route.clone());
            let may = || match (&cell, &route) {
                (Some(cell), Some(route)) => {
                    shared.config.sabotage == Sabotage::SendsUnchecked || shared.sends(cell, route)
                }
                _ => false,
            };
            let sent = async {
                let ask = Ask { next: &next, terms: terms.as_deref(), within, may: &may };
                match kind {
                    Kind::Grpc => shared.dial.shared(ask, request).await,
                    Kind::WebSocket | Kind::EventStream | Kind::Mllp => {
                        shared.dial.alone(ask, request).await.map(|sent| (sent, None))
                    }
                }
            };
            let (sent, upload) = self.upload_while(shared, session, sent, upload).await?;
            let answer = match sent {
                Ok((Ok(answer), place)) => {
                    self._place = place;
                    answer
                }
                Ok((Err(_), _)) => return Err(Cause::UpstreamBroken),
                Err(_) if !may() => return Err(Cause::NoProof),
                Err(error) => {
                    // Nothing was sent, so the region's next address may have it. Never another region's.
                    tracing::debug!(%error, address = %next.address, "no connection");
                    self.ctx.address += 1;
                    if upload.begun
                        || self.ctx.route.as_ref().is_none_or(|r| self.ctx.address >= r.addresses.len())
                    {
                        return Err(Cause::Unreachable);
                    }
                    shared.metrics.next_address.inc();
                    continue;
                }
            };
            match self.router.judge(self.ctx, answer.status(), answer.headers())? {
                Judged::Passes => return Ok((answer, upload)),
                // The application has not seen it; unless a part of its body is gone.
                Judged::Follow if !upload.begun => {}
                Judged::Follow => return Err(Cause::TableBehind),
            }
        }
    }

    fn next(&self, shared: &Shared) -> Result<(Next, Option<Arc<crate::tls::peers::PeerTerms>>), Cause> {
        let (Some(route), Some(cell)) = (&self.ctx.route, &self.ctx.cell) else {
            return Err(Cause::Internal);
        };
        if !shared.sends(cell, route) {
            return Err(Cause::NoProof);
        }
        let address = route.addresses.get(self.ctx.address).copied().ok_or(Cause::Unreachable)?;
        let terms = shared.keys.peers.as_ref().filter(|_| !route.local).map(crate::tls::peers::Peers::terms);
        let name = terms.as_ref().map(|terms| {
            let gate = PeerName { role: Role::Gate, region: route.region.clone() };
            (gate.dns(), terms.generation)
        });
        Ok((Next { address: shared.config.links.dial(address), name }, terms))
    }

    /// Passes the client's body on until the answer begins: a call may be answered only after it was heard. A stream
    /// that must go before that is refused: nothing was promised yet.
    async fn upload_while<T>(
        &mut self,
        shared: &Arc<Shared>,
        session: &mut Session,
        sent: impl Future<Output = T>,
        mut upload: Upload,
    ) -> Result<(T, Upload), Cause> {
        tokio::pin!(sent);
        let patience = shared.config.upstream_timeout;
        let late = async {
            match self.kind {
                // Its client has set its own deadline.
                Kind::Grpc => std::future::pending().await,
                Kind::WebSocket | Kind::EventStream | Kind::Mllp => pause(patience).await,
            }
        };
        tokio::pin!(late);
        loop {
            let reads = self.kind == Kind::Grpc && upload.has_room();
            tokio::select! {
                biased;
                sent = &mut sent => return Ok((sent, upload)),
                () = &mut late => return Err(Cause::UpstreamTimeout),
                why = must_go(self.kind, self.ctx, self.turn, None, shared, &mut self.stands) => {
                    tracing::debug!(why = why.label(), "a call was still not answered when its cell had to be left");
                    return Err(if why == Why::Draining { Cause::Draining } else { Cause::OutcomeUnknown });
                }
                piece = session.as_mut().read_body_or_idle(upload.is_done()), if reads => {
                    upload.pass(piece.map_err(|_| Cause::Client)?);
                }
                () = upload.room(), if self.kind == Kind::Grpc && !reads => {}
            }
        }
    }

    /// The answer, piece by piece, beside what the client goes on to send.
    async fn stream(
        &mut self,
        shared: &Arc<Shared>,
        session: &mut Session,
        mut incoming: Incoming,
        mut upload: Upload,
    ) -> Result<()> {
        loop {
            let reads = upload.has_room();
            tokio::select! {
                biased;
                why = must_go(self.kind, self.ctx, self.turn, self.moved_at, shared, &mut self.stands) => {
                    return self.goodbye(shared, session, why).await;
                }
                frame = incoming.frame() => {
                    self.alive(shared);
                    let task = match frame {
                        None => HttpTask::Done,
                        Some(Err(_)) => return self.goodbye(shared, session, Why::Broken).await,
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) if data.is_empty() => continue,
                            Ok(data) => HttpTask::Body(Some(data), false),
                            Err(frame) => match frame.into_trailers() {
                                Ok(trailers) => HttpTask::Trailer(Some(Box::new(trailers))),
                                Err(_) => continue,
                            },
                        },
                    };
                    if self.router.check(self.ctx).is_err() {
                        return self.goodbye(shared, session, Why::Unproven).await;
                    }
                    if self.write(shared, session, task).await? {
                        return Ok(());
                    }
                }
                piece = session.as_mut().read_body_or_idle(upload.is_done()), if reads => {
                    let piece = piece.map_err(Error::into_down)?;
                    if piece.is_some() {
                        self.alive(shared);
                    }
                    upload.pass(piece);
                }
                () = upload.room(), if !reads => {}
            }
        }
    }

    /// Writes a piece; a client that takes none must not keep the cell from moving.
    pub(super) async fn write(
        &mut self,
        shared: &Arc<Shared>,
        session: &mut Session,
        task: HttpTask,
    ) -> Result<bool> {
        let (kind, ctx, turn, moved_at) = (self.kind, &*self.ctx, self.turn, self.moved_at);
        let stands = &mut self.stands;
        let why = tokio::select! {
            biased;
            written = session.as_mut().response_duplex_vec(vec![task]) => return written,
            why = async {
                let why = must_go(kind, ctx, turn, moved_at, shared, stands).await;
                pause(MANNERS).await;
                why
            } => why,
        };
        Err(self.cut(shared, why))
    }

    /// When this stream must go, and why. Only then it returns.
    pub(super) async fn leaving(&mut self, shared: &Arc<Shared>) -> Why {
        must_go(self.kind, self.ctx, self.turn, self.moved_at, shared, &mut self.stands).await
    }

    /// Whether it is to go, now or later.
    pub(super) fn goes(&self, shared: &Shared) -> bool {
        goes(self.kind, self.ctx, self.turn, self.moved_at, shared).is_none_or(|goes| goes.is_some())
    }

    /// A piece has passed.
    pub(super) fn alive(&mut self, shared: &Shared) {
        self.moved_at = (!self.whole).then(|| shared.now());
    }

    /// Something is under way in it that must not be cut in half, or nothing is.
    pub(super) fn under_way(&mut self, shared: &Shared, is: bool) {
        self.moved_at = (!is).then(|| shared.now());
    }

    /// Notes that a stream was ended from here.
    pub(super) fn ended(&mut self, shared: &Shared, why: Why) {
        shared.metrics.streams_ended.with_label_values(&[self.kind.label(), why.label()]).inc();
        self.ctx.ended = Some(why.label());
        match why {
            Why::Unproven => self.ctx.cause = Some(Cause::OutcomeUnknown),
            Why::Broken => self.ctx.cause = Some(Cause::UpstreamBroken),
            Why::Moved | Why::Draining if self.whole => self.ctx.cause = Some(Cause::OutcomeUnknown),
            Why::Moved | Why::Draining => {}
        }
    }

    /// Ends it without another word.
    pub(super) fn cut(&mut self, shared: &Shared, why: Why) -> Box<Error> {
        self.ended(shared, why);
        let mut error = Error::explain(pingora_error::ErrorType::ConnectionClosed, why.label());
        error.as_down();
        error
    }

    /// Ends an answer as its protocol wants.
    async fn goodbye(&mut self, shared: &Arc<Shared>, session: &mut Session, why: Why) -> Result<()> {
        let task = match (self.kind, why) {
            (Kind::Grpc, _) => HttpTask::Trailer(Some(Box::new(why.trailers()))),
            // Whoever reads events comes back by itself after an answer that ends.
            (_, Why::Moved | Why::Draining) if !self.whole => HttpTask::Done,
            // An answer that is not whole must not look whole.
            (_, why) => return Err(self.cut(shared, why)),
        };
        self.ended(shared, why);
        if !session.is_http2() {
            session.set_keepalive(None);
        }
        match tokio::time::timeout(MANNERS, session.as_mut().response_duplex_vec(vec![task])).await {
            Ok(written) => written.map(|_| ()),
            Err(_) => Err(self.cut(shared, why)),
        }
    }
}

/// Returns when the stream must go, with why.
async fn must_go(
    kind: Kind,
    ctx: &Ctx,
    turn: f64,
    moved_at: Option<BootTime>,
    shared: &Arc<Shared>,
    stands: &mut Stands,
) -> Why {
    if shared.config.sabotage == Sabotage::SilentStreamsStay {
        return std::future::pending().await;
    }
    let mut stopping = shared.stopping.subscribe();
    loop {
        stands.bell.mark_unchanged();
        let Some(goes) = goes(kind, ctx, turn, moved_at, shared) else { return Why::Moved };
        let time = async {
            match goes {
                None => std::future::pending().await,
                Some(at) => {
                    let now = shared.now();
                    if at > now {
                        pause(at.since(now)).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = time => return Why::Moved,
            () = told_to(&mut stopping) => return Why::Draining,
            rung = stands.bell.changed() => if rung.is_err() { return Why::Moved },
        }
    }
}

/// When the stream must go, if at all; none: it has no place to go to.
fn goes(
    kind: Kind,
    ctx: &Ctx,
    turn: f64,
    moved_at: Option<BootTime>,
    shared: &Shared,
) -> Option<Option<BootTime>> {
    let (cell, route) = (ctx.cell.as_ref()?, ctx.route.as_ref()?);
    let epoch = ctx.answer.as_ref().map_or(route.epoch, |a| a.1);
    let region = ctx.answer.as_ref().map_or(&route.region, |a| &a.0);
    let stream = Stream { kind, cell, region, epoch, idle_since: moved_at, turn };
    // A gate's next piece would be cut for want of a proof: rather a goodbye than that.
    let linger = if shared.is_gate() && ctx.is_local() { Duration::ZERO } else { shared.config.linger };
    Some(leaves(&shared.table(), &stream, shared.now(), linger))
}

/// Returns once it is true.
async fn told_to(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What the client sends, on its way to the next server.
pub(super) struct Upload {
    pieces: Option<mpsc::Sender<Bytes>>,
    /// Whether the client has said everything: what was not said to its end must not look whole to the application.
    whole: Arc<AtomicBool>,
    /// Whether anything of it was passed on.
    pub(super) begun: bool,
}

impl Upload {
    /// Only calls have a body that goes on while they are answered.
    fn new(kind: Kind) -> (Self, Outgoing) {
        let whole = Arc::new(AtomicBool::new(false));
        if kind != Kind::Grpc {
            let nothing = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
            return (Self { pieces: None, whole, begun: false }, nothing);
        }
        let (send, receive) = mpsc::channel(AHEAD);
        let said = whole.clone();
        let end = futures::stream::once(async move { (!said.load(Ordering::Acquire)).then_some(()) });
        let end =
            end.filter_map(|cut| async move { cut.map(|()| Err(io::ErrorKind::ConnectionAborted.into())) });
        let body = ReceiverStream::new(receive).map(|piece| Ok(Frame::data(piece))).chain(end);
        (Self { pieces: Some(send), whole, begun: false }, StreamBody::new(body).boxed_unsync())
    }

    /// Whether the client has said everything.
    const fn is_done(&self) -> bool {
        self.pieces.is_none()
    }

    /// Whether a piece would be taken now. Also true when nobody takes any more: the client's end is still heard.
    fn has_room(&self) -> bool {
        self.pieces.as_ref().is_none_or(|p| p.is_closed() || p.capacity() > 0)
    }

    /// Returns when there is room.
    async fn room(&self) {
        if let Some(pieces) = &self.pieces {
            let _ = pieces.reserve().await;
        }
    }

    /// Passes a piece on; none is the end.
    fn pass(&mut self, piece: Option<Bytes>) {
        match piece {
            None => {
                self.whole.store(true, Ordering::Release);
                self.pieces = None;
            }
            Some(piece) => {
                self.begun = true;
                if let Some(pieces) = &self.pieces {
                    // There was room, and nobody else sends.
                    let _ = pieces.try_send(piece);
                }
            }
        }
    }
}
