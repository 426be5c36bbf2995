//! Followers pass changes on to the leader, in the operator's own name.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domicile_api::problem::Problem;
use domicile_model::clock::pause;
use domicile_store::lead::{LeaderRecord, PresentLeader, present_leader};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::app::{App, Led};
use crate::http::input;
use crate::http::problem::{Refusal, bad, no_leader};

/// Who passed a change on. A change that was passed on once is not passed on again: two followers that believe in each
/// other would never end.
pub(crate) const FORWARDED_BY: HeaderName = HeaderName::from_static("domicile-forwarded-by");
/// What of the request goes along.
const ALONG: [HeaderName; 3] =
    [header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("idempotency-key")];
/// What of the answer comes back.
const BACK: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::RETRY_AFTER, header::LOCATION, header::WWW_AUTHENTICATE];
/// How long the leader may take; less than a request may take here.
const LEADER: Duration = Duration::from_secs(28);
/// Largest answer of a leader, in bytes.
const ANSWER: usize = 64 << 20;

/// How long a control plane that leads no more may take to answer what it has begun.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What to do after an unknown outcome.
const AGAIN: &str =
    "look at the state before asking again; with an Idempotency-Key a start of a move is safe to repeat";

/// Goes on here if this control plane leads, else asks the leader.
pub(crate) async fn to_leader(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Some(led) = app.led() {
        // The registry may have gone silent under it. Whoever waits for that answer does not ask the next leader, while
        // what a preview promised runs out.
        return tokio::select! {
            biased;
            answer = next.run(request) => answer,
            () = deposed(&app, &led) => deposed_meanwhile(&app.name).into_response(),
        };
    }
    match pass_on(&app, request).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.into_response(),
    }
}

/// Returns a little after this control plane has ceased to lead as it did: what was nearly done can still be answered.
async fn deposed(app: &App, led: &Led) {
    let other =
        |now: &Option<Arc<Led>>| now.as_ref().is_none_or(|now| now.leadership.fence != led.leadership.fence);
    // The sender is gone: so is this control plane.
    let _ = app.leading.clone().wait_for(other).await;
    pause(LAST_WORDS).await;
}

/// Returns a little after this leader has ceased to be one, as the registry has it.
async fn gone(app: &App, leader: &LeaderRecord) {
    loop {
        pause(LAST_WORDS).await;
        match present_leader(&*app.store).await {
            Ok(now) if now.as_ref().is_none_or(|now| now.record.nonce != leader.nonce) => break,
            // It leads, or that can't be told.
            _ => {}
        }
    }
    pause(LAST_WORDS).await;
}

async fn pass_on(app: &App, request: Request) -> Result<Response, Refusal> {
    if request.headers().contains_key(FORWARDED_BY) {
        return Err(no_leader());
    }
    let present = present_leader(&*app.store).await?.filter(|l| l.record.name != app.name);
    let Some(PresentLeader { record: leader, .. }) = present else { return Err(no_leader()) };
    let address = app.links.dial(leader.address);
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut headers = HeaderMap::new();
    for name in ALONG {
        if let Some(value) = parts.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let own =
        HeaderValue::from_str(&app.name).map_err(|_| bad("this control plane's name is no header value"))?;
    headers.insert(FORWARDED_BY, own);
    let body = input::bytes(body, input::FILE).await?;
    app.metrics.forwarded.inc();
    let asked = app
        .http
        .request(parts.method, format!("http://{address}{path}"))
        .headers(headers)
        .body(body)
        .timeout(LEADER)
        .send();
    let asked = tokio::select! {
        biased;
        asked = asked => asked,
        // A machine that was stopped takes connections and never answers; meanwhile another one leads.
        () = gone(app, &leader) => return Err(silent(&leader.name)),
    };
    let answer = asked.map_err(|e| lost(&leader.name, &e))?;
    let mut back = Response::builder().status(answer.status());
    for name in BACK {
        if let Some(value) = answer.headers().get(&name) {
            back = back.header(name, value.clone());
        }
    }
    let mut answer = answer;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| lost(&leader.name, &e))? {
        if bytes.len() + chunk.len() > ANSWER {
            return Err(Problem::new(
                "bad-gateway",
                "Leader's answer too large",
                502,
                "the leader's answer is too large",
            )
            .hint("ask the leader directly")
            .into());
        }
        bytes.extend_from_slice(&chunk);
    }
    back.body(Body::from(bytes)).map_err(|_| bad("the leader's answer can't be passed on"))
}

fn deposed_meanwhile(name: &str) -> Refusal {
    Problem::new(
        "leader-silent",
        "Outcome unknown",
        504,
        format!("control plane {name} lost the leadership while it did this: it may or may not be done"),
    )
    .hint(AGAIN)
    .into()
}

fn lost(leader: &str, error: &reqwest::Error) -> Refusal {
    if error.is_connect() {
        return Problem::new(
            "leader-unreachable",
            "Leader unreachable",
            503,
            format!("control plane {leader} leads but can't be reached from here; nothing was changed"),
        )
        .hint("try again in a second: if it is gone another one takes over when its lease has run out")
        .into();
    }
    silent(leader)
}

fn silent(leader: &str) -> Refusal {
    Problem::new(
        "leader-silent",
        "Outcome unknown",
        504,
        format!(
            "the change was passed on to the leader {leader}, and no answer came: it may or may not be done"
        ),
    )
    .hint(AGAIN)
    .into()
}
