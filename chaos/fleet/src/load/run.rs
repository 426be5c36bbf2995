//! The load itself.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use domicile_model::clock::{BootTime, Clock, pause};
use tokio::task::JoinSet;

use super::client::{Client, Edges, upload_content};
use super::jobs::Jobs;
use super::record::{Kind, Outcome, Record};
use crate::app::NewEncounter;
use crate::fleet::file::TenantAccess;

/// How much load.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Reads a second, over all tenants in turn.
    pub reads_per_s: u64,
    /// The tenant of each writer.
    pub writers: Vec<String>,
    /// What a writer waits between an answer and its next write.
    pub think: Duration,
    /// The tenant that uploads one file after the other, if any does.
    pub uploads: Option<String>,
    /// Encounters of each tenant that are written before, and read.
    pub seeds: usize,
}

impl Shape {
    /// What the demo promises: 120 reads a second over all tenants of the example, 8 writers 20 ms after each answer, in
    /// every cell. Three writers write for each of the cells that it moves, so that a pause is not one writer's luck.
    #[must_use]
    pub fn demo() -> Self {
        let writers = [
            "mercy-health",
            "mercy-health",
            "mercy-health",
            "nhs-trust-london",
            "nhs-trust-london",
            "nhs-trust-london",
            "apollo-hospitals",
            "bayview-family",
        ];
        Self {
            reads_per_s: 120,
            writers: writers.map(str::to_owned).to_vec(),
            think: Duration::from_millis(20),
            uploads: None,
            seeds: 20,
        }
    }

    /// The same users, a fifth as busy: what programs that are not optimised can serve beside a fleet on two cores.
    #[must_use]
    pub fn light() -> Self {
        Self { reads_per_s: 24, think: Duration::from_millis(100), seeds: 5, ..Self::demo() }
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    jobs: Option<Jobs>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    edges: Edges,
    tenants: Vec<TenantAccess>,
    shape: Shape,
    run: String,
    next: AtomicU64,
    stop: AtomicBool,
    records: Mutex<Vec<Record>>,
}

/// What the wait for an answer begins and ends with.
fn now() -> u64 {
    Clock::Machine.now().as_nanos()
}

impl Load {
    /// Writes the encounters that will be read, then starts users. Keys carry `run`, which must be new.
    ///
    /// # Errors
    /// When the first encounters can't be written: the fleet does not serve.
    pub async fn start(
        run: &str,
        tenants: Vec<TenantAccess>,
        edges: Edges,
        shape: Shape,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            client: Client::new()?,
            edges,
            tenants,
            shape,
            run: run.to_owned(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            records: Mutex::new(Vec::new()),
        });
        shared.seed().await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).readers());
        for (writer, tenant) in shared.shape.writers.iter().enumerate() {
            let tenant = shared.tenant(tenant)?;
            tasks.spawn(Arc::clone(&shared).writer(writer, tenant));
        }
        if let Some(tenant) = &shared.shape.uploads {
            let tenant = shared.tenant(tenant)?;
            tasks.spawn(Arc::clone(&shared).uploader(tenant));
        }
        Ok(Self { shared, jobs: None, tasks })
    }

    /// From now on what the applications' workers do counts too, by these journals of theirs.
    #[must_use]
    pub fn beside(self, journals: Vec<PathBuf>) -> Self {
        Self { jobs: Some(Jobs::new(journals)), ..self }
    }

    /// Where users come in.
    #[must_use]
    pub fn edges(&self) -> &Edges {
        &self.shared.edges
    }

    /// What there is so far: for conditions, while it runs.
    #[must_use]
    pub fn so_far(&self) -> Vec<Record> {
        self.shared.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, waits for every answer, and gives all records.
    pub async fn finish(mut self) -> Vec<Record> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let jobs = match &self.jobs {
            Some(jobs) => jobs.finish().await,
            None => Vec::new(),
        };
        while self.tasks.join_next().await.is_some() {}
        let mut records =
            std::mem::take(&mut *self.shared.records.lock().unwrap_or_else(PoisonError::into_inner));
        records.extend(jobs);
        records
    }
}

impl Shared {
    fn tenant(&self, id: &str) -> anyhow::Result<TenantAccess> {
        self.tenants
            .iter()
            .find(|t| t.id == id)
            .cloned()
            .with_context(|| format!("the fleet has no tenant `{id}`"))
    }

    fn seeded(&self, n: usize) -> (String, String) {
        (format!("{}-seed-{n}", self.run), format!("seen before {} began, note {n}", self.run))
    }

