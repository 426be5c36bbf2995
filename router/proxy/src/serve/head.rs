//! Reading and writing heads: what is believed of a request, what goes on with it, what is said about an answer.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use domicile_model::clock::BootTime;
use domicile_model::{CellId, Epoch, RegionId};
use domicile_router_core::admit::Moved;
use domicile_router_core::headers::{self, is_claim, is_ours};
use domicile_router_core::identify::Clues;
use domicile_router_core::{Cause, Problem};
use http::HeaderMap;
use http::header::COOKIE;
use pingora_error::{ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::ctx::Ctx;
use crate::config::Sabotage;
use crate::state::Shared;

/// Bodies up to this many bytes are kept by Pingora for a second try (it keeps 64 KiB; half of that is certain).
const REPEATABLE: u64 = 32 << 10;

/// The certificate that the client has shown (RFC 9440).
const CLIENT_CERT: &str = "client-cert";

/// The value of a header, if it stands there exactly once.
fn once<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() { None } else { Some(first.as_bytes()) }
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    std::str::from_utf8(once(headers, name)?).ok()?.parse().ok()
}

/// Takes from a request's head what the context remembers. Of our headers nothing is believed that did not come from
/// a trusted network.
pub fn remember(ctx: &mut Ctx, head: &RequestHeader, trusted: bool) {
    ctx.trusted = trusted;
    let known_id = once(&head.headers, headers::REQUEST_ID).filter(|id| {
        trusted && (1..=64).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    });
    ctx.request_id = known_id
        .and_then(|id| std::str::from_utf8(id).ok())
        .map_or_else(|| uuid::Uuid::now_v7().to_string(), ToOwned::to_owned);
    ctx.trace = once(&head.headers, "traceparent")
        .filter(|t| headers::valid_traceparent(t))
        .and_then(|t| std::str::from_utf8(t).ok())
        .map_or_else(|| headers::new_traceparent(rand::random(), rand::random()), ToOwned::to_owned);
    if trusted {
        ctx.sent = number(&head.headers, headers::EPOCH).map(Epoch);
        ctx.hops = number(&head.headers, headers::HOPS).unwrap_or(0);
    }
    let length: Option<u64> = number(&head.headers, "content-length");
    let kind = head.headers.get(http::header::CONTENT_TYPE).map_or(&b""[..], http::HeaderValue::as_bytes);
    // `application/grpc`, `application/grpc+proto`, `application/grpc;…`, and not `application/grpc-web`.
    ctx.grpc = kind
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| rest.first().is_none_or(|b| b"+;".contains(b)));
    let streamed = head.headers.contains_key(http::header::TRANSFER_ENCODING);
    let upgrade = head.headers.contains_key(http::header::UPGRADE);
    ctx.unrepeatable = streamed || upgrade || length.is_some_and(|l| l > REPEATABLE);
}

/// The bytes of a head, but for what separates them.
#[must_use]
pub fn size(head: &RequestHeader) -> usize {
    head.raw_path().len() + head.headers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum::<usize>()
}

/// What says whose a request is.
#[must_use]
pub fn clues<'a>(head: &'a RequestHeader, trusted: bool) -> Clues<'a> {
    Clues {
        authority: head.uri.authority().map(|a| a.as_str().as_bytes()),
        host: head.headers.get(http::header::HOST).map(http::HeaderValue::as_bytes),
        hosts: head.headers.get_all(http::header::HOST).iter().count(),
        tenant: if trusted { once(&head.headers, headers::TENANT) } else { None },
    }
}

/// What comes after the host in a target of absolute form; none for one that is just a path.
fn behind_host(target: &[u8]) -> Option<Vec<u8>> {
    let scheme = target.windows(3).position(|w| w == b"://")?;
    if !target[..scheme].iter().all(u8::is_ascii_alphabetic) {
        return None;
    }
    let rest = &target[scheme + 3..];
    let end = rest.iter().position(|b| b"/?#".contains(b)).unwrap_or(rest.len());
    let path = &rest[end..];
    Some(if path.first() == Some(&b'/') { path.to_vec() } else { [b"/", path].concat() })
}

fn drop_ours(headers: &HeaderMap, keep: Option<&str>) -> Vec<http::HeaderName> {
    headers.keys().filter(|n| is_ours(n.as_str()) && Some(n.as_str()) != keep).cloned().collect()
}

