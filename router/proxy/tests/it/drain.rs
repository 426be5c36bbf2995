//! A router that is told to stop under load: with another one beside it, no request fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use domicile_chaos_kit::wait::eventually;
use domicile_model::clock::pause;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::kit::{Fleet, HOST, Router, SOON, client, until_status};

/// Clients that use a connection until they are told that it ends, and open the next one where a load balancer would:
/// at the first router while that says it is ready.
pub(crate) struct Load {
    first: SocketAddr,
    second: SocketAddr,
    ready: AtomicBool,
    pub(crate) stop: AtomicBool,
    pub(crate) answered: AtomicUsize,
    by_first: AtomicUsize,
    pub(crate) failed: std::sync::Mutex<Vec<String>>,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn open(http2: bool, at: SocketAddr) -> Result<Self, String> {
        let io = TokioIo::new(TcpStream::connect(at).await.map_err(|e| format!("connecting: {e}"))?);
        let text = |e: hyper::Error| format!("handshake: {e:?}");
        if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(text)?;
            tokio::spawn(connection);
            return Ok(Self::Two(sender));
        }
        let (sender, connection) = http1::handshake(io).await.map_err(text)?;
        tokio::spawn(connection);
        Ok(Self::One(sender))
    }

    /// Sends a POST, which can't be sent twice. None: the connection had ended, and nothing was sent.
    async fn post(&mut self, at: SocketAddr) -> Option<hyper::Result<http::Response<Incoming>>> {
        let request = http::Request::post(match self {
            Self::One(_) => "/".to_owned(),
            Self::Two(_) => format!("http://{HOST}:{}/", at.port()),
        });
        let request = if matches!(self, Self::One(_)) { request.header("host", HOST) } else { request };
        let request = request.body(Full::new(Bytes::from(vec![b'x'; 1000]))).unwrap();
        let sent = match self {
            Self::One(sender) => {
                sender.ready().await.ok()?;
                sender.try_send_request(request).await
            }
            Self::Two(sender) => {
                sender.ready().await.ok()?;
                sender.try_send_request(request).await
            }
        };
        match sent {
            Ok(answer) => Some(Ok(answer)),
            Err(mut error) => match error.take_message() {
                Some(_unsent) => None,
                None => {
                    let error = error.into_error();
                    // Of a later number than the last that the server says it has looked at: it may be sent again (RFC
                    // 9113, section 6.8). That none of them was looked at is counted at the application.
                    let refused = format!("{error:?}").contains("GoAway(b\"\", NO_ERROR, Remote)");
                    if refused { None } else { Some(Err(error)) }
                }
            },
        }
    }
}

impl Load {
    pub(crate) fn new(first: SocketAddr, second: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            first,
            second,
            ready: AtomicBool::new(true),
            stop: AtomicBool::default(),
            answered: AtomicUsize::default(),
            by_first: AtomicUsize::default(),
            failed: std::sync::Mutex::default(),
        })
    }

    pub(crate) async fn client(self: Arc<Self>, http2: bool) {
        while !self.stop.load(Ordering::SeqCst) {
            let first = self.ready.load(Ordering::SeqCst);
            let at = if first { self.first } else { self.second };
            let mut sender = match Sender::open(http2, at).await {
                Ok(sender) => sender,
                Err(why) => return self.failed.lock().unwrap().push(format!("{why} (first: {first})")),
            };
            while !self.stop.load(Ordering::SeqCst) {
                let Some(answer) = sender.post(at).await else { break };
                match answer {
                    Ok(answer) if answer.status() == 200 => {
                        self.answered.fetch_add(1, Ordering::SeqCst);
                        self.by_first.fetch_add(usize::from(first), Ordering::SeqCst);
                        if let Err(error) = answer.into_body().collect().await {
                            self.failed.lock().unwrap().push(format!("{error:?}"));
                        }
                    }
                    Ok(answer) => self.failed.lock().unwrap().push(answer.status().to_string()),
                    Err(error) => {
                        self.failed.lock().unwrap().push(format!("{error:?}"));
                        break;
                    }
                }
            }
        }
    }

    async fn watch(self: Arc<Self>, admin: SocketAddr) {
        let (client, url) = (client(), format!("http://{admin}/readyz"));
        while !self.stop.load(Ordering::SeqCst) {
            let ready = client.get(&url).send().await.is_ok_and(|a| a.status() == 200);
            self.ready.store(ready, Ordering::SeqCst);
            pause(Duration::from_millis(20)).await;
        }
    }
}

async fn stopped_under_load(http2: bool) {
    let fleet = Fleet::new().await;
    let gate = fleet.gate("us-east-1").await;
    until_status(&gate, "/", 200).await;
    let mut args = fleet.args("edge", "edge", "eu-west-1");
    let drain = args.iter().position(|a| a == "--drain-ms").unwrap();
    args[drain + 1] = "500".into();
    let edge = Router::start("edge", fleet.dir.path(), &args).await;
    let other = fleet.args("edge", "other", "eu-west-1");
    let other = Router::start("other", fleet.dir.path(), &other).await;
    until_status(&edge, "/", 200).await;
    until_status(&other, "/", 200).await;
    let hits = fleet.east.hits();
    let load = Load::new(edge.listen, other.listen);
    let mut tasks: Vec<_> = (0..16).map(|_| tokio::spawn(load.clone().client(http2))).collect();
    tasks.push(tokio::spawn(load.clone().watch(edge.admin)));
    let done = || load.answered.load(Ordering::SeqCst);
    let runs = eventually(SOON, "it runs", || async { done() > 500 }).await;
    runs.unwrap_or_else(|e| panic!("{e}: {:?}\n{}", load.failed.lock().unwrap(), edge.process.tail()));
    edge.process.terminate();
    let (before, by_first) = (done(), load.by_first.load(Ordering::SeqCst));
    let code = edge.process.wait(SOON).await.unwrap().code();
    eventually(SOON, "the other one has taken over", || async { done() > before + 1_000 }).await.unwrap();
    load.stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    let failed = load.failed.lock().unwrap().clone();
    assert_eq!(failed, Vec::<String>::new(), "of {} requests", done());
    assert_eq!(fleet.east.hits() - hits, done(), "the application has seen each of them once");
    assert!(load.by_first.load(Ordering::SeqCst) > by_first, "the one that stops answers what it has");
    assert_eq!(code, Some(0), "{}", edge.process.tail());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_http_1_lose_nothing() {
    stopped_under_load(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_http_2_lose_nothing() {
    stopped_under_load(true).await;
}