    async fn seed(&self) -> anyhow::Result<()> {
        for tenant in &self.tenants {
            for n in 0..self.shape.seeds {
                let (key, content) = self.seeded(n);
                let new = NewEncounter { key, patient: format!("patient-{n}"), content };
                let outcome = self.client.write(true, self.edges.of(n), &tenant.host, &new).await;
                if !matches!(outcome, Outcome::Fine(_)) {
                    bail!("{} is not served, so there is nothing to put load on: {outcome:?}", tenant.id);
                }
            }
        }
        Ok(())
    }

    fn file(&self, record: Record) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sends reads at their times, however long the earlier ones take.
    async fn readers(self: Arc<Self>) {
        let start = Clock::Machine.now();
        let gap = Duration::from_nanos(1_000_000_000 / self.shape.reads_per_s.max(1));
        let mut asked = JoinSet::new();
        for n in 0.. {
            if self.stopped() {
                break;
            }
            let intended = start + gap.saturating_mul(n);
            let ahead = intended.since(Clock::Machine.now());
            if !ahead.is_zero() {
                pause(ahead).await;
            }
            let user = usize::try_from(n).unwrap_or(usize::MAX);
            asked.spawn(Arc::clone(&self).read(user, intended));
            while asked.try_join_next().is_some() {}
        }
        while asked.join_next().await.is_some() {}
    }

    async fn read(self: Arc<Self>, user: usize, intended: BootTime) {
        let tenant = &self.tenants[user % self.tenants.len()];
        let (key, content) = self.seeded((user / self.tenants.len()) % self.shape.seeds.max(1));
        // Both kinds of connection come to every tenant and every edge.
        let keep = (user / 3).is_multiple_of(2);
        let sent = now();
        let edge = self.edges.of(user / self.tenants.len());
        let outcome = self.client.read(keep, edge, &tenant.host, &key, &content).await;
        self.file(Record {
            kind: Kind::Read,
            writer: None,
            tenant: tenant.id.clone(),
            cell: tenant.cell.clone(),
            key,
            content,
            intended: intended.as_nanos(),
            sent,
            ended: now(),
            outcome,
        });
    }

    async fn writer(self: Arc<Self>, writer: usize, tenant: TenantAccess) {
        while !self.stopped() {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let new = NewEncounter {
                key: format!("{}-w{writer}-{n}", self.run),
                patient: format!("patient-{}", n % 50),
                content: format!("note {n} of writer {writer}: blood pressure {}", 100 + n % 60),
            };
            let sent = now();
            let outcome =
                self.client.write(writer.is_multiple_of(2), self.edges.of(writer), &tenant.host, &new).await;
            self.file(record(Kind::Write, Some(writer), &tenant, (new.key, new.content), sent, outcome));
            pause(self.shape.think).await;
        }
    }

    async fn uploader(self: Arc<Self>, tenant: TenantAccess) {
        let content = upload_content();
        while !self.stopped() {
            let key = format!("{}-u{}", self.run, self.next.fetch_add(1, Ordering::Relaxed));
            let sent = now();
            let outcome = self.client.upload(self.edges.of(0), &tenant.host, &key, &content).await;
            self.file(record(Kind::Upload, None, &tenant, (key, content.clone()), sent, outcome));
            pause(self.shape.think).await;
        }
    }
}

fn record(
    kind: Kind,
    writer: Option<usize>,
    tenant: &TenantAccess,
    (key, content): (String, String),
    sent: u64,
    outcome: Outcome,
) -> Record {
    let (tenant, cell) = (tenant.id.clone(), tenant.cell.clone());
    Record { kind, writer, tenant, cell, key, content, intended: sent, sent, ended: now(), outcome }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fleet::example;

    #[test]
    fn the_load_of_the_demo_fits_the_example() {
        let (fleet, shape) = (example::fleet().unwrap(), Shape::demo());
        let cell_of = |tenant: &String| {
            let tenant = fleet.tenants.values().find(|t| t.id.as_str() == tenant);
            tenant.map(|t| t.cell.clone()).expect("a writer's tenant stands in the example")
        };
        let written: BTreeSet<_> = shape.writers.iter().map(cell_of).collect();
        assert_eq!(written, fleet.cells.keys().cloned().collect(), "somebody writes in every cell");
        assert!(shape.writers.len() >= 8 && shape.reads_per_s >= 100);
        assert!(fleet.tenants.len() >= 8 && written.len() >= 3);
    }
}
