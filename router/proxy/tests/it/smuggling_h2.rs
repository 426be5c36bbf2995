//! Requests of HTTP/2 that would be two, or other ones, once they are written in HTTP/1.1. Each is sent to an edge in front
//! of the application, and through edge and gate; the application is a recorder that writes down what it got.

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, block, field, frame, request, say,
};
use crate::hardening::{HOST, Stage};
use crate::recorder::Reading;

const INNER: &str = "GET /smuggled HTTP/1.1\r\nHost: mercy.example.com\r\n\r\n";

type Fields<'a> = Vec<(&'a str, &'a str)>;

/// A request without a body.
fn bare(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields))
}

/// A request with this body.
fn with(fields: &[(&str, &str)], body: &str) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, 1, &block(fields));
    [head, frame(DATA, END_STREAM, 1, body.as_bytes())].concat()
}

/// A request with a body of one byte and these trailers.
fn trailed(trailers: &[(&str, &str)]) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, 1, &block(&post(&[])));
    let end = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(trailers));
    [head, frame(DATA, 0, 1, b"x"), end].concat()
}

fn get<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Fields<'a> {
    request("GET", HOST, path, more)
}

fn post<'a>(more: &[(&'a str, &'a str)]) -> Fields<'a> {
    request("POST", HOST, "/a", more)
}

/// A request without one of its fields, and with others.
fn but<'a>(without: &str, more: &[(&'a str, &'a str)]) -> Fields<'a> {
    let mut fields = more.to_vec();
    // Fields of the head of requests come first.
    let rest = get("/a", &[]).into_iter().filter(|(name, _)| *name != without);
    fields.splice(0..0, rest);
    fields.sort_by_key(|(name, _)| !name.starts_with(':'));
    fields
}

/// Name, frames, how it came out for the client, and what reaches the application.
type Attack = (&'static str, Vec<u8>, &'static str, &'static [&'static str]);

fn of_bodies() -> Vec<Attack> {
    let small = |more: &[(&str, &str)]| with(&post(more), "x");
    vec![
        (
            "a length beyond the body",
            with(&post(&[("content-length", "10")]), "x"),
            "reset PROTOCOL_ERROR",
            &[],
        ),
        (
            "a length below the body",
            with(&post(&[("content-length", "1")]), INNER),
            "reset PROTOCOL_ERROR",
            &[],
        ),
        ("a length and no body", bare(&post(&[("content-length", "51")])), "reset PROTOCOL_ERROR", &[]),
        ("no length", with(&post(&[]), INNER), "200", &["POST /a 51 in chunks"]),
        (
            "two lengths",
            small(&[("content-length", "1"), ("content-length", "51")]),
            "reset PROTOCOL_ERROR",
            &[],
        ),
        ("a list of lengths", small(&[("content-length", "1, 51")]), "reset PROTOCOL_ERROR", &[]),
        ("a length with a sign", small(&[("content-length", "+1")]), "reset PROTOCOL_ERROR", &[]),
        ("a length in hex", small(&[("content-length", "0x1")]), "reset PROTOCOL_ERROR", &[]),
        (
            "chunks",
            with(&post(&[("transfer-encoding", "chunked")]), "0\r\n\r\n"),
            "reset PROTOCOL_ERROR",
            &[],
        ),
        (
            "chunks and a length",
            small(&[("content-length", "1"), ("transfer-encoding", "chunked")]),
            "reset PROTOCOL_ERROR",
            &[],
        ),
        ("a chunk as a body", with(&post(&[]), "0\r\n\r\n"), "200", &["POST /a 5 in chunks"]),
        ("trailers", trailed(&[("x-sum", "1")]), "200", &["POST /a 1 in chunks"]),
        ("trailers with a length", trailed(&[("content-length", "51")]), "200", &["POST /a 1 in chunks"]),
        ("trailers with chunks", trailed(&[("transfer-encoding", "chunked")]), "reset PROTOCOL_ERROR", &[]),
        ("trailers with a host", trailed(&[("host", "other.example.com")]), "200", &["POST /a 1 in chunks"]),
        ("trailers with a path", trailed(&[(":path", "/smuggled")]), "200", &["POST /a 1 in chunks"]),
        ("trailers with LF", trailed(&[("x", "a\n\nGET / HTTP/1.1")]), "goaway PROTOCOL_ERROR", &[]),
        (
            "more padding than data",
            [frame(HEADERS, END_HEADERS, 1, &block(&post(&[]))), frame(DATA, PADDED, 1, &[9, b'x'])].concat(),
            "goaway PROTOCOL_ERROR",
            &[],
        ),
    ]
}

