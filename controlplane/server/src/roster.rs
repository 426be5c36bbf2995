//! The operators' file, followed as it changes: who leaves must be out within seconds, without a restart in between.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use domicile_model::clock::pause;

use crate::app::App;
use crate::causes::chain;
use crate::operators::Operators;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Who may call now.
#[derive(Debug)]
pub struct Roster(RwLock<Arc<Operators>>);

impl Roster {
    /// These.
    #[must_use]
    pub fn new(operators: Operators) -> Self {
        Self(RwLock::new(Arc::new(operators)))
    }

    /// Everybody, as of now. A later change makes another one.
    #[must_use]
    pub fn now(&self) -> Arc<Operators> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether nobody has come or gone since.
    #[must_use]
    pub fn is_still(&self, seen: &Arc<Operators>) -> bool {
        Arc::ptr_eq(&self.now(), seen)
    }

    fn replace(&self, operators: Operators) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(operators);
    }
}

/// Takes over every usable change of the file, without end. A broken edit changes nothing, and is said once.
pub(crate) async fn follow(app: &App, file: Option<PathBuf>) {
    let Some(file) = file else { return std::future::pending().await };
    let mut said: Option<String> = None;
    loop {
        pause(LOOK).await;
        let broken = match load(&file).await {
            Ok(new) if new == *app.roster.now() => None,
            Ok(new) => {
                tracing::info!(file = %file.display(), operators = new.len(), "the operators' file has changed and counts from now on");
                app.roster.replace(new);
                None
            }
            Err(why) => Some(why),
        };
        app.metrics.tokens_broken.set(i64::from(broken.is_some()));
        if broken != said {
            match &broken {
                Some(why) => tracing::warn!(
                    "{why}. The operators as last read still count, also those that were to be removed: mend the file"
                ),
                None => tracing::info!(file = %file.display(), "the operators' file is usable again"),
            }
            said = broken;
        }
    }
}

/// Off the runtime's threads: the file may lie on a network's disk.
async fn load(file: &Path) -> Result<Operators, String> {
    let path = file.to_owned();
    match tokio::task::spawn_blocking(move || Operators::load(&path)).await {
        Ok(loaded) => loaded.map_err(|e| chain(&e)),
        Err(_) => Err(format!("the operators' file {} was not read", file.display())),
    }
}
