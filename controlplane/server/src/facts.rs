//! The routers' facts, as this control plane keeps them. Reports rest on them, decisions do not.

use std::path::PathBuf;
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
}

impl Kept {
    pub(crate) async fn open(settings: Settings) -> Result<Self, HistoryError> {
        Ok(Self { history: History::open(&settings.dir).await?, age: settings.age })
    }
}

/// Milliseconds since 1970, for reports and routers that compare their clocks.
pub(crate) fn unix_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Forgets what is too old, and says how much there is, for as long as the process lives.
pub(crate) async fn run(app: &App) {
    let Some(kept) = &app.facts else { return std::future::pending().await };
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
