//! Reading the transactions that the new primary never saw.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domicile_api::agent::{
    ExportLosses, Fork, LossReport, LostChange, LostTransaction, Progress, ProgressStatus,
};
use domicile_model::MoveId;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Row};

use crate::agent::Agent;
use crate::failure::Failure;
use crate::pg::furniture::{LOSS_SLOT, PUBLICATION};
use crate::pg::local;
use crate::pg::pgoutput::{Message, Relation, Tuple, Value, parse};
use crate::pg::server::Kind;

/// Microseconds from 1970 to 2000, where PostgreSQL counts from.
const EPOCH_2000: i64 = 946_684_800_000_000;

impl Agent {
    fn report_path(&self, moving: MoveId) -> PathBuf {
        self.config.state_dir().join(format!("losses-{moving}.json"))
    }

    /// The finished report of a move.
    pub(crate) fn loss_report(&self, moving: MoveId) -> Result<Option<LossReport>, Failure> {
        let path = self.report_path(moving);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| Failure::machine(format!("{} is damaged: {e}", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Failure::machine(format!("{} can't be read: {e}", path.display()))),
        }
    }

    /// Starts the job; answers from what is done where it was.
    pub(crate) async fn export_losses(self: &Arc<Self>, order: ExportLosses) -> Result<Progress, Failure> {
        self.accept(&order.token).await?;
        let progress =
            |status| Progress { token: order.token.clone(), how: "export".into(), status, share: None };
        if self.loss_report(order.token.moving)?.is_some_and(|r| r.fork == order.fork) {
            let done = progress(ProgressStatus::Done);
            self.disk.change(|m| {
                m.losses = Some(done.clone());
                if !m.exported.contains(&order.fork) {
                    m.exported.push(order.fork);
                }
            })?;
            return Ok(done);
        }
        if let Some(running) = self.disk.get().losses.filter(|p| p.status == ProgressStatus::Running)
            && self.ops.try_lock().is_err()
        {
            return Ok(running);
        }
        if self.is_standby_directory() {
            return Err(Failure::refused(
                "standby",
                "this server follows already: what it had past the fork is gone, or was never there",
            ));
        }
        if self.mode().open {
            return Err(Failure::refused("open", "this server is open as a primary").hint("fence it first"));
        }
        let running = progress(ProgressStatus::Running);
        self.disk.change(|m| m.losses = Some(running.clone()))?;
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let _guard = this.ops.lock().await;
            let done = this.read_losses(order.token.moving, order.fork).await;
            let status = match &done {
                Ok(()) => ProgressStatus::Done,
                Err(failure) => ProgressStatus::Failed { why: failure.to_string() },
            };
            let ended = Progress {
                token: order.token.clone(),
                how: "export".into(),
                status,
                share: done.is_ok().then_some(1.0),
            };
            let kept = this.disk.change(|m| {
                m.losses = Some(ended);
                if done.is_ok() && !m.exported.contains(&order.fork) {
                    m.exported.push(order.fork);
                }
            });
            if let Err(failure) = kept {
                this.problem("export", Some(failure.to_string()));
            }
        });
        Ok(running)
    }

    async fn read_losses(self: &Arc<Self>, moving: MoveId, fork: Fork) -> Result<(), Failure> {
        const SQL: Duration = Duration::from_secs(5);
        // Its crash recovery may be long.
        self.ready(Kind::Sealed, Duration::from_secs(600)).await?;
        let mut connection = local::connect(&self.config, SQL).await?;
        let slot = format!(
            "SELECT wal_status, restart_lsn::text, confirmed_flush_lsn::text FROM pg_replication_slots
 WHERE slot_name = '{LOSS_SLOT}'"
        );
        let Some(slot) = local::row(&mut connection, slot, SQL).await? else {
            return Err(Failure::refused(
                "no-loss-slot",
                format!("the slot {LOSS_SLOT} does not exist: losses can't be listed"),
            ));
        };
        if slot.first().cloned().flatten().as_deref() == Some("lost") {
            return Err(Failure::refused(
                "no-loss-slot",
                format!("the slot {LOSS_SLOT} was given up: losses can't be listed"),
            ));
        }
        let confirmed: Option<domicile_model::token::Lsn> =
            slot.get(2).cloned().flatten().and_then(|t| t.parse().ok());
        let live = local::live(&mut connection, SQL).await?;
        if live.timeline != Some(fork.parent) {
            return Err(Failure::refused(
                "other-timeline",
                format!(
                    "this server writes timeline {:?}; the fork left timeline {}",
                    live.timeline, fork.parent
                ),
            ));
        }
        let rows_path = self.config.state_dir().join(format!("losses-{moving}.jsonl"));
        let written =
            |e: std::io::Error| Failure::machine(format!("{} can't be written: {e}", rows_path.display()));
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&rows_path)
            .map_err(written)?;
        let mut rows_file = std::io::BufWriter::new(file);
        let mut collector = Collector::new(fork);
        let sql = format!(
            "SELECT data FROM pg_logical_slot_peek_binary_changes('{LOSS_SLOT}', NULL, NULL,
 'proto_version', '1', 'publication_names', '{PUBLICATION}')"
        );
        let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut connection);
        while let Some(row) = rows.next().await {
            let row = row.map_err(|e| Failure::database("reading the loss slot", &e))?;
            let data: Vec<u8> = row.try_get(0).map_err(|e| Failure::database("reading the loss slot", &e))?;
            let message = parse(&data).map_err(|e| Failure::machine(e.to_string()))?;
            for line in collector.take(message) {
                serde_json::to_writer(&mut rows_file, &line)
                    .map_err(std::io::Error::from)
                    .and_then(|()| rows_file.write_all(b"\n"))
                    .map_err(written)?;
            }
        }
        drop(rows);
        let file = rows_file.into_inner().map_err(|e| written(e.into_error()))?;
        file.sync_all().map_err(written)?;
        self.owner.own(&rows_path)?;
        let mut blind_spots: Vec<String> =
            ["changes of the schema (DDL)", "sequences", "large objects", "unlogged and temporary tables"]
                .map(str::to_owned)
                .to_vec();
        if confirmed.is_none_or(|c| c > fork.at) {
            blind_spots.push(format!(
                "transactions that committed before the slot's position {} and after the fork",
                confirmed.map_or_else(|| "(unknown)".into(), |c| c.to_string())
            ));
        }
        let report = LossReport {
            moving,
            fork,
            transactions: collector.lost,
            own: collector.own,
            rows_at: format!("{}:{}", self.config.region, rows_path.display()),
            blind_spots,
        };
        let bytes = serde_json::to_vec(&report).map_err(|e| Failure::machine(e.to_string()))?;
        self.owner.write(&self.report_path(moving), &bytes)?;
        Ok(())
    }
}

