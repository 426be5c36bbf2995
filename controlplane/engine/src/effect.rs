//! Effects: intent before, result after, and whoever resumes looks before it acts.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use domicile_api::moves::LogEvent;
use domicile_model::{Cell, RegionId, Token};

use crate::error::Halt;
use crate::failpoint::Point;
use crate::provider::{Databases, EffectError, Observation};
use crate::record::Standing;
use crate::run::{Edge, Pace, Run};

/// The hands of an effect: what it acts with. Cheap to clone, so that an effect's future owns all it needs.
#[derive(Clone)]
pub(crate) struct Hands {
    pub(crate) databases: Arc<dyn Databases>,
    pub(crate) cell: Cell,
    pub(crate) from: RegionId,
    pub(crate) to: RegionId,
}

/// How an effect is written to the log: forward, or as an undo.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    Back,
}

impl Way {
    const fn intent(self) -> LogEvent {
        match self {
            Self::Forward => LogEvent::Intent,
            Self::Back => LogEvent::UndoIntent,
        }
    }

    const fn intended(self) -> Standing {
        match self {
            Self::Forward => Standing::Intended,
            Self::Back => Standing::UndoIntended,
        }
    }
}

/// How often an effect is tried before the step gives up, whatever time is left: the log must stay bounded.
const MOST_TRIES: u32 = 12;

impl Run {
    pub(crate) fn hands(&self) -> Hands {
        Hands {
            databases: self.shared.databases.clone(),
            cell: self.cell.clone(),
            from: self.from(),
            to: self.to(),
        }
    }

    /// Makes an effect of the present step happen and returns its result, which the caller records.
    ///
    /// `seen` finds in an observation of `region` that it already happened. `act` sends it. Gives up with
    /// [`Halt::Turn`] when `within` has passed.
    pub(crate) async fn effect<T, Fut>(
        &mut self,
        step: &str,
        way: Way,
        region: &RegionId,
        within: Duration,
        seen: impl Fn(&Observation, &Token) -> Option<T> + Send + Sync,
        act: impl Fn(Hands, Token) -> Fut + Send + Sync,
    ) -> Result<T, Halt>
    where
        T: Send,
        Fut: Future<Output = Result<T, EffectError>> + Send,
    {
        let deadline = self.now() + within;
        let mut pace = Pace::new(self.options().backoff);
        let mut last = String::new();
        let mut tries = 0;
        loop {
            let open = self.flow.stands(step) == way.intended();
            if open && !self.mine.contains(step) {
                // The leader that wrote this intent is gone; nobody knows what became of its effect.
                self.edge(Edge::of(step, LogEvent::Unknown, "taken over: looking first"), |_, _| ()).await?;
            }
            let fresh = open && self.mine.contains(step);
            let doubtful = matches!(
                self.flow.stands(step),
                Standing::Unknown | Standing::UndoUnknown | Standing::Answered
            );
            if doubtful {
                let observation = self.observe(region).await;
                if let Some(result) = seen(&observation, &self.next_token(step)) {
                    return Ok(result);
                }
            }
            if tries > 0 && (self.now() >= deadline || tries >= MOST_TRIES) {
                return Err(Halt::Turn(format!("{step} did not succeed in {} tries: {last}", tries)));
            }
            if !fresh {
                if self.options().sabotage.forget_intent {
                    self.flow.attempt += 1;
                } else {
                    self.edge(Edge::of(step, way.intent(), ""), |_, _| ()).await?;
                }
            }
            let token = self.token(step)?;
            tries += 1;
            self.options().failpoints.clone().reach(step, Point::BeforeEffect).await;
            let result = tokio::time::timeout(self.options().call, act(self.hands(), token)).await;
            self.options().failpoints.clone().reach(step, Point::AfterEffect).await;
            let (event, why) = match result {
                Ok(Ok(result)) => return Ok(result),
                Ok(Err(EffectError::Deposed(why))) => return Err(Halt::Deposed(why)),
                Ok(Err(EffectError::Refused(why))) => (LogEvent::Failed, why),
                Ok(Err(EffectError::Unknown(why))) => (LogEvent::Unknown, why),
                Err(_) => {
                    (LogEvent::Unknown, format!("no answer from {region} within {:?}", self.options().call))
                }
            };
            if !self.options().sabotage.forget_intent {
                self.edge(Edge::of(step, event, &why), |_, _| ()).await?;
            }
            pace.wait(&why).await;
            last = why;
        }
    }

    /// Repeats an order under its own token. Only one answer matters: that another leader has acted.
    pub(crate) async fn nudge(
        &self,
        token: &Token,
        again: impl Future<Output = Result<(), EffectError>> + Send,
    ) -> Result<(), Halt> {
        match tokio::time::timeout(self.options().call, again).await {
            Ok(Err(EffectError::Deposed(why))) if token.leader == self.leadership.fence => {
                // Or a person has ended this move, and the agent knows the next one.
                Err(if self.was_changed().await? { Halt::Conflict } else { Halt::Deposed(why) })
            }
            Ok(Err(why)) => {
                tracing::info!(%why, step = token.step, "a repeated order was not taken");
                Ok(())
            }
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// A failpoint of the present step, for steps whose effect is their own transaction, or waiting.
    pub(crate) async fn reach(&self, point: Point) {
        self.options().failpoints.clone().reach(&self.flow.step, point).await;
    }

    /// The token of a step's newest intent.
    pub(crate) fn token(&self, step: &str) -> Result<Token, Halt> {
        if self.options().sabotage.forget_intent {
            return Ok(Token { attempt: self.flow.attempt, ..self.next_token(step) });
        }
        let token = self.flow.steps.get(step).and_then(|s| s.token.clone());
        token.ok_or_else(|| Halt::Stuck(format!("the engine has a bug: {step} acts without an intent")))
    }
}
