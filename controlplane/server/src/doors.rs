//! The listener: how many may be connected, and how long they may take to say what they want.
//!
//! A control plane must stay reachable in a disaster, when everybody looks at it at once and some look through broken
//! programs. So a connection costs nothing for long unless it asks for something.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use domicile_api::problem::Problem;
use domicile_model::clock::pause;
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::http::problem::Refusal;

/// What a control plane lets its callers take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long the head of a request may take, the wait for it on a kept connection included.
    pub head: Duration,
    /// Most connections at once.
    pub connections: usize,
    /// Most streams of events at once; each looks at the registry several times a second.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: Duration::from_secs(10), connections: 512, streams: 64 }
    }
}

/// Connections beyond the limit that are told so; those beyond these are just closed.
const TOLD: usize = 32;
/// How long telling may take.
const TELLING: Duration = Duration::from_secs(2);
/// Longest life of a connection: longer than a stream of events. Who never reads the answer is not waited for any longer.
const LIFE: Duration = Duration::from_secs(3_700);
/// Largest head of a request, in bytes.
const HEAD: usize = 64 << 10;
/// Pause after the system refused to accept: it is out of something, most likely files.
const AGAIN: Duration = Duration::from_millis(100);

/// Serves until told to stop; then what is under way is finished, and nothing new begins. Dropping it ends everything.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    connected: prometheus::IntGauge,
    cancel: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let told = Arc::new(Semaphore::new(TOLD));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            // Those that have ended.
            Some(_) = open.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                pause(AGAIN).await;
                continue;
            }
        };
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let service = TowerToHyperService::new(router.clone());
            let (connected, cancel) = (connected.clone(), cancel.clone());
            connected.inc();
            open.spawn(async move {
                // Also when the task is dropped.
                let _leaves = Leaves(connected);
                connection(stream, service, limits.head, LIFE, cancel).await;
                drop(place);
            });
        } else if let Ok(turn) = Arc::clone(&told).try_acquire_owned() {
            let most = limits.connections;
            let refuse =
                service_fn(move |_: Request<Incoming>| async move { Ok::<_, Infallible>(full(most)) });
            let cancel = cancel.clone();
            open.spawn(async move {
                connection(stream, refuse, TELLING, TELLING, cancel).await;
                drop(turn);
            });
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

struct Leaves(prometheus::IntGauge);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn connection<S>(
    stream: TcpStream,
    service: S,
    head: Duration,
    life: Duration,
    cancel: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send,
    S::Future: Send,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small answers of a connection may come late");
    }
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(HEAD);
    let served = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let whole = async {
        tokio::select! {
            ended = served.as_mut() => ended,
            () = cancel.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    };
    match tokio::time::timeout(life, whole).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection broke off"),
        Err(_) => tracing::debug!("a connection was open for too long"),
    }
}

fn full(most: usize) -> Response {
    let problem = Problem::new(
        "too-many-connections",
        "Too many connections",
        503,
        format!("this control plane has its most of {most} connections already; nothing was done"),
    )
    .hint(
        "try again in a second, or ask another control plane; see domicile_control_connections in /metrics",
    );
    let mut answer = Refusal::from(problem).into_response();
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}
