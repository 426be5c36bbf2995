//! `domicile archive verify`: offline.

use std::path::Path;

use domicile_archive::{ArchiveError, Directory, Finding, verify};
use domicile_seal::keys::Keyring;
use serde::Serialize;

use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, or_dash};

/// What was found, as JSON.
#[derive(Debug, Serialize)]
struct Verdict {
    sound: bool,
    chain: Option<String>,
    /// `SEGMENT:LINK:DIGEST`.
    head: Option<String>,
    beyond: Vec<u64>,
    finding: Option<String>,
}

/// Runs it. A copy that is not sound ends with "not done", and the first thing that does not hold.
///
/// # Errors
/// When the directory or the keys can't be read, or `--head` is none.
pub fn run(dir: &Path, keys: Option<&Path>, head: Option<&str>, out: &mut Out) -> Result<Exit, Failure> {
    let archive = Directory::at(dir);
    let unreadable = |error: ArchiveError| {
        Failure::new(Exit::Io, error.to_string())
            .hint("--dir is what `serve` was given as --archive-dir, or a copy of it with its keys.toml")
    };
    let ring = match keys {
        None => archive.keys().map_err(unreadable)?,
        Some(path) => {
            let wrong = |why: String| Failure::new(Exit::Io, format!("--keys: {}: {why}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
            Keyring::parse(&text).map_err(|e| wrong(e.to_string()))?
        }
    };
    archive.list().map_err(unreadable)?;
    let expected = head.map(|text| {
        let wrong = || {
            Failure::new(Exit::Usage, "--head is not SEGMENT:LINK:DIGEST")
                .hint("copy it from `domicile archive status`")
        };
        verify::read_end(text).ok_or_else(wrong)
    });
    let expected = expected.transpose()?;
    let verdict = match verify(&archive, &ring, expected) {
        Ok(report) => Verdict {
            sound: true,
            chain: report.chain,
            head: report.end.map(|e| format!("{}:{}:{}", e.segment, e.head.n, e.head.digest)),
            beyond: report.beyond,
            finding: None,
        },
        Err(Finding::Archive(error)) => return Err(unreadable(error)),
        Err(finding) => Verdict {
            sound: false,
            chain: None,
            head: None,
            beyond: vec![],
            finding: Some(finding.to_string()),
        },
    };
    if out.json {
        out.data(&verdict)?;
    } else if verdict.sound {
        out.pairs(&[
            ("chain", or_dash(verdict.chain.as_ref())),
            ("head", or_dash(verdict.head.as_ref())),
            ("keys counted", ring.keys().len().to_string()),
        ])?;
        writeln!(out.stdout, "sound")?;
    }
    if let Some(finding) = &verdict.finding {
        return Err(Failure::new(Exit::NotDone, finding.clone())
            .hint("compare with the copy of another control plane: `domicile archive status` names them"));
    }
    if expected.is_none() {
        out.say(
            "whether segments are missing at the end only the registry's head shows: give it with --head",
        )?;
    }
    if keys.is_none() {
        out.say("the keys lie beside the segments: compare their ids with `domicile archive status`, or give --keys")?;
    }
    Ok(Exit::Ok)
}