struct Open {
    lost: LostTransaction,
    rows: Vec<serde_json::Value>,
    own: bool,
}

/// Collects the transactions whose commit record lies past the fork.
struct Collector {
    fork: Fork,
    relations: BTreeMap<u32, Relation>,
    open: Option<Open>,
    lost: Vec<LostTransaction>,
    own: u64,
}

impl Collector {
    fn new(fork: Fork) -> Self {
        Self { fork, relations: BTreeMap::new(), open: None, lost: Vec::new(), own: 0 }
    }

    /// Takes the next message; returns the rows of a transaction that it completes, if that one is lost.
    fn take(&mut self, message: Message) -> Vec<serde_json::Value> {
        match message {
            Message::Begin { commit, at, xid } => {
                // The record's start is compared: one that begins at the fork is not part of the new timeline.
                self.open = (commit >= self.fork.at).then(|| Open {
                    lost: LostTransaction {
                        xid,
                        commit,
                        at: jiff::Timestamp::from_microsecond(at.saturating_add(EPOCH_2000))
                            .unwrap_or_default(),
                        changes: Vec::new(),
                    },
                    rows: Vec::new(),
                    own: false,
                });
            }
            Message::Relation(relation) => {
                self.relations.insert(relation.id, relation);
            }
            Message::Insert { relation, new } => self.change("insert", relation, None, Some(&new)),
            Message::Update { relation, old, new } => {
                self.change("update", relation, old.as_ref(), Some(&new));
            }
            Message::Delete { relation, old } => self.change("delete", relation, Some(&old), None),
            Message::Truncate { relations } => {
                for relation in relations {
                    self.change("truncate", relation, None, None);
                }
            }
            Message::Other => {}
            Message::Commit { .. } => {
                if let Some(done) = self.open.take() {
                    if !done.lost.changes.is_empty() {
                        self.lost.push(done.lost);
                        return done.rows;
                    }
                    self.own += u64::from(done.own);
                }
            }
        }
        Vec::new()
    }

