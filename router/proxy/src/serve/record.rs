//! What is kept of a request that is over: numbers, and a line in the access log.

use std::time::Duration;

use domicile_router_core::Cause;
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;

use super::ctx::Ctx;
use crate::access_log::{Line, path_only};
use crate::facts;
use crate::state::{Shared, millis};

/// Who gives a request up later than this has waited for it.
const EARLY: Duration = Duration::from_secs(1);

/// Why Pingora gave up, in our words.
pub(super) fn cause_of(error: &Error) -> Cause {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, _) => Cause::Client,
        (ErrorSource::Upstream, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => Cause::UpstreamTimeout,
        (ErrorSource::Upstream, _) => Cause::UpstreamBroken,
        _ => Cause::Internal,
    }
}

/// Keeps it.
pub(super) fn record(shared: &Shared, session: &Session, error: Option<&Error>, ctx: &mut Ctx) {
    // Whatever happens below, the request is over.
    ctx.counted = None;
    ctx.released = None;
    let total = shared.now().since(ctx.started);
    let cut = ctx.cause.or_else(|| error.map(cause_of)) == Some(Cause::Client) && total < EARLY;
    if let Some(connection) = ctx.connection.as_ref().filter(|_| !cut) {
        connection.streams.settled();
    }
    if ctx.probe {
        return;
    }
    if ctx.cause.is_none()
        && let Some(error) = error
    {
        ctx.cause = Some(cause_of(error));
    }
    if ctx.cause == Some(Cause::Internal) {
        let why = error.map(ToString::to_string).unwrap_or_default();
        tracing::error!(request = %ctx.request_id, why, "a mistake of the router");
    }
    let status = session.response_written().map_or(0, |h| h.status.as_u16());
    shared.metrics.finished(status, ctx.cause);
    shared.metrics.seconds.observe(total.as_secs_f64());
    facts::request(shared, session, ctx, status, total);
    if !shared.log.is_on() {
        return;
    }
    let head = session.req_header();
    let answer = ctx.answer.clone().or_else(|| ctx.route.as_ref().map(|r| (r.region.clone(), r.epoch)));
    let line = Line {
        time: jiff::Timestamp::now().to_string(),
        tenant: ctx.tenant.as_ref().map(ToString::to_string),
        cell: ctx.cell.as_ref().map(ToString::to_string),
        region: answer.as_ref().map(|a| a.0.to_string()),
        epoch: answer.map(|a| a.1.0),
        method: head.method.as_str().chars().take(32).collect(),
        path: path_only(head.raw_path()),
        status,
        cause: ctx.cause.map(Cause::label),
        ended: ctx.ended,
        hold_ms: millis(ctx.hold),
        upstream_ms: ctx.asked.zip(ctx.answered).map(|(from, to)| millis(to.since(from))),
        total_ms: millis(total),
        request_id: ctx.request_id.clone(),
        trace_id: ctx.trace.get(3..35).unwrap_or_default().to_owned(),
        bytes: session.body_bytes_sent(),
        bytes_up: None,
    };
    if !shared.log.push(line) {
        shared.metrics.log_dropped.inc();
    }
}
