//! Approvals: what people approve, and what they may say to a move that waits for them.

use domicile_api::moves::{
    Approval, Approved, Check, LogEvent, MoveKind, MovePlan, MoveRequest, MoveStatus, Seen,
};
use domicile_api::views::WaitingView;
use domicile_model::{Approvals, CellId, MoveId, Need};
use domicile_seal::{Digest, canonical_of};
use domicile_store::Key;
use domicile_store::codec::decode;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::definitions;
use crate::engine::{Engine, no_such_move, not_now};
use crate::error::{Halt, MoveError};
use crate::record::Workflow;
use crate::run::{Edge, Run};
use crate::snapshot::Snapshot;
use crate::verbs::Said;

/// How often an approval is written anew when the record changed under it: two people may approve at once.
const TRIES: u32 = 5;

/// What is hashed. Numbers that JSON's readers could see differently are texts.
#[derive(Serialize)]
struct Subject<'a> {
    v: u8,
    #[serde(rename = "move")]
    moving: MoveId,
    kind: MoveKind,
    cell: &'a CellId,
    from: Option<&'a domicile_model::RegionId>,
    to: &'a domicile_model::RegionId,
    standby: Option<&'a domicile_model::RegionId>,
    epoch: String,
    tenants: &'a [domicile_model::TenantId],
    accept_loss: Option<String>,
    accept_unknown: bool,
    reason: &'a str,
    by: &'a str,
    need: Need,
    steps: &'a [String],
    saw: &'a [Seen],
}

/// What the checks saw, in classes that stay the same while the situation does: each number becomes `#`.
pub(crate) fn saw(checks: &[Check]) -> Vec<Seen> {
    checks
        .iter()
        .map(|check| Seen {
            name: check.name.clone(),
            verdict: check.verdict,
            why: without_numbers(&check.why),
        })
        .collect()
}

fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            other => out.push(other),
        }
    }
    out
}

/// The digest of a plan and of what its checks saw, as it is approved for this very move.
///
/// # Errors
/// When it has no canonical form, which nothing that the API lets in has.
pub(crate) fn hash(
    (id, by, need): (MoveId, &str, Need),
    request: &MoveRequest,
    plan: &MovePlan,
    snapshot: &Snapshot,
    saw: &[Seen],
) -> Result<String, MoveError> {
    let subject = Subject {
        v: 1,
        moving: id,
        kind: plan.kind,
        cell: &plan.cell,
        from: plan.from.as_ref(),
        to: &plan.to,
        standby: snapshot.placement.standby.as_ref(),
        epoch: snapshot.placement.epoch.to_string(),
        tenants: &plan.tenants,
        accept_loss: request.accept_loss.map(|n| n.to_string()),
        accept_unknown: request.accept_unknown,
        reason: &request.reason,
        by,
        need,
        steps: &plan.steps,
        saw,
    };
    let bytes = canonical_of(&subject)
        .map_err(|e| MoveError::NotNow(format!("the plan can't be put in a form to approve: {e}")))?;
    Ok(Digest::of(&bytes).to_string())
}

/// How many people must approve such a change of this cell, and how long it waits for them.
pub(crate) fn needed(approvals: Option<&Approvals>, cell: &CellId, kind: MoveKind) -> (Need, u64) {
    let (Some(approvals), Some(change)) = (approvals, definitions::change(kind)) else {
        return (Need::None, Approvals::EXPIRES_MS);
    };
    (approvals.need(cell, change), approvals.expires_ms)
}

/// The time until which a change that asks now waits.
pub(crate) fn until(now: Timestamp, expires_ms: u64) -> Timestamp {
    let length = SignedDuration::from_millis(i64::try_from(expires_ms).unwrap_or(i64::MAX));
    now.checked_add(length).unwrap_or(Timestamp::MAX)
}

/// What a person is asked for, in a sentence.
pub(crate) fn asks(approval: &Approval, by: &str) -> String {
    let people = match approval.need {
        Need::Two => "two different people other than",
        Need::One | Need::None => "one person other than",
    };
    format!(
        "waits until {:.0} for {people} {by}: `domicile failover approve`, hash {}",
        approval.until, approval.hash
    )
}

/// What differs between two looks, in a sentence.
pub(crate) fn differs(before: &[Seen], now: &[Seen]) -> String {
    let mut all = Vec::new();
    for seen in now {
        match before.iter().find(|old| old.name == seen.name) {
            Some(old) if old == seen => {}
            Some(old) => all.push(format!(
                "{}: was {:?} ({}), is {:?} ({})",
                seen.name, old.verdict, old.why, seen.verdict, seen.why
            )),
            None => all.push(format!("{}: is {:?} ({})", seen.name, seen.verdict, seen.why)),
        }
    }
    for old in before.iter().filter(|old| now.iter().all(|seen| seen.name != old.name)) {
        all.push(format!("{}: is not looked at any more", old.name));
    }
    if all.is_empty() { "the cell, its tenants or its placement".to_owned() } else { all.join("; ") }
}

/// Most records that one read asks for.
const MOST_READ: usize = 100;

