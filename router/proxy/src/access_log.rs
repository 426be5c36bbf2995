//! The access log: a JSON line per request, written by a thread of its own.
//!
//! The request path hands a line to a bounded queue and never waits: lines that do not fit are counted and lost. No
//! query string, no header of the client and no body ever stands in it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

/// Lines that may wait for the disk.
const QUEUE: usize = 8_192;
/// The longest path that is logged, in bytes.
const LONGEST_PATH: usize = 1_024;

/// What is logged of a request.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// When it ended, RFC 3339 in UTC. For people; no decision rests on it.
    pub time: String,
    /// Whose it was.
    pub tenant: Option<String>,
    /// Its cell.
    pub cell: Option<String>,
    /// Who answered.
    pub region: Option<String>,
    /// Under which epoch.
    pub epoch: Option<u64>,
    /// GET, POST…
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The answer's status; zero if the client went away before one.
    pub status: u16,
    /// Why it was not the application that answered.
    pub cause: Option<&'static str>,
    /// Why a stream that stood open was ended from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<&'static str>,
    /// How long it waited for moves.
    pub hold_ms: f64,
    /// From the first contact with the next server to its answer's head.
    pub upstream_ms: Option<f64>,
    /// From head to end.
    pub total_ms: f64,
    /// Names the request in every log on its way.
    pub request_id: String,
    /// The trace of `traceparent`.
    pub trace_id: String,
    /// Of the answer's body; of a splice everything that went to the client.
    pub bytes: usize,
    /// Everything that came from a client whose connection was passed on undecrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<usize>,
}

/// A path as it may be logged: bounded, without anything from `?` on.
#[must_use]
pub fn path_only(raw: &[u8]) -> String {
    let end = raw.iter().position(|b| *b == b'?' || *b == b'#').unwrap_or(raw.len());
    String::from_utf8_lossy(&raw[..end.min(LONGEST_PATH)]).into_owned()
}

/// The way into the log.
#[derive(Debug, Clone)]
pub struct AccessLog(Option<SyncSender<Line>>);

impl AccessLog {
    /// No log.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// A log at the end of this file. The thread ends when the last handle is gone.
    ///
    /// # Errors
    /// When the file can't be opened, or no thread started.
    pub fn open(path: &Path) -> std::io::Result<(Self, JoinHandle<()>)> {
        let file = File::options().create(true).append(true).open(path)?;
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(&receiver, BufWriter::with_capacity(64 << 10, file)))?;
        Ok((Self(Some(sender)), thread))
    }

    /// Whether lines are wanted at all.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Hands a line over; false if it was dropped.
    #[must_use]
    pub fn push(&self, line: Line) -> bool {
        self.0.as_ref().is_none_or(|queue| queue.try_send(line).is_ok())
    }
}

fn write(lines: &Receiver<Line>, mut file: BufWriter<File>) {
    let mut dirty = false;
    loop {
        let line = match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                if std::mem::take(&mut dirty)
                    && let Err(error) = file.flush()
                {
                    tracing::error!(%error, "the access log can't be written");
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        dirty = true;
        // In one piece: during an upgrade another process writes to the same file, and lines must not run into each other.
        let written = serde_json::to_vec(&line).map_err(std::io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            file.write_all(&text)
        });
        if let Err(error) = written {
            tracing::error!(%error, "the access log can't be written");
        }
    }
    let _ = file.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_never_logged() {
        assert_eq!(path_only(b"/patients?name=Doe"), "/patients");
        assert_eq!(path_only(b"/a#b"), "/a");
        assert_eq!(path_only(&[b'/'; 5000]).len(), LONGEST_PATH);
        assert_eq!(path_only(b"/\xff?x"), "/\u{fffd}");
    }
}
