//! Connections that may not be decrypted here: passed on as they came, to an edge inside the tenant's policy.
//!
//! Nothing of what is in them is known here, only how much and when. The edge inside learns whose connection it is from a
//! PROXY header in front, and does everything else: it knows requests, holds and streams.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use domicile_mirror::{Mirror, RoutingTable, Source};
use domicile_model::RegionId;
use domicile_model::clock::{BootTime, pause};
use domicile_router_core::ending::{Ending, Fate, Nowhere, Splice, Spliced, ending, fate};
use domicile_router_core::wire::proxy_protocol::{self, Told};
use prometheus::IntGauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::balancer::Begun;
use super::handshake::{self, Refused};
use crate::access_log::Line;
use crate::config::Sabotage;
use crate::facts;
use crate::state::{Shared, millis};

/// How long an edge inside may take to answer the hello, before the next one is tried.
const DIAL: Duration = Duration::from_secs(2);
/// Bytes on their way in each direction. Beyond it the sender waits.
const PIECE: usize = 16 << 10;
/// When this router stops, a splice that has been silent for so long carries nothing that is awaited, or soon.
const SILENT: Duration = Duration::from_secs(1);
/// Changes of the table are looked at together: it may change a thousand times a second.
const TOGETHER: Duration = Duration::from_millis(10);

/// Why a splice has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Both sides had said all.
    Closed,
    /// One of them was gone.
    Broken,
    /// The region that it went to was left.
    Moved,
    /// The policy does not allow it any more.
    Policy,
    /// This router stops.
    Stopping,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Closed, Self::Broken, Self::Moved, Self::Policy, Self::Stopping];

    /// The label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Moved => "moved",
            Self::Policy => "policy",
            Self::Stopping => "stopping",
        }
    }
}

/// Where a connection goes: none if it is decrypted here. Waits where only the region that is being left is inside.
///
/// # Errors
/// Why it is not served.
pub(super) async fn decide(shared: &Shared, name: &str, spliced: bool) -> Result<Option<Splice>, Refused> {
    if handshake::own(name) || shared.config.sabotage == Sabotage::DecryptsOutside {
        return Ok(None);
    }
    loop {
        // Taken before the decision, so that a change after it is not waited for in vain.
        let mut tables = shared.mirror.subscribe();
        if shared.mirror.freshness().source == Source::None {
            return Err(Refused::NoTable);
        }
        let now = shared.now();
        match ending(&shared.table(), &shared.config.region, name, spliced, now) {
            Ending::Here => return Ok(None),
            Ending::Elsewhere(splice) => return Ok(Some(splice)),
            Ending::Wait { until } => {
                let _ = tokio::time::timeout(until.since(now), tables.changed()).await;
            }
            Ending::Nowhere(Nowhere::UnknownName) => return Err(Refused::UnknownName),
            Ending::Nowhere(Nowhere::NobodyInside | Nowhere::Again) => return Err(Refused::Outside),
            Ending::Nowhere(Nowhere::Late) => return Err(Refused::Moving),
        }
    }
}

/// An edge inside that has answered the hello.
pub(super) struct Next {
    region: RegionId,
    socket: TcpStream,
    /// What it has said.
    said: BytesMut,
}

/// Finds an edge inside: those of the best region first, each time beginning with another one. What counts is an answer to
/// the hello: a load balancer takes connections for edges that are gone, and until that answer nothing is lost by asking
/// somebody else.
pub(super) async fn dial(shared: &Shared, begun: &Begun, splice: &Splice) -> Option<Next> {
    let turn = shared.splices.turn.fetch_add(1, Ordering::Relaxed);
    for inside in &splice.inside {
        for n in 0..inside.edges.len() {
            let edge = inside.edges[(turn + n) % inside.edges.len()];
            match tokio::time::timeout(DIAL, ask(shared.config.links.dial(edge), begun)).await {
                Ok(Ok((socket, said))) => return Some(Next { region: inside.region.clone(), socket, said }),
                _ => shared.metrics.next_address.inc(),
            }
        }
    }
    None
}

async fn ask(edge: SocketAddr, begun: &Begun) -> std::io::Result<(TcpStream, BytesMut)> {
    let mut socket = TcpStream::connect(edge).await?;
    let _ = socket.set_nodelay(true);
    let told = Told { source: begun.client, destination: begun.socket.local_addr()?, spliced: true };
    socket.write_all(&[&proxy_protocol::write(told)[..], &begun.ahead].concat()).await?;
    let mut said = BytesMut::with_capacity(PIECE);
    match socket.read_buf(&mut said).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok((socket, said)),
    }
}

