//! The record of a workflow and the order that its log must keep.

use std::collections::{BTreeMap, BTreeSet};

use domicile_api::agent::{Fork, SequenceGuard};
use domicile_api::moves::{
    Approval, LogEntry, LogEvent, MoveFacts, MoveKind, MoveRequest, MoveStatus, MoveView, Paused,
};
use domicile_model::token::Lsn;
use domicile_model::{CellId, HandoverToken, MoveId, RegionId, RouterId, Token};
use domicile_store::Record;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::definitions;

/// The key `workflows/<id>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workflow {
    /// Its id.
    pub id: MoveId,
    /// Which definition.
    pub definition: MoveKind,
    /// Its version: a newer program goes on with what an older one began, under the rules that it began with.
    pub version: u32,
    /// What was asked for, consent included. Consent that is given later replaces it.
    pub request: MoveRequest,
    /// The cell.
    pub cell: CellId,
    /// Who held it when the move began.
    pub from: RegionId,
    /// Who shall hold it.
    pub to: RegionId,
    /// Who asked.
    pub by: String,
    /// When, by a wall clock, for people.
    pub created: Timestamp,
    /// When it came to its present status.
    pub updated: Timestamp,
    /// How it stands.
    pub status: MoveStatus,
    /// Who holds it up, if somebody does.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// The approval that it waits for or went on with; none where nobody is asked.
    #[serde(default)]
    pub approval: Option<Approval>,
    /// Whether it goes back, also while it is stuck doing so.
    pub back: bool,
    /// Why it goes back.
    #[serde(default)]
    pub back_because: String,
    /// The step that runs, or ran last.
    pub step: String,
    /// Rises with each intent, across leaders. Starts at the registry's revision when the move was claimed: each
    /// intent is a commit of its own, so no earlier move of the cell can have reached it, and agents never take a
    /// new move's effects for late ones.
    pub attempt: u64,
    /// Entries in the log.
    pub log: u64,
    /// How each step stands; untouched ones are left out.
    pub steps: BTreeMap<String, StepState>,
    /// What steps found out that later ones need.
    pub outputs: Outputs,
    /// What was measured, for people.
    pub facts: MoveFacts,
}

/// How a step stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct StepState {
    /// By its newest log entry.
    pub stands: Standing,
    /// Of the newest intent.
    pub token: Option<Token>,
    /// Intents so far.
    pub tries: u32,
}

/// What steps found out that later ones need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Outputs {
    /// The standby before the move, put back when it is undone.
    pub standby: Option<RegionId>,
    /// Gates of the old region when the move was claimed: none of them may be forgotten because it lost its lease.
    pub gates: BTreeSet<RouterId>,
    /// When the close was committed, by the leader's wall clock: for facts only.
    pub closed_at: Option<Timestamp>,
    /// The old primary's word that it stopped.
    pub handover: Option<HandoverToken>,
    /// Whether that stop was clean, so that its position can be handed over without loss.
    pub clean: bool,
    /// The new primary.
    pub promoted: Option<PromotedServer>,
    /// When the switch was committed, by the leader's wall clock: for facts only.
    pub switched_at: Option<Timestamp>,
    /// What the new standby must have replayed to count as one.
    pub protect_at: Option<Lsn>,
    /// The consent after the move had begun, by number of transactions.
    pub consented: Option<u64>,
}

/// The new primary, as it was when it was promoted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromotedServer {
    /// `system_identifier`.
    pub system_id: String,
    /// The timeline that it writes.
    pub timeline: u32,
    /// Where that left the old one.
    pub fork: Fork,
    /// What was done so that no number is given out twice.
    #[serde(default)]
    pub sequences: Option<SequenceGuard>,
}

/// Where a step stands, by its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Nothing happened to it.
    #[default]
    Untouched,
    /// Its intent stands.
    Intended,
    /// It happened.
    Done,
    /// It certainly did not happen.
    Failed,
    /// It may have happened.
    Unknown,
    /// The intent to undo it stands.
    UndoIntended,
    /// Undoing it failed, or may have happened.
    UndoUnknown,
    /// It was undone.
    Undone,
    /// It waits for a person.
    Stuck,
    /// A person answered.
    Answered,
    /// A person has decided to go on without it.
    Skipped,
}

