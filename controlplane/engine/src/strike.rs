//! Witnesses whose machines are destroyed: a person declares it, and a forced move no longer waits for their word.

use std::collections::BTreeSet;

use domicile_api::moves::{LogEvent, MoveKind, MoveStatus};
use domicile_model::{BarredWitness, MoveId, RouterId};
use domicile_store::codec::encode;
use domicile_store::{Key, Op, Precondition};
use jiff::Timestamp;

use crate::engine::{Engine, not_now};
use crate::error::MoveError;
use crate::run::Edge;
use crate::verbs::{Said, stuck_at};

/// What a person declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destroyed {
    /// Which witnesses.
    pub witnesses: BTreeSet<RouterId>,
    /// How that is known.
    pub reason: String,
}

impl Engine {
    /// A stuck move tries again without the word of witnesses that a person declares destroyed. Their identities are
    /// barred for ever, in the same transaction. They count as quiet once WAIT has passed from the retry.
    ///
    /// Nothing can tell a machine that is destroyed from one that is cut off: if one of them lives, together with a gate of
    /// the old region, two regions may answer. What can be seen is refused: one that holds a lease lives.
    ///
    /// # Errors
    /// When the move is not stuck for want of quiet witnesses, one of them is no witness of the cell or is registered, or
    /// this control plane does not lead.
    pub async fn retry_without(
        &self,
        id: MoveId,
        destroyed: &Destroyed,
        said: Said<'_>,
    ) -> Result<(), MoveError> {
        let mut run = self.spoken_to(id, &said).await?;
        let step = stuck_at(&run.flow)?.to_owned();
        let fits = matches!(run.flow.definition, MoveKind::Failover | MoveKind::Close)
            && matches!(step.as_str(), "fence" | "promote");
        if !fits || run.flow.back {
            return Err(MoveError::NotNow(format!(
                "move {id} does not wait for witnesses: it is stuck at {step}"
            )));
        }
        let (placement, _) = run.placement().await.map_err(not_now)?;
        let others: Vec<&str> = destroyed
            .witnesses
            .iter()
            .filter(|w| !placement.witnesses.members.contains(*w))
            .map(RouterId::as_str)
            .collect();
        if destroyed.witnesses.is_empty() || !others.is_empty() {
            let members: Vec<&str> = placement.witnesses.members.iter().map(RouterId::as_str).collect();
            return Err(MoveError::NotNow(format!(
                "{} no witness of cell {}: its witnesses are {}",
                if others.is_empty() { "nobody is named, so it is".to_owned() } else { others.join(", ") },
                run.flow.cell,
                members.join(", ")
            )));
        }
        let present = run.present().await.map_err(not_now)?;
        let alive: Vec<&str> = destroyed.witnesses.intersection(&present).map(RouterId::as_str).collect();
        if !alive.is_empty() && !self.shared.options.sabotage.strike_the_living {
            return Err(MoveError::NotNow(format!(
                "{} lives: it is registered under a lease. Only who is destroyed may be struck out; stop it for good first",
                alive.join(", ")
            )));
        }
        let names: Vec<&str> = destroyed.witnesses.iter().map(RouterId::as_str).collect();
        let note = format!(
            "retry, by {}: {} declared destroyed, because: {}",
            said.by,
            names.join(", "),
            destroyed.reason
        );
        let record = |id: &RouterId| BarredWitness {
            id: id.clone(),
            moving: run.flow.id,
            by: said.by.to_owned(),
            reason: destroyed.reason.clone(),
            at: Timestamp::now(),
        };
        let put = |id: &RouterId| Op::Put(Key::Barred(id.clone()), encode(&record(id)), None);
        let puts: Vec<Op> = destroyed.witnesses.iter().map(put).collect();
        // One that registers between the look and the commit lives.
        let mut when: Vec<Precondition> =
            destroyed.witnesses.iter().map(|id| Precondition::Absent(Key::Router(id.clone()))).collect();
        if self.shared.options.sabotage.strike_the_living {
            when.clear();
        }
        let edge = Edge::of(&step, LogEvent::Verb, &note).when(when).with(said.also).with(puts);
        self.write(&mut run, edge, |flow| flow.status = MoveStatus::Running).await
    }
}
