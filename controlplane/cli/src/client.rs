//! The HTTP API as the commands see it: several servers tried in order, problems turned into sentences.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domicile_api::problem::Problem;
use domicile_api::views::{AGE_MS, LEADER};
use domicile_model::SecretRef;
use domicile_model::clock::{Clock, pause};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Global;
use crate::asking::{Heard, Said, Weight};
use crate::exit::Exit;
use crate::fail::Failure;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a server may take to say that it lives, while another one can be asked. One whose machine was stopped accepts
/// connections as ever, and never answers.
const KNOCK: Duration = Duration::from_secs(2);
/// How long an answer may take: a change is passed on to the leader and may be several transactions.
const ANSWER: Duration = Duration::from_secs(40);
/// How long a read may take while another server can still be asked: longer than a server takes to find out that its
/// registry is silent.
const READ: Duration = Duration::from_secs(10);
/// How long a start of a move is tried while nobody leads: longer than it takes another control plane to.
const LEADERLESS: Duration = Duration::from_secs(15);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);
/// Most bytes of an answer that are read.
const LIMIT: usize = 256 << 20;

/// A client of one or more control planes.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    servers: Vec<String>,
    token: Option<SecretRef>,
    notes: Arc<Mutex<Vec<String>>>,
}

/// One call.
pub(crate) struct Call<'a> {
    method: Method,
    path: &'a str,
    body: Option<Vec<u8>>,
    key: Option<&'a str>,
    /// Whether another server may be asked after an answer was lost.
    repeatable: bool,
}

