//! A TCP proxy on loopback whose faults are switched while it runs.
//!
//! The kernel of a test machine has no `netem`, and a test should not need to be root; so latency and partitions are
//! made in user space, one proxy on each link. `pump` moves the bytes of one direction.

mod pump;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::net::sockopt::set_socket_linger;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ports;
use pump::pump;

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Lane {
    /// Each byte arrives this much later, in milliseconds. Pipelined: the bandwidth stays.
    pub delay_ms: u64,
    /// Nothing moves, nothing is lost: bytes wait until the stall is healed.
    pub stall: bool,
    /// Bytes vanish while the connection stays. A connection that lost some is closed when this is healed.
    pub vanish: bool,
    /// At most this many bytes a second.
    pub bytes_per_s: Option<u64>,
}

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Faults {
    /// Connections are reset, new ones too.
    pub cut: bool,
    /// From the client to the server.
    pub forward: Lane,
    /// From the server to the client.
    pub backward: Lane,
}

impl Faults {
    /// Nothing is wrong.
    pub const HEALED: Self = Self { cut: false, forward: Lane::FINE, backward: Lane::FINE };

    /// Both directions like this.
    #[must_use]
    pub const fn both(lane: Lane) -> Self {
        Self { cut: false, forward: lane, backward: lane }
    }
}

impl Lane {
    /// Nothing is wrong.
    pub const FINE: Self = Self { delay_ms: 0, stall: false, vanish: false, bytes_per_s: None };
}

/// The switch and the counters of a link. Clones share them.
#[derive(Debug, Clone)]
pub struct Control(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    faults: watch::Sender<Faults>,
    forward: AtomicU64,
    backward: AtomicU64,
    open: AtomicU64,
}

impl Control {
    /// A healthy one.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            faults: watch::Sender::new(Faults::HEALED),
            forward: AtomicU64::new(0),
            backward: AtomicU64::new(0),
            open: AtomicU64::new(0),
        }))
    }

    /// Sets everything at once.
    pub fn set(&self, faults: Faults) {
        self.0.faults.send_replace(faults);
    }

    /// What is wrong now.
    #[must_use]
    pub fn faults(&self) -> Faults {
        *self.0.faults.borrow()
    }

    /// Nothing is wrong any more.
    pub fn heal(&self) {
        self.set(Faults::HEALED);
    }

    /// Resets connections, and every new one.
    pub fn cut(&self) {
        self.set(Faults { cut: true, ..Faults::HEALED });
    }

    /// What the client sends vanishes.
    pub fn cut_forward(&self) {
        self.set(Faults { forward: Lane { vanish: true, ..Lane::FINE }, ..Faults::HEALED });
    }

    /// What the server sends vanishes.
    pub fn cut_backward(&self) {
        self.set(Faults { backward: Lane { vanish: true, ..Lane::FINE }, ..Faults::HEALED });
    }

    /// Delays both directions by this much each.
    pub fn delay(&self, each_way: Duration) {
        let delay_ms = u64::try_from(each_way.as_millis()).unwrap_or(u64::MAX);
        self.set(Faults::both(Lane { delay_ms, ..Lane::FINE }));
    }

    /// Nothing moves in either direction; connections stay.
    pub fn stall(&self) {
        self.set(Faults::both(Lane { stall: true, ..Lane::FINE }));
    }

    /// At most this many bytes a second in each direction.
    pub fn limit(&self, bytes_per_s: u64) {
        self.set(Faults::both(Lane { bytes_per_s: Some(bytes_per_s), ..Lane::FINE }));
    }

    /// Bytes that were delivered from clients to the server.
    #[must_use]
    pub fn forward_bytes(&self) -> u64 {
        self.0.forward.load(Ordering::Relaxed)
    }

    /// Bytes that were delivered from the server to clients.
    #[must_use]
    pub fn backward_bytes(&self) -> u64 {
        self.0.backward.load(Ordering::Relaxed)
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Resolves when the link is cut.
    async fn until_cut(&self) {
        let mut faults = self.0.faults.subscribe();
        // The sender lives in `self`, so waiting can't fail before this future is dropped.
        let _ = faults.wait_for(|f| f.cut).await;
    }
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

/// Which switch a client's connection hangs on, by the client's address.
pub type Classify = Arc<dyn Fn(SocketAddr) -> Control + Send + Sync>;

/// A running proxy. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Link {
    at: SocketAddr,
    target: SocketAddr,
    control: Control,
    task: JoinHandle<()>,
}

impl Link {
    /// A proxy in front of `target`, on a free loopback port. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let control = Control::new();
        let all = control.clone();
        Self::start_at(ports::free_address()?, target, control, Arc::new(move |_| all.clone())).await
    }

    /// A proxy at this very address, whose connections hang on the switch that `classify` names for their client.
    /// `control` is what [`Link::control`] gives.
    ///
    /// # Errors
    /// When the address can't be bound.
    pub async fn start_at(
        at: SocketAddr,
        target: SocketAddr,
        control: Control,
        classify: Classify,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("can't listen at {at}"))?;
        let task = tokio::spawn(accept(listener, target, classify));
        Ok(Self { at, target, control, task })
    }

    /// Where clients connect.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.at
    }

    /// Where it leads.
    #[must_use]
    pub const fn target(&self) -> SocketAddr {
        self.target
    }

    /// Its switch.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }
}

impl std::ops::Deref for Link {
    type Target = Control;
    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes connections until the task is aborted; connections live in its set and go with it.
async fn accept(listener: TcpListener, target: SocketAddr, classify: Classify) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, from)) = accepted else {
                    // Out of file descriptors: give others time to close some.
                    domicile_model::clock::pause(Duration::from_millis(50)).await;
                    continue;
                };
                connections.spawn(serve(client, target, classify(from)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until both directions have ended or the link is cut.
async fn serve(mut client: TcpStream, target: SocketAddr, control: Control) {
    if control.faults().cut {
        reset(&client);
        return;
    }
    let connected = tokio::select! {
        connected = TcpStream::connect(target) => connected,
        () = control.until_cut() => return reset(&client),
    };
    let Ok(mut server) = connected else { return reset(&client) };
    // The proxy must not add delays of its own.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let shared = &control.0;
    shared.open.fetch_add(1, Ordering::Relaxed);
    let broken = {
        let (client_in, client_out) = client.split();
        let (server_in, server_out) = server.split();
        let forward = pump(client_in, server_out, shared.faults.subscribe(), |f| f.forward, &shared.forward);
        let backward =
            pump(server_in, client_out, shared.faults.subscribe(), |f| f.backward, &shared.backward);
        tokio::select! {
            both = async { tokio::try_join!(forward, backward) } => both.is_err(),
            () = control.until_cut() => true,
        }
    };
    shared.open.fetch_sub(1, Ordering::Relaxed);
    if broken {
        reset(&client);
        reset(&server);
    }
}

/// Makes the close that follows a reset: an orderly end would tell the other side something untrue.
fn reset(stream: &TcpStream) {
    // Where it can't be set, the close is an orderly one: a milder fault than asked for, not a wrong one.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests;
