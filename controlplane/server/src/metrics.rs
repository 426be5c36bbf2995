//! What the control plane counts. Labels are bounded: routes, status classes and cells, never
//! tenants.

use crate::http::facts::label;
use crate::protection::ProtectionMetrics;
use crate::reconcile::DriftMetrics;
use crate::room::RoomMetrics;
use crate::waiting::WaitingMetrics;
use domicile_history::Stored;
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// The counts of one control plane.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// 1 while this one leads.
    pub leading: IntGauge,
    /// How often it became the leader.
    pub elected: IntCounter,
    /// Requests by route and status.
    pub requests: IntCounterVec,
    /// Requests whose token was missing or wrong.
    pub unauthorized: IntCounter,
    /// Changes passed on to the leader.
    pub forwarded: IntCounter,
    /// Connections that are open.
    pub connections: IntGauge,
    /// Bytes of write-ahead log that the slot for losses of a cell keeps, and may keep, by cell.
    pub loss_slot_kept: IntGaugeVec,
    /// See [`Self::loss_slot_kept`]; absent where there is no limit.
    pub loss_slot_limit: IntGaugeVec,
    /// What stops direct writers of the database that holds a cell, by cell: 0 gate-only, 1 dead-man, 2 supervisor,
    /// 3 watchdog; absent where nobody told.
    pub fence_level: IntGaugeVec,
    /// What primaries keep for standbys that are away.
    pub protection: ProtectionMetrics,
    /// 1 while the operators' file can't be used and the last good one counts.
    pub tokens_broken: IntGauge,
    /// How full the registry is.
    pub room: RoomMetrics,
    /// What differs between registry and reality.
    pub drift: DriftMetrics,
    /// Moves that wait for people.
    pub waiting: WaitingMetrics,
    /// Batches of facts that routers told, by what became of them.
    pub facts: IntCounterVec,
    /// Batches of facts that are kept.
    pub history_batches: IntGauge,
    /// Bytes of the history.
    pub history_bytes: IntGauge,
    /// How the archive stands.
    pub archive: crate::archive::ArchiveMetrics,
}

impl Metrics {
    /// With everything at zero.
    ///
    /// # Errors
    /// Never: the names are fixed and differ.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let leading = IntGauge::new("domicile_control_leading", "1 while this control plane leads")?;
        let elected = IntCounter::new("domicile_control_elected_total", "times this one became the leader")?;
        let requests = IntCounterVec::new(
            Opts::new("domicile_control_requests_total", "requests by route and status"),
            &["route", "status"],
        )?;
        let unauthorized =
            IntCounter::new("domicile_control_unauthorized_total", "requests with a missing or wrong token")?;
        let forwarded =
            IntCounter::new("domicile_control_forwarded_total", "changes passed on to the leader")?;
        let connections = IntGauge::new("domicile_control_connections", "connections that are open")?;
        let tokens_broken = IntGauge::new(
            "domicile_control_tokens_broken",
            "1 while the operators' file can't be used and the last good one counts",
        )?;
        let of_cells = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["cell"]);
        let loss_slot_kept = of_cells(
            "domicile_cell_loss_slot_kept_bytes",
            "write-ahead log that the primary's slot for losses keeps",
        )?;
        let loss_slot_limit = of_cells(
            "domicile_cell_loss_slot_limit_bytes",
            "the most it may keep before it is given up (max_slot_wal_keep_size)",
        )?;
        let fence_level = of_cells(
            "domicile_cell_fence_level",
            "what stops direct writers of the holder's database: 0 gate-only, 1 dead-man, 2 supervisor, 3 watchdog",
        )?;
        let facts = IntCounterVec::new(
            Opts::new(
                "domicile_control_facts_total",
                "batches of facts that routers told, by what became of them",
            ),
            &["became"],
        )?;
        for became in [Stored::New, Stored::Already, Stored::Differs] {
            facts.with_label_values(&[label(became)]);
        }
        let history_batches =
            IntGauge::new("domicile_control_history_batches", "batches of facts that are kept")?;
        let history_bytes = IntGauge::new("domicile_control_history_bytes", "bytes of the history")?;
        registry.register(Box::new(facts.clone()))?;
        registry.register(Box::new(history_batches.clone()))?;
        registry.register(Box::new(history_bytes.clone()))?;
        registry.register(Box::new(fence_level.clone()))?;
        registry.register(Box::new(loss_slot_kept.clone()))?;
        registry.register(Box::new(loss_slot_limit.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(tokens_broken.clone()))?;
        registry.register(Box::new(leading.clone()))?;
        registry.register(Box::new(elected.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(unauthorized.clone()))?;
        registry.register(Box::new(forwarded.clone()))?;
        let protection = ProtectionMetrics::new(&registry)?;
        let room = RoomMetrics::new(&registry)?;
        let drift = DriftMetrics::new(&registry)?;
        let waiting = WaitingMetrics::new(&registry)?;
        let archive = crate::archive::ArchiveMetrics::new(&registry)?;
        Ok(Self {
            registry,
            leading,
            elected,
            requests,
            unauthorized,
            forwarded,
            connections,
            tokens_broken,
            loss_slot_kept,
            loss_slot_limit,
            fence_level,
            protection,
            room,
            drift,
            waiting,
            facts,
            history_batches,
            history_bytes,
            archive,
        })
    }

    /// In Prometheus' text form.
    #[must_use]
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut bytes) {
            tracing::warn!(%error, "the metrics can't be shown");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