/// Passes a connection on until one side ends it, or it may not stay.
pub(super) async fn carry(
    shared: &Arc<Shared>,
    begun: Begun,
    name: String,
    splice: Splice,
    next: Next,
    mut close: watch::Receiver<bool>,
) {
    let region = next.region.clone();
    let began = shared.now();
    let table = shared.table();
    let placed = table.placement(splice.cell.as_str());
    let held = placed.is_some_and(|p| p.placement.holder.as_ref() == Some(&region));
    let spliced = Spliced { name, tenant: splice.tenant.clone(), region: region.clone(), held };
    let mut stands = shared.splices.enter(spliced, shared);
    let traffic = Traffic { last: AtomicU64::new(began.as_nanos()), ..Traffic::default() };
    facts::splice(shared, &splice.tenant, &region, true, (0, 0));
    let why = {
        let pipe = pipe(shared, &traffic, begun, next);
        tokio::pin!(pipe);
        loop {
            let (fate, closing) = (*stands.bell.borrow_and_update(), *close.borrow_and_update());
            let silence = match fate {
                Fate::EndsNow => break Why::Policy,
                _ if closing => Some((SILENT, Why::Stopping)),
                Fate::EndsSilent => Some((shared.config.linger, Why::Moved)),
                Fate::Stays => None,
            };
            let left = silence.map(|(length, why)| {
                let silent = shared.now().since(BootTime::from_nanos(traffic.last.load(Ordering::Relaxed)));
                (length.saturating_sub(silent), why)
            });
            if let Some((left, why)) = left
                && left.is_zero()
            {
                break why;
            }
            tokio::select! {
                ended = &mut pipe => break if ended.is_ok() { Why::Closed } else { Why::Broken },
                changed = stands.bell.changed() => if changed.is_err() { break Why::Stopping },
                changed = close.changed() => if changed.is_err() { break Why::Stopping },
                () = pause(left.map_or(Duration::MAX, |(left, _)| left)), if left.is_some() => {}
            }
        }
    };
    drop(stands);
    shared.metrics.splices_ended.with_label_values(&[why.label()]).inc();
    record(shared, &splice, &region, began, &traffic, why);
}

/// How much has passed, and when last.
#[derive(Debug, Default)]
struct Traffic {
    last: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

async fn pipe(shared: &Shared, traffic: &Traffic, begun: Begun, next: Next) -> std::io::Result<()> {
    let (from_client, mut to_client) = begun.socket.into_split();
    let (from_next, to_next) = next.socket.into_split();
    traffic.up.fetch_add(begun.ahead.len() as u64, Ordering::Relaxed);
    traffic.down.fetch_add(next.said.len() as u64, Ordering::Relaxed);
    to_client.write_all(&next.said).await?;
    let up = half(shared, from_client, to_next, &traffic.last, &traffic.up);
    let down = half(shared, from_next, to_client, &traffic.last, &traffic.down);
    tokio::try_join!(up, down)?;
    Ok(())
}

/// One direction, to its end: then the other side learns that no more will come, and may go on talking itself.
async fn half(
    shared: &Shared,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    last: &AtomicU64,
    bytes: &AtomicU64,
) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let n = from.read(&mut piece).await?;
        last.store(shared.now().as_nanos(), Ordering::Relaxed);
        if n == 0 {
            return to.shutdown().await;
        }
        bytes.fetch_add(n as u64, Ordering::Relaxed);
        to.write_all(&piece[..n]).await?;
    }
}

fn record(shared: &Shared, splice: &Splice, region: &RegionId, began: BootTime, traffic: &Traffic, why: Why) {
    let passed = [&traffic.up, &traffic.down].map(|bytes| bytes.load(Ordering::Relaxed));
    facts::splice(shared, &splice.tenant, region, false, passed.into());
    if !shared.log.is_on() {
        return;
    }
    let bytes = |n: &AtomicU64| usize::try_from(n.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
    let line = Line {
        time: jiff::Timestamp::now().to_string(),
        tenant: Some(splice.tenant.to_string()),
        cell: Some(splice.cell.to_string()),
        region: Some(region.to_string()),
        epoch: splice.epoch.map(|e| e.0),
        method: "SPLICE".into(),
        path: String::new(),
        status: 0,
        cause: None,
        ended: Some(why.label()),
        hold_ms: 0.0,
        upstream_ms: None,
        total_ms: millis(shared.now().since(began)),
        request_id: String::new(),
        trace_id: String::new(),
        bytes: bytes(&traffic.down),
        bytes_up: Some(bytes(&traffic.up)),
    };
    if !shared.log.push(line) {
        shared.metrics.log_dropped.inc();
    }
}

/// All splices: those of one tenant to one region share a bell.
#[derive(Debug, Default)]
pub struct Splices {
    bells: Mutex<HashMap<Spliced, (watch::Sender<Fate>, usize)>>,
    turn: AtomicUsize,
}

/// A splice's place in the list. It leaves it however it ends.
struct Stands {
    all: Arc<Shared>,
    spliced: Spliced,
    bell: watch::Receiver<Fate>,
    gauge: IntGauge,
}

impl Drop for Stands {
    fn drop(&mut self) {
        self.gauge.dec();
        let mut bells = self.all.splices.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, n)) = bells.get_mut(&self.spliced) {
            *n -= 1;
            if *n == 0 {
                bells.remove(&self.spliced);
            }
        }
    }
}

impl Splices {
    fn enter(&self, spliced: Spliced, shared: &Arc<Shared>) -> Stands {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: a table that comes after this look rings the bell.
        let now = fate(&shared.table(), &spliced);
        let entry = bells.entry(spliced.clone()).or_insert_with(|| (watch::Sender::new(now), 0));
        entry.1 += 1;
        let gauge = shared.metrics.splices.clone();
        gauge.inc();
        Stands { all: shared.clone(), spliced, bell: entry.0.subscribe(), gauge }
    }

    /// Rings the bells, for as long as the mirror lives.
    pub async fn run(&self, mirror: &Mirror) {
        let mut changes = mirror.subscribe();
        while changes.changed().await.is_ok() {
            let table: Arc<RoutingTable> = mirror.table();
            for (spliced, (bell, _)) in self.bells.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let now = fate(&table, spliced);
                bell.send_if_modified(|old| std::mem::replace(old, now) != now);
            }
            pause(TOGETHER).await;
        }
    }
}
