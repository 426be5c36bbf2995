//! The routers' facts, as this control plane keeps them. Reports rest on them, decisions do not.

pub(crate) mod copy;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domicile_facts::Minute;
use domicile_history::{History, HistoryError};
use domicile_model::clock::pause;

use crate::app::App;
use crate::causes::chain;

/// How often old minutes are looked for.
const EVERY: Duration = Duration::from_secs(600);

/// Where the history is kept, and for how long.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A directory of this control plane's own.
    pub dir: PathBuf,
    /// What is older is forgotten.
    pub age: Duration,
}

/// The history of this control plane.
#[derive(Debug)]
pub struct Kept {
    /// The copy.
    pub history: History,
    age: Duration,
    /// Whether it was empty when the process began, and has not gone through another one's copy since.
    empty: AtomicBool,
}

impl Kept {
    pub(crate) async fn open(settings: Settings) -> Result<Self, HistoryError> {
        let history = History::open(&settings.dir).await?;
        let empty = AtomicBool::new(history.size().await?.batches == 0);
        Ok(Self { history, age: settings.age, empty })
    }

    /// Whether reports may rest on it.
    pub(crate) fn is_complete(&self) -> bool {
        !self.empty.load(Ordering::SeqCst)
    }

    fn complete(&self) {
        self.empty.store(false, Ordering::SeqCst);
    }
}

/// Milliseconds since 1970, for reports and routers that compare their clocks.
pub(crate) fn unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Forgets what is too old, and says how much there is, for as long as the process lives.
pub(crate) async fn run(app: &App) {
    let Some(kept) = &app.facts else { return std::future::pending().await };
    if app.archive.is_none() {
        // Without a key of its own nobody gives it a copy.
        kept.complete();
    }
    let age = u64::try_from(kept.age.as_millis()).unwrap_or(u64::MAX);
    loop {
        let done = async {
            kept.history.forget(Minute::of(unix_ms().saturating_sub(age))).await?;
            kept.history.size().await
        };
        match done.await {
            Ok(size) => {
                app.metrics.history_batches.set(i64::try_from(size.batches).unwrap_or(i64::MAX));
                app.metrics.history_bytes.set(i64::try_from(size.bytes).unwrap_or(i64::MAX));
            }
            Err(error) => tracing::warn!(error = chain(&error), "old facts were not forgotten; tried again"),
        }
        pause(EVERY).await;
    }
}
