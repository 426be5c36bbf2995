//! Answers that are no success: RFC 9457, with what happened, where, and what to do next.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use domicile_api::problem::{CONTENT_TYPE, Mistake, Problem};
use domicile_engine::MoveError;
use domicile_store::StoreError;
use domicile_store::lead::LeadError;
use http::{HeaderValue, StatusCode, header};

use crate::apply::ApplyError;

/// A problem on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Refusal(Box<Problem>);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&*self.0).unwrap_or_default();
        let mut answer = Response::new(Body::from(body));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"domicile\""));
        }
        answer
    }
}

/// A bad request.
pub(crate) fn bad(detail: impl Into<String>) -> Refusal {
    Problem::new("bad-request", "Bad request", 400, detail)
        .hint("the API is described at /v1/openapi.json")
        .into()
}

/// Something does not exist.
pub(crate) fn missing(what: &str, id: &str, known: &str) -> Refusal {
    let id: String = id.chars().take(80).collect();
    Problem::new("not-found", "Not found", 404, format!("there is no {what} `{id}`"))
        .hint(format!("look at what there is with `domicile {known}`"))
        .into()
}

/// Nobody leads.
pub(crate) fn no_leader() -> Refusal {
    Problem::new(
        "no-leader",
        "No leader",
        503,
        "no control plane leads at the moment, so nothing can be changed; reads and all traffic go on",
    )
    .hint(
        "try again in a second: another control plane takes over when the lease of the last one has run out",
    )
    .into()
}

/// The leadership was lost while something was done.
fn deposed() -> Refusal {
    Problem::new(
        "deposed",
        "No leader",
        503,
        "this control plane lost the leadership while it worked on this; what it had not committed was not done",
    )
    .hint("ask again: the leader answers, and finds what was done already")
    .into()
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            // Not 503: a client may ask another control plane after that one.
            StoreError::UnknownOutcome { .. } => Problem::new("unconfirmed", "Outcome unknown", 504, text)
                .hint("look at the state before asking again: it may have been done"),
            StoreError::Full { .. } => Problem::new("registry-full", "Registry full", 507, text)
                .hint("nothing was done and no move can go on: compact, defragment each member, then `etcdctl alarm disarm`"),
            _ => Problem::new("registry-unavailable", "Registry unavailable", 503, text).hint(
                "is etcd running and does it have a quorum (`etcdctl endpoint status`)? traffic goes on meanwhile",
            ),
        }
        .into()
    }
}

impl From<LeadError> for Refusal {
    fn from(error: LeadError) -> Self {
        match error {
            LeadError::Store(error) => error.into(),
            LeadError::Codec(_) | LeadError::AnotherWorld => {
                Problem::new("unreadable", "Registry unreadable", 500, error.to_string())
                    .hint("a newer control plane leads, or the registry was restored: see the logs of the control planes")
                    .into()
            }
        }
    }
}

impl From<ApplyError> for Refusal {
    fn from(error: ApplyError) -> Self {
        let text = error.to_string();
        match error {
            ApplyError::Refused(changes) => {
                let mut problem = Problem::new("refused", "Refused", 409, text)
                    .hint("each refusal says why and what to do instead");
                problem.mistakes = changes
                    .into_iter()
                    .map(|c| Mistake { line: None, what: format!("{} {}", c.what, c.id), hint: c.why })
                    .collect();
                problem.into()
            }
            ApplyError::Weakens { .. } => Problem::new("forbidden", "Not allowed", 403, text)
                .hint("it takes the role `admin` in the operators' file; who weakens the policy could else pass over it")
                .into(),
            ApplyError::Unreadable(_) => Problem::new("unreadable", "Registry unreadable", 409, text)
                .hint("a newer control plane wrote it: upgrade this one before applying anything")
                .into(),
            ApplyError::Deposed => deposed(),
            ApplyError::Conflict => Problem::new("conflict", "Conflict", 503, text)
                .hint("a move is probably under way in one of the cells: see `domicile status`, then apply again")
                .into(),
            ApplyError::NoRoom(why) => why.into(),
            ApplyError::Store(error) => error.into(),
            ApplyError::Partly(_) => Problem::new("partly-applied", "Partly applied", 504, text)
                .hint("apply the same file again: it goes on where it stopped; each part stands in the audit log")
                .into(),
        }
    }
}

impl From<MoveError> for Refusal {
    fn from(error: MoveError) -> Self {
        let text = error.to_string();
        match error {
            MoveError::NotFound(_) => Problem::new("not-found", "Not found", 404, text)
                .hint("see `domicile cell list` and `domicile failover list`")
                .into(),
            MoveError::Blocked(plan) => {
                let n = plan.checks.iter().filter(|c| c.verdict.blocks()).count();
                let detail = format!("the move of cell {} to {} is blocked by {n} checks", plan.cell, plan.to);
                let mut problem = Problem::new("blocked", "Move blocked", 409, detail)
                    .hint("mend what the checks name; `domicile failover plan` shows them again without doing anything");
                problem.mistakes = plan
                    .checks
                    .iter()
                    .filter(|c| c.verdict.blocks())
                    .map(|c| Mistake { line: None, what: c.name.clone(), hint: c.why.clone() })
                    .collect();
                problem.into()
            }
            MoveError::Consent { .. } => Problem::new("consent", "Consent missing", 409, text)
                .hint("look at the preview with `domicile failover plan --force`, then give --accept-loss (and --accept-unknown)")
                .into(),
            MoveError::Busy(_) => Problem::new("busy", "Cell busy", 409, text)
                .hint("see `domicile failover list`")
                .into(),
            MoveError::NotNow(_) => Problem::new("not-now", "Not possible now", 409, text)
                .hint("see how the move stands with `domicile failover show`")
                .into(),
            MoveError::NotYours(_) => Problem::new("not-yours", "Not yours to approve", 403, text)
                .hint("the approval policy wants other people: `domicile failover show` tells who has approved")
                .into(),
            MoveError::Deposed => deposed(),
            MoveError::Unconfirmed(_) => Problem::new("unconfirmed", "Outcome unknown", 504, text)
                .hint("`domicile failover list` shows whether the move stands")
                .into(),
            MoveError::Store(error) => error.into(),
            MoveError::Codec(_) => Problem::new("unreadable", "Registry unreadable", 500, text)
                .hint("a newer control plane wrote it: upgrade this one")
                .into(),
        }
    }
}
