//! Named points before and after every effect, at which tests and chaos stop or end the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use domicile_model::clock::pause;

/// Where, relative to a step's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// The intent stands in the log, the effect was not sent. At `close`: before its transaction; at `hold` and
    /// `switch`, whose effect is their transaction: after it, before routers are awaited.
    BeforeEffect,
    /// The effect was answered, its result does not stand in the log. At `close`: after its transaction.
    AfterEffect,
}

impl Point {
    /// The name in `--failpoint`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeforeEffect => "before-effect",
            Self::AfterEffect => "after-effect",
        }
    }
}

/// Asked at every point. Returning goes on.
#[async_trait]
pub trait Failpoints: Send + Sync + 'static {
    /// The engine is at this point of this step.
    async fn reach(&self, step: &str, point: Point);
}

/// The usual ones: none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFailpoints;

#[async_trait]
impl Failpoints for NoFailpoints {
    async fn reach(&self, _: &str, _: Point) {}
}

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Waits for ever: whoever set it kills the process, or deposes it.
    Pause,
    /// Waits this long.
    PauseFor(Duration),
    /// Ends the process at once, as a kill would.
    Exit,
}

/// Failpoints by their text form, `step:before-effect=pause`, `step:after-effect=exit` or
/// `step:before-effect=pause:2000` (milliseconds).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailpointSet(BTreeMap<(String, Point), Action>);

/// The text is no failpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a failpoint: write STEP:before-effect=ACTION or STEP:after-effect=ACTION, where ACTION is pause, pause:MILLISECONDS or exit"
)]
pub struct FailpointError(String);

/// Exit status of a process that ended at a failpoint.
pub const EXIT_STATUS: i32 = 86;

impl FailpointSet {
    /// Reads failpoints as the flag `--failpoint` of `domicile serve` gets them.
    ///
    /// # Errors
    /// The first text that is none.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, FailpointError> {
        texts.iter().map(|text| Self::one(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    fn one(text: &str) -> Result<((String, Point), Action), FailpointError> {
        let error = || FailpointError(text.chars().take(100).collect());
        let (place, action) = text.split_once('=').ok_or_else(error)?;
        let (step, point) = place.rsplit_once(':').ok_or_else(error)?;
        let point = [Point::BeforeEffect, Point::AfterEffect].into_iter().find(|p| p.as_str() == point);
        let action = match action.split_once(':') {
            None if action == "pause" => Some(Action::Pause),
            None if action == "exit" => Some(Action::Exit),
            Some(("pause", ms)) => ms.parse().ok().map(|ms| Action::PauseFor(Duration::from_millis(ms))),
            _ => None,
        };
        let known =
            crate::definitions::ALL.iter().any(|kind| crate::definitions::steps(*kind).contains(&step));
        match (point, action) {
            (Some(point), Some(action)) if known => Ok(((step.to_owned(), point), action)),
            _ => Err(error()),
        }
    }
}

#[async_trait]
impl Failpoints for FailpointSet {
    async fn reach(&self, step: &str, point: Point) {
        match self.0.get(&(step.to_owned(), point)) {
            None => {}
            Some(Action::Pause) => std::future::pending().await,
            Some(Action::PauseFor(length)) => pause(*length).await,
            Some(Action::Exit) => {
                tracing::warn!(step, point = point.as_str(), "ending the process at a failpoint");
                std::process::exit(EXIT_STATUS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failpoints_read_and_refuse() {
        let set = FailpointSet::parse(&["promote:before-effect=exit", "catch-up:after-effect=pause:20"]);
        assert_eq!(set.unwrap().0.len(), 2);
        for bad in [
            "",
            "promote",
            "promote:before=exit",
            "promote:before-effect=explode",
            "nowhere:after-effect=exit",
        ] {
            assert!(FailpointSet::parse(&[bad]).is_err(), "{bad:?}");
        }
    }
}