/// Writes our headers into a request that goes on.
///
/// # Errors
/// When a value is none for a header: ids and numbers always are.
pub fn send_on(
    shared: &Shared,
    ctx: &Ctx,
    head: &mut RequestHeader,
    client: Option<std::net::IpAddr>,
) -> Result<()> {
    let believed = shared.config.sabotage == Sabotage::ClientsBelieved;
    for name in drop_ours(&head.headers, Some(headers::PASS)).iter().filter(|_| !believed) {
        head.remove_header(name);
    }
    // A target that names its host again is for proxies (RFC 9112, section 3.2.2); the host stands in Host, as was checked.
    if let Some(path) = behind_host(head.raw_path()) {
        head.set_raw_path(&path)?;
    }
    // HTTP/2 may have sent them one by one (RFC 9113, section 8.2.3); of several fields many applications read one.
    let cookies: Vec<_> = head.headers.get_all(COOKIE).iter().map(http::HeaderValue::as_bytes).collect();
    if cookies.len() > 1 {
        let joined = http::HeaderValue::from_bytes(&cookies.join(&b"; "[..]));
        head.insert_header(COOKIE, joined.or_err(ErrorType::InvalidHTTPHeader, "cookies")?)?;
    }
    let route = ctx.route.as_ref();
    if let (Some(tenant), Some(cell), Some(route)) = (&ctx.tenant, &ctx.cell, route) {
        head.insert_header(headers::TENANT, tenant.as_str())?;
        head.insert_header(headers::CELL, cell.as_str())?;
        head.insert_header(headers::EPOCH, route.epoch.to_string())?;
        head.insert_header(headers::REGION, route.region.as_str())?;
        if let Some(key) = shared.pass.as_ref().filter(|_| route.local) {
            let expires = super::admission::unix_secs() + domicile_router_core::pass::LIFE_SECS;
            head.insert_header(headers::PASS, key.sign(cell, &ctx.request_id, expires))?;
        }
    }
    head.insert_header(headers::REQUEST_ID, ctx.request_id.as_str())?;
    head.insert_header("traceparent", ctx.trace.as_str())?;
    if !ctx.is_local() {
        head.insert_header(headers::HOPS, ctx.hops.saturating_add(1).to_string())?;
    }
    // Written, not appended to, where the request enters; a trusted router in front has already done it.
    if !ctx.trusted || !shared.is_gate() {
        let client = client.map(|c| c.to_canonical());
        // Over HTTP/2 it may stand in the target only.
        let authority = || http::HeaderValue::from_str(head.uri.authority()?.as_str()).ok();
        let host = head.headers.get(http::header::HOST).cloned().or_else(authority);
        let claims: Vec<_> = head.headers.keys().filter(|n| is_claim(n.as_str())).cloned().collect();
        for name in claims.iter().filter(|_| !believed) {
            head.remove_header(name);
        }
        let secure = ctx.secure();
        let proto = if secure.is_some() { "https" } else { "http" };
        if let Some(der) = secure.and_then(|s| s.client.as_ref()) {
            // A byte sequence of RFC 8941: base64 between colons.
            head.insert_header(CLIENT_CERT, format!(":{}:", BASE64_STANDARD.encode(der)))?;
        }
        if let Some(client) = client {
            head.insert_header("x-forwarded-for", client.to_string())?;
            let client = if client.is_ipv6() { format!("\"[{client}]\"") } else { client.to_string() };
            head.insert_header("forwarded", format!("for={client};proto={proto}"))?;
        }
        head.insert_header("x-forwarded-proto", proto)?;
        if let Some(host) = host {
            head.insert_header("x-forwarded-host", host)?;
        }
    }
    Ok(())
}

/// What a gate's 421 says; none if the answer is not one, or says nothing usable.
#[must_use]
pub fn moved(status: http::StatusCode, head: &HeaderMap) -> Option<Moved> {
    if status != http::StatusCode::MISDIRECTED_REQUEST
        || once(head, headers::GATE) != Some(headers::GATE_MOVED.as_bytes())
    {
        return None;
    }
    let text = |name| once(head, name).and_then(|v| std::str::from_utf8(v).ok());
    Some(Moved {
        cell: CellId::new(text(headers::CELL)?).ok()?,
        epoch: Epoch(number(head, headers::EPOCH)?),
        region: RegionId::new(text(headers::REGION)?).ok()?,
    })
}

