//! Streams that stand open for long: WebSocket, server-sent events, gRPC, MLLP. Pingora's pipe wakes up when a piece comes, and a
//! silent stream has none; it also offers no way to end one as its protocol wants. So these are carried here, between
//! the same admission and the same checks as everything else.

pub mod carry;
mod dial;
mod goodbye;
mod head;
pub mod mllp;
mod tunnel;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domicile_mirror::{Mirror, RoutingTable};
use domicile_model::clock::pause;
use domicile_model::{CellId, Epoch, Phase, RegionId};
use domicile_router_core::Cause;
use domicile_router_core::standing::Kind;
use pingora_proxy::Session;
use prometheus::IntGauge;
use tokio::sync::watch;

pub use dial::Dial;

use crate::metrics::Metrics;
use crate::serve::ctx::Ctx;

/// Changes of the table are looked at together: it may change a thousand times a second.
const TOGETHER: Duration = Duration::from_millis(10);

type Seen = Option<(Epoch, Option<RegionId>, Phase)>;

/// The cells that have streams standing here, each with a bell.
#[derive(Debug, Default)]
pub struct Standing {
    cells: Mutex<HashMap<CellId, (watch::Sender<Seen>, usize)>>,
}

/// A stream's place in the list. It leaves it however it ends.
pub struct Stands {
    all: Arc<Standing>,
    cell: CellId,
    /// Rings when the cell's placement changes.
    pub bell: watch::Receiver<Seen>,
    gauge: IntGauge,
}

impl Drop for Stands {
    fn drop(&mut self) {
        self.gauge.dec();
        let mut cells = self.all.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, n)) = cells.get_mut(&self.cell) {
            *n -= 1;
            if *n == 0 {
                cells.remove(&self.cell);
            }
        }
    }
}

fn seen(table: &RoutingTable, cell: &CellId) -> Seen {
    let placement = &table.placement(cell.as_str())?.placement;
    Some((placement.epoch, placement.holder.clone(), placement.phase))
}

impl Standing {
    /// Puts a stream on the list. Look at the table after this.
    #[must_use]
    pub fn enter(
        self: &Arc<Self>,
        cell: &CellId,
        kind: Kind,
        table: &RoutingTable,
        metrics: &Metrics,
    ) -> Stands {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = cells.entry(cell.clone()).or_insert_with(|| (watch::Sender::new(seen(table, cell)), 0));
        entry.1 += 1;
        let gauge = metrics.streams.with_label_values(&[kind.label()]);
        gauge.inc();
        Stands { all: self.clone(), cell: cell.clone(), bell: entry.0.subscribe(), gauge }
    }

    /// Rings the bells of cells that change, for as long as the mirror lives.
    pub async fn run(self: Arc<Self>, mirror: &Mirror) {
        let mut changes = mirror.subscribe();
        while changes.changed().await.is_ok() {
            let table = mirror.table();
            for (cell, (bell, _)) in self.cells.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let now = seen(&table, cell);
                bell.send_if_modified(|old| std::mem::replace(old, now.clone()) != now);
            }
            pause(TOGETHER).await;
        }
    }
}

/// What a request will be, if it will stand open.
///
/// # Errors
/// It asks for what only routers ask each other for.
pub fn kind(session: &Session, ctx: &Ctx) -> Result<Option<Kind>, Cause> {
    let head = session.req_header();
    if session.is_upgrade_req() {
        let upgrade = head.headers.get(http::header::UPGRADE).map_or(&b""[..], http::HeaderValue::as_bytes);
        if upgrade.eq_ignore_ascii_case(mllp::PROTOCOL.as_bytes()) {
            let session = ctx.connection.as_ref().is_some_and(|connection| connection.mllp);
            let router = ctx.trusted && ctx.sent.is_some();
            return if session || router { Ok(Some(Kind::Mllp)) } else { Err(Cause::BadRequest) };
        }
        return Ok(upgrade.eq_ignore_ascii_case(b"websocket").then_some(Kind::WebSocket));
    }
    if ctx.grpc && session.is_http2() {
        return Ok(Some(Kind::Grpc));
    }
    let accepts = |v: &http::HeaderValue| {
        v.to_str().is_ok_and(|v| {
            v.split(',').any(|kind| {
                kind.split(';')
                    .next()
                    .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
            })
        })
    };
    let wants = head.headers.get_all(http::header::ACCEPT).iter().any(accepts);
    Ok((wants && head.method == http::Method::GET).then_some(Kind::EventStream))
}
