//! What the twin remembers, and how it changes. No locks, no waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domicile_model::Revision;
use domicile_model::clock::BootTime;

use super::PREFIX;
use crate::key::Key;
use crate::room::{Alarm, AlarmKind, Room, USUAL_QUOTA};
use crate::store::{Change, Entry, Header, LeaseId, StoreError};
use crate::txn::{Commit, Op, Precondition, Txn};

#[derive(Debug, Clone)]
struct Value {
    bytes: Vec<u8>,
    created: Revision,
    modified: Revision,
    lease: Option<LeaseId>,
}

#[derive(Debug, Clone)]
struct Lease {
    ttl: Duration,
    ends: BootTime,
    keys: BTreeSet<String>,
}

/// A change as the server keeps it: the whole key, and its new value or none.
#[derive(Debug, Clone)]
struct Event {
    key: String,
    value: Option<Value>,
}

/// Everything in a store.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) cluster: u64,
    pub(super) revision: Revision,
    /// The history up to and including this revision is gone.
    compacted: Revision,
    values: BTreeMap<String, Value>,
    history: BTreeMap<Revision, Vec<Event>>,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
    /// Most bytes that values and history may have.
    pub(super) quota: Option<u64>,
    /// The alarm that a full server raises, until it is disarmed.
    pub(super) full: bool,
    /// Bytes of values and history together.
    bytes: u64,
}

/// What an entry takes beside its key and value, as the server counts it.
const OVERHEAD: u64 = 256;

impl State {
    pub(super) fn new() -> Self {
        Self {
            cluster: 1,
            // An empty etcd answers with revision 1.
            revision: Revision(1),
            compacted: Revision::ZERO,
            values: BTreeMap::new(),
            history: BTreeMap::new(),
            leases: BTreeMap::new(),
            next_lease: 1,
            quota: Some(USUAL_QUOTA),
            full: false,
            bytes: 0,
        }
    }

    pub(super) fn header(&self) -> Header {
        Header { cluster: self.cluster, revision: self.revision }
    }

