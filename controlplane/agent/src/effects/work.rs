//! What a long job is at. Kept in memory only: after a restart of the agent the job is over.

use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use domicile_api::agent::Work;
use domicile_api::protection::Doing;
use domicile_model::clock::{BootTime, Clock};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::failure::Failure;

/// The end of what a program said that is kept.
const KEPT: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct At {
    doing: Doing,
    since: BootTime,
    /// Bytes done, and in all.
    copied: Option<(u64, u64)>,
}

/// The work under way, if any.
#[derive(Debug, Default)]
pub(crate) struct Bench(Mutex<Option<At>>);

impl Bench {
    fn with<T>(&self, f: impl FnOnce(&mut Option<At>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Work of another kind begins.
    pub(crate) fn begin(&self, doing: Doing, clock: &Clock) {
        self.with(|at| *at = Some(At { doing, since: clock.now(), copied: None }));
    }

    /// It is over, well or not.
    pub(crate) fn end(&self) {
        self.with(|at| *at = None);
    }

    /// As others see it.
    pub(crate) fn now(&self, clock: &Clock) -> Option<Work> {
        self.with(|at| *at).map(|at| Work {
            doing: at.doing,
            for_ms: u64::try_from(clock.now().since(at.since).as_millis()).unwrap_or(u64::MAX),
            done_bytes: at.copied.map(|(done, _)| done),
            total_bytes: at.copied.map(|(_, total)| total),
        })
    }

    /// Runs one of PostgreSQL's programs to its end, which tells on stderr how far it is (`--progress`).
    pub(crate) async fn run(&self, mut command: Command, name: &str) -> Result<(), Failure> {
        let failed = |what: &str, e: std::io::Error| Failure::machine(format!("{name} can't be {what}: {e}"));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| failed("run", e))?;
        let mut said = Said::default();
        if let Some(mut stderr) = child.stderr.take() {
            let mut piece = [0; 1024];
            loop {
                let n = stderr.read(&mut piece).await.map_err(|e| failed("listened to", e))?;
                if n == 0 {
                    break;
                }
                if let Some(copied) = said.take(&piece[..n]) {
                    self.with(|at| at.iter_mut().for_each(|at| at.copied = Some(copied)));
                }
            }
        }
        let status = child.wait().await.map_err(|e| failed("waited for", e))?;
        if status.success() {
            return Ok(());
        }
        let said = said.rest();
        let failure = Failure::machine(format!("{name} failed: {said}"));
        Err(if said.contains("No space left") {
            failure.hint("the disk is full: free space on the database's volume")
        } else {
            failure.hint("follow again: an interrupted rewind is followed by a rebuild")
        })
    }
}

/// What a program says: lines of progress, and others, of which the end is kept.
#[derive(Debug, Default)]
struct Said {
    line: Vec<u8>,
    other: String,
}

impl Said {
    /// Takes the next piece; the newest progress in it.
    fn take(&mut self, piece: &[u8]) -> Option<(u64, u64)> {
        let mut newest = None;
        for &byte in piece {
            if byte != b'\n' && byte != b'\r' {
                if self.line.len() < KEPT {
                    self.line.push(byte);
                }
                continue;
            }
            newest = self.line_ended().or(newest);
        }
        newest
    }

    fn line_ended(&mut self) -> Option<(u64, u64)> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim().to_owned();
        let progress = progress(&line);
        if progress.is_none() && !line.is_empty() {
            self.other.push_str(&line);
            self.other.push('\n');
            let from = self.other.char_indices().rev().nth(KEPT).map_or(0, |(i, _)| i);
            self.other.drain(..from);
        }
        progress
    }

    /// The end of what it said beside its progress.
    fn rest(mut self) -> String {
        self.line_ended();
        let said = self.other.trim();
        let from = said.char_indices().rev().nth(800).map_or(0, |(i, _)| i);
        said[from..].to_owned()
    }
}

/// `  1234/5678 kB (21%), 0/1 tablespace` of `pg_basebackup`, `1234/5678 kB (21%) copied` of `pg_rewind`: bytes done and
/// in all. An estimate of nothing is none.
fn progress(line: &str) -> Option<(u64, u64)> {
    let (done, rest) = line.trim_start().split_once('/')?;
    let (total, rest) = rest.split_once(" kB")?;
    let kib = |text: &str| text.parse::<u64>().ok()?.checked_mul(1024);
    rest.trim_start().starts_with('(').then_some(())?;
    Some((kib(done)?, kib(total)?)).filter(|(_, total)| *total > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_however_the_lines_are_cut_and_the_rest_is_kept() {
        let text = b"waiting for checkpoint\n   51/30100 kB (0%), 0/1 tablespace\r 9000/30100 kB (29%) copied\npg_basebackup: error: No space left";
        for size in 1..text.len() {
            let mut said = Said::default();
            let found: Vec<_> = text.chunks(size).filter_map(|piece| said.take(piece)).collect();
            assert_eq!(found.last(), Some(&(9000 * 1024, 30100 * 1024)), "{size}");
            assert_eq!(said.rest(), "waiting for checkpoint\npg_basebackup: error: No space left");
        }
        for line in
            ["", "1/2", "1/2 MB (50%)", "x/2 kB (0%)", "1/0 kB (100%)", "9/99999999999999999999 kB (1%)"]
        {
            assert_eq!(progress(line), None, "{line}");
        }
        let mut endless = Said::default();
        for _ in 0..100 {
            endless.take(&[b'x'; 1000]);
            endless.take(b"\n");
        }
        assert!(endless.other.len() <= KEPT + 1 && endless.rest().len() <= 801);
    }
}
