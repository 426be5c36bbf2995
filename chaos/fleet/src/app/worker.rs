//! A worker beside the application: a job that no request passes through a gate for. It asks its gate before each piece
//! of work, takes no longer than the answer lasts, and keeps a journal, so that an oracle can judge its rows like those
//! of the users.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use domicile_model::clock::{BootTime, Clock, pause};
use serde::{Deserialize, Serialize};

use super::{Answer, Clinic, NewEncounter};
use crate::load::record::{Kind, Outcome, Record};

/// Between two pieces of work, and between two questions.
const EVERY: Duration = Duration::from_millis(250);
/// The longest that a question may take.
const ASKED: Duration = Duration::from_millis(500);
/// The longest that a piece of work may take, however long it would be allowed to.
pub const LONGEST: Duration = Duration::from_secs(2);

/// Whom it asks, and for whom it works.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "worker", requires_all = ["worker_gate", "worker_cell", "worker_tenant", "worker_journal"])]
pub struct Options {
    /// The admin address of a gate of this region.
    #[arg(long, required = false)]
    pub worker_gate: SocketAddr,
    /// The cell that it works in.
    #[arg(long, required = false)]
    pub worker_cell: String,
    /// The tenant of that cell that it works for.
    #[arg(long, required = false)]
    pub worker_tenant: String,
    /// What it does, line by line. Appended to.
    #[arg(long, required = false)]
    pub worker_journal: PathBuf,
    /// Ask once, and believe the answer for ever: what the oracle must find out.
    #[arg(long, hide = true)]
    pub worker_trusts: bool,
}

/// A line of the journal. Times are nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line {
    /// Written before the work begins: what a worker was killed at may be in the database.
    Intent { cell: String, tenant: String, key: String, content: String, sent: u64 },
    /// What became of it.
    End { key: String, ended: u64, answer: Option<Answer>, why: Option<String> },
}

/// The gate's word: this epoch, until then.
#[derive(Debug, Clone, Copy)]
struct Right {
    epoch: u64,
    until: BootTime,
}

#[derive(Debug, Deserialize)]
struct Said {
    writer: bool,
    epoch: Option<u64>,
    for_ms: Option<u64>,
}

/// Works for ever.
///
/// # Errors
/// When the journal can't be written: then nothing may be done.
pub(super) async fn work(clinic: Clinic, options: Options) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().no_proxy().timeout(ASKED).build()?;
    let url = format!("http://{}/cells/{}/writer", options.worker_gate, options.worker_cell);
    let mut journal =
        std::fs::OpenOptions::new().create(true).append(true).open(&options.worker_journal).with_context(
            || format!("the worker can't keep its journal at {}", options.worker_journal.display()),
        )?;
    let mut trusted = None;
    loop {
        // The answer's time counts from before the question.
        let asked = Clock::Machine.now();
        let right = match trusted {
            Some(right) => Some(right),
            None => ask(&http, &url, asked).await,
        };
        if let Some(right) = right {
            if options.worker_trusts {
                trusted = Some(Right { until: asked + Duration::from_secs(3_600), ..right });
            }
            one(&clinic, &options, &mut journal, asked, right).await?;
        }
        pause(EVERY).await;
    }
}

async fn ask(http: &reqwest::Client, url: &str, asked: BootTime) -> Option<Right> {
    let said: Said = http.get(url).send().await.ok()?.json().await.ok()?;
    // Where one process decides alone an answer has no end.
    let lasts = said.for_ms.map_or(LONGEST, Duration::from_millis);
    said.writer.then_some(Right { epoch: said.epoch?, until: asked + lasts })
}

/// One piece of work: a row. An answer that comes after the right has ended is none.
async fn one(
    clinic: &Clinic,
    options: &Options,
    journal: &mut std::fs::File,
    asked: BootTime,
    right: Right,
) -> std::io::Result<()> {
    let key = format!("job-{}-{}", clinic.region, asked.as_nanos());
    let content = format!("reminder of the job in {} under epoch {}", clinic.region, right.epoch);
    let (cell, tenant) = (options.worker_cell.clone(), options.worker_tenant.clone());
    let intent = Line::Intent {
        cell,
        tenant: tenant.clone(),
        key: key.clone(),
        content: content.clone(),
        sent: asked.as_nanos(),
    };
    note(journal, &intent)?;
    let new = NewEncounter { key: key.clone(), patient: "job".to_owned(), content };
    let within = right.until.since(Clock::Machine.now()).min(LONGEST);
    let done = tokio::time::timeout(within, super::insert(clinic, &tenant, right.epoch, new)).await;
    let ended = Clock::Machine.now();
    let (answer, why) = match done {
        Ok(Ok(answer)) if ended < right.until => (Some(answer), None),
        Ok(Ok(_)) | Err(_) => (None, Some("the right to write ended first".to_owned())),
        Ok(Err(error)) => (None, Some(error.to_string())),
    };
    note(journal, &Line::End { key, ended: ended.as_nanos(), answer, why })
}

/// Each line begins anew: what a killed worker left half written spoils no other one.
fn note(journal: &mut std::fs::File, line: &Line) -> std::io::Result<()> {
    let text = serde_json::to_string(line)?;
    journal.write_all(format!("\n{text}").as_bytes())
}

/// What a worker did, in its order. What has no end has no answer yet, or never will.
///
/// # Errors
/// When the journal can't be read; one that is not there is empty.
pub fn journal(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("{} can't be read", path.display())),
    };
    let mut records: Vec<Record> = Vec::new();
    for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        match line {
            Line::Intent { cell, tenant, key, content, sent } => records.push(Record {
                kind: Kind::Job,
                writer: None,
                tenant,
                cell,
                key,
                content,
                intended: sent,
                sent,
                ended: sent,
                outcome: Outcome::Unanswered { why: NO_END.to_owned() },
            }),
            Line::End { key, ended, answer, why } => {
                if let Some(record) = records.last_mut().filter(|record| record.key == key) {
                    record.ended = ended;
                    record.outcome = match answer {
                        Some(answer) => Outcome::Fine(answer),
                        None => Outcome::Unanswered { why: why.unwrap_or_default() },
                    };
                }
            }
        }
    }
    Ok(records)
}

const NO_END: &str = "the worker's journal does not tell how it ended";

/// Whether it may still end.
#[must_use]
pub fn is_open(record: &Record) -> bool {
    matches!(&record.outcome, Outcome::Unanswered { why } if why == NO_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_worker_was_at_stays_open_and_spoils_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        assert!(journal(&path).unwrap().is_empty());
        let intent = |key: &str| Line::Intent {
            cell: "c".into(),
            tenant: "t".into(),
            key: key.into(),
            content: "x".into(),
            sent: 5,
        };
        let end = |key: &str| Line::End { key: key.into(), ended: 9, answer: None, why: Some("no".into()) };
        let mut file = std::fs::File::create(&path).unwrap();
        note(&mut file, &intent("k1")).unwrap();
        note(&mut file, &end("k1")).unwrap();
        note(&mut file, &intent("k2")).unwrap();
        file.write_all(b"\n{\"event\":\"en").unwrap();
        note(&mut file, &intent("k3")).unwrap();
        note(&mut file, &end("k3")).unwrap();
        let found = journal(&path).unwrap();
        let told: Vec<_> = found.iter().map(|r| (r.key.as_str(), is_open(r), r.ended)).collect();
        assert_eq!(told, [("k1", false, 9), ("k2", true, 5), ("k3", false, 9)]);
        assert!(found.iter().all(|r| !r.acknowledged() && !r.outcome.surely_not_written()));
    }
}