impl Client {
    /// For these servers. Connects nowhere and reads no token yet.
    ///
    /// # Errors
    /// When a server is no `host:port`, or the token is not a reference.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let mut servers = Vec::new();
        for given in &global.server {
            let given = given.trim().trim_end_matches('/');
            let address = given.strip_prefix("http://").unwrap_or(given);
            let ok = address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
            });
            if !ok {
                return Err(Failure::new(Exit::Usage, format!("--server: `{address}` is not host:port"))
                    .hint("write the control planes as host:port, separated by commas"));
            }
            servers.push(format!("http://{address}"));
        }
        let token = match &global.token {
            None => None,
            Some(text) => Some(
                SecretRef::new(text)
                    .map_err(|e| Failure::new(Exit::Usage, format!("--token or DOMICILE_TOKEN_REF: {e}")))?,
            ),
        };
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT)
            // A kept connection may be closed by the server while a person thinks over a question: an order sent on it
            // would have an unknown outcome.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|e| Failure::new(Exit::Internal, format!("no HTTP client: {e}")))?;
        Ok(Self { http, servers, token, notes: Arc::default() })
    }

    /// The servers, in order.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// What people should know about the answers so far. Each is told once.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `GET`.
    ///
    /// # Errors
    /// When no server answers with what was asked for.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Call { method: Method::GET, path, body: None, key: None, repeatable: true }).await
    }

    /// `POST` of something that changes nothing when repeated.
    ///
    /// # Errors
    /// When no server answers with what was asked for.
    pub async fn post<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let body = Some(encode(body)?);
        self.call(Call { method: Method::POST, path, body, key: None, repeatable: true }).await
    }

    /// `POST` of a verb: a lost answer is reported, not repeated.
    ///
    /// # Errors
    /// When no server answers with what was asked for.
    pub async fn verb<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let body = Some(encode(body)?);
        self.call(Call { method: Method::POST, path, body, key: None, repeatable: false }).await
    }

    /// `DELETE`: what is gone stays gone when it is repeated.
    ///
    /// # Errors
    /// When no server answers with what was asked for.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Call { method: Method::DELETE, path, body: None, key: None, repeatable: true }).await
    }

    /// `POST` with an idempotency key: safe to repeat at another server.
    ///
    /// # Errors
    /// When no server answers with what was asked for.
    pub async fn post_once<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        key: &str,
    ) -> Result<T, Failure> {
        let body = Some(encode(body)?);
        self.call(Call { method: Method::POST, path, body, key: Some(key), repeatable: true }).await
    }

    /// A stream of server-sent events from the server with this number (they are counted round).
    ///
    /// # Errors
    /// When that server does not answer with a stream.
    pub async fn events(&self, path: &str, server: usize) -> Result<reqwest::Response, Failure> {
        let server = &self.servers[server % self.servers.len()];
        let request = self.authorized(self.http.get(format!("{server}{path}")))?;
        let answer = tokio::time::timeout(ANSWER, request.send())
            .await
            .map_err(|_| unreachable_server(server, "no answer in time"))?
            .map_err(|e| unreachable_server(server, &chain(&e)))?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let status = answer.status();
        Err(match problem(answer).await {
            Some(problem) => Failure::of_problem(problem, server),
            None => no_control_plane(server, status),
        })
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> Result<reqwest::RequestBuilder, Failure> {
        let Some(reference) = &self.token else {
            return Err(Failure::new(Exit::Permission, "no operator token was given")
                .hint("say where it is: --token file:/path or DOMICILE_TOKEN_REF=file:/path"));
        };
        let token = reference.read().map_err(|e| {
            Failure::new(Exit::Permission, format!("the operator token can't be read: {e}"))
                .hint("--token or DOMICILE_TOKEN_REF must name a file or variable that holds it")
        })?;
        Ok(request.bearer_auth(token))
    }

    async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Failure> {
        let began = Clock::Machine.now();
        let keyed = call.key.is_some();
        let mut heard = Heard::default();
        let mut verdict = None;
        loop {
            let servers = if keyed { self.living().await } else { self.living_first().await };
            for (n, server) in servers.into_iter().enumerate() {
                let patience = if call.is_read() && n + 1 < self.servers.len() { READ } else { ANSWER };
                verdict = heard.take(self.ask(server, &call, patience).await);
                if verdict.is_some() {
                    break;
                }
            }
            // Soon somebody leads again, and the key makes it safe to ask. Until then a preview that was just shown holds.
            let again = keyed && self.servers.len() > 1 && verdict.is_none() && heard.nobody_leads();
            if !again || Clock::Machine.now().since(began) >= LEADERLESS {
                break;
            }
            pause(AGAIN).await;
            heard = Heard::default();
        }
        let Some(verdict) = verdict.or_else(|| heard.end()) else {
            return Err(
                Failure::new(Exit::Usage, "no server was given").hint("use --server or DOMICILE_SERVER")
            );
        };
        if let Some(note) = verdict.note {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            // One command may read several times; each time the same is said.
            notes.clear();
            notes.push(note);
        }
        serde_json::from_slice(&verdict.answer?).map_err(|e| {
            let servers = self.servers.join(", ");
            let what =
                format!("the answer to {} is something else than expected: {e} (asked {servers})", call.path);
            Failure::new(Exit::Internal, what)
                .hint("client and server may be of different versions: compare `domicile --version`")
        })
    }

    /// The servers in their order, but those last that do not even say that they live: an order that was sent to one of
    /// them is neither done nor known not to be, for as long as an answer may take. The last one of all is asked unheard.
    async fn living_first(&self) -> Vec<&String> {
        let mut silent = Vec::new();
        let mut others = self.servers.iter();
        while let Some(server) = others.next() {
            if others.len() == 0 || self.lives(server).await {
                return std::iter::once(server).chain(others).chain(silent).collect();
            }
            silent.push(server);
        }
        silent
    }

    /// The servers that say that they live, in their order; all of them if none does.
    async fn living(&self) -> Vec<&String> {
        if self.servers.len() < 2 {
            return self.servers.iter().collect();
        }
        let all = futures::future::join_all(self.servers.iter().map(|server| self.lives(server))).await;
        let living: Vec<_> =
            self.servers.iter().zip(all).filter_map(|(s, lives)| lives.then_some(s)).collect();
        if living.is_empty() { self.servers.iter().collect() } else { living }
    }

    /// Any answer at all will do: what it is worth is seen when it is asked.
    async fn lives(&self, server: &str) -> bool {
        self.http.get(format!("{server}/livez")).timeout(KNOCK).send().await.is_ok()
    }

    async fn ask(&self, server: &str, call: &Call<'_>, patience: Duration) -> Said {
        let request = self.http.request(call.method.clone(), format!("{server}{}", call.path));
        let mut request = match self.authorized(request) {
            Ok(request) => request.timeout(patience),
            Err(failure) => return Said::Final(Err(failure)),
        };
        if let Some(body) = &call.body {
            request = request.header("content-type", "application/json").body(body.clone());
        }
        if let Some(key) = call.key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => {
                return Said::Not(Weight::Silent, unreachable_server(server, &chain(&error)));
            }
            Err(error) => return call.lost(server, &chain(&error)),
        };
        let status = answer.status();
        let age_ms = header(&answer, AGE_MS).and_then(|age| age.parse().ok());
        // Who does not say how old its look is has looked for this very call.
        let poor = age_ms.filter(|_| header(&answer, LEADER).is_none());
        let told = if status.is_success() {
            match read(answer).await {
                Ok(bytes) => Ok(bytes),
                Err(why) => return call.lost(server, &why),
            }
        } else {
            let Some(problem) = problem(answer).await else {
                let failure = no_control_plane(server, status);
                // Whoever is there gave no order a second look either; but that is not certain.
                return if call.repeatable {
                    Said::Not(Weight::Silent, failure)
                } else {
                    Said::Final(Err(failure))
                };
            };
            let failure = Failure::of_problem(problem, server);
            match call.weighs(status) {
                Some(weight) => return Said::Not(weight, failure),
                None => Err(failure),
            }
        };
        match poor {
            Some(age_ms) => Said::Poor { age_ms, server: server.to_owned(), answer: told },
            None => Said::Final(told),
        }
    }
}

