//! HL7 messages over MLLP: between routers in a tunnel of HTTP, to the application in the clear. A session is ended
//! between two messages only, and a message that has begun is finished and answered in the region that has its beginning.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domicile_model::clock::pause;
use domicile_router_core::Cause;
use domicile_router_core::mllp::Talk;
use http::header::{CONNECTION, UPGRADE};
use pingora_core::protocols::http::HttpTask;
use pingora_error::{Error, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::carry::{Carried, Why};
use crate::config::Sabotage;
use crate::serve::head;
use crate::state::Shared;

/// What the tunnel between routers is called (`Upgrade`).
pub const PROTOCOL: &str = "mllp";
/// What is asked for by a session that has come in at this router.
pub const PATH: &str = "/.domicile/mllp";
/// How much of the application's bytes is read at once.
const PIECE: usize = 16 << 10;
/// How long a message that is half way may take to end, once its time is over.
const MANNERS: Duration = Duration::from_secs(1);

/// Carries a session to the application of the own region.
pub(super) async fn to_application(
    carried: &mut Carried<'_>,
    shared: &Arc<Shared>,
    session: &mut Session,
) -> Result<()> {
    let application = match reach(carried, shared).await {
        Ok(application) => application,
        Err(cause) => return carried.router.answer(session, carried.ctx, cause).await,
    };
    carried.ctx.released = None;
    let mut answer = ResponseHeader::build(http::StatusCode::SWITCHING_PROTOCOLS, Some(8))?;
    answer.insert_header(CONNECTION, "Upgrade")?;
    answer.insert_header(UPGRADE, PROTOCOL)?;
    if let Err(cause) = carried.router.judge(carried.ctx, answer.status, &answer.headers) {
        return carried.router.answer(session, carried.ctx, cause).await;
    }
    head::pass_answer(shared, carried.ctx, &mut answer)?;
    carried.write(shared, session, HttpTask::Header(Box::new(answer), false)).await?;
    run(carried, shared, session, application).await
}

/// A connection to the application, while the proof for it holds.
async fn reach(carried: &mut Carried<'_>, shared: &Shared) -> Result<TcpStream, Cause> {
    let (Some(cell), Some(mut route)) = (carried.ctx.cell.clone(), carried.ctx.route.clone()) else {
        return Err(Cause::Internal);
    };
    route.addresses = shared.table().mllp(cell.as_str(), route.region.as_str()).to_vec();
    if route.addresses.is_empty() {
        return Err(Cause::NoAddress);
    }
    carried.ctx.route = Some(route.clone());
    carried.ctx.asked.get_or_insert(shared.now());
    for (n, address) in route.addresses.iter().enumerate() {
        carried.ctx.address = n;
        let connect = TcpStream::connect(shared.config.links.dial(*address));
        let within = carried.ctx.connect_within(shared.config.connect_timeout);
        match tokio::time::timeout(within, connect).await {
            Ok(Ok(socket)) if shared.sends(&cell, &route) => {
                let _ = socket.set_nodelay(true);
                return Ok(socket);
            }
            Ok(Ok(_)) => return Err(Cause::NoProof),
            _ if n + 1 < route.addresses.len() => shared.metrics.next_address.inc(),
            _ => {}
        }
    }
    Err(Cause::Unreachable)
}

/// Carries the session until one end closes it, or it must go.
pub(super) async fn run(
    carried: &mut Carried<'_>,
    shared: &Arc<Shared>,
    session: &mut Session,
    mut application: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<()> {
    let mut talk = Talk::default();
    let mut piece = BytesMut::with_capacity(PIECE);
    let mut leaving: Option<Why> = None;
    let mut late: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(std::future::pending());
    // Set when a message was not let begin: what the client has said of it is gone.
    let mut refused = false;
    loop {
        let quiet = talk.is_quiet() || shared.config.sabotage == Sabotage::CutsMessages;
        carried.under_way(shared, !quiet);
        if let Some(why) = leaving.or_else(|| refused.then_some(Why::Moved)).filter(|_| quiet) {
            carried.ended(shared, why);
            let _ = tokio::time::timeout(MANNERS, application.shutdown()).await;
            return Ok(());
        }
        piece.reserve(PIECE);
        // Once it is to go no further message begins; the client sends it again, to whom it concerns then.
        let reads = talk.is_asking() || !(refused || leaving.is_some() || carried.goes(shared));
        tokio::select! {
            biased;
            why = carried.leaving(shared), if leaving.is_none() => {
                leaving = Some(why);
                // A router that stops waits for what is awaited, as long as it waits for requests.
                if why != Why::Draining {
                    late = Box::pin(pause(MANNERS));
                }
            }
            () = &mut late => return Err(carried.cut(shared, leaving.unwrap_or(Why::Moved))),
            read = application.read_buf(&mut piece) => {
                if read.unwrap_or(0) == 0 {
                    return if talk.is_quiet() { Ok(()) } else { Err(carried.cut(shared, Why::Broken)) };
                }
                if carried.router.check(carried.ctx).is_err() {
                    return Err(carried.cut(shared, Why::Unproven));
                }
                shared.metrics.messages_out.inc_by(talk.answers(&piece));
                let piece = HttpTask::UpgradedBody(Some(piece.split().freeze()), false);
                carried.write(shared, session, piece).await?;
            }
            sent = session.as_mut().read_body_or_idle(false), if reads => {
                let Some(mut sent) = sent.map_err(Error::into_down)? else { return Ok(()) };
                if leaving.is_some() || carried.goes(shared) {
                    let rest = talk.rest(&sent);
                    refused |= rest < sent.len();
                    sent.truncate(rest);
                }
                pass(carried, shared, &mut application, &sent).await?;
                shared.metrics.messages_in.inc_by(talk.asks(&sent));
            }
        }
    }
}

/// Passes a piece of a message on to the application. Each is as good as a request: it needs the proof.
async fn pass(
    carried: &mut Carried<'_>,
    shared: &Arc<Shared>,
    application: &mut (impl AsyncWrite + Unpin),
    sent: &Bytes,
) -> Result<()> {
    let may = match (&carried.ctx.cell, &carried.ctx.route) {
        (Some(cell), Some(route)) => shared.sends(cell, route),
        _ => false,
    };
    if !may && shared.config.sabotage != Sabotage::SendsUnchecked {
        return Err(carried.cut(shared, Why::Unproven));
    }
    let write = async {
        application.write_all(sent).await?;
        application.flush().await
    };
    match tokio::time::timeout(shared.config.upstream_timeout, write).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(carried.cut(shared, Why::Broken)),
    }
}
