//! An application that writes down, byte for byte, which requests it got.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use domicile_chaos_kit::ports::free_address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// By the letter of RFC 9112: what breaks a rule ends the connection.
    Strict,
    /// As forgiving servers do: LF for CRLF, spaces around names, anything that has `chunked` in it, the first length.
    Lax,
}

/// A request that was whole.
struct Got {
    summary: String,
    lines: Vec<String>,
}

/// It.
pub(crate) struct Recorder {
    pub(crate) addr: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Recorder {
    pub(crate) async fn start(reading: Reading) -> Self {
        let listener = TcpListener::bind(free_address().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let got = Arc::<Mutex<Vec<Got>>>::default();
        let all = got.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let all = all.clone();
                tokio::spawn(async move { serve(socket, reading, &all).await });
            }
        });
        Self { addr, got, task }
    }

    /// All requests so far that were whole: method, target, size of the body, and how it was told. What is no request is
    /// recorded as what it is.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.got.lock().unwrap().iter().map(|got| got.summary.clone()).collect()
    }

    /// The fields of the last of them, line by line, as they came.
    pub(crate) fn fields(&self) -> Vec<String> {
        self.got.lock().unwrap().last().unwrap().lines[1..].to_vec()
    }
}

async fn serve(mut socket: TcpStream, reading: Reading, all: &Mutex<Vec<Got>>) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let (head, lines) = loop {
            if let Some(found) = head(&bytes, reading) {
                break found;
            }
            if socket.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        bytes.drain(..head);
        let mut words = lines.first().map(|l| l.split(' ')).into_iter().flatten();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or("no request"));
        let mut body = 0;
        let value = |wanted: &str| {
            lines.iter().skip(1).find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let name = if reading == Reading::Lax { name.trim() } else { name };
                name.eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
            })
        };
        let chunked = value("transfer-encoding").is_some_and(|v| match reading {
            Reading::Strict => v == "chunked",
            Reading::Lax => v.contains("chunked"),
        });
        if chunked {
            loop {
                let end = loop {
                    if let Some(at) = bytes.iter().position(|b| *b == b'\n') {
                        break at;
                    }
                    if socket.read_buf(&mut bytes).await.ok()? == 0 {
                        return None;
                    }
                };
                let line: Vec<u8> = bytes.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line);
                let size = usize::from_str_radix(text.split(';').next()?.trim(), 16).ok()?;
                // The data, or the last line, with what ends it.
                let end = if reading == Reading::Lax && !text.ends_with("\r\n") { 1 } else { 2 };
                while bytes.len() < size + end {
                    if socket.read_buf(&mut bytes).await.ok()? == 0 {
                        return None;
                    }
                }
                bytes.drain(..size + end);
                body += size;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = value("content-length") {
            let length: usize = length.split(',').next()?.trim().parse().ok()?;
            while bytes.len() < length {
                if socket.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            }
            bytes.drain(..length);
            body = length;
        }
        let framing = if chunked { "in chunks" } else { "by length" };
        let summary = format!("{method} {target} {body} {framing}");
        all.lock().unwrap().push(Got { summary, lines });
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.ok()?;
    }
}

/// The length of a head that is whole, and its lines.
fn head(bytes: &[u8], reading: Reading) -> Option<(usize, Vec<String>)> {
    let strict = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
    let lax = bytes.windows(2).position(|w| w == b"\n\n").map(|at| at + 2);
    let end = match reading {
        Reading::Strict => strict?,
        Reading::Lax => strict.into_iter().chain(lax).min()?,
    };
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    Some((end, text.lines().map(ToOwned::to_owned).collect()))
}
