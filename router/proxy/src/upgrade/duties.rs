//! What only one process of a router may do at a time: acknowledge, vouch, and keep the last-good table.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domicile_model::clock::{BootTime, pause};
use domicile_router_core::witness::{JournalError, WitnessBook};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::loops;
use crate::state::Shared;

/// Between two tries to take back what was let go of.
const AGAIN: Duration = Duration::from_secs(1);

/// Them.
#[derive(Debug)]
pub struct Duties {
    shared: Arc<Shared>,
    acks: Task,
    witness: Task,
}

#[derive(Debug, Default)]
struct Task(Mutex<Option<JoinHandle<()>>>);

impl Task {
    fn take(&self) -> Option<JoinHandle<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn begin(&self, task: JoinHandle<()>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Returns when it does nothing any more.
    async fn end(&self) {
        if let Some(task) = self.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

/// The witness's memory, as it lies on disk.
///
/// # Errors
/// When the file can't be used.
pub fn witness_book(config: &Config, now: BootTime) -> Result<WitnessBook, JournalError> {
    match &config.state {
        Some(dir) => WitnessBook::open(&dir.join("witness.jsonl"), now),
        None => Ok(WitnessBook::forgetful(now)),
    }
}

impl Duties {
    /// Nothing is done yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, acks: Task::default(), witness: Task::default() }
    }

    /// Begins to acknowledge.
    pub fn acknowledge(&self) {
        self.acks.begin(tokio::spawn(loops::acks::run(self.shared.clone())));
    }

    /// Begins to keep the witness's memory, if this router is one.
    pub fn witness(&self) {
        if self.shared.witness.is_some() {
            self.witness.begin(tokio::spawn(loops::witness::run(self.shared.clone())));
        }
    }

    /// Acknowledges no more. Whether it did.
    pub async fn end(&self) -> bool {
        let did = self.acks.take();
        let any = did.is_some();
        if let Some(acks) = did {
            acks.abort();
            let _ = acks.await;
        }
        any
    }

    /// Lets go of all that lies on disk; returns when another process may have it. The lease of what was acknowledged
    /// is kept up: a move must go on waiting for this router.
    pub async fn let_go(&self) {
        self.shared.upgrade.resting.send_replace(true);
        self.witness.end().await;
        let shared = self.shared.clone();
        // A write that had begun is over when the lock is free.
        let closed = tokio::task::spawn_blocking(move || {
            if let Some(book) = &shared.witness {
                // Knows nothing, is not verified, and so says no.
                let nothing = WitnessBook::forgetful(shared.now());
                drop(std::mem::replace(&mut *book.lock().unwrap_or_else(PoisonError::into_inner), nothing));
            }
        });
        let _ = closed.await;
        self.shared.mirror.let_go().await;
    }

    /// Has everything again as it lies on disk by now. Only while no other process has it.
    pub async fn take_back(&self) {
        while let Err(why) = self.try_to_take_back().await {
            tracing::error!(%why, "what was let go of for an upgrade can't be taken back yet");
            pause(AGAIN).await;
        }
        self.witness();
        self.shared.upgrade.resting.send_replace(false);
    }

    async fn try_to_take_back(&self) -> Result<(), String> {
        self.shared.mirror.take_back().map_err(|e| e.to_string())?;
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || {
            if let Some(book) = &shared.witness {
                // What the other one refused stays refused, and WAIT counts from now: it may have granted until now.
                let read = witness_book(&shared.config, shared.now())?;
                *book.lock().unwrap_or_else(PoisonError::into_inner) = read;
            }
            Ok::<_, JournalError>(())
        });
        // Not joined: the process ends.
        read.await.unwrap_or(Ok(())).map_err(|e| e.to_string())
    }
}
