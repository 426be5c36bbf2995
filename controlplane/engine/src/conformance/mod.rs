//! What every implementation of [`Databases`] has in common, as tests that run on all of them: on the engine's own
//! simulation and on each provider with real servers.
//!
//! Each case gets a [`Harness`] of its own: a primary in the cell's primary region that takes writes, a standby in its DR
//! region that streams, nothing moved yet. A case panics when the implementation does not keep the trait's word.

mod fencing;
mod forced;
mod looking;
mod switching;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domicile_api::agent::Consent;
use domicile_model::clock::pause;
use domicile_model::{Cell, Epoch, HandoverToken, RegionId, Token};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::provider::{Databases, EffectError, Observation, Promoted};

/// How the suite gets at an implementation, and at the world around it.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The implementation.
    fn databases(&self) -> Arc<dyn Databases>;

    /// The cell.
    fn cell(&self) -> Cell;

    /// A token of the present leader, for the move under way, of this rank.
    fn token(&self, attempt: u64) -> Token;

    /// Another control plane takes the leadership: later tokens are its tokens.
    async fn another_leader(&self);

    /// The registry takes the cell from everybody; its new epoch.
    async fn close(&self) -> Epoch;

    /// The registry gives the cell to a region, under a new epoch.
    async fn give(&self, region: &RegionId);

    /// A user writes there, one transaction; whether it was acknowledged.
    async fn write(&self, region: &RegionId) -> bool;

    /// The registry's record of the move becomes that of a forced one with this consent, which later promotions carry.
    async fn consents(&self, consent: &Consent);

    /// Nothing that the first primary writes from now on reaches the first standby.
    async fn cut_replication(&self);
}

/// A case of the suite.
pub type Case = for<'a> fn(&'a Bench<'a>) -> BoxFuture<'a, ()>;

macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        &[$((stringify!($case), |bench| $module::$case(bench).boxed())),*]
    };
}

/// All cases, by name.
pub const CASES: &[(&str, Case)] = cases![
    looking::a_pair_looks_as_it_is,
    fencing::a_fence_stops_writes_and_a_repeat_says_the_same,
    fencing::a_lower_rank_is_refused_by_every_effect,
    switching::a_standby_is_promoted_once_and_the_old_primary_follows,
    switching::nothing_is_promoted_too_early,
    switching::a_promoted_server_that_was_shut_opens_on_the_same_order_again,
    forced::what_was_lost_is_listed_before_anything_is_rewound,
];

/// Runs one case by its name.
///
/// # Panics
/// When the case fails, or there is none of this name.
pub async fn run(name: &str, harness: &dyn Harness) {
    let Some((_, case)) = CASES.iter().find(|(known, _)| *known == name) else {
        panic!("there is no case {name}");
    };
    let cell = harness.cell();
    let bench =
        Bench { a: cell.primary.clone(), b: cell.dr.clone(), databases: harness.databases(), cell, harness };
    case(&bench).await;
}

/// What a case works with.
pub struct Bench<'a> {
    harness: &'a dyn Harness,
    databases: Arc<dyn Databases>,
    cell: Cell,
    /// Where the primary stands.
    a: RegionId,
    /// Where the standby stands.
    b: RegionId,
}

/// Longest that a case waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long a clean stop may take.
const STOP: Duration = Duration::from_secs(5);

/// Waits until a question is answered with a value.
async fn soon<T, Answer>(what: &str, ask: impl Fn() -> Answer) -> T
where
    Answer: Future<Output = Option<T>>,
{
    let work = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            pause(LOOK).await;
        }
    };
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(found) => found,
        Err(_) => panic!("{what} did not come true within {PATIENCE:?}"),
    }
}

impl Bench<'_> {
    fn token(&self, attempt: u64) -> Token {
        self.harness.token(attempt)
    }

    async fn see(&self, region: &RegionId) -> Observation {
        self.databases.observe(&self.cell, region).await
    }

    /// Waits until a server is seen so.
    async fn seen(&self, region: &RegionId, what: &str, holds: impl Fn(&Observation) -> bool) -> Observation {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let seen = self.see(region).await;
                if holds(&seen) {
                    return seen;
                }
                pause(LOOK).await;
            }
        });
        match found.await {
            Ok(seen) => seen,
            Err(_) => panic!("{region}: {what} did not come true: {:#?}", self.see(region).await),
        }
    }

    async fn writes(&self, region: &RegionId) {
        soon(&format!("a write in {region}"), || async { self.harness.write(region).await.then_some(()) })
            .await;
    }

    /// Fences the primary.
    async fn fence(&self, attempt: u64, epoch: Epoch) -> (HandoverToken, bool) {
        let token = self.token(attempt);
        let fenced = self.databases.fence(&self.cell, &self.a, &token, epoch, STOP, false).await;
        fenced.unwrap_or_else(|e| panic!("the fence: {e}"))
    }

    /// Promotes the standby, as often as it says that it has not caught up; the rank of what succeeded and the result.
    /// Without a handover it is a forced move, with consent in its place.
    async fn promote(&self, from: u64, epoch: Epoch, handover: Option<&HandoverToken>) -> (u64, Promoted) {
        let consent = Consent { by: "ann".to_owned(), accept_loss: Some(1_000), accept_unknown: false };
        let consent = Some(&consent).filter(|_| handover.is_none());
        if let Some(consent) = consent {
            self.harness.consents(consent).await;
        }
        let mut attempt = from;
        loop {
            let token = self.token(attempt);
            match self.databases.promote(&self.cell, &self.b, &token, epoch, handover, consent).await {
                Ok(promoted) => return (attempt, promoted),
                Err(EffectError::Refused(why)) if attempt < from + 200 => {
                    eprintln!("not promoted yet: {why}");
                    attempt += 1;
                    pause(LOOK).await;
                }
                Err(error) => panic!("the promotion: {error}"),
            }
        }
    }
}

/// The error of an effect that must not have happened.
#[track_caller]
fn refused<T: std::fmt::Debug>(what: &str, result: Result<T, EffectError>) -> String {
    match result {
        Err(EffectError::Refused(why)) => why,
        other => panic!("{what} must be refused: {other:?}"),
    }
}

/// The error of an effect of a leader that was deposed.
#[track_caller]
fn deposed<T: std::fmt::Debug>(what: &str, result: Result<T, EffectError>) {
    match result {
        Err(EffectError::Deposed(_)) => {}
        other => panic!("{what} must be refused as late: {other:?}"),
    }
}
