//! What clients write under names that only routers may use: the application gets what the edge wrote, and never that.

use domicile_router::config::Sabotage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::frames::{END_HEADERS, END_STREAM, HEADERS, field, frame, say};
use crate::hardening::{HOST, Stage};
use crate::kit::SOON;
use crate::recorder::Reading;

/// The names. Those of the second kind are the application's own where no router has written them.
const NAMES: [&str; 22] = [
    "Domicile-Tenant",
    "Domicile-Cell",
    "Domicile-Epoch",
    "Domicile-Region",
    "Domicile-Request-Id",
    "Domicile-Hops",
    "Domicile-Gate",
    "Domicile-Probe",
    "Domicile-Anything",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-Prefix",
    "X-Forwarded-Client-Cert",
    "X-Real-IP",
    "Client-Cert",
    "Client-Cert-Chain",
    "Domicile-",
];

/// What a client would have the application believe.
const EVIL: &str = "evil";

/// What kind of answer a request asks for: each kind goes another way through the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Events,
    WebSocket,
}

impl Way {
    const fn fields(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Events => "Accept: text/event-stream\r\n",
            Self::WebSocket => "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        }
    }
}

/// How a name is written over HTTP/1: the lines, and whether any router has to refuse that.
fn forms(name: &str) -> Vec<(&'static str, String, bool)> {
    let odd: String = name
        .chars()
        .enumerate()
        .map(|(i, c)| if i % 2 == 0 { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() })
        .collect();
    let low = name.replace('-', "_");
    let half = name.replacen('-', "_", 1);
    vec![
        ("plain", format!("{name}: {EVIL}\r\n"), false),
        ("odd case", format!("{odd}: {EVIL}\r\n"), false),
        ("underscores", format!("{low}: {EVIL}\r\n"), false),
        ("an underscore", format!("{half}: {EVIL}\r\n"), false),
        ("capitals and underscores", format!("{}: {EVIL}\r\n", low.to_ascii_uppercase()), false),
        ("twice", format!("{name}: {EVIL}\r\n{odd}: more {EVIL}\r\n"), false),
        ("both ways", format!("{name}: {EVIL}\r\n{low}: {EVIL}\r\n"), false),
        ("a list", format!("{name}: 127.0.0.1, {EVIL}\r\n"), false),
        ("tabs", format!("{name}:\t{EVIL}\t\r\n"), false),
        ("folded", format!("{name}: a\r\n {EVIL}\r\n"), true),
        ("folded into another", format!("X: a\r\n {name}: {EVIL}\r\n"), true),
        ("a space before the colon", format!("{name} : {EVIL}\r\n"), true),
        ("behind a CR", format!("X: a\r{name}: {EVIL}\r\n"), true),
    ]
}

/// As an application reads a name: where names become variables, `_` and `-` are the same.
fn as_read(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace('_', "-")
}

/// What of the last request's fields only routers may have written: without the values that differ from one request to the
/// next.
fn guarded(s: &Stage) -> Vec<String> {
    let mut lines: Vec<String> = s.recorder.fields().iter().filter_map(|line| told(line)).collect();
    lines.sort();
    lines
}

fn told(line: &str) -> Option<String> {
    let (name, value) = line.split_once(':')?;
    let name = as_read(name);
    let known = NAMES.iter().any(|n| n.eq_ignore_ascii_case(&name));
    if !known && !name.starts_with("domicile-") && !name.starts_with("x-forwarded-") {
        return None;
    }
    let own = ["domicile-request-id", "domicile-pass"].contains(&name.as_str()) && !value.contains(EVIL);
    Some(if own { name } else { format!("{name}:{value}") })
}

fn over_http_1(way: Way, lines: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n{}{lines}\r\n", way.fields())
}

/// Sends a request over a connection of its own: the status of its answer, once that has come whole; 0 for none.
async fn status(s: &Stage, request: &str) -> u16 {
    let mut socket = TcpStream::connect(s.edge.listen).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |l| l.parse().unwrap());
            if body.len() >= length {
                return head["http/1.1 ".len()..][..3].parse().unwrap();
            }
        }
        let read = tokio::time::timeout(SOON, socket.read_buf(&mut bytes)).await.unwrap();
        if read.unwrap_or(0) == 0 {
            return 0;
        }
    }
}

/// Over HTTP/2, where names have no capitals.
fn over_http_2(way: Way, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = crate::frames::request("GET", HOST, "/a", &[]);
    if way == Way::Events {
        fields.push(("accept", "text/event-stream"));
    }
    fields.extend(more);
    let block: Vec<u8> = fields.iter().flat_map(|(n, v)| field(n.as_bytes(), v.as_bytes())).collect();
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)
}