/// Who answered, under which epoch, if a gate says so.
#[must_use]
pub fn answered_by(head: &HeaderMap) -> Option<(RegionId, Epoch)> {
    once(head, headers::GATE)?;
    let region = once(head, headers::REGION).and_then(|v| std::str::from_utf8(v).ok())?;
    Some((RegionId::new(region).ok()?, Epoch(number(head, headers::EPOCH)?)))
}

/// Writes our headers into an answer that passes. What the application wrote under these names is dropped.
///
/// # Errors
/// When a value is none for a header: ids and numbers always are.
pub fn pass_answer(shared: &Shared, ctx: &Ctx, head: &mut ResponseHeader) -> Result<()> {
    if shared.config.sabotage == Sabotage::ApplicationsBelieved && head.headers.contains_key(headers::GATE) {
        return Ok(());
    }
    // A gate that relays passes on what the other gate wrote, an edge what its gate wrote.
    let gate = head.headers.get(headers::GATE).cloned();
    for name in drop_ours(&head.headers, None) {
        head.remove_header(&name);
    }
    if shared.is_gate() {
        match gate.filter(|_| !ctx.is_local()) {
            Some(gate) => head.insert_header(headers::GATE, gate)?,
            None => head.insert_header(headers::GATE, headers::GATE_PASSED)?,
        }
    }
    if let (Some(cell), Some((region, epoch))) = (&ctx.cell, &ctx.answer) {
        head.insert_header(headers::CELL, cell.as_str())?;
        head.insert_header(headers::REGION, region.as_str())?;
        head.insert_header(headers::EPOCH, epoch.to_string())?;
    }
    head.insert_header(headers::REQUEST_ID, ctx.request_id.as_str())
}

/// The answer to a request that is not served.
///
/// # Errors
/// When a value is none for a header: ids and numbers always are.
pub fn problem(shared: &Shared, ctx: &Ctx, cause: Cause, now: BootTime) -> Result<(ResponseHeader, Vec<u8>)> {
    let entry = cause.entry();
    let body = Problem::of(cause, &ctx.request_id).to_json();
    let mut head = ResponseHeader::build(entry.status, Some(10))?;
    head.insert_header("content-type", domicile_router_core::errors::PROBLEM_JSON)?;
    head.insert_header("content-length", body.len().to_string())?;
    head.insert_header("cache-control", "no-store")?;
    if !ctx.request_id.is_empty() {
        head.insert_header(headers::REQUEST_ID, ctx.request_id.as_str())?;
    }
    if let Some(seconds) = ctx.retry_after.or(entry.retry_after) {
        // Spread, so that a held crowd does not come back at once.
        let spread = now.as_nanos() % (seconds + 1);
        head.insert_header("retry-after", (seconds + spread).to_string())?;
    }
    if shared.is_gate() {
        let followed = cause == Cause::Misdirected && ctx.moved.is_some();
        head.insert_header(
            headers::GATE,
            if followed { headers::GATE_MOVED } else { headers::GATE_REFUSED },
        )?;
        if let Some(moved) = ctx.moved.as_ref().filter(|_| followed) {
            head.insert_header(headers::CELL, moved.cell.as_str())?;
            head.insert_header(headers::EPOCH, moved.epoch.to_string())?;
            head.insert_header(headers::REGION, moved.region.as_str())?;
        }
    }
    if shared.is_draining() {
        head.insert_header("connection", "close")?;
    }
    Ok((head, body))
}

#[cfg(test)]
mod tests {
    use super::behind_host;

    #[test]
    fn only_a_target_of_absolute_form_loses_its_host() {
        for (target, path) in [
            ("http://a.example.com/b?c=://d", Some("/b?c=://d")),
            ("HTTPS://a.example.com:8443", Some("/")),
            ("http://a.example.com?q", Some("/?q")),
            ("/b?next=http://a.example.com/", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(behind_host(target.as_bytes()).as_deref(), path.map(str::as_bytes), "{target}");
        }
    }
}
