//! What leaves the registry. Pure.
//!
//! Finished workflows with their logs, audit entries, and old versions of things; each only when it is older than an age
//! and not among the newest of its kind. Nothing that somebody may still have to answer: a stuck move stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domicile_engine::record::Workflow;
use domicile_model::{CellId, MoveId};
use domicile_store::codec::decode;
use domicile_store::{Entry, Key};
use jiff::Timestamp;

/// What stays in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Finished moves of each cell, versions of each thing, and audit entries in all: so many of the newest.
    pub newest: usize,
    /// Everything younger than this.
    pub age: Duration,
}

/// What leaves, in the order in which it does: of a workflow its record last, so that what is left of one is still one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) entries: Vec<Entry>,
    /// Whatever was last changed at this revision or before is older than the age.
    pub(crate) through: i64,
}

/// Chooses. `through`: as it was chosen before.
pub(crate) fn choose(
    (workflows, audit, history): (&[Entry], &[Entry], &[Entry]),
    through: i64,
    now: Timestamp,
    keep: Keep,
) -> Chosen {
    let before = now.checked_sub(keep.age).unwrap_or(Timestamp::MIN);
    let (moves, oldest) = of_moves(workflows, before, keep.newest);
    let (audit, older) = of_audit(audit, before, keep.newest);
    // Versions of things do not say when they were written; but revisions are in the order of time.
    let through = through.max(oldest).max(older);
    let mut entries = moves;
    entries.extend(audit);
    entries.extend(of_history(history, through, keep.newest));
    Chosen { entries, through }
}

fn of_moves(entries: &[Entry], before: Timestamp, newest: usize) -> (Vec<Entry>, i64) {
    let mut of_cell: BTreeMap<CellId, Vec<(Timestamp, MoveId, &Entry, bool)>> = BTreeMap::new();
    let mut through = 0;
    for entry in entries {
        // One that a newer program wrote is left to that program.
        let (Key::Workflow(id), Ok(flow)) = (&entry.key, decode::<Workflow>(&entry.value)) else { continue };
        if flow.status.is_final() {
            let old = flow.updated < before;
            if old {
                through = through.max(entry.modified.0);
            }
            of_cell.entry(flow.cell).or_default().push((flow.created, *id, entry, old));
        }
    }
    let mut leaving: Vec<(Timestamp, MoveId, &Entry)> = Vec::new();
    for (_, mut moves) in of_cell {
        moves.sort_by_key(|(created, id, ..)| std::cmp::Reverse((*created, *id)));
        let rest = moves.into_iter().skip(newest).filter(|(.., old)| *old);
        leaving.extend(rest.map(|(created, id, entry, _)| (created, id, entry)));
    }
    leaving.sort_by_key(|(created, id, _)| (*created, *id));
    let mut logs: BTreeMap<MoveId, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        if let Key::WorkflowLog(id, _) = &entry.key {
            logs.entry(*id).or_default().push(entry);
        }
    }
    let mut chosen = Vec::new();
    for (_, id, record) in leaving {
        chosen.extend(logs.remove(&id).unwrap_or_default().into_iter().cloned());
        chosen.push(record.clone());
    }
    (chosen, through)
}

/// Ids of audit entries tell when they were written, and sort by it.
fn of_audit(entries: &[Entry], before: Timestamp, newest: usize) -> (Vec<Entry>, i64) {
    let old = |entry: &Entry| {
        let Key::Audit(id) = &entry.key else { return false };
        let (seconds, nanos) = match id.get_timestamp() {
            Some(at) => at.to_unix(),
            None => return false,
        };
        let (Ok(seconds), Ok(nanos)) = (i64::try_from(seconds), i32::try_from(nanos)) else { return false };
        Timestamp::new(seconds, nanos).is_ok_and(|at| at < before)
    };
    let through = entries.iter().filter(|e| old(e)).map(|e| e.modified.0).max().unwrap_or(0);
    let most = entries.len().saturating_sub(newest);
    (entries.iter().take(most).filter(|e| old(e)).cloned().collect(), through)
}

