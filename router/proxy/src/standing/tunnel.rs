//! A WebSocket tunnel: bytes both ways, and a close frame in each at the end.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domicile_model::clock::pause;
use domicile_router_core::websocket::{Frames, SERVICE_RESTART, close_frame, masked_close_frame};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use pingora_core::protocols::http::HttpTask;
use pingora_error::Result;
use pingora_proxy::Session;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::carry::{Carried, Why};
use crate::state::Shared;

/// How much of the application's bytes is read at once.
const PIECE: usize = 16 << 10;
/// How long a frame that is half way may take to end, and the client to hang up after it was told.
const MANNERS: Duration = Duration::from_secs(1);

/// Carries the tunnel until one end closes, or it must go.
pub(super) async fn run(
    carried: &mut Carried<'_>,
    shared: &Arc<Shared>,
    session: &mut Session,
    mut app: TokioIo<Upgraded>,
) -> Result<()> {
    let (mut to_client, mut to_app) = (Frames::default(), Frames::default());
    let mut piece = BytesMut::with_capacity(PIECE);
    let mut leaving: Option<Why> = None;
    let late = async { std::future::pending::<()>().await };
    let mut late: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(late);
    loop {
        if let Some(why) = leaving.filter(|_| to_client.may_insert() || to_client.is_closed()) {
            return goodbye(carried, shared, session, &mut app, (&to_client, &to_app), why).await;
        }
        piece.reserve(PIECE);
        tokio::select! {
            biased;
            why = carried.leaving(shared), if leaving.is_none() => {
                leaving = Some(why);
                late = Box::pin(pause(MANNERS));
            }
            () = &mut late => {
                let why = leaving.unwrap_or(Why::Moved);
                return Err(carried.cut(shared, why));
            }
            read = app.read_buf(&mut piece) => {
                if read.unwrap_or(0) == 0 {
                    // It has hung up; a close frame of its own has passed, or none was sent.
                    return Ok(());
                }
                carried.alive(shared);
                if carried.router.check(carried.ctx).is_err() {
                    return Err(carried.cut(shared, Why::Unproven));
                }
                to_client.pass(&piece);
                carried.write(shared, session, HttpTask::UpgradedBody(Some(piece.split().freeze()), false)).await?;
            }
            sent = session.as_mut().read_body_or_idle(false) => {
                let Some(sent) = sent.map_err(pingora_error::Error::into_down)? else { return Ok(()) };
                carried.alive(shared);
                to_app.pass(&sent);
                let write = async {
                    app.write_all(&sent).await?;
                    app.flush().await
                };
                let patience = shared.config.upstream_timeout;
                if !matches!(tokio::time::timeout(patience, write).await, Ok(Ok(()))) {
                    return Err(carried.cut(shared, Why::Broken));
                }
            }
        }
    }
}

/// Closes both directions, and waits a moment for the client to hang up: closing under its bytes would take the close
/// frame with it.
async fn goodbye(
    carried: &mut Carried<'_>,
    shared: &Arc<Shared>,
    session: &mut Session,
    app: &mut (impl tokio::io::AsyncWrite + Unpin),
    (to_client, to_app): (&Frames, &Frames),
    why: Why,
) -> Result<()> {
    carried.ended(shared, why);
    let told = async {
        if to_app.may_insert() {
            let _ = app.write_all(&masked_close_frame(SERVICE_RESTART, rand::random())).await;
            let _ = app.flush().await;
        }
        if to_client.may_insert() {
            let frame = Bytes::copy_from_slice(&close_frame(SERVICE_RESTART));
            session.as_mut().response_duplex_vec(vec![HttpTask::UpgradedBody(Some(frame), false)]).await?;
        }
        while session.as_mut().read_body_or_idle(false).await?.is_some() {}
        Ok(())
    };
    tokio::time::timeout(MANNERS, told).await.unwrap_or(Ok(()))
}