/// A log entry that no step may have next: a bug, never written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} may not follow {stands:?} at step {step}")]
pub struct IllegalEntry {
    /// The step.
    pub step: String,
    /// How it stood.
    pub stands: Standing,
    /// What was to be written.
    pub event: LogEvent,
}

impl Standing {
    /// Where this event leads; none if it may not come now.
    #[must_use]
    pub const fn after(self, event: LogEvent) -> Option<Self> {
        use LogEvent as E;
        use Standing as S;
        Some(match (self, event) {
            // Done, then an intent again: a new leader fences once more under its own token.
            (S::Untouched | S::Failed | S::Unknown | S::Answered | S::Done, E::Intent) => S::Intended,
            // Done without an intent: a step that only waits, or whose transaction is its effect.
            (S::Untouched | S::Intended | S::Unknown | S::Failed | S::Answered, E::Done) => S::Done,
            // Failed without an intent: a step that only waits, in vain.
            (S::Untouched | S::Intended | S::Unknown | S::Answered, E::Failed) => S::Failed,
            (S::Intended | S::Unknown, E::Unknown) => S::Unknown,
            (
                S::Intended | S::Done | S::Failed | S::Unknown | S::Answered | S::UndoUnknown | S::Stuck,
                E::UndoIntent,
            ) => S::UndoIntended,
            (S::UndoIntended, E::Failed | E::Unknown) => S::UndoUnknown,
            (
                S::Intended
                | S::Done
                | S::Failed
                | S::Unknown
                | S::UndoIntended
                | S::UndoUnknown
                | S::Answered
                | S::Untouched,
                E::Undone,
            ) => S::Undone,
            (
                S::Untouched
                | S::Intended
                | S::Failed
                | S::Unknown
                | S::UndoIntended
                | S::UndoUnknown
                | S::Undone
                | S::Answered,
                E::Stuck,
            ) => S::Stuck,
            (S::Stuck, E::Verb) => S::Answered,
            // A wish that changes nothing about the step: to pause, to go on, to turn back.
            (same, E::Verb) => same,
            (S::Untouched, E::Asked) => S::Untouched,
            (S::Untouched | S::Intended | S::Failed | S::Unknown | S::Answered, E::Skipped) => S::Skipped,
            _ => return None,
        })
    }
}

impl Workflow {
    /// How a step stands.
    #[must_use]
    pub fn stands(&self, step: &str) -> Standing {
        self.steps.get(step).map_or(Standing::Untouched, |s| s.stands)
    }

    /// Whether an effect of this step may ever have been sent.
    #[must_use]
    pub fn was_intended(&self, step: &str) -> bool {
        self.steps.get(step).is_some_and(|s| s.tries > 0)
    }

    /// Whether any step was begun that may have done something to the cell, its routers or its databases.
    #[must_use]
    pub fn touched_the_cell(&self) -> bool {
        let begun = |(name, state): (&String, &StepState)| {
            name != "claim" && name != definitions::APPROVE && state.stands != Standing::Untouched
        };
        self.steps.iter().any(begun)
    }

    /// Whether the intent to promote stands, or that to open a closed cell: from here on there is no way back.
    #[must_use]
    pub fn past_return(&self) -> bool {
        self.was_intended("promote") || (self.definition == MoveKind::Open && self.was_intended("open"))
    }

