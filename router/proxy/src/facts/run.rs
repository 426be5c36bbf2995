//! Closes the ledger each minute, keeps what was in it, and tells it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use domicile_facts::{Batch, BatchId, Fact, Head, MOST_FACTS, Minute, VERSION};
use domicile_model::clock::pause;
use domicile_router_core::facts::Closed;

use super::spool::{Lies, Spool};
use super::{Facts, unix_ms};
use crate::state::Shared;

/// Batches that wait in memory while the disk takes none.
const MOST_UNWRITTEN: usize = 64;
/// How often it is looked whether a minute is over.
const TICK: Duration = Duration::from_secs(1);
/// How long the control planes may take at the very end. What they have not by then, the next process tells.
const LAST: Duration = Duration::from_secs(2);

/// What is remembered between two rounds.
#[derive(Debug)]
pub(super) struct Keeper {
    spool: Spool,
    /// The minute of the last round. It was watched, so it is told even if nobody came.
    watched: Option<Minute>,
    number: u64,
    unwritten: VecDeque<Batch>,
    dropped: u64,
    said: Option<String>,
}

/// Counts and tells for as long as the router lives.
pub async fn run(shared: Arc<Shared>) {
    let Some(facts) = &shared.facts else { return };
    loop {
        let lies = keep(&shared, facts, Minute::of(unix_ms())).await;
        {
            let mut teller = facts.teller.lock().await;
            teller.compare(&shared, facts).await;
            teller.round(&shared, lies).await;
        }
        pause(TICK).await;
    }
}

/// Keeps and tells the rest, also of the minute that is not over: the router ends.
pub async fn last(shared: &Arc<Shared>) {
    let Some(facts) = &shared.facts else { return };
    let lies = keep(shared, facts, Minute(u64::MAX)).await;
    let tell = async { facts.teller.lock().await.round(shared, lies).await };
    if tokio::time::timeout(LAST, tell).await.is_err() {
        tracing::info!("facts that no control plane has yet stay on disk for the next process");
    }
}

/// Takes the minutes before this one from the ledger to disk. What lies there then.
async fn keep(shared: &Arc<Shared>, facts: &Arc<Facts>, before: Minute) -> Lies {
    // Its own thread: the others are there for proofs.
    let (shared, facts) = (shared.clone(), facts.clone());
    let kept = tokio::task::spawn_blocking(move || {
        let mut keeper = facts.keeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        keeper.keep(&shared, &facts, before)
    });
    kept.await.unwrap_or_default()
}

impl Keeper {
    pub(super) const fn new(spool: Spool) -> Self {
        Self { spool, watched: None, number: 0, unwritten: VecDeque::new(), dropped: 0, said: None }
    }

    fn keep(&mut self, shared: &Shared, facts: &Facts, before: Minute) -> Lies {
        let mut closed = facts.ledger.close(before);
        if let Some(over) = self.watched.filter(|watched| *watched < before)
            && !closed.iter().any(|c| c.minute == over)
        {
            closed.push(Closed { minute: over, facts: Vec::new() });
        }
        // A machine that slept has watched nothing in between.
        self.watched = Some(before);
        for closed in closed {
            self.batches(shared, facts, closed);
        }
        let written = self.write();
        let lies = written.and_then(|()| self.spool.bound());
        self.say(lies.as_ref().err().map(ToString::to_string));
        let lies = lies.unwrap_or_default();
        let dropped = lies.dropped + std::mem::take(&mut self.dropped);
        if dropped > 0 {
            tracing::warn!(
                batches = dropped,
                "facts of the oldest minutes were dropped: there was no room for them"
            );
        }
        let metrics = &shared.metrics;
        metrics.facts_dropped.inc_by(dropped);
        metrics
            .facts_spooled
            .set(i64::try_from(lies.batches.len() + self.unwritten.len()).unwrap_or(i64::MAX));
        metrics.facts_spooled_bytes.set(i64::try_from(lies.bytes()).unwrap_or(i64::MAX));
        lies
    }

    fn batches(&mut self, shared: &Shared, facts: &Facts, Closed { minute, facts: mut rest }: Closed) {
        loop {
            let next: Vec<Fact> = rest.drain(..rest.len().min(MOST_FACTS)).collect();
            let id = BatchId { router: shared.config.id.clone(), boot: shared.boot, number: self.number };
            self.number += 1;
            let head = Head {
                version: VERSION,
                id,
                role: shared.config.role,
                region: shared.config.region.clone(),
                minute,
                facts: next.len(),
                clock: facts.clock(),
            };
            self.unwritten.push_back(Batch { head, facts: next });
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Writes what can be written. The oldest of what can't is dropped beyond what memory is given for it.
    fn write(&mut self) -> std::io::Result<()> {
        let mut written = Ok(());
        while let Some(batch) = self.unwritten.front() {
            written = self.spool.keep(batch);
            if written.is_err() {
                break;
            }
            self.unwritten.pop_front();
        }
        while self.unwritten.len() > MOST_UNWRITTEN {
            self.unwritten.pop_front();
            self.dropped += 1;
        }
        written
    }

    /// Says once that the disk takes nothing, and once that it does again.
    fn say(&mut self, why: Option<String>) {
        match (&why, &self.said) {
            (Some(why), None) => tracing::warn!(why, "facts can't be kept on disk; they wait in memory"),
            (None, Some(_)) => tracing::info!("facts are kept on disk again"),
            _ => {}
        }
        self.said = why;
    }
}
