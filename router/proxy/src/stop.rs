//! What the router is told by signals. The way to the end: not ready first, then the last requests, then the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domicile_model::clock::pause;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::front::Front;
use crate::state::Shared;

/// How long requests in flight may take to end, once the router was told to stop.
const LAST_REQUESTS: Duration = Duration::from_secs(20);

/// On SIGHUP looks at its files at once: without it they are looked at every second. Heard in any case, or it would end
/// the process.
pub async fn reload_when_told(shared: Arc<Shared>) {
    let Ok(mut hup) = signal(SignalKind::hangup()) else { return };
    while hup.recv().await.is_some() {
        tracing::info!("SIGHUP: looking at the files");
        shared.keys.look_now.notify_one();
    }
}

/// The words that end a router. Heard from before its first connection on: without this they would end the process at once.
#[derive(Debug)]
pub struct Words {
    term: Signal,
    int: Signal,
}

impl Words {
    /// Listens from now on.
    ///
    /// # Errors
    /// When signals can't be heard.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }
}

/// Returns when the router has been told to stop and every connection is closed, or given up. SIGTERM drains, SIGINT
/// (also as a second word) ends at once. One whose place another process has taken drains, too.
pub async fn serve_until_told(shared: &Arc<Shared>, front: &Front, traffic: &Runtime, words: Words) {
    let Words { mut term, mut int } = words;
    tokio::select! {
        _ = int.recv() => return,
        _ = term.recv() => {}
        () = shared.upgrade.leaves() => {}
    }
    tokio::select! {
        () = drain(shared, front, traffic) => {}
        () = again(&mut int) => {}
    }
}

async fn again(int: &mut Signal) {
    if int.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

async fn drain(shared: &Arc<Shared>, front: &Front, traffic: &Runtime) {
    tracing::info!("told to stop: not ready from now on");
    shared.draining.store(true, Ordering::SeqCst);
    if !shared.upgrade.has_left() {
        // Load balancers look every so often, and connections come until then. Those that are open already learn it
        // with their next answer.
        pause(shared.config.drain).await;
    }
    shared.stopping.send_replace(true);
    // What waits for a move goes on waiting: its hold ends before this does, or it would be cut anyway.
    let front = front.clone();
    let closed = traffic.spawn(async move { front.close(LAST_REQUESTS).await });
    if !closed.await.unwrap_or(false) {
        tracing::warn!("requests were still in flight at the end");
    }
}
