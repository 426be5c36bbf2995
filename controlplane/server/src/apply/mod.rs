//! `apply`: brings the registry to what a regions.toml says, by fenced transactions, and moves nothing.
//!
//! [`plan`] decides and is pure; this file reads, commits and looks again. If several transactions are needed each
//! prefix of them is a sound fleet, and a conflict is planned anew: what was applied already is then nothing to do.

pub(crate) mod batch;
pub mod plan;
mod tenants;

#[cfg(test)]
mod tests;

use domicile_api::views::{ApplyReport, PlannedChange};
use domicile_model::clock::{Clock, pause};
use domicile_model::{Fleet, World};
use domicile_store::{Commit, Key, Leadership, Precondition, Store, StoreError, Txn};

use crate::audit::AuditEntry;
use crate::current::Current;
use crate::room::{Keeper, NoRoom, bytes_of};
use plan::{Plan, plan, weakens};

/// How often a conflict is planned anew. Within one leader applies queue, so only a move that goes on meanwhile
/// can be in the way.
const TRIES: u32 = 20;

/// Why nothing, or not everything, was applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Some changes are refused; nothing was applied by this try.
    #[error("{} of the changes are refused; nothing was applied", .0.len())]
    Refused(Vec<PlannedChange>),
    /// The approval policy would ask for fewer people, and this operator may not decide that.
    #[error("{place} would ask for fewer people than now, which {by} may not decide; nothing was applied")]
    Weakens {
        /// The operator.
        by: String,
        /// Where, as in the file.
        place: String,
    },
    /// The registry holds what this program can't read, so it writes nothing that may depend on it.
    #[error("the registry holds records that this program can't read: {}", .0.join("; "))]
    Unreadable(Vec<String>),
    /// This control plane does not lead any more.
    #[error("this control plane lost the leadership while it applied the file")]
    Deposed,
    /// The registry kept changing.
    #[error("the registry changed under every one of {TRIES} tries")]
    Conflict,
    /// The registry has no room for it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The registry did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It ended after some of its transactions.
    #[error("the file may be applied in part: {0}")]
    Partly(#[source] Box<ApplyError>),
}

/// Who applies, and in whose name.
pub struct Applier<'a> {
    /// The registry.
    pub store: &'a dyn Store,
    /// The time.
    pub clock: &'a Clock,
    /// The registry's world.
    pub world: &'a World,
    /// The right to write.
    pub leadership: &'a Leadership,
    /// The control plane's name.
    pub server: &'a str,
    /// The operator.
    pub by: &'a str,
    /// Whether this operator may let the approval policy ask for fewer people.
    pub may_weaken: bool,
    /// Leaves to moves the room that they need; none in tests that are about something else.
    pub room: Option<&'a Keeper>,
    /// A switch that breaks the product, for the test that must be seen to fail.
    #[cfg(test)]
    pub(crate) unfenced: bool,
}

/// The plan for a fleet, without doing anything.
///
/// # Errors
/// When the registry does not answer or holds what can't be read.
pub async fn look(
    store: &dyn Store,
    clock: &Clock,
    wanted: &Fleet,
    prune: bool,
) -> Result<(Plan, Current), ApplyError> {
    let current = Current::read(store, clock, true).await?;
    if !current.unreadable.is_empty() {
        return Err(ApplyError::Unreadable(current.unreadable));
    }
    Ok((plan(&current, wanted, prune), current))
}

impl Applier<'_> {
    /// Applies a fleet. Call it with nothing else of this leader changing the registry.
    ///
    /// # Errors
    /// When something is refused (nothing is applied then), the leadership is lost, or the registry does not answer; in
    /// [`ApplyError::Partly`] if that was after the first transaction.
    pub async fn apply(&self, wanted: &Fleet, prune: bool) -> Result<ApplyReport, ApplyError> {
        let mut begun = false;
        self.apply_all(wanted, prune, &mut begun).await.map_err(|error| match error {
            // Those say what they say of this try only, and the file stays refused.
            ApplyError::Refused(_) | ApplyError::Unreadable(_) | ApplyError::Weakens { .. } => error,
            error if begun => ApplyError::Partly(Box::new(error)),
            error => error,
        })
    }

    async fn apply_all(
        &self,
        wanted: &Fleet,
        prune: bool,
        begun: &mut bool,
    ) -> Result<ApplyReport, ApplyError> {
        let mut told: Option<Vec<PlannedChange>> = None;
        let mut reached = 0;
        for _ in 0..TRIES {
            let (plan, current) = look(self.store, self.clock, wanted, prune).await?;
            if let Some(place) = weakens(&current, wanted, prune).filter(|_| !self.may_weaken) {
                return Err(ApplyError::Weakens { by: self.by.to_owned(), place });
            }
            let refused: Vec<PlannedChange> = plan.refused().cloned().collect();
            if !refused.is_empty() {
                return Err(ApplyError::Refused(refused));
            }
            reached = reached.max(current.revision.0);
            let done = plan.is_empty();
            // What the first plan said is what this call did, however often it looked again.
            let changes = told.get_or_insert(plan.changes).clone();
            if done {
                return Ok(ApplyReport { changes, applied: true, revision: reached });
            }
            match self.carry_out(&plan.stages, begun).await? {
                Some(revision) => {
                    reached = reached.max(revision);
                    return Ok(ApplyReport { changes, applied: true, revision: reached });
                }
                None => pause(std::time::Duration::from_millis(50)).await,
            }
        }
        Err(ApplyError::Conflict)
    }

    /// Commits one transaction after the other; none when the registry was not what the plan had seen, or when it is
    /// not known what became of a commit: then plan again. `begun` is set once anything may have been applied.
    async fn carry_out(&self, stages: &[batch::Stage], begun: &mut bool) -> Result<Option<i64>, ApplyError> {
        let mut reached = None;
        for unit in stages.iter().flat_map(|s| batch::pack(&s.units)) {
            let mut txn = self.fenced();
            txn.when.extend(unit.when);
            txn.then.extend(unit.then);
            txn = txn.op(AuditEntry::now(self.by, self.server, "apply", unit.what).write());
            if let Some(room) = self.room {
                room.ordinary(2 * bytes_of(&txn.then)).await?;
            }
            match self.store.commit(txn.clone()).await {
                Ok(Commit::Done(revision)) => {
                    *begun = true;
                    reached = Some(revision.0);
                }
                Ok(Commit::Refused { current, .. }) => {
                    if !self.still_leads(&txn, &current) {
                        return Err(ApplyError::Deposed);
                    }
                    return Ok(None);
                }
                Err(StoreError::UnknownOutcome { place, why }) => {
                    *begun = true;
                    tracing::warn!(place, why, "a commit of apply was not confirmed; looking again");
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(reached)
    }

    /// What every transaction of an apply begins with: the world, and this very reign.
    fn fenced(&self) -> Txn {
        #[cfg(test)]
        if self.unfenced {
            return Txn::in_world(self.world);
        }
        Txn::fenced(self.world, self.leadership)
    }

    fn still_leads(&self, txn: &Txn, current: &[Option<domicile_store::Entry>]) -> bool {
        txn.when.iter().zip(current).all(|(precondition, entry)| match precondition {
            Precondition::Holds(Key::World | Key::Leader, value) => {
                entry.as_ref().is_some_and(|e| e.value == *value)
            }
            Precondition::CreatedAt(Key::Leader, revision) => {
                entry.as_ref().is_some_and(|e| e.created == *revision)
            }
            _ => true,
        })
    }
}
