//! The listeners that take no user traffic: one for people and probes, one for gates and agents.

pub mod admin;
pub mod peer;
pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use domicile_model::clock::pause;
use tokio::net::{TcpListener, TcpStream};

use crate::state::Shared;

/// How long a connection that was taken last may take to ask, once another process takes the next ones.
const LAST_FIRST: Duration = Duration::from_millis(500);

/// A listener that takes connections until another process does.
struct Door {
    open: Option<TcpListener>,
    at: SocketAddr,
    shared: Arc<Shared>,
}

impl Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        if let Some(listener) = &mut self.open {
            tokio::select! {
                biased;
                () = self.shared.upgrade.leaves() => {}
                taken = Listener::accept(listener) => return taken,
            }
            self.open = None;
        }
        std::future::pending().await
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.at)
    }
}

/// Answers there for as long as the router lives, or until another process does.
///
/// # Errors
/// When the listener is none.
pub fn open(shared: Arc<Shared>, listener: std::net::TcpListener, routes: Router) -> std::io::Result<()> {
    let at = listener.local_addr()?;
    let left = shared.clone();
    let left = async move {
        left.upgrade.leaves().await;
        pause(LAST_FIRST).await;
    };
    let door = Door { open: Some(TcpListener::from_std(listener)?), at, shared };
    tokio::spawn(async move { axum::serve(door, routes).with_graceful_shutdown(left).await });
    Ok(())
}
