//! What PostgreSQL said last before it, or its walreceiver, gave up: no view of it tells that, only its log does.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes of the log's end that are looked at.
const MOST_BYTES: u64 = 64 * 1024;
/// Characters of a line that are repeated.
const MOST_CHARS: usize = 300;
/// How a complaint about the server's own work begins. Others are about clients, who may be named in them.
const OWN: [&str; 10] = [
    "could not ",
    "cannot ",
    "requested ",
    "recovery ",
    "lock file ",
    "data directory ",
    "hot standby ",
    "highest timeline ",
    "terminating walreceiver ",
    "invalid ",
];

/// Why it gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Words {
    /// No room on a disk.
    Full(String),
    /// The upstream has removed write-ahead log that this standby never got.
    Gone(String),
    /// Something else, as it stands in the log.
    Other(String),
}

impl Words {
    /// The line itself.
    pub(crate) fn line(&self) -> &str {
        match self {
            Self::Full(line) | Self::Gone(line) | Self::Other(line) => line,
        }
    }
}

/// The last complaint in the part of a log that begins at `from`. None: there is none, or the log can't be read.
pub(crate) fn last(log: &Path, from: u64) -> Option<Words> {
    let mut file = std::fs::File::open(log).ok()?;
    let end = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(MOST_BYTES)))).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    last_of(&String::from_utf8_lossy(&bytes))
}

fn last_of(log: &str) -> Option<Words> {
    let line = log.lines().rev().find_map(|line| {
        if let Some((_, panic)) = line.split_once("PANIC:  ") {
            return Some(panic);
        }
        let (_, fatal) = line.split_once("FATAL:  ")?;
        OWN.iter().any(|own| fatal.starts_with(own)).then_some(fatal)
    })?;
    let line: String = line.trim().chars().take(MOST_CHARS).collect();
    Some(if line.contains("No space left") || line.contains("wrote only") {
        Words::Full(line)
    } else if line.contains("has already been removed") {
        Words::Gone(line)
    } else {
        Words::Other(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_complaint_is_found_and_what_clients_did_is_not() {
        let log = r#"2026-01-01 [1] LOG:  started streaming WAL from primary at 0/5000000 on timeline 1
2026-01-01 [2] FATAL:  could not write to file "pg_wal/xlogtemp.2": No space left on device
2026-01-01 [3] FATAL:  password authentication failed for user "jane.doe"
2026-01-01 [3] DETAIL:  Role "jane.doe" does not exist.
2026-01-01 [4] FATAL:  terminating connection due to administrator command
"#;
        let words = last_of(log).unwrap();
        assert_eq!(
            words,
            Words::Full("could not write to file \"pg_wal/xlogtemp.2\": No space left on device".into())
        );
        let gone = "x FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 0C has already been removed";
        assert!(matches!(last_of(&format!("{log}{gone}")), Some(Words::Gone(_))));
        let short =
            "x FATAL:  could not extend file \"base/5/1\": wrote only 4096 of 8192 bytes\nx HINT:  Check.";
        assert!(matches!(last_of(short), Some(Words::Full(_))));
        assert!(matches!(last_of("x PANIC:  stuck spinlock"), Some(Words::Other(_))));
        assert_eq!(last_of("x FATAL:  role \"jane.doe\" does not exist"), None);
        assert!(last_of(&format!("FATAL:  could not {}", "é".repeat(1000))).unwrap().line().len() <= 600);
    }

    #[test]
    fn only_the_part_of_this_run_counts() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "FATAL:  could not open x\n").unwrap();
        assert!(last(&log, 0).is_some());
        assert_eq!(last(&log, 25), None);
        assert_eq!(last(&dir.path().join("none"), 0), None);
    }
}