    /// All steps of its definition, but `approve` where nobody is asked.
    pub fn steps(&self) -> impl Iterator<Item = &'static str> + Clone {
        definitions::steps_for(self.definition, self.approval.is_some())
    }

    /// Whether it waits for people to approve it.
    #[must_use]
    pub fn waits_for_approval(&self) -> bool {
        self.approval.is_some() && self.step == "approve" && self.status == MoveStatus::Running
    }

    /// Moves the cursor to the step after the present one; stays at the last.
    pub fn advance(&mut self) {
        let next = self.steps().skip_while(|s| *s != self.step).nth(1);
        if let Some(next) = next {
            next.clone_into(&mut self.step);
        }
    }

    /// Takes an event into the record and makes its log entry.
    ///
    /// # Errors
    /// When the event may not come now.
    pub fn take(
        &mut self,
        step: &str,
        event: LogEvent,
        note: &str,
        leader: &str,
        at: Timestamp,
    ) -> Result<LogRecord, IllegalEntry> {
        let state = self.steps.entry(step.to_owned()).or_default();
        let stands = state.stands;
        state.stands =
            stands.after(event).ok_or_else(|| IllegalEntry { step: step.to_owned(), stands, event })?;
        if event == LogEvent::Intent {
            state.tries += 1;
        }
        self.log += 1;
        let note = note.chars().take(1_000).collect();
        Ok(LogRecord(LogEntry {
            n: self.log,
            at,
            leader: leader.to_owned(),
            step: step.to_owned(),
            event,
            note,
        }))
    }

    /// As people see it.
    #[must_use]
    pub fn view(&self, log: Vec<LogEntry>) -> MoveView {
        MoveView {
            id: self.id,
            kind: self.definition,
            cell: self.cell.clone(),
            from: Some(self.from.clone()),
            to: self.to.clone(),
            status: self.status.clone(),
            paused: self.paused.clone(),
            approval: self.approval.clone(),
            building: None,
            step: self.step.clone(),
            steps: self.steps().map(str::to_owned).collect(),
            by: self.by.clone(),
            created: self.created,
            updated: self.updated,
            facts: self.facts.clone(),
            log,
        }
    }
}

impl Record for Workflow {
    const NAME: &'static str = "workflow";
}

/// The key `workflows/<id>/log/<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogRecord(pub LogEntry);

impl Record for LogRecord {
    const NAME: &'static str = "workflow log entry";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 1 was written. A later version must still read it.
    #[test]
    fn a_record_of_version_1_reads() {
        let old = r#"{"v":1,"data":{"id":"00000000-0000-0000-0000-000000000007","definition":"failover","version":1,
            "request":{"cell":"c","to":"us-west-2","force":true,"accept_loss":9},"cell":"c","from":"us-east-1",
            "to":"us-west-2","by":"ann","created":"2026-11-22T20:00:00Z","updated":"2026-11-22T20:00:01Z",
            "status":{"is":"stuck","step":"fence","why":"w"},"back":false,"step":"fence","attempt":41,"log":3,
            "steps":{"fence":{"stands":"stuck","token":null,"tries":1}},"outputs":{"gates":["gate-a"]},"facts":{}}}"#;
        let flow: Workflow = domicile_store::codec::decode(old.as_bytes()).unwrap();
        assert_eq!((flow.attempt, flow.stands("fence"), flow.past_return()), (41, Standing::Stuck, false));
        let entry = r#"{"v":1,"data":{"n":1,"at":"2026-11-22T20:00:00Z","leader":"cp-1","step":"claim","event":"done"}}"#;
        let entry: LogRecord = domicile_store::codec::decode(entry.as_bytes()).unwrap();
        assert_eq!(entry.0.event, LogEvent::Done);
    }

    #[test]
    fn the_log_keeps_its_order() {
        use LogEvent as E;
        let walk = |events: &[E]| events.iter().try_fold(Standing::Untouched, |s, e| s.after(*e));
        assert_eq!(walk(&[E::Intent, E::Unknown, E::Intent, E::Done]), Some(Standing::Done));
        assert_eq!(walk(&[E::Intent, E::Failed, E::Stuck, E::Verb, E::Intent]), Some(Standing::Intended));
        assert_eq!(
            walk(&[E::Intent, E::UndoIntent, E::Unknown, E::UndoIntent, E::Undone]),
            Some(Standing::Undone)
        );
        for illegal in [
            &[E::Failed, E::Failed][..],
            &[E::Intent, E::Intent],
            &[E::Done, E::Done],
            &[E::Intent, E::Undone, E::Intent],
            &[E::Intent, E::Stuck, E::Intent],
            &[E::Done, E::Skipped],
            &[E::UndoIntent],
        ] {
            assert_eq!(walk(illegal), None, "{illegal:?}");
        }
    }
}