/// What the application got of a clean request, by way.
async fn clean(s: &Stage, way: Way) -> Vec<String> {
    assert_eq!(status(s, &over_http_1(way, "")).await, 200);
    let clean = guarded(s);
    let wanted =
        ["forwarded: for=127.0.0.1;proto=http", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"];
    for line in wanted.map(ToOwned::to_owned).into_iter().chain([format!("x-forwarded-host: {HOST}")]) {
        assert!(clean.contains(&line), "{line}: {clean:?}");
    }
    clean
}

/// Sends all of them: what the application was made to believe, or nobody could explain.
async fn spoofed(s: &Stage, over: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for way in [Way::Plain, Way::Events, Way::WebSocket] {
        let clean = clean(s, way).await;
        for name in NAMES.into_iter().filter(|name| over(name)) {
            for (form, lines, refused) in forms(name) {
                let before = s.recorder.requests().len();
                let status = status(s, &over_http_1(way, &lines)).await;
                let got = s.recorder.requests().len() - before;
                let fine = match status {
                    200 if !refused => got == 1 && guarded(s) == clean,
                    400 if refused => got == 0,
                    _ => false,
                };
                if !fine {
                    let told = guarded(s).into_iter().filter(|line| !clean.contains(line));
                    wrong.push(format!("{way:?}, {name}, {form}: {status} {:?}", told.collect::<Vec<_>>()));
                }
            }
        }
    }
    wrong
}

/// What a `Connection` of the client names is gone, and what the edge writes under the name is not; or it is refused.
async fn nominated(s: &Stage) -> Vec<String> {
    let mut wrong = Vec::new();
    for way in [Way::Plain, Way::Events, Way::WebSocket] {
        let clean = clean(s, way).await;
        for name in NAMES.into_iter().chain(["Domicile-Pass"]) {
            for lines in [
                format!("Connection: {name}\r\n"),
                format!("Connection: close, {name}\r\n{name}: {EVIL}\r\n"),
                format!("Connection: close\r\nConnection: {}\r\n", name.to_ascii_uppercase()),
            ] {
                let before = s.recorder.requests().len();
                let status = status(s, &over_http_1(way, &lines)).await;
                let got = s.recorder.requests().len() - before;
                let fine = match status {
                    200 => got == 1 && guarded(s) == clean,
                    400 => got == 0,
                    _ => false,
                };
                if !fine {
                    wrong.push(format!("{way:?}, {lines:?}: {status} {:?}", guarded(s)));
                }
            }
        }
    }
    wrong
}

async fn spoofed_over_http_2(s: &Stage) -> Vec<String> {
    let mut wrong = Vec::new();
    for way in [Way::Plain, Way::Events] {
        let clean = clean(s, way).await;
        for name in NAMES {
            let (name, low) = (name.to_ascii_lowercase(), name.to_ascii_lowercase().replace('-', "_"));
            for fields in [
                vec![],
                vec![(name.as_str(), EVIL)],
                vec![(low.as_str(), EVIL)],
                vec![(name.as_str(), "127.0.0.1"), (name.as_str(), EVIL)],
                vec![(name.as_str(), EVIL), (low.as_str(), EVIL)],
            ] {
                let before = s.recorder.requests().len();
                let outcome = say(s.edge.listen, &over_http_2(way, &fields)).await;
                let got = s.recorder.requests().len() - before;
                if outcome != "200" || got != 1 || guarded(s) != clean {
                    wrong.push(format!("{way:?}, {fields:?}: {outcome} {:?}", guarded(s)));
                }
            }
        }
    }
    wrong
}

async fn attacked(through_gate: bool) {
    let s = Stage::new(Reading::Lax, through_gate, &[]).await;
    let none = Vec::<String>::new();
    assert_eq!(spoofed(&s, |_| true).await, none);
    assert_eq!(nominated(&s).await, none);
    assert_eq!(spoofed_over_http_2(&s).await, none);
}

#[tokio::test]
async fn the_application_gets_what_the_edge_wrote() {
    attacked(false).await;
}

#[tokio::test]
async fn the_application_gets_what_the_edge_wrote_through_a_gate() {
    attacked(true).await;
}

#[tokio::test]
async fn without_that_rule_the_application_would_believe_its_clients() {
    let s = Stage::broken(Sabotage::ClientsBelieved, Reading::Lax, false, &[]).await;
    let wrong = spoofed(&s, |name| ["X-Real-IP", "Client-Cert", "Domicile-Anything"].contains(&name)).await;
    // Each of nine forms of each of the three names, on each of the three ways.
    assert_eq!(wrong.len(), 81, "the tests above could not fail: {wrong:?}");
}

/// Crumbs of cookies, which HTTP/2 may send one by one, are one field again (RFC 9113, section 8.2.3).
#[tokio::test]
async fn cookies_are_put_together() {
    let s = Stage::new(Reading::Strict, false, &[]).await;
    for way in [Way::Plain, Way::Events] {
        let crumbs = [("cookie", "a=1"), ("cookie", "b=2")];
        assert_eq!(say(s.edge.listen, &over_http_2(way, &crumbs)).await, "200");
        let fields = s.recorder.fields();
        let cookies = fields.iter().filter(|line| line.to_ascii_lowercase().starts_with("cookie:"));
        assert_eq!(cookies.collect::<Vec<_>>(), ["cookie: a=1; b=2"]);
    }
}
