//! Heads of streams: without what belongs to one hop only, and in the form that the next hop's version wants.

use domicile_router_core::standing::Kind;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};
use pingora_http::{RequestHeader, ResponseHeader};

use super::dial::Outgoing;
use super::mllp::PROTOCOL;

/// What belongs to one hop only (RFC 9110, section 7.6.1), besides what `Connection` names.
const ONE_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// What of a head belongs to one hop only.
fn of_one_hop(headers: &HeaderMap) -> Vec<HeaderName> {
    let named = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| name.trim().parse().ok());
    named.chain(ONE_HOP.map(HeaderName::from_static)).collect()
}

/// A client's head without what was meant for this hop. Before anything is written into it: what we write, no client's
/// `Connection` can take out again.
pub(super) fn without_hop(head: &RequestHeader) -> RequestHeader {
    let mut kept = head.clone();
    for name in of_one_hop(&head.headers) {
        kept.remove_header(&name);
    }
    kept
}

/// What a kind of tunnel is called; none for what is none.
pub(super) const fn protocol(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::WebSocket => Some("websocket"),
        Kind::Mllp => Some(PROTOCOL),
        Kind::EventStream | Kind::Grpc => None,
    }
}

/// The request for the next server, from a head [`without_hop`]. None: its target or host can't be written.
pub(super) fn request(head: &RequestHeader, kind: Kind, body: Outgoing) -> Option<http::Request<Outgoing>> {
    let mut headers = head.headers.clone();
    let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
    let host = head.uri.authority().map(|a| HeaderValue::from_str(a.as_str())).transpose().ok()?;
    let host = host.or_else(|| headers.get(HOST).cloned())?;
    let uri = match kind {
        Kind::Grpc => {
            headers.remove(HOST);
            headers.remove(CONTENT_LENGTH);
            headers.insert(TE, HeaderValue::from_static("trailers"));
            let uri = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path);
            uri.build().ok()?
        }
        Kind::WebSocket | Kind::EventStream | Kind::Mllp => {
            headers.insert(HOST, host);
            headers.remove(CONTENT_LENGTH);
            if let Some(protocol) = protocol(kind) {
                headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(UPGRADE, HeaderValue::from_static(protocol));
            }
            path.parse().ok()?
        }
    };
    let mut request = http::Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = if kind == Kind::Grpc { Version::HTTP_2 } else { Version::HTTP_11 };
    *request.headers_mut() = headers;
    Some(request)
}

/// The answer's head for the client.
pub(super) fn answer(
    parts: &http::response::Parts,
    tunnel: Option<&'static str>,
    chunked: bool,
) -> pingora_error::Result<ResponseHeader> {
    let mut headers = parts.headers.clone();
    for name in of_one_hop(&parts.headers) {
        headers.remove(name);
    }
    let mut head = ResponseHeader::build(parts.status, Some(headers.len() + 8))?;
    for (name, value) in &headers {
        head.append_header(name.clone(), value.clone())?;
    }
    if let Some(protocol) = tunnel {
        head.insert_header(CONNECTION, "Upgrade")?;
        head.insert_header(UPGRADE, protocol)?;
    } else if chunked && !headers.contains_key(CONTENT_LENGTH) {
        head.insert_header(TRANSFER_ENCODING, "chunked")?;
    }
    Ok(head)
}