fn of_fields() -> Vec<Attack> {
    let get = |more: &[(&'static str, &'static str)]| bare(&get("/a", more));
    let refused =
        |name, more: &[(&'static str, &'static str)], how| -> Attack { (name, get(more), how, &[]) };
    vec![
        refused("te that is not trailers", &[("te", "chunked")], "reset PROTOCOL_ERROR"),
        ("te: trailers", get(&[("te", "trailers")]), "200", &["GET /a 0 by length"]),
        refused("connection", &[("connection", "keep-alive")], "reset PROTOCOL_ERROR"),
        refused("connection that names", &[("connection", "host")], "reset PROTOCOL_ERROR"),
        refused("keep-alive", &[("keep-alive", "1")], "reset PROTOCOL_ERROR"),
        refused("proxy-connection", &[("proxy-connection", "keep-alive")], "reset PROTOCOL_ERROR"),
        refused("upgrade", &[("upgrade", "websocket")], "reset PROTOCOL_ERROR"),
        ("http2-settings", get(&[("http2-settings", "AAMAAABk")]), "200", &["GET /a 0 by length"]),
        refused("a value with CRLF", &[("x", "a\r\nDomicile-Tenant: other")], "goaway PROTOCOL_ERROR"),
        refused(
            "a value with two CRLF",
            &[("x", "a\r\n\r\nGET /smuggled HTTP/1.1")],
            "goaway PROTOCOL_ERROR",
        ),
        refused("a value with LF", &[("x", "a\nb: c")], "goaway PROTOCOL_ERROR"),
        refused("a value with CR", &[("x", "a\rb")], "goaway PROTOCOL_ERROR"),
        refused("a value with NUL", &[("x", "a\0b")], "goaway PROTOCOL_ERROR"),
        refused("a name in capitals", &[("X-A", "1")], "goaway PROTOCOL_ERROR"),
        refused("a name with a colon", &[("x:y", "1")], "goaway PROTOCOL_ERROR"),
        refused("a name with a space", &[("x y", "1")], "goaway PROTOCOL_ERROR"),
        refused("chunks by a space", &[("transfer-encoding ", "chunked")], "goaway PROTOCOL_ERROR"),
        refused("a name with CRLF", &[("x: 1\r\ny", "1")], "goaway PROTOCOL_ERROR"),
        refused("a name with NUL", &[("x\0", "1")], "goaway PROTOCOL_ERROR"),
        refused("no name", &[("", "1")], "goaway PROTOCOL_ERROR"),
        (
            "bytes beyond ASCII in a name",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                &[block(&but("", &[])), field(b"x\xff", b"1")].concat(),
            ),
            "goaway PROTOCOL_ERROR",
            &[],
        ),
        (
            "a head in two frames",
            {
                let whole = block(&but("", &[("x", "1")]));
                let (one, two) = whole.split_at(20);
                [frame(HEADERS, END_STREAM, 1, one), frame(CONTINUATION, END_HEADERS, 1, two)].concat()
            },
            "200",
            &["GET /a 0 by length"],
        ),
    ]
}

