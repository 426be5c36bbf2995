//! From messages of the logical slot to lost rows, each with the part that it belongs to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use domicile_api::agent::{Fork, LostChange, LostTransaction};
use domicile_losses::{Columns, DigestKey, Operation, Row, UNASSIGNED};
use domicile_model::TenantId;

use crate::pg::pgoutput::{Message, Relation, Tuple, Value};

/// Microseconds from 1970 to 2000, where PostgreSQL counts from.
const EPOCH_2000: i64 = 946_684_800_000_000;

/// Whose row it is: a tenant of the cell, or nobody's that is known.
pub(super) type Part = Option<TenantId>;

/// The name of a part, in its file's name and header.
pub(super) fn part_name(part: &Part) -> &str {
    part.as_ref().map_or(UNASSIGNED, TenantId::as_str)
}

/// What a message brought.
pub(super) enum Found {
    /// A lost row.
    Row(Part, Box<Row>),
    /// A lost transaction has ended.
    Lost,
    /// A transaction past the fork that wrote only the product's own tables has ended.
    Own,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    xid: u32,
    commit: domicile_model::token::Lsn,
    at: jiff::Timestamp,
    rows: bool,
    own: bool,
}

/// Sorts out what lies past the fork. Holds tables, never rows.
pub(super) struct Collector<'a> {
    fork: Fork,
    column: &'a str,
    tenants: &'a BTreeSet<TenantId>,
    relations: BTreeMap<u32, Relation>,
    open: Option<Open>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(fork: Fork, column: &'a str, tenants: &'a BTreeSet<TenantId>) -> Self {
        Self { fork, column, tenants, relations: BTreeMap::new(), open: None }
    }

    /// Takes the next message.
    pub(super) fn take(&mut self, message: Message) -> Vec<Found> {
        let one = |found: Option<Found>| found.into_iter().collect();
        match message {
            Message::Begin { commit, at, xid } => {
                let at = jiff::Timestamp::from_microsecond(at.saturating_add(EPOCH_2000)).unwrap_or_default();
                // The record's start is compared: one that begins at the fork is not part of the new timeline.
                self.open =
                    (commit >= self.fork.at).then_some(Open { xid, commit, at, rows: false, own: false });
                Vec::new()
            }
            Message::Relation(relation) => {
                self.relations.insert(relation.id, relation);
                Vec::new()
            }
            Message::Insert { relation, new } => {
                one(self.change(Operation::Insert, relation, None, Some(&new)))
            }
            Message::Update { relation, old, new } => {
                one(self.change(Operation::Update, relation, old.as_ref(), Some(&new)))
            }
            Message::Delete { relation, old } => {
                one(self.change(Operation::Delete, relation, Some(&old), None))
            }
            Message::Truncate { relations } => relations
                .into_iter()
                .filter_map(|relation| self.change(Operation::Truncate, relation, None, None))
                .collect(),
            Message::Other => Vec::new(),
            Message::Commit { .. } => one(match self.open.take() {
                Some(Open { rows: true, .. }) => Some(Found::Lost),
                Some(Open { own: true, .. }) => Some(Found::Own),
                _ => None,
            }),
        }
    }

    fn change(
        &mut self,
        operation: Operation,
        relation: u32,
        old: Option<&Tuple>,
        new: Option<&Tuple>,
    ) -> Option<Found> {
        let open = self.open?;
        let relation_of = self.relations.get(&relation);
        let ours = relation_of.is_some_and(|t| t.schema == "domicile");
        self.open = Some(if ours { Open { own: true, ..open } } else { Open { rows: true, ..open } });
        if ours {
            return None;
        }
        let table = relation_of
            .map_or_else(|| format!("(relation {relation})"), |t| format!("{}.{}", t.schema, t.name));
        let empty = Vec::new();
        let columns = relation_of.map_or(&empty, |t| &t.columns);
        let keyed = relation_of.is_some_and(|t| t.identity != b'f' && t.identity != b'n');
        let row = new.or(old);
        let key: Option<BTreeMap<String, String>> = columns
            .iter()
            .enumerate()
            .filter(|(_, (_, key))| *key)
            .map(|(i, (name, _))| Some((name.clone(), text(row?, i)?.to_owned())))
            .collect();
        let values = |tuple: &Tuple| -> Columns {
            let named = columns.iter().zip(tuple);
            named
                .filter_map(|((name, _), value)| match value {
                    Value::Null => Some((name.clone(), None)),
                    Value::Unchanged => None,
                    Value::Text(text) => Some((name.clone(), Some(text.clone()))),
                })
                .collect()
        };
        let at = columns.iter().position(|(name, _)| name == self.column);
        let part = at.and_then(|at| self.tenant([old, new], at));
        let row = Row {
            xid: open.xid,
            commit: open.commit,
            at: open.at,
            table,
            operation,
            key: key.filter(|k| keyed && !k.is_empty()),
            old: old.map(values),
            new: new.map(values),
        };
        Some(Found::Row(part, Box::new(row)))
    }

    /// The one known tenant that both versions of the row name. A row that went from one tenant to another is neither's
    /// to read.
    fn tenant(&self, versions: [Option<&Tuple>; 2], at: usize) -> Part {
        let mut named = versions.into_iter().flatten().filter_map(|tuple| text(tuple, at));
        let first = named.next()?;
        if named.any(|other| other != first) {
            return None;
        }
        self.tenants.get(first).cloned()
    }
}

