//! Reading the transactions that the new primary never saw: a list without rows, and the rows, encrypted, a file for
//! each tenant.

mod collector;
pub(crate) mod place;
mod policy;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domicile_api::agent::{ExportLosses, Fork, LossReport, Progress, ProgressStatus};
use domicile_api::protection::Doing;
use domicile_model::MoveId;
use domicile_model::clock::pause;
use domicile_model::token::Lsn;
use futures::StreamExt;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::agent::Agent;
use crate::config::LossExport;
use crate::failure::Failure;
use crate::pg::furniture::{LOSS_SLOT, PUBLICATION};
use crate::pg::local;
use crate::pg::pgoutput::parse;
use crate::pg::server::Kind;
use collector::{Collector, Found, List};
use place::Export;
use policy::Policies;

const SQL: Duration = Duration::from_secs(5);

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
            this.bench.begin(Doing::ExportingLosses, &this.clock);
            let done = this.read_losses(order.token.moving, order.fork).await;
            this.bench.end();
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

    /// Exports the rows and then writes the report: the rows are on disk, complete, before anything says so.
    async fn read_losses(self: &Arc<Self>, moving: MoveId, fork: Fork) -> Result<(), Failure> {
        let Some(config) = &self.config.losses else {
            return Err(Failure::refused(
                "no-loss-store",
                "this agent has no place to export lost rows to",
            )
            .hint("add [losses] with `directory`, `country` and `recipient` to the agent's file, restart the agent, and retry the move"));
        };
        let of = place::Of { cell: self.config.cell.clone(), moving, fork };
        // An earlier run that was ended after its last step.
        let report = match place::finished(config, &of)? {
            Some(report) => report,
            None => self.export(config, of).await?,
        };
        let bytes = serde_json::to_vec(&report).map_err(|e| Failure::machine(e.to_string()))?;
        self.owner.write(&self.report_path(moving), &bytes)?;
        Ok(())
    }

    /// A connection to the server, which runs for its log only.
    async fn sealed(self: &Arc<Self>) -> Result<PgConnection, Failure> {
        // Its crash recovery may be long.
        self.ready(Kind::Sealed, Duration::from_secs(600)).await?;
        let give_up = self.clock.now() + Duration::from_secs(30);
        loop {
            match local::connect(&self.config, SQL).await {
                // The end of an earlier job let the fence stop it again, and that stop is under way.
                Err(_) if self.clock.now() < give_up => {
                    pause(Duration::from_millis(50)).await;
                    self.ready(Kind::Sealed, Duration::from_secs(60)).await?;
                }
                answer => return answer,
            }
        }
    }

    async fn export(self: &Arc<Self>, config: &LossExport, of: place::Of) -> Result<LossReport, Failure> {
        let fork = of.fork;
        let policies = Policies::read(&*self.store, &self.config.cell, config.country).await?;
        let mut connection = self.sealed().await?;
        let confirmed = usable_slot(&mut connection, fork).await?;
        let mut blind_spots = crate::pg::blind::spots(&mut connection).await?;
        if confirmed.is_none_or(|c| c > fork.at) {
            blind_spots.push(format!(
                "transactions that committed before the slot's position {} and after the fork",
                confirmed.map_or_else(|| "(unknown)".into(), |c| c.to_string())
            ));
        }
        let rows_at =
            format!("{}:{}", self.config.region, place::directory(config, &of.cell, of.moving).display());
        let moving = of.moving;
        let mut export = Export::begin(config, &self.owner, of)?;
        let mut list = List::default();
        let mut first = true;
        // The slot is only looked into, so each pass reads the same.
        loop {
            let mut collector = Collector::new(fork, &config.tenant_column, &policies.tenants);
            let sql = format!(
                "SELECT data FROM pg_logical_slot_peek_binary_changes('{LOSS_SLOT}', NULL, NULL,
 'proto_version', '1', 'publication_names', '{PUBLICATION}')"
            );
            let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut connection);
            while let Some(row) = rows.next().await {
                let row = row.map_err(|e| Failure::database("reading the loss slot", &e))?;
                let data: &[u8] =
                    row.try_get(0).map_err(|e| Failure::database("reading the loss slot", &e))?;
                let message = parse(data).map_err(|e| Failure::machine(e.to_string()))?;
                for found in collector.take(message) {
                    if let Found::Row(part, row) = &found {
                        policies.allow(part)?;
                        export.row(part, row)?;
                    }
                    if first {
                        list.take(&found, |part| export.digests(part));
                    }
                }
            }
            drop(rows);
            first = false;
            if !export.end_pass()? {
                break;
            }
        }
        let report = LossReport {
            moving,
            fork,
            transactions: list.transactions,
            more: list.more,
            counts: list.counts,
            own: list.own,
            rows_at,
            parts: export.parts(),
            place: Some(place::told(config)),
            blind_spots,
        };
        export.commit(&report)?;
        Ok(report)
    }
}

/// Where the slot begins, if what it holds can be read at all.
async fn usable_slot(connection: &mut PgConnection, fork: Fork) -> Result<Option<Lsn>, Failure> {
    let slot = format!(
        "SELECT wal_status, restart_lsn::text, confirmed_flush_lsn::text FROM pg_replication_slots
 WHERE slot_name = '{LOSS_SLOT}'"
    );
    let gone = |what: &str| {
        Failure::refused("no-loss-slot", format!("the slot {LOSS_SLOT} {what}: losses can't be listed")).hint(
            "if it is accepted that they never will be, move the data directory away: the next order builds it anew",
        )
    };
    let Some(slot) = local::row(connection, slot, SQL).await? else { return Err(gone("does not exist")) };
    if slot.first().cloned().flatten().as_deref() == Some("lost") {
        return Err(gone("was given up"));
    }
    let live = local::live(connection, SQL).await?;
    if live.timeline != Some(fork.parent) {
        return Err(Failure::refused(
            "other-timeline",
            format!(
                "this server writes timeline {:?}; the fork left timeline {}",
                live.timeline, fork.parent
            ),
        ));
    }
    Ok(slot.get(2).cloned().flatten().and_then(|t| t.parse().ok()))
}