impl Call<'_> {
    fn is_read(&self) -> bool {
        self.method == Method::GET
    }

    /// No answer came to what was sent.
    fn lost(&self, server: &str, why: &str) -> Said {
        if self.repeatable {
            let weight = if self.is_read() { Weight::Silent } else { Weight::Uncertain };
            return Said::Not(weight, unreachable_server(server, why));
        }
        let failure =
            Failure::new(Exit::Unavailable, format!("{server} got the order but no answer came: {why}"))
                .hint("it may or may not have been done: look with `domicile failover show` first");
        Said::Final(Err(failure))
    }

    /// What an answer of this status weighs; none if it is the answer, or if nobody else may be asked after it.
    fn weighs(&self, status: StatusCode) -> Option<Weight> {
        match status {
            // By the API's contract nothing was done.
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(Weight::Refused),
            StatusCode::UNAUTHORIZED => Some(Weight::Stranger),
            _ if !status.is_server_error() => None,
            _ if self.is_read() => Some(Weight::Refused),
            // It may have been done: only what does no harm twice goes on.
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT if self.repeatable => {
                Some(Weight::Uncertain)
            }
            _ => None,
        }
    }
}

fn header<'a>(answer: &'a reqwest::Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

fn encode<B: Serialize>(body: &B) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(body)
        .map_err(|e| Failure::new(Exit::Internal, format!("the request can't be encoded: {e}")))
}

fn unreachable_server(server: &str, why: &str) -> Failure {
    Failure::new(Exit::Unavailable, format!("the control plane at {server} did not answer: {why}"))
        .hint("is it running? name all control planes with --server a:7400,b:7400")
}

/// The causes of an error, in one line and without the URL, which stands in front already.
fn chain(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    if error.is_timeout() { "no answer in time".into() } else { last.to_string() }
}

async fn read(mut answer: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| chain(&e))? {
        if bytes.len() + chunk.len() > LIMIT {
            return Err(format!("its answer is larger than {} MiB", LIMIT >> 20));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The problem that an answer tells; none if it is not one of ours.
async fn problem(answer: reqwest::Response) -> Option<Problem> {
    read(answer).await.ok().and_then(|b| serde_json::from_slice::<Problem>(&b).ok())
}

fn no_control_plane(server: &str, status: StatusCode) -> Failure {
    Failure::new(Exit::Internal, format!("{server} answered {status}, and not as a control plane does"))
        .hint("is that the address of a domicile control plane? see --server and DOMICILE_SERVER")
}