fn text(tuple: &Tuple, at: usize) -> Option<&str> {
    match tuple.get(at) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

/// Most transactions that a report lists one by one.
const MOST_TRANSACTIONS: usize = 20_000;
/// Most changes that it lists, of all transactions together.
const MOST_CHANGES: usize = 50_000;

/// The list of a move, without rows and of bounded size.
#[derive(Default)]
pub(super) struct List {
    pub(super) transactions: Vec<LostTransaction>,
    pub(super) more: u64,
    pub(super) own: u64,
    pub(super) counts: BTreeMap<String, BTreeMap<String, u64>>,
    changes: usize,
    open: Option<LostTransaction>,
}

impl List {
    /// Takes what a message brought; `digests` gives the key of a part.
    pub(super) fn take(&mut self, found: &Found, digests: impl FnOnce(&Part) -> DigestKey) {
        match found {
            Found::Row(part, row) => self.change(part, row, &digests(part)),
            Found::Own => self.own += 1,
            Found::Lost => {
                if let Some(done) = self.open.take() {
                    if self.transactions.len() < MOST_TRANSACTIONS {
                        self.transactions.push(done);
                    } else {
                        self.more += 1;
                    }
                }
            }
        }
    }

    fn change(&mut self, part: &Part, row: &Row, digests: &DigestKey) {
        let operation = row.operation.as_str();
        *self.counts.entry(row.table.clone()).or_default().entry(operation.to_owned()).or_default() += 1;
        let open = self.open.get_or_insert_with(|| LostTransaction {
            xid: row.xid,
            commit: row.commit,
            at: row.at,
            changes: Vec::new(),
            more: 0,
        });
        if self.changes >= MOST_CHANGES || self.transactions.len() >= MOST_TRANSACTIONS {
            open.more += 1;
            return;
        }
        self.changes += 1;
        open.changes.push(LostChange {
            table: row.table.clone(),
            operation: operation.to_owned(),
            key_digest: row.key.as_ref().map(|key| digests.digest(&row.table, key)),
            tenant: part.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use domicile_model::token::Lsn;

    use super::*;

    fn texts(values: &[&str]) -> Tuple {
        values.iter().map(|v| Value::Text((*v).to_owned())).collect()
    }

    fn relation(id: u32, schema: &str) -> Message {
        Message::Relation(Relation {
            id,
            schema: schema.into(),
            name: "t".into(),
            identity: b'd',
            columns: vec![("tenant_id".into(), true), ("key".into(), true), ("v".into(), false)],
        })
    }

    fn tenants() -> BTreeSet<TenantId> {
        ["mercy-health", "st-mary"].iter().map(|t| TenantId::new(t).unwrap()).collect()
    }

    #[test]
    fn only_what_lies_past_the_fork_is_lost_and_our_own_is_counted_apart() {
        let (tenants, digests) = (tenants(), DigestKey::random().unwrap());
        let mut collector = Collector::new(Fork { parent: 1, at: Lsn(100) }, "tenant_id", &tenants);
        let mut list = List::default();
        for (commit, id, schema) in [(99, 1, "public"), (100, 1, "public"), (120, 2, "domicile")] {
            for message in [
                Message::Begin { commit: Lsn(commit), at: 0, xid: 7 },
                relation(id, schema),
                Message::Insert { relation: id, new: texts(&["mercy-health", "key-one", "secret"]) },
                Message::Commit { commit: Lsn(commit) },
            ] {
                collector.take(message).iter().for_each(|found| list.take(found, |_| digests.clone()));
            }
        }
        assert_eq!((list.transactions.len(), list.own), (1, 1));
        let change = &list.transactions[0].changes[0];
        assert_eq!(change.tenant.as_ref().unwrap().as_str(), "mercy-health");
        let key =
            [("key", "key-one"), ("tenant_id", "mercy-health")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(change.key_digest, Some(digests.digest("public.t", &key.into())));
        let said = serde_json::to_string(&list.transactions).unwrap();
        assert!(!said.contains("secret") && !said.contains("key-one"), "{said}");
        assert_eq!(list.transactions[0].at.to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(list.counts["public.t"]["insert"], 1);
    }

    #[test]
    fn a_row_goes_to_the_one_tenant_that_it_names_and_else_to_nobody() {
        let tenants = tenants();
        let mut collector = Collector::new(Fork { parent: 1, at: Lsn(1) }, "tenant_id", &tenants);
        collector.take(Message::Begin { commit: Lsn(5), at: 0, xid: 7 });
        collector.take(relation(1, "public"));
        let mut part = |message| match collector.take(message).pop() {
            Some(Found::Row(part, _)) => part_name(&part).to_owned(),
            _ => panic!("no row"),
        };
        let mercy = texts(&["mercy-health", "a", "v"]);
        assert_eq!(part(Message::Insert { relation: 1, new: mercy.clone() }), "mercy-health");
        assert_eq!(part(Message::Delete { relation: 1, old: mercy.clone() }), "mercy-health");
        let moved = Message::Update { relation: 1, old: Some(texts(&["st-mary", "a"])), new: mercy };
        assert_eq!(part(moved), UNASSIGNED, "another tenant's old key must not be read by this one");
        assert_eq!(part(Message::Insert { relation: 1, new: texts(&["elsewhere", "a", "v"]) }), UNASSIGNED);
        let null = Message::Insert { relation: 1, new: vec![Value::Null] };
        assert_eq!(part(null), UNASSIGNED);
        assert_eq!(part(Message::Truncate { relations: vec![1] }), UNASSIGNED);
        assert_eq!(part(Message::Insert { relation: 9, new: texts(&["mercy-health"]) }), UNASSIGNED);
    }

    #[test]
    fn the_list_is_bounded_and_says_how_much_more_there_is() {
        let (tenants, digests) = (tenants(), DigestKey::random().unwrap());
        let mut collector = Collector::new(Fork { parent: 1, at: Lsn(1) }, "tenant_id", &tenants);
        let mut list = List::default();
        let mut take =
            |message| collector.take(message).iter().for_each(|f| list.take(f, |_| digests.clone()));
        take(relation(1, "public"));
        take(Message::Begin { commit: Lsn(5), at: 0, xid: 7 });
        for n in 0..MOST_CHANGES + 3 {
            take(Message::Insert { relation: 1, new: texts(&["st-mary", &n.to_string(), "v"]) });
        }
        take(Message::Commit { commit: Lsn(5) });
        assert_eq!((list.transactions[0].changes.len(), list.transactions[0].more), (MOST_CHANGES, 3));
        assert_eq!(list.counts["public.t"]["insert"], MOST_CHANGES as u64 + 3);
    }
}
