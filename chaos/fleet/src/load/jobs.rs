//! What the workers beside the applications did while users came.

use std::path::PathBuf;

use domicile_model::clock::{BootTime, Clock, pause};

use super::record::Record;
use crate::app::worker::{LONGEST, is_open, journal};

/// The workers' journals, from some moment on.
#[derive(Debug)]
pub(super) struct Jobs {
    journals: Vec<PathBuf>,
    since: BootTime,
}

impl Jobs {
    pub(super) fn new(journals: Vec<PathBuf>) -> Self {
        Self { journals, since: Clock::Machine.now() }
    }

    /// Everything that was begun until now. Waits as long as work under way may take: a worker that was killed ends
    /// nothing any more.
    pub(super) async fn finish(&self) -> Vec<Record> {
        let until = Clock::Machine.now();
        loop {
            let found = self.begun_before(until);
            let waited = Clock::Machine.now().since(until);
            if waited > LONGEST || !found.iter().any(is_open) {
                return found;
            }
            pause(LONGEST / 40).await;
        }
    }

    fn begun_before(&self, until: BootTime) -> Vec<Record> {
        let (since, until) = (self.since.as_nanos(), until.as_nanos());
        let mut found = Vec::new();
        for path in &self.journals {
            match journal(path) {
                Ok(records) => found.extend(records.into_iter().filter(|r| (since..until).contains(&r.sent))),
                Err(error) => tracing::error!(error = format!("{error:#}"), "a worker's rows are not judged"),
            }
        }
        found
    }
}
