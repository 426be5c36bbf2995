//! Who holds a cell in the new world: one pure function of what the backup, the routers and the databases say.
//!
//! The old world may still run where nobody could ask, so a region gets its cell back only if what was said leaves no
//! other: the newest placement that anybody knows names it, no agent has seen a later one, its database is the one that
//! can be written, and no other is. Everything else is closed, and a person decides.

use std::collections::BTreeMap;

use domicile_api::agent::{AgentState, Running};
use domicile_model::{
    Cell, CellId, ClosedReason, Epoch, Phase, Placement, RegionId, RouterId, WitnessSet, WorldId,
};
use serde::Serialize;

/// How far above everything known the new epochs begin: whoever could not be asked may know a later one than those who
/// could, but not by a million changes of the right.
pub const RAISE: u64 = 1 << 20;

/// What a database, or the agent beside it, said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Said {
    /// The agent answered.
    Agent(Box<Seen>),
    /// No agent, but the database itself: others get in, and this is whether they can write.
    Database {
        /// Whether it can be written.
        writable: bool,
        /// Why the agent said nothing.
        why: String,
    },
    /// Nobody answered.
    Silent {
        /// Why.
        why: String,
    },
}

/// What an agent said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// How its server runs.
    pub running: Running,
    /// Whether the data directory is a primary's.
    pub primary: bool,
    /// Whether a commanded fence is in force.
    pub fenced: bool,
    /// The world that its orders come from.
    pub world: Option<WorldId>,
    /// The highest epoch that it has seen; zero if none.
    pub epoch: Epoch,
    /// Which database it is.
    pub system_id: Option<String>,
    /// The timeline that it is on.
    pub timeline: Option<u32>,
}

impl Seen {
    /// Of an agent's state.
    #[must_use]
    pub fn of(state: &AgentState) -> Self {
        // An agent that does not say is one from before it could: what runs tells, and stopped counts as a primary.
        let primary = state.primary.unwrap_or(state.running != Running::Standby);
        Self {
            running: state.running,
            primary,
            fenced: state.fence_in_force || state.fence.is_some(),
            world: state.world,
            epoch: state.epoch.unwrap_or_default().max(state.proof.map_or(Epoch::default(), |(e, _)| e)),
            system_id: state.system_id.clone(),
            timeline: state.timeline,
        }
    }
}

impl Said {
    /// Whether it can be written, as far as is known.
    #[must_use]
    pub fn writable(&self) -> bool {
        match self {
            Self::Agent(seen) => seen.running == Running::Open,
            Self::Database { writable, .. } => *writable,
            Self::Silent { .. } => false,
        }
    }

    /// Whether it certainly will not be written without an order: it follows another one, or is fenced.
    #[must_use]
    pub fn harmless(&self) -> bool {
        matches!(self, Self::Agent(seen) if seen.running != Running::Open && (!seen.primary || seen.fenced))
    }
}

/// A placement, and the router that knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The router.
    pub router: RouterId,
    /// What it knows.
    pub placement: Placement,
}

/// What is known about one cell.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The cell.
    pub cell: &'a Cell,
    /// What the backup says; none in a rebuild, or of a cell that the backup does not know.
    pub backup: Option<&'a Placement>,
    /// What routers say.
    pub routers: &'a [Known],
    /// What databases say, for each of the cell's that was asked.
    pub databases: &'a BTreeMap<RegionId, Said>,
}

/// What becomes of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This region holds it.
    Holds {
        /// The region.
        region: RegionId,
        /// Whose database follows.
        standby: Option<RegionId>,
    },
    /// Nobody does, until a person has decided.
    Closed {
        /// Why, in a sentence.
        why: String,
    },
}

/// The new placement of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The cell.
    pub cell: CellId,
    /// Above every epoch that anybody knows.
    pub epoch: Epoch,
    /// Who holds it.
    pub verdict: Verdict,
    /// What came first: whoever could not be asked may still go on by it.
    pub availability_first: bool,
    /// Those of the newest placement known: a gate that could not be asked may still live on what they granted.
    pub witnesses: WitnessSet,
}

/// Somebody knows an epoch so high that none above it can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cell {cell}: epoch {epoch} was seen, above which there is no room: find out who wrote that before going on"
)]
pub struct NoRoom {
    /// The cell.
    pub cell: CellId,
    /// The epoch.
    pub epoch: Epoch,
}

impl Decision {
    /// As it will stand.
    #[must_use]
    pub fn placement(&self) -> Placement {
        let (holder, standby, phase) = match &self.verdict {
            Verdict::Holds { region, standby } => (Some(region.clone()), standby.clone(), Phase::Serving),
            Verdict::Closed { .. } => {
                (None, None, Phase::Closed { reason: ClosedReason::Conflict, for_ms: 0 })
            }
        };
        Placement {
            cell: self.cell.clone(),
            epoch: self.epoch,
            holder,
            standby,
            phase,
            moving: None,
            availability_first: self.availability_first,
            witnesses: self.witnesses.clone(),
        }
    }
}