    pub(super) fn entry(&self, key: &Key) -> Option<Entry> {
        self.values.get(&whole(key)).map(|value| value.entry(key.clone()))
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<Entry> {
        let prefix = format!("{PREFIX}{prefix}");
        self.values
            .range(prefix.clone()..)
            .take_while(|(text, _)| text.starts_with(&prefix))
            .filter_map(|(text, value)| Some(value.entry(ours(text)?)))
            .collect()
    }

    pub(super) fn commit(&mut self, txn: &Txn) -> Result<Commit, StoreError> {
        if !txn.when.iter().all(|precondition| self.holds(precondition)) {
            let current = txn.when.iter().map(|precondition| self.entry(precondition.key())).collect();
            return Ok(Commit::Refused { revision: self.revision, current });
        }
        let lost = |op: &Op| matches!(op, Op::Put(_, _, Some(lease)) if !self.leases.contains_key(&lease.0));
        if txn.then.iter().any(lost) {
            return Err(StoreError::LeaseLost);
        }
        self.admit(txn.then.iter().map(cost).sum())?;
        let mut events = Vec::new();
        let at = self.revision.next();
        for op in &txn.then {
            match op {
                Op::Put(key, bytes, lease) => events.push(self.put(whole(key), bytes, *lease, at)),
                Op::Delete(key) => events.extend(self.remove(&whole(key))),
            }
        }
        self.record(events);
        Ok(Commit::Done(self.revision))
    }

    pub(super) fn put_raw(&mut self, key: &str, bytes: &[u8]) -> Revision {
        let event = self.put(key.to_owned(), bytes, None, self.revision.next());
        self.record(vec![event]);
        self.revision
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision <= self.compacted {
            return Err(StoreError::Compacted(self.compacted));
        }
        if revision > self.revision {
            return Err(StoreError::Refused(format!("revision {revision} is still to come")));
        }
        self.compacted = revision;
        let kept = self.history.split_off(&revision.next());
        let gone = std::mem::replace(&mut self.history, kept);
        // What a key holds now was counted when it was put, and stays.
        let superseded = |at: Revision, event: &Event| {
            event.value.is_none() || self.values.get(&event.key).is_none_or(|now| now.modified != at)
        };
        let freed: u64 = gone
            .iter()
            .flat_map(|(at, events)| events.iter().filter(|e| superseded(*at, e)).map(Event::bytes))
            .sum();
        self.bytes = self.bytes.saturating_sub(freed);
        Ok(())
    }

    /// Refuses what the quota has no room for, as the server does: nothing is put after that until it is disarmed.
    fn admit(&mut self, cost: u64) -> Result<(), StoreError> {
        let exceeded = self.quota.is_some_and(|quota| self.bytes.saturating_add(cost) >= quota);
        if cost > 0 && (self.full || exceeded) {
            self.full = true;
            return Err(StoreError::Full { place: super::PLACE.to_owned() });
        }
        Ok(())
    }

    pub(super) fn room(&self) -> Room {
        let alarm = Alarm { kind: AlarmKind::NoSpace, member: 1 };
        Room {
            size: self.bytes,
            in_use: self.bytes,
            quota: self.quota,
            alarms: self.full.then_some(alarm).into_iter().collect(),
            silent: Vec::new(),
        }
    }

    /// Whether the history from this revision on is still there.
    pub(super) fn check_history(&self, from: Revision) -> Result<(), StoreError> {
        if from <= self.compacted { Err(StoreError::Compacted(self.compacted)) } else { Ok(()) }
    }

    /// What changed from this revision on, at most so many revisions of it, and the last revision that it covers.
    pub(super) fn changes(&self, from: Revision, most: usize) -> Option<(Revision, Vec<Change>)> {
        let mut last = None;
        let mut changes = Vec::new();
        for (revision, events) in self.history.range(from..).take(most) {
            last = Some(*revision);
            changes.extend(events.iter().filter_map(|event| {
                let key = ours(&event.key)?;
                Some(match &event.value {
                    Some(value) => Change::Put(value.entry(key)),
                    None => Change::Delete(key, *revision),
                })
            }));
        }
        last.map(|last| (last, changes))
    }

    pub(super) fn grant(&mut self, ttl: Duration, now: BootTime) -> Result<LeaseId, StoreError> {
        if self.full {
            return Err(StoreError::Full { place: super::PLACE.to_owned() });
        }
        let id = self.next_lease;
        self.next_lease += 1;
        self.leases.insert(id, Lease { ttl, ends: now + ttl, keys: BTreeSet::new() });
        Ok(LeaseId(id))
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId, now: BootTime) -> Result<(), StoreError> {
        let found = self.leases.get_mut(&lease.0).ok_or(StoreError::LeaseLost)?;
        found.ends = now + found.ttl;
        Ok(())
    }

    pub(super) fn end_lease(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let ended = self.leases.remove(&lease.0).ok_or(StoreError::LeaseLost)?;
        let events = ended.keys.iter().filter_map(|key| self.remove(key)).collect();
        self.record(events);
        Ok(())
    }

    /// Ends the leases whose time is over; whether there were any.
    pub(super) fn expire(&mut self, now: BootTime) -> bool {
        let over: Vec<i64> = self.leases.iter().filter(|(_, l)| l.ends <= now).map(|(id, _)| *id).collect();
        for id in &over {
            // It was found a moment ago.
            let _ = self.end_lease(LeaseId(*id));
        }
        !over.is_empty()
    }

    /// When the next lease ends.
    pub(super) fn next_end(&self) -> Option<BootTime> {
        self.leases.values().map(|lease| lease.ends).min()
    }

    fn holds(&self, precondition: &Precondition) -> bool {
        let value = self.values.get(&whole(precondition.key()));
        match precondition {
            Precondition::Absent(_) => value.is_none(),
            Precondition::ModifiedAt(_, at) => value.is_some_and(|v| v.modified == *at),
            Precondition::CreatedAt(_, at) => value.is_some_and(|v| v.created == *at),
            Precondition::Holds(_, bytes) => value.is_some_and(|v| v.bytes == *bytes),
        }
    }

    fn put(&mut self, key: String, bytes: &[u8], lease: Option<LeaseId>, at: Revision) -> Event {
        let old = self.values.get(&key);
        let created = old.map_or(at, |old| old.created);
        let before = old.and_then(|old| old.lease);
        if let Some(before) = before.and_then(|id| self.leases.get_mut(&id.0)) {
            before.keys.remove(&key);
        }
        if let Some(now) = lease.and_then(|id| self.leases.get_mut(&id.0)) {
            now.keys.insert(key.clone());
        }
        let value = Value { bytes: bytes.to_vec(), created, modified: at, lease };
        self.values.insert(key.clone(), value.clone());
        Event { key, value: Some(value) }
    }

    fn remove(&mut self, key: &str) -> Option<Event> {
        let old = self.values.remove(key)?;
        if let Some(lease) = old.lease.and_then(|id| self.leases.get_mut(&id.0)) {
            lease.keys.remove(key);
        }
        Some(Event { key: key.to_owned(), value: None })
    }

    /// Closes a revision. One without events is none.
    fn record(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            self.bytes += events.iter().map(Event::bytes).sum::<u64>();
            self.revision = self.revision.next();
            self.history.insert(self.revision, events);
        }
    }
}

impl Value {
    fn entry(&self, key: Key) -> Entry {
        Entry { key, value: self.bytes.clone(), created: self.created, modified: self.modified }
    }
}

impl Event {
    fn bytes(&self) -> u64 {
        let value = self.value.as_ref().map_or(0, |value| value.bytes.len());
        OVERHEAD + length(self.key.len()) + length(value)
    }
}

/// What the server counts against its quota before it carries a write out: removals are free.
fn cost(op: &Op) -> u64 {
    match op {
        Op::Put(key, value, _) => OVERHEAD + length(whole(key).len()) + length(value.len()),
        Op::Delete(_) => 0,
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn whole(key: &Key) -> String {
    format!("{PREFIX}{key}")
}

fn ours(text: &str) -> Option<Key> {
    text.strip_prefix(PREFIX)?.parse().ok()
}
