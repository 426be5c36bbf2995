//! HTTP/2 by hand: frames as bytes, so that a test can send what no library would.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::SOON;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// RFC 9113, section 7.
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a client says first, with these settings.
pub(crate) fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let settings: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &settings)[..]].concat()
}

/// The length of a string in HPACK (RFC 7541, section 5.1), not compressed.
fn length(len: usize) -> Vec<u8> {
    if len < 127 {
        return vec![u8::try_from(len).unwrap()];
    }
    let (mut out, mut rest) = (vec![127], len - 127);
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
    out
}

/// A field in HPACK: a literal that is not kept.
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], &length(name.len())[..], name, &length(value.len()), value].concat()
}

/// Fields in HPACK.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

/// The fields of a request, and more.
pub(crate) fn request<'a>(
    method: &'a str,
    host: &'a str,
    path: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![(":method", method), (":scheme", "http"), (":authority", host), (":path", path)];
    fields.extend(more);
    fields
}

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// Reads frames.
pub(crate) struct Frames<R> {
    io: R,
    bytes: Vec<u8>,
}

impl<R: tokio::io::AsyncRead + Unpin> Frames<R> {
    pub(crate) const fn new(io: R) -> Self {
        Self { io, bytes: Vec::new() }
    }

    /// The next one; none if the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Got> {
        loop {
            if let Some(head) = self.bytes.first_chunk::<9>() {
                let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let kind = head[3];
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if self.bytes.len() >= 9 + len {
                    let payload = self.bytes[9..9 + len].to_vec();
                    self.bytes.drain(..9 + len);
                    return Some(Got { kind, stream, payload });
                }
            }
            let read = tokio::time::timeout(SOON, self.io.read_buf(&mut self.bytes)).await;
            match read.expect("the router says nothing") {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// How a stream, or all of them, came out: the status of its answer, `reset CODE`, `goaway CODE`, or `closed`.
    pub(crate) async fn outcome(&mut self, of: u32) -> String {
        loop {
            let Some(got) = self.next().await else { return "closed".into() };
            let code = |at: usize| {
                let bytes = got.payload[at..at + 4].try_into().unwrap();
                CODES[u32::from_be_bytes(bytes) as usize]
            };
            match got.kind {
                HEADERS if got.stream == of => return status(&got.payload),
                RST_STREAM if got.stream == of => return format!("reset {}", code(0)),
                GOAWAY if code(4) != "NO_ERROR" => return format!("goaway {}", code(4)),
                _ => {}
            }
        }
    }
}

/// The status, which is the first field of an answer.
fn status(block: &[u8]) -> String {
    // Entries 8 to 14 of the static table (RFC 7541, appendix A).
    const KNOWN: [&str; 7] = ["200", "204", "206", "304", "400", "404", "500"];
    match block {
        [first @ 0x88..=0x8e, ..] => KNOWN[usize::from(first - 0x88)].into(),
        // A name of the table with a value of its own, in Huffman's code or not.
        [0x48 | 0x08, len, rest @ ..] if len & 0x80 == 0 => {
            String::from_utf8_lossy(&rest[..usize::from(*len)]).into_owned()
        }
        [0x48 | 0x08, len, rest @ ..] => digits(&rest[..usize::from(len & 0x7f)]),
        other => panic!("no status: {other:02x?}"),
    }
}

/// Digits in Huffman's code (RFC 7541, appendix B): 0, 1 and 2 take five bits, the others six.
fn digits(bytes: &[u8]) -> String {
    let bits: String = bytes.iter().map(|b| format!("{b:08b}")).collect();
    let (mut rest, mut out) = (bits.as_str(), String::new());
    while out.len() < 3 {
        let (value, len) = match u8::from_str_radix(&rest[..5], 2).unwrap() {
            short @ 0..=2 => (short, 5),
            _ => (u8::from_str_radix(&rest[..6], 2).unwrap() - 0b011_001 + 3, 6),
        };
        out.push(char::from(b'0' + value));
        rest = &rest[len..];
    }
    out
}

/// Sends bytes after the preface over a connection of its own: how stream 1 came out.
pub(crate) async fn say(at: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(at).await.unwrap();
    let (read, mut write) = socket.split();
    let all = [&preface(&[])[..], bytes].concat();
    // It may be closed before all of it is taken; what was said before that is read all the same.
    let written = async { write.write_all(&all).await };
    let mut frames = Frames::new(read);
    let (_, outcome) = tokio::join!(written, frames.outcome(1));
    outcome
}

#[test]
fn statuses_are_read() {
    for (block, read) in [
        (&[0x88, 0x00][..], "200"),
        (&[0x8c], "400"),
        (&[0x48, 0x03, b'4', b'2', b'1'], "421"),
        // 503: 011011 00000 011001, filled with ones.
        (&[0x48, 0x83, 0b0110_1100, 0b0000_1100, 0b1111_1111], "503"),
        // 431: 011010 011001 00001.
        (&[0x08, 0x83, 0b0110_1001, 0b1001_0000, 0b1111_1111], "431"),
    ] {
        assert_eq!(status(block), read);
    }
}