fn of_targets() -> Vec<Attack> {
    let path = |path| bare(&get(path, &[]));
    let method = |method| bare(&request(method, HOST, "/a", &[]));
    let refused = |name, frames, how| -> Attack { (name, frames, how, &[]) };
    vec![
        refused("a path with a space", path("/a b"), "reset PROTOCOL_ERROR"),
        refused("a path with a version", path("/a HTTP/1.1"), "reset PROTOCOL_ERROR"),
        refused("a path with CRLF", path("/a HTTP/1.1\r\nHost: x\r\n\r\nGET /b"), "reset PROTOCOL_ERROR"),
        refused("a path with LF", path("/a\n"), "reset PROTOCOL_ERROR"),
        refused("a path with NUL", path("/a\0"), "reset PROTOCOL_ERROR"),
        refused("a path with a tab", path("/a\tb"), "reset PROTOCOL_ERROR"),
        refused("a path of absolute form", path("http://other.example.com/a"), "reset PROTOCOL_ERROR"),
        refused(
            "a path of absolute form, of the host",
            path("http://mercy.example.com/a"),
            "reset PROTOCOL_ERROR",
        ),
        refused("a path without a slash", path("a"), "reset PROTOCOL_ERROR"),
        refused("a path that is an authority", path("other.example.com:80"), "reset PROTOCOL_ERROR"),
        refused("no path", bare(&but(":path", &[])), "reset PROTOCOL_ERROR"),
        refused("an empty path", path(""), "reset PROTOCOL_ERROR"),
        ("two slashes", path("//other.example.com/a"), "200", &["GET //other.example.com/a 0 by length"]),
        ("a fragment", path("/a#b"), "200", &["GET /a 0 by length"]),
        refused("a method with a space", method("GET /smuggled"), "goaway PROTOCOL_ERROR"),
        refused("a method with CRLF", method("GET / HTTP/1.1\r\n\r\nGET"), "goaway PROTOCOL_ERROR"),
        refused("an empty method", method(""), "goaway PROTOCOL_ERROR"),
        refused("no method", bare(&but(":method", &[])), "reset PROTOCOL_ERROR"),
        ("a method in small letters", method("get"), "200", &["get /a 0 by length"]),
        refused("CONNECT", bare(&[(":method", "CONNECT"), (":authority", "mercy.example.com:443")]), "405"),
        refused("CONNECT with a path", method("CONNECT"), "reset PROTOCOL_ERROR"),
        refused(
            "CONNECT for WebSocket",
            bare(&request("CONNECT", HOST, "/ws", &[(":protocol", "websocket")])),
            "reset PROTOCOL_ERROR",
        ),
        refused(
            "a scheme with a host",
            bare(&but(":scheme", &[(":scheme", "http://x/?")])),
            "reset PROTOCOL_ERROR",
        ),
        refused(
            "a scheme with CRLF",
            bare(&but(":scheme", &[(":scheme", "http\r\nx: y")])),
            "reset PROTOCOL_ERROR",
        ),
        ("another scheme", bare(&but(":scheme", &[(":scheme", "ftp")])), "200", &["GET /a 0 by length"]),
        refused("no scheme", bare(&but(":scheme", &[])), "reset PROTOCOL_ERROR"),
    ]
}

