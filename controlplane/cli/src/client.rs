//! The HTTP API as the commands see it: several servers tried in order, problems turned into sentences.

use std::time::Duration;

use domicile_api::problem::Problem;
use domicile_model::SecretRef;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Global;
use crate::exit::Exit;
use crate::fail::Failure;

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an answer may take: a change is passed on to the leader and may be several transactions.
const ANSWER: Duration = Duration::from_secs(40);
/// Most bytes of an answer that are read.
const LIMIT: usize = 256 << 20;

/// A client of one or more control planes.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    servers: Vec<String>,
    token: Option<SecretRef>,
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
            .build()
            .map_err(|e| Failure::new(Exit::Internal, format!("no HTTP client: {e}")))?;
        Ok(Self { http, servers, token })
    }

    /// The servers, in order.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.servers.len()
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
        Err(Failure::of_problem(problem(answer).await, server))
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
        let mut last: Option<Failure> = None;
        for server in &self.servers {
            match self.ask(server, &call).await {
                Ok(bytes) => {
                    return serde_json::from_slice(&bytes).map_err(|e| {
                        Failure::new(
                            Exit::Internal,
                            format!("{server}{} answered something else than expected: {e}", call.path),
                        )
                        .hint("client and server may be of different versions: compare `domicile --version`")
                    });
                }
                Err(Ask::Next(failure)) => {
                    // "Nobody leads" says more than "did not answer".
                    if last.as_ref().is_none_or(|l| l.exit == Exit::Unavailable) {
                        last = Some(failure);
                    }
                }
                Err(Ask::Stop(failure)) => return Err(failure),
            }
        }
        Err(last.unwrap_or_else(|| {
            Failure::new(Exit::Usage, "no server was given").hint("use --server or DOMICILE_SERVER")
        }))
    }

    async fn ask(&self, server: &str, call: &Call<'_>) -> Result<Vec<u8>, Ask> {
        let mut request = self
            .authorized(self.http.request(call.method.clone(), format!("{server}{}", call.path)))
            .map_err(Ask::Stop)?
            .timeout(ANSWER);
        if let Some(body) = &call.body {
            request = request.header("content-type", "application/json").body(body.clone());
        }
        if let Some(key) = call.key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() || call.repeatable => {
                return Err(Ask::Next(unreachable_server(server, &chain(&error))));
            }
            Err(error) => {
                return Err(Ask::Stop(
                    Failure::new(
                        Exit::Unavailable,
                        format!("{server} got the order but no answer came: {}", chain(&error)),
                    )
                    .hint("it may or may not have been done: look with `domicile failover show` first"),
                ));
            }
        };
        let status = answer.status();
        if status.is_success() {
            return read(answer).await.map_err(|e| Ask::Next(unreachable_server(server, &e)));
        }
        let failure = Failure::of_problem(problem(answer).await, server);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return Err(Ask::Next(failure));
        }
        Err(Ask::Stop(failure))
    }
}

enum Ask {
    Next(Failure),
    Stop(Failure),
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

async fn problem(answer: reqwest::Response) -> Problem {
    let status = answer.status();
    let parsed = read(answer).await.ok().and_then(|b| serde_json::from_slice::<Problem>(&b).ok());
    parsed.unwrap_or_else(|| {
        Problem::new(
            "unknown",
            "Unknown answer",
            status.as_u16(),
            format!("the server answered {status} without saying why"),
        )
        .hint("is that a domicile control plane?")
    })
}
