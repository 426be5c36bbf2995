//! An application for the tests.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use domicile_chaos_kit::ports::free_address;
use tokio::sync::Notify;

/// An application that says what it saw.
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    pub(crate) hits: Arc<AtomicUsize>,
    pub(crate) seen: Arc<Mutex<Vec<http::HeaderMap>>>,
    /// `/gated` answers once this is set.
    pub(crate) open: Arc<AtomicBool>,
    /// The codes with which WebSockets were closed.
    pub(crate) closes: Arc<Mutex<Vec<u16>>>,
    rung: Arc<Notify>,
    _server: AbortOnDrop,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Clone)]
struct App {
    name: &'static str,
    hits: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<http::HeaderMap>>>,
    open: Arc<AtomicBool>,
    closes: Arc<Mutex<Vec<u16>>>,
    rung: Arc<Notify>,
}

impl Origin {
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::on(name, tokio::net::TcpListener::bind(free_address().unwrap()).await.unwrap())
    }

    /// Takes what waits at this listener, and what comes.
    pub(crate) fn on(name: &'static str, listener: tokio::net::TcpListener) -> Self {
        let addr = listener.local_addr().unwrap();
        let (hits, seen) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<http::HeaderMap>>>::default());
        let (open, rung) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
        let closes = Arc::<Mutex<Vec<u16>>>::default();
        let app = App {
            name,
            hits: hits.clone(),
            seen: seen.clone(),
            open: open.clone(),
            closes: closes.clone(),
            rung: rung.clone(),
        };
        let routes =
            axum::Router::new().route("/ws", axum::routing::any(socket)).fallback(answer).with_state(app);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Self { addr, hits, seen, open, closes, rung, _server: AbortOnDrop(task) }
    }

    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    pub(crate) fn let_go(&self) {
        self.open.store(true, Ordering::SeqCst);
        self.rung.notify_waiters();
    }

    pub(crate) fn last(&self) -> http::HeaderMap {
        self.seen.lock().unwrap().last().cloned().unwrap()
    }
}

/// Says everything back, with its own name before it.
async fn socket(State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |mut socket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            match message {
                Message::Text(text) => {
                    let said = format!("{} {text}", app.name);
                    if socket.send(Message::Text(said.into())).await.is_err() {
                        return;
                    }
                }
                Message::Close(frame) => app.closes.lock().unwrap().push(frame.map_or(0, |f| f.code)),
                _ => {}
            }
        }
    })
}

async fn answer(State(app): State<App>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    app.seen.lock().unwrap().push(head.headers.clone());
    app.hits.fetch_add(1, Ordering::SeqCst);
    if head.uri.path() == "/gated" {
        loop {
            let ring = app.rung.notified();
            if app.open.load(Ordering::SeqCst) {
                break;
            }
            ring.await;
        }
    }
    // Word for word what a gate would say.
    if head.uri.path() == "/own-421" {
        let told = [
            ("domicile-gate", "moved"),
            ("domicile-cell", "mercy"),
            ("domicile-epoch", "9"),
            ("domicile-region", "us-west-2"),
        ];
        return (http::StatusCode::MISDIRECTED_REQUEST, told, "mine").into_response();
    }
    if head.uri.path() == "/events" {
        let first = Ok::<_, std::io::Error>(format!("data: {}\n\n", app.name));
        let silence = futures::StreamExt::chain(futures::stream::iter([first]), futures::stream::pending());
        return ([("content-type", "text/event-stream")], axum::body::Body::from_stream(silence))
            .into_response();
    }
    if head.uri.path() == "/sink" {
        let pieces = futures::StreamExt::map(body.into_data_stream(), |piece| piece.map_or(0, |p| p.len()));
        let took = futures::StreamExt::fold(pieces, 0, |sum, len| async move { sum + len }).await;
        return format!("took {took}").into_response();
    }
    if let Some(size) = head.uri.path().strip_prefix("/source/") {
        let size: u64 = size.parse().unwrap();
        let piece = bytes::Bytes::from(vec![0; 64 << 10]);
        let pieces = futures::stream::iter(
            (0..size / (64 << 10)).map(move |_| Ok::<_, std::io::Error>(piece.clone())),
        );
        return axum::body::Body::from_stream(pieces).into_response();
    }
    if head.uri.path() == "/dripping" {
        let drops = futures::stream::unfold(0, |n| async move {
            domicile_model::clock::pause(Duration::from_millis(100)).await;
            (n < 100).then_some((Ok::<_, std::io::Error>("drop "), n + 1))
        });
        return axum::body::Body::from_stream(drops).into_response();
    }
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap_or_default();
    let text = format!("{} {} {}", app.name, head.method, body.len());
    // Our own names from an application must not get out.
    ([("domicile-epoch", "99"), ("x-app", app.name)], text).into_response()
}