fn of_hosts() -> Vec<Attack> {
    let refused = |name, fields: Fields<'_>, how| -> Attack { (name, bare(&fields), how, &[]) };
    let taken =
        |name, fields: Fields<'_>| -> Attack { (name, bare(&fields), "200", &["GET /a 0 by length"]) };
    let authority = |authority| but(":authority", &[(":authority", authority)]);
    vec![
        refused("another host", but("", &[("host", "other.example.com")]), "400"),
        taken("the same host", but("", &[("host", HOST)])),
        refused("two hosts", but("", &[("host", HOST), ("host", "other.example.com")]), "400"),
        refused("the same host twice", but("", &[("host", HOST), ("host", HOST)]), "400"),
        taken("a host and no authority", but(":authority", &[("host", HOST)])),
        refused("neither", but(":authority", &[]), "400"),
        refused("an authority with a user", authority("other.example.com@mercy.example.com"), "400"),
        refused("an authority with a path", authority("mercy.example.com/x?"), "reset PROTOCOL_ERROR"),
        refused("an authority with CRLF", authority("mercy.example.com\r\nx: y"), "reset PROTOCOL_ERROR"),
        refused("an authority with a space", authority("mercy.example.com x"), "reset PROTOCOL_ERROR"),
        refused("an empty authority", authority(""), "reset PROTOCOL_ERROR"),
        refused("an authority of two", authority("mercy.example.com,other.example.com"), "400"),
        refused("two authorities", but("", &[(":authority", HOST)]), "reset PROTOCOL_ERROR"),
        refused("two paths", but("", &[(":path", "/smuggled")]), "reset PROTOCOL_ERROR"),
        refused("two methods", but("", &[(":method", "GET")]), "reset PROTOCOL_ERROR"),
        refused("two schemes", but("", &[(":scheme", "http")]), "reset PROTOCOL_ERROR"),
        refused("an unknown pseudo header", but("", &[(":other", "1")]), "goaway PROTOCOL_ERROR"),
        refused("a status", but("", &[(":status", "200")]), "reset PROTOCOL_ERROR"),
        (
            "a pseudo header after a field",
            bare(&[&get("/a", &[("x", "1")])[..], &[(":path", "/smuggled")]].concat()),
            "reset PROTOCOL_ERROR",
            &[],
        ),
    ]
}

/// What the application gets is what the edge has answered for, request by request, whoever reads how forgivingly; and a
/// request that comes after is the one that was sent.
async fn attacked(reading: Reading, through_gate: bool) {
    let s = Stage::new(reading, through_gate, &[]).await;
    let after = bare(&get("/after", &[]));
    let mut wrong = Vec::new();
    for (name, frames, outcome, requests) in [of_bodies(), of_fields(), of_targets(), of_hosts()].concat() {
        let before = s.recorder.requests().len();
        let seen = say(s.edge.listen, &frames).await;
        assert_eq!(say(s.edge.listen, &after).await, "200", "after {name}");
        let got = s.recorder.requests().split_off(before);
        let expected = [requests, &["GET /after 0 by length"]].concat();
        if seen != outcome || got != expected {
            wrong.push(format!("{name}: {seen}, and the application got {got:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    s.logged_is_recorded().await;
}

#[tokio::test]
async fn on_an_edge_in_front_of_a_strict_application() {
    attacked(Reading::Strict, false).await;
}

#[tokio::test]
async fn on_an_edge_in_front_of_a_lax_application() {
    attacked(Reading::Lax, false).await;
}

#[tokio::test]
async fn through_edge_and_gate_on_a_strict_application() {
    attacked(Reading::Strict, true).await;
}

#[tokio::test]
async fn through_edge_and_gate_on_a_lax_application() {
    attacked(Reading::Lax, true).await;
}

/// A body goes on as it comes, so a request may have reached the application when its client says more than it had
/// announced. The application then has what was announced; what is beyond it never comes near it.
#[tokio::test]
async fn what_is_beyond_the_length_reaches_nobody() {
    for through_gate in [false, true] {
        let s = Stage::new(Reading::Lax, through_gate, &[]).await;
        let head = |length| frame(HEADERS, END_HEADERS, 1, &block(&post(&[("content-length", length)])));
        let (one, inner) = (frame(DATA, 0, 1, b"x"), frame(DATA, END_STREAM, 1, INNER.as_bytes()));
        for _ in 0..20 {
            for frames in
                [[head("0"), inner.clone()].concat(), [head("1"), one.clone(), inner.clone()].concat()]
            {
                assert_eq!(say(s.edge.listen, &frames).await, "reset PROTOCOL_ERROR");
                assert_eq!(say(s.edge.listen, &bare(&get("/after", &[]))).await, "200");
            }
        }
        let known = ["POST /a 0 by length", "POST /a 1 by length", "GET /after 0 by length"];
        let got = s.recorder.requests();
        assert!(got.iter().all(|request| known.contains(&request.as_str())), "{got:?}");
    }
}