fn of_history(entries: &[Entry], through: i64, newest: usize) -> Vec<Entry> {
    let mut of_thing: BTreeMap<(&str, &str), BTreeSet<u64>> = BTreeMap::new();
    for entry in entries {
        if let Key::History(kind, id, version) = &entry.key {
            of_thing.entry((kind, id)).or_default().insert(*version);
        }
    }
    // The newest version that leaves, of each thing.
    let last: BTreeMap<(&str, &str), Option<u64>> = of_thing
        .into_iter()
        .map(|(thing, versions)| (thing, versions.iter().rev().nth(newest).copied()))
        .collect();
    let leaves = |entry: &&Entry| {
        let Key::History(kind, id, version) = &entry.key else { return false };
        let last = last.get(&(*kind, id.as_str())).copied().flatten();
        entry.modified.0 <= through && last.is_some_and(|last| *version <= last)
    };
    entries.iter().filter(leaves).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_model::Revision;
    use proptest::prelude::*;
    use serde_json::json;

    fn entry(key: Key, modified: i64, value: &serde_json::Value) -> Entry {
        let at = Revision(modified);
        Entry { key, value: value.to_string().into_bytes(), created: at, modified: at }
    }

    /// A move of a cell that ended so many days after the epoch, with two log entries.
    fn moved(cell: &str, n: u128, day: i64, status: &serde_json::Value) -> Vec<Entry> {
        let id = MoveId::from_u128(n);
        let at = Timestamp::new(day * 86_400, 0).unwrap();
        let flow = json!({ "v": 1, "data": {
            "id": id, "definition": "switchover", "version": 1, "request": { "cell": cell, "to": "us-west-2" },
            "cell": cell, "from": "us-east-1", "to": "us-west-2", "by": "ann", "created": at, "updated": at,
            "status": status, "back": false, "step": "protect", "attempt": 1, "log": 2, "steps": {}, "outputs": {},
            "facts": {},
        } });
        vec![
            entry(Key::Workflow(id), day, &flow),
            entry(Key::WorkflowLog(id, 1), day, &json!({})),
            entry(Key::WorkflowLog(id, 2), day, &json!({})),
        ]
    }

    fn audit(day: u64) -> Entry {
        let at = uuid::Timestamp::from_unix(uuid::NoContext, day * 86_400, 0);
        entry(Key::Audit(uuid::Uuid::new_v7(at)), i64::try_from(day).unwrap(), &json!({}))
    }

    fn version(id: &str, n: u64) -> Entry {
        entry(Key::History("tenant", id.into(), n), i64::try_from(n).unwrap(), &json!({}))
    }

    const KEEP: Keep = Keep { newest: 2, age: Duration::from_secs(7 * 86_400) };

    fn today(day: i64) -> Timestamp {
        Timestamp::new(day * 86_400, 0).unwrap()
    }

    fn keys(chosen: &Chosen) -> Vec<String> {
        chosen.entries.iter().map(|e| e.key.to_string()).collect()
    }

    #[test]
    fn finished_moves_leave_with_their_logs_but_the_newest_of_each_cell_and_the_young() {
        let done = json!({ "is": "done" });
        let all: Vec<Entry> = (1..=5)
            .flat_map(|n| moved("a", u128::try_from(n).unwrap(), n, &done))
            .chain(moved("b", 9, 1, &done))
            .collect();
        let chosen = choose((&all, &[], &[]), 0, today(10), KEEP);
        // Of a: 4 and 5 are the newest, and 3 is not older than a week; b has no more than it may keep.
        let expected: Vec<String> = [1, 2]
            .iter()
            .flat_map(|n| {
                let id = MoveId::from_u128(*n);
                [Key::WorkflowLog(id, 1), Key::WorkflowLog(id, 2), Key::Workflow(id)].map(|k| k.to_string())
            })
            .collect();
        assert_eq!(keys(&chosen), expected);
        assert_eq!(chosen.through, 2);
    }

    #[test]
    fn whatever_may_still_need_an_answer_stays() {
        for status in [
            json!({ "is": "running" }),
            json!({ "is": "rolling-back" }),
            json!({ "is": "stuck", "step": "fence", "why": "w" }),
        ] {
            let all = moved("a", 1, 1, &status);
            let keep = Keep { newest: 0, ..KEEP };
            assert_eq!(
                keys(&choose((&all, &[], &[]), 0, today(900), keep)),
                Vec::<String>::new(),
                "{status}"
            );
        }
        let back = moved("a", 1, 1, &json!({ "is": "rolled-back", "why": "w" }));
        assert_eq!(choose((&back, &[], &[]), 0, today(900), Keep { newest: 0, ..KEEP }).entries.len(), 3);
    }

    #[test]
    fn versions_leave_when_something_that_tells_its_time_is_as_old() {
        let log: Vec<Entry> = (1..=6).map(audit).collect();
        let history: Vec<Entry> = (1..=5).map(|n| version("t", n)).chain([version("u", 1)]).collect();
        let chosen = choose((&[], &log, &history), 0, today(9), KEEP);
        // Days 1 and 2 - no: only those before day 2 are older than a week.
        assert_eq!(chosen.through, 1);
        assert_eq!(keys(&chosen), [log[0].key.to_string(), version("t", 1).key.to_string()]);
        // What was known to be old stays known, also when nothing is left that tells it.
        assert_eq!(keys(&choose((&[], &[], &history), 9, today(9), KEEP)).len(), 3);
    }

    proptest! {
        #[test]
        fn the_newest_never_leave_and_nothing_leaves_twice(
            days in prop::collection::vec(1u64..40, 0..30), newest in 0usize..6, today_is in 1i64..60
        ) {
            let mut log: Vec<Entry> = days.iter().copied().map(audit).collect();
            log.sort_by_key(|e| e.key.to_string());
            let history: Vec<Entry> = (0..days.len() as u64).map(|n| version("t", n)).collect();
            let keep = Keep { newest, ..KEEP };
            let chosen = choose((&[], &log, &history), 0, today(today_is), keep);
            let unique: BTreeSet<String> = keys(&chosen).into_iter().collect();
            prop_assert_eq!(unique.len(), chosen.entries.len());
            for kept in [&log, &history] {
                let kept_now = kept.iter().rev().take(newest).filter(|e| chosen.entries.contains(e)).count();
                prop_assert_eq!(kept_now, 0);
            }
        }
    }
}