/// Decides.
///
/// # Errors
/// When no epoch is left.
pub fn decide(facts: &Facts<'_>) -> Result<Decision, NoRoom> {
    let cell = &facts.cell.id;
    let agents = facts.databases.values().filter_map(|said| match said {
        Said::Agent(seen) => Some(seen.epoch),
        _ => None,
    });
    let highest = placements(facts).map(|p| p.epoch).chain(agents).max().unwrap_or_default();
    let epoch = highest
        .0
        .checked_add(RAISE)
        .filter(|e| e.checked_add(RAISE).is_some())
        .map(Epoch)
        .ok_or_else(|| NoRoom { cell: cell.clone(), epoch: highest })?;
    let newest = placements(facts).max_by_key(|p| p.epoch);
    let verdict = match judge(facts, newest) {
        Ok((region, standby)) => Verdict::Holds { region, standby },
        Err(why) => Verdict::Closed { why },
    };
    let witnesses = newest.map(|p| p.witnesses.clone()).filter(WitnessSet::is_sound);
    let witnesses = witnesses.unwrap_or_else(|| WitnessSet::of([].into()));
    // Closed, it stays as long as anybody may know it so: who then gives the cell to a region must hear the others first.
    let availability_first = match &verdict {
        Verdict::Holds { .. } => newest.is_some_and(|p| p.availability_first),
        Verdict::Closed { .. } => placements(facts).any(|p| p.availability_first),
    };
    Ok(Decision { cell: cell.clone(), epoch, verdict, availability_first, witnesses })
}

fn placements<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a Placement> {
    facts.backup.into_iter().chain(facts.routers.iter().map(|k| &k.placement))
}

/// The region that holds the cell, and its standby; or why nobody can be said to.
fn judge(facts: &Facts<'_>, newest: Option<&Placement>) -> Result<(RegionId, Option<RegionId>), String> {
    let newest = newest.ok_or("nobody who answered knows a placement of it")?;
    let n = newest.epoch;
    if let Some(other) = placements(facts).find(|p| p.epoch == n && p.holder != newest.holder) {
        return Err(format!(
            "epoch {n} is known with {} and with {} as its holder",
            name(newest),
            name(other)
        ));
    }
    if !newest.witnesses.is_sound() {
        return Err(format!("the witnesses of epoch {n} make no sense"));
    }
    for (region, said) in facts.databases {
        if let Said::Agent(seen) = said
            && seen.epoch > n
        {
            return Err(format!(
                "the agent in {region} has seen epoch {}; the newest placement that anybody could show is {n}, of {}",
                seen.epoch,
                name(newest)
            ));
        }
    }
    let Some(holder) = &newest.holder else {
        return Err(format!(
            "nobody held it at epoch {n}: it was in the middle of a move, or closed by a person"
        ));
    };
    if facts.cell.other(holder).is_none() {
        return Err(format!("epoch {n} names {holder}, which is neither its primary nor its DR region"));
    }
    if facts.cell.database.is_none() {
        return match facts.routers.is_empty() {
            true => Err("it has no database to ask, and no router that answered knows it".into()),
            false => Ok((holder.clone(), newest.standby.clone())),
        };
    }
    by_database(facts, newest, holder)
}

fn name(placement: &Placement) -> &str {
    placement.holder.as_ref().map_or("nobody", RegionId::as_str)
}

fn by_database(
    facts: &Facts<'_>,
    newest: &Placement,
    holder: &RegionId,
) -> Result<(RegionId, Option<RegionId>), String> {
    let others = || facts.databases.iter().filter(|(region, _)| *region != holder);
    if let Some((region, _)) = others().find(|(_, said)| said.writable()) {
        return Err(format!(
            "epoch {} names {holder}, but the database in {region} can be written",
            newest.epoch
        ));
    }
    let own = match facts.databases.get(holder) {
        Some(Said::Agent(own)) => own,
        Some(Said::Database { why, .. } | Said::Silent { why }) => {
            return Err(format!("the agent in {holder}, which held it, could not be asked: {why}"));
        }
        None => return Err(format!("it has no database in {holder}, which held it")),
    };
    if own.fenced {
        return Err(format!("the database in {holder}, which held it, is fenced: a move was under way"));
    }
    if !own.primary {
        return Err(format!("the database in {holder}, which held it, follows another one"));
    }
    for (region, said) in others() {
        let Said::Agent(seen) = said else { continue };
        if seen.system_id.is_some() && own.system_id.is_some() && seen.system_id != own.system_id {
            return Err(format!("the databases in {holder} and {region} are not one and its copy"));
        }
        if seen.timeline > own.timeline && own.timeline.is_some() {
            return Err(format!("the database in {region} is on a later timeline than the one in {holder}"));
        }
    }
    let without_proof = placements(facts).any(|p| p.availability_first);
    if own.running != Running::Open || without_proof {
        // Open, it lives on a proof, and nobody else can have one. Closed, only the word of all the others tells; and so it
        // is where availability came first, because then a database may be open without any proof.
        if let Some((region, said)) = others().find(|(_, said)| !said.harmless()) {
            return Err(match said {
                Said::Agent(_) => {
                    format!(
                        "the databases in {holder} and {region} are both primaries, and neither is stopped by an order"
                    )
                }
                Said::Database { why, .. } | Said::Silent { why } => format!(
                    "the one in {region}, which may have taken over, could not be asked ({why}), and the database in {holder} is not open or may be without a proof"
                ),
            });
        }
    }
    let follows = |region: &RegionId| match facts.databases.get(region) {
        Some(Said::Agent(seen)) => !seen.primary,
        _ => true,
    };
    Ok((holder.clone(), newest.standby.clone().filter(|s| s != holder && follows(s))))
}

#[cfg(test)]
mod tests;