    fn change(&mut self, operation: &str, relation: u32, old: Option<&Tuple>, new: Option<&Tuple>) {
        let Some(open) = self.open.as_mut() else { return };
        let table = self.relations.get(&relation);
        if table.is_some_and(|t| t.schema == "domicile") {
            open.own = true;
            return;
        }
        let name =
            table.map_or_else(|| format!("(relation {relation})"), |t| format!("{}.{}", t.schema, t.name));
        let empty = Vec::new();
        let columns = table.map_or(&empty, |t| &t.columns);
        let keyed = table.is_some_and(|t| t.identity != b'f' && t.identity != b'n');
        let row = new.or(old);
        let text = |i: usize| match row.and_then(|r| r.get(i)) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        // Sorted by name, as the map is: the digest is the same whoever makes it.
        let key: Option<BTreeMap<&str, String>> = columns
            .iter()
            .enumerate()
            .filter(|(_, (_, key))| *key)
            .map(|(i, (name, _))| Some((name.as_str(), text(i)?)))
            .collect();
        let key_digest = key
            .filter(|k| keyed && !k.is_empty())
            .and_then(|k| serde_json::to_vec(&k).ok())
            .map(|bytes| hex::encode(Sha256::digest(bytes)));
        let tenant = columns.iter().position(|(name, _)| name == "tenant_id").and_then(text);
        let values = |tuple: Option<&Tuple>| {
            tuple.map(|tuple| {
                columns
                    .iter()
                    .zip(tuple)
                    .filter_map(|((name, _), value)| {
                        let value = match value {
                            Value::Null => serde_json::Value::Null,
                            Value::Unchanged => return None,
                            Value::Text(text) => serde_json::Value::from(text.as_str()),
                        };
                        Some((name.clone(), value))
                    })
                    .collect::<serde_json::Map<_, _>>()
            })
        };
        open.rows.push(serde_json::json!({
            "xid": open.lost.xid, "commit": open.lost.commit, "table": name, "operation": operation,
            "old": values(old), "new": values(new),
        }));
        open.lost.changes.push(LostChange {
            table: name,
            operation: operation.to_owned(),
            key_digest,
            tenant,
        });
    }
}

#[cfg(test)]
mod tests {
    use domicile_model::token::Lsn;

    use super::*;

    fn text(values: &[&str]) -> Tuple {
        values.iter().map(|v| Value::Text((*v).to_owned())).collect()
    }

    #[test]
    fn only_what_lies_past_the_fork_is_lost_and_our_own_is_counted_apart() {
        let mut collector = Collector::new(Fork { parent: 1, at: Lsn(100) });
        let relation = |id, schema: &str| {
            Message::Relation(Relation {
                id,
                schema: schema.into(),
                name: "t".into(),
                identity: b'd',
                columns: vec![("tenant_id".into(), true), ("key".into(), true), ("v".into(), false)],
            })
        };
        for (commit, id, schema) in [(99, 1, "public"), (100, 1, "public"), (120, 2, "domicile")] {
            collector.take(Message::Begin { commit: Lsn(commit), at: 0, xid: 7 });
            collector.take(relation(id, schema));
            collector.take(Message::Insert { relation: id, new: text(&["mercy-health", "a1", "secret"]) });
            collector.take(Message::Commit { commit: Lsn(commit) });
        }
        assert_eq!((collector.lost.len(), collector.own), (1, 1));
        let change = &collector.lost[0].changes[0];
        assert_eq!(change.tenant.as_deref(), Some("mercy-health"));
        let digest = hex::encode(Sha256::digest(br#"{"key":"a1","tenant_id":"mercy-health"}"#));
        assert_eq!(change.key_digest.as_deref(), Some(digest.as_str()));
        assert!(!serde_json::to_string(&collector.lost).unwrap().contains("secret"));
        assert_eq!(collector.lost[0].at.to_string(), "2000-01-01T00:00:00Z");
    }
}
