//! One user's way to the fleet: an edge, a host name, no retries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;

use super::record::Outcome;
use crate::app::{Answer, NewEncounter};

/// What a user waits at most.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How an upload comes: so many pieces, so far apart.
const PIECES: usize = 8;
const PIECE: usize = 64 << 10;
const APART: Duration = Duration::from_millis(40);

/// The edges that users may come in by, and which one they use. Shared by all users.
#[derive(Debug, Clone)]
pub struct Edges {
    all: Arc<Vec<SocketAddr>>,
    dead: Arc<AtomicUsize>,
}

impl Edges {
    /// All of them.
    #[must_use]
    pub fn new(all: Vec<SocketAddr>) -> Self {
        Self { all: Arc::new(all), dead: Arc::new(AtomicUsize::new(usize::MAX)) }
    }

    /// The edge of the user with this number: its own, or the next one while its own is known to be dead.
    #[must_use]
    pub fn of(&self, user: usize) -> SocketAddr {
        let count = self.all.len();
        let own = user % count;
        let dead = self.dead.load(Ordering::Relaxed);
        self.all[if own == dead { (own + 1) % count } else { own }]
    }

    /// Lets users of this edge go to another one, as a health check of a real balancer would.
    pub fn avoid(&self, edge: SocketAddr) {
        let index = self.all.iter().position(|e| *e == edge).unwrap_or(usize::MAX);
        self.dead.store(index, Ordering::Relaxed);
    }

    /// All edges are fine again.
    pub fn avoid_none(&self) {
        self.dead.store(usize::MAX, Ordering::Relaxed);
    }
}

/// Sends requests. Two pools: one that keeps connections, one that makes a fresh one for each request.
#[derive(Debug, Clone)]
pub struct Client {
    kept: reqwest::Client,
    fresh: reqwest::Client,
}

impl Client {
    /// A client without retries.
    ///
    /// # Errors
    /// When the HTTP library can't be set up.
    pub fn new() -> reqwest::Result<Self> {
        let builder = || {
            reqwest::Client::builder()
                .no_proxy()
                .timeout(PATIENCE)
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
        };
        Ok(Self { kept: builder().build()?, fresh: builder().pool_max_idle_per_host(0).build()? })
    }

    fn pool(&self, keep: bool) -> &reqwest::Client {
        if keep { &self.kept } else { &self.fresh }
    }

    /// Reads an encounter and compares it.
    pub async fn read(&self, keep: bool, edge: SocketAddr, host: &str, key: &str, content: &str) -> Outcome {
        let request = self.pool(keep).get(format!("http://{edge}/encounters/{key}")).header("host", host);
        outcome(request, 200, key, content).await
    }

    /// Writes an encounter.
    pub async fn write(&self, keep: bool, edge: SocketAddr, host: &str, new: &NewEncounter) -> Outcome {
        let request =
            self.pool(keep).post(format!("http://{edge}/encounters")).header("host", host).json(new);
        outcome(request, 201, &new.key, &new.content).await
    }

    /// Uploads in pieces, for about a third of a second. `content` is what the application shall keep of it.
    pub async fn upload(&self, edge: SocketAddr, host: &str, key: &str, content: &str) -> Outcome {
        let pieces = stream::unfold(0, |n| async move {
            if n == PIECES {
                return None;
            }
            domicile_model::clock::pause(APART).await;
            Some((Ok::<_, std::io::Error>(Bytes::from(vec![b'u'; PIECE])), n + 1))
        });
        let request = self.kept.post(format!("http://{edge}/uploads/{key}")).header("host", host);
        outcome(request.body(reqwest::Body::wrap_stream(pieces)), 201, key, content).await
    }
}

/// What the application keeps of an upload of ours.
#[must_use]
pub fn upload_content() -> String {
    use sha2::{Digest, Sha256};
    let body = vec![b'u'; PIECES * PIECE];
    crate::app::upload_content(&hex::encode(Sha256::digest(&body)), body.len())
}

async fn outcome(request: reqwest::RequestBuilder, status: u16, key: &str, content: &str) -> Outcome {
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => return Outcome::Unanswered { why: chain(&error) },
    };
    let got = answer.status().as_u16();
    let body = match answer.bytes().await {
        Ok(body) => body,
        Err(error) => return Outcome::Unanswered { why: format!("status {got}, then {}", chain(&error)) },
    };
    let parsed = serde_json::from_slice::<Answer>(&body).ok();
    match parsed {
        Some(answer) if got == status && answer.key == key && answer.content == content => {
            Outcome::Fine(answer)
        }
        _ => {
            Outcome::Refused { status: got, body: String::from_utf8_lossy(&body).chars().take(600).collect() }
        }
    }
}

/// An error with its causes: reqwest's own text names none of them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