impl Engine {
    /// Which of these moves wait for people.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn waiting(&self, ids: &[MoveId]) -> Result<Vec<WaitingView>, MoveError> {
        let mut found = Vec::new();
        for some in ids.chunks(MOST_READ) {
            let keys: Vec<Key> = some.iter().copied().map(Key::Workflow).collect();
            let (_, entries) = self.shared.store.read(&keys).await?;
            for entry in entries.into_iter().flatten() {
                let flow: Workflow = decode(&entry.value)?;
                if let Some(approval) = flow.approval.clone().filter(|_| flow.waits_for_approval()) {
                    let (moving, kind) = (flow.id, flow.definition);
                    found.push(WaitingView { moving, kind, cell: flow.cell, by: flow.by, approval });
                }
            }
        }
        Ok(found)
    }

    /// A person approves what a move is about to do, as the hash names it. The last one that is needed lets it go on,
    /// after another look. A repeat by the same person changes nothing.
    ///
    /// # Errors
    /// When the move does not wait for approval, waits for that of something else, this person asked for it, its time
    /// is up, or this control plane does not lead.
    pub async fn approve(&self, id: MoveId, hash: &str, note: &str, said: Said<'_>) -> Result<(), MoveError> {
        for _ in 0..TRIES {
            let mut run = self.asking(id, &said).await?;
            let flow = &run.flow;
            let Some(approval) = flow.approval.clone() else { return Err(not_asked(id)) };
            let now = (self.shared.options.wall)();
            if flow.by == said.by {
                return Err(MoveError::NotYours(format!(
                    "{} asked for move {id} and can't approve it: somebody else must",
                    said.by
                )));
            }
            if now >= approval.until {
                return Err(MoveError::NotNow(format!(
                    "move {id} waited for approval until {:.0}, that is over: it ends by itself",
                    approval.until
                )));
            }
            if hash != approval.hash {
                return Err(MoveError::NotNow(format!(
                    "what move {id} waits for is not what {hash:.80} stands for, but {}: look at it again with `domicile failover show {id}`",
                    approval.hash
                )));
            }
            if approval.given.iter().any(|given| given.by == said.by) {
                return Ok(());
            }
            let need = approval.need.people();
            let line = format!(
                "approved by {} ({} of {need}), hash {}{}{note}",
                said.by,
                approval.given.len() + 1,
                approval.hash,
                if note.is_empty() { "" } else { ": " },
            );
            let given =
                Approved { by: said.by.to_owned(), at: now, hash: approval.hash, note: note.to_owned() };
            let edge = Edge::of(definitions::APPROVE, LogEvent::Verb, &line).with(said.also.clone());
            let written = run
                .edge(edge, |flow, _| {
                    if let Some(approval) = &mut flow.approval {
                        approval.given.push(given);
                    }
                })
                .await;
            match written {
                Ok(_) => {
                    self.wake.notify_one();
                    return Ok(());
                }
                // Somebody else's word came first: look again.
                Err(Halt::Conflict) => {}
                Err(other) => return Err(not_now(other)),
            }
        }
        Err(not_now(Halt::Conflict))
    }

    /// A person refuses what a move is about to do: it ends, and nothing was changed.
    ///
    /// # Errors
    /// When the move does not wait for approval, or this control plane does not lead.
    pub async fn reject(&self, id: MoveId, reason: &str, said: Said<'_>) -> Result<(), MoveError> {
        for _ in 0..TRIES {
            let mut run = self.asking(id, &said).await?;
            let line = format!("rejected by {}: {reason}", said.by);
            let edge = Edge::of(definitions::APPROVE, LogEvent::Verb, &line).with(said.also.clone());
            let because = line.clone();
            let written = run
                .edge(edge, |flow, _| {
                    flow.back = true;
                    flow.back_because = because;
                    flow.paused = None;
                    flow.status = MoveStatus::RollingBack;
                })
                .await;
            match written {
                Ok(_) => {
                    self.wake.notify_one();
                    return Ok(());
                }
                Err(Halt::Conflict) => {}
                Err(other) => return Err(not_now(other)),
            }
        }
        Err(not_now(Halt::Conflict))
    }

    async fn asking(&self, id: MoveId, said: &Said<'_>) -> Result<Run, MoveError> {
        let run = Run::load(self.shared.clone(), said.leadership.clone(), said.world.clone(), id).await;
        let run = run.map_err(not_now)?.ok_or_else(|| no_such_move(id))?;
        if run.flow.waits_for_approval() { Ok(run) } else { Err(not_waiting(&run.flow)) }
    }
}

fn not_asked(id: MoveId) -> MoveError {
    MoveError::NotNow(format!("move {id} waits for nobody's approval: none is asked for"))
}

fn not_waiting(flow: &Workflow) -> MoveError {
    match &flow.approval {
        None => not_asked(flow.id),
        Some(_) => MoveError::NotNow(format!(
            "move {} waits for nobody's approval now: it has gone on, turned back or ended",
            flow.id
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_api::moves::Verdict;

    fn check(why: &str) -> Check {
        Check { name: "lag".into(), verdict: Verdict::Passed, why: why.into() }
    }

    #[test]
    fn what_jitters_is_no_other_situation_and_a_verdict_is() {
        let one = saw(&[check("0 bytes, data 104 ms old")]);
        assert_eq!(one, saw(&[check("31240 bytes, data 7 ms old")]));
        let failed = saw(&[Check { verdict: Verdict::Failed, ..check("0 bytes, data 104 ms old") }]);
        assert_ne!(one, failed);
        assert!(differs(&one, &failed).contains("lag: was Passed"), "{}", differs(&one, &failed));
        assert_ne!(one, saw(&[check("the standby has no heartbeat row")]));
    }

    #[test]
    fn a_time_that_no_calendar_holds_is_the_end_of_time() {
        assert_eq!(until(Timestamp::UNIX_EPOCH, u64::MAX), Timestamp::MAX);
        assert_eq!(until(Timestamp::UNIX_EPOCH, 1_500).as_millisecond(), 1_500);
    }
}
