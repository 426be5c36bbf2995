//! Waiting for a condition, bounded.

use std::time::Duration;

use domicile_model::clock::pause;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A condition that did not come true in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("waited {within:?} in vain until {what}")]
pub struct TooLate {
    /// What was waited for, as the end of the sentence "waited in vain until …".
    pub what: String,
    /// For how long.
    pub within: Duration,
}

/// What a poll found: a `bool`, or a value that appears.
pub trait Found {
    /// What the wait gives.
    type Value;
    /// The value, once it is there.
    fn found(self) -> Option<Self::Value>;
}

impl Found for bool {
    type Value = ();
    fn found(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Found for Option<T> {
    type Value = T;
    fn found(self) -> Option<T> {
        self
    }
}

/// Asks again every 10 ms until the answer is `true` or `Some`. A question that hangs counts as unanswered.
///
/// # Errors
/// [`TooLate`], with the sentence, when `within` has passed.
pub async fn eventually<F>(
    within: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<<F::Output as Found>::Value, TooLate>
where
    F: Future,
    F::Output: Found,
{
    tokio::time::timeout(within, async {
        loop {
            if let Some(value) = ask().await.found() {
                return value;
            }
            pause(POLL).await;
        }
    })
    .await
    .map_err(|_| TooLate { what: what.to_owned(), within })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_ends_the_wait() {
        let mut n = 0;
        let found = eventually(Duration::from_secs(5), "n is 3", || {
            n += 1;
            let now = n;
            async move { (now == 3).then_some(now) }
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_condition_that_does_not_come_true_fails_with_the_sentence() {
        let error = eventually(Duration::from_millis(30), "pigs fly", || async { false }).await.unwrap_err();
        assert_eq!(error.to_string(), "waited 30ms in vain until pigs fly");
        let hung = eventually(Duration::from_millis(30), "it answers", std::future::pending::<bool>).await;
        assert!(hung.is_err());
    }
}
