//! Numbers for Prometheus. Labels are bounded: no tenant, host, path or address is ever one.

use domicile_router_core::Cause;
use domicile_router_core::standing::Kind;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::front::{Refused, splice};
use crate::standing::carry::Why;

/// All numbers of one router.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Requests by class of status and cause.
    pub requests: IntCounterVec,
    /// Requests that waited for a move.
    pub held: IntCounter,
    /// Requests that wait now.
    pub holding: IntGauge,
    /// How long requests waited, in seconds.
    pub hold_seconds: Histogram,
    /// How long requests took in all, in seconds.
    pub seconds: Histogram,
    /// 421 answers that were followed.
    pub follows: IntCounter,
    /// Held or unrepeatable requests that a gate sent on to another region's gate.
    pub relays: IntCounter,
    /// Connections that were refused and tried at the region's next address.
    pub next_address: IntCounter,
    /// Answers cut for want of a proof, or because their epoch had passed.
    pub cut: IntCounter,
    /// Lines of the access log that did not fit into the queue.
    pub log_dropped: IntCounter,
    /// Milliseconds since the registry's last sign of life; -1 without a table.
    pub table_age_ms: IntGauge,
    /// The applied revision.
    pub table_revision: IntGauge,
    /// Connections of clients.
    pub connections: IntGauge,
    /// Connections that ended before their request, by why.
    pub connections_refused: IntCounterVec,
    /// Connections of HTTP/2 whose client cut off too many requests.
    pub connections_cut: IntCounter,
    /// Streams that stand open, by kind.
    pub streams: IntGaugeVec,
    /// Streams that were ended from here, by kind and why.
    pub streams_ended: IntCounterVec,
    /// MLLP messages of clients that have passed to their end.
    pub messages_in: IntCounter,
    /// MLLP messages of applications that have.
    pub messages_out: IntCounter,
    /// Connections that are passed on undecrypted.
    pub splices: IntGauge,
    /// Those that have ended, by why.
    pub splices_ended: IntCounterVec,
    /// Certificates towards clients, by state.
    pub certificates: IntGaugeVec,
    /// When the first of them ends, in seconds since 1970; 0 without any.
    pub certificate_first_end: IntGauge,
    /// Milliseconds since the registry proof in hand was asked for; -1 without one.
    pub proof_age_ms: IntGauge,
    /// Proofs taken from witnesses.
    pub witness_proofs: IntCounter,
    /// Acknowledgements written.
    pub acks: IntCounter,
    /// Batches of facts that a control plane still lacks.
    pub facts_spooled: IntGauge,
    /// Their bytes on disk.
    pub facts_spooled_bytes: IntGauge,
    /// Batches that were dropped for want of room.
    pub facts_dropped: IntCounter,
    /// Requests of tenants that found no room of their own in their minute.
    pub facts_other: IntCounter,
}

impl Metrics {
    /// All at zero.
    ///
    /// # Errors
    /// When two have one name: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let c = IntCounter::new(name, help)?;
            registry.register(Box::new(c.clone()))?;
            Ok::<_, prometheus::Error>(c)
        };
        let gauge = |name: &str, help: &str| {
            let g = IntGauge::new(name, help)?;
            registry.register(Box::new(g.clone()))?;
            Ok::<_, prometheus::Error>(g)
        };
        let seconds = |name: &str, help: &str| {
            let buckets =
                vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
            let h = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(h.clone()))?;
            Ok::<_, prometheus::Error>(h)
        };
        let requests = IntCounterVec::new(
            Opts::new("domicile_router_requests_total", "Requests by class of status and cause"),
            &["class", "cause"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        // Every label exists from the start, so that a rate over it is zero and not missing.
        for cause in Cause::ALL {
            requests.with_label_values(&[class(cause.entry().status), cause.label()]);
        }
        let connections_refused = IntCounterVec::new(
            Opts::new(
                "domicile_router_connections_refused_total",
                "Connections that ended before their request, by why",
            ),
            &["why"],
        )?;
        registry.register(Box::new(connections_refused.clone()))?;
        for why in Refused::ALL {
            connections_refused.with_label_values(&[why.label()]);
        }
        let certificates = IntGaugeVec::new(
            Opts::new("domicile_router_certificates", "Certificates towards clients, by state"),
            &["state"],
        )?;
        registry.register(Box::new(certificates.clone()))?;
        let streams = IntGaugeVec::new(
            Opts::new("domicile_router_streams", "Streams that stand open, by kind"),
            &["kind"],
        )?;
        registry.register(Box::new(streams.clone()))?;
        let streams_ended = IntCounterVec::new(
            Opts::new(
                "domicile_router_streams_ended_total",
                "Streams that were ended from here, by kind and why",
            ),
            &["kind", "why"],
        )?;
        registry.register(Box::new(streams_ended.clone()))?;
        for kind in Kind::ALL {
            streams.with_label_values(&[kind.label()]);
            for why in Why::ALL {
                streams_ended.with_label_values(&[kind.label(), why.label()]);
            }
        }
        let splices_ended = IntCounterVec::new(
            Opts::new(
                "domicile_router_splices_ended_total",
                "Connections that were passed on undecrypted and have ended, by why",
            ),
            &["why"],
        )?;
        registry.register(Box::new(splices_ended.clone()))?;
        for why in splice::Why::ALL {
            splices_ended.with_label_values(&[why.label()]);
        }
        Ok(Self {
            requests,
            splices: gauge("domicile_router_splices", "Connections that are passed on undecrypted")?,
            splices_ended,
            streams,
            streams_ended,
            connections_refused,
            certificates,
            certificate_first_end: gauge(
                "domicile_router_certificate_first_end_timestamp_seconds",
                "When the first certificate ends; 0: there is none",
            )?,
            messages_in: counter(
                "domicile_router_mllp_messages_total",
                "MLLP messages of clients that were passed on to their end",
            )?,
            messages_out: counter(
                "domicile_router_mllp_answers_total",
                "MLLP messages of applications, acknowledgements as a rule, that were passed on to their end",
            )?,
            connections_cut: counter(
                "domicile_router_connections_cut_total",
                "HTTP/2 connections whose client cut off too many requests",
            )?,
            held: counter("domicile_router_held_total", "Requests that waited for a move")?,
            holding: gauge("domicile_router_holding", "Requests that wait for a move now")?,
            hold_seconds: seconds("domicile_router_hold_seconds", "How long requests waited for a move")?,
            seconds: seconds("domicile_router_request_seconds", "How long requests took in all")?,
            follows: counter("domicile_router_follows_total", "421 answers that were followed")?,
            relays: counter(
                "domicile_router_relays_total",
                "Requests that a gate sent on to another region",
            )?,
            next_address: counter(
                "domicile_router_next_address_total",
                "Connections tried at the next address",
            )?,
            cut: counter("domicile_router_cut_total", "Answers cut for want of a proof or a passed epoch")?,
            log_dropped: counter("domicile_router_log_dropped_total", "Lines of the access log dropped")?,
            table_age_ms: gauge(
                "domicile_router_table_age_ms",
                "Since the registry's last sign of life; -1: no table",
            )?,
            table_revision: gauge("domicile_router_table_revision", "The applied revision")?,
            connections: gauge("domicile_router_connections", "Connections of clients")?,
            proof_age_ms: gauge(
                "domicile_router_proof_age_ms",
                "Since the registry proof was asked for; -1: none",
            )?,
            witness_proofs: counter("domicile_router_witness_proofs_total", "Proofs taken from witnesses")?,
            acks: counter("domicile_router_acks_total", "Acknowledgements written")?,
            facts_spooled: gauge(
                "domicile_router_facts_spooled",
                "Batches of facts that not all control planes have",
            )?,
            facts_spooled_bytes: gauge("domicile_router_facts_spooled_bytes", "Their bytes on disk")?,
            facts_dropped: counter(
                "domicile_router_facts_dropped_total",
                "Batches of facts that were dropped for want of room",
            )?,
            facts_other: counter(
                "domicile_router_facts_other_total",
                "Requests of tenants that found no room of their own in their minute's facts",
            )?,
            registry,
        })
    }

    /// Counts a finished request.
    pub fn finished(&self, status: u16, cause: Option<Cause>) {
        self.requests.with_label_values(&[class(status), cause.map_or("none", Cause::label)]).inc();
    }

    /// In the text format of Prometheus.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Writing into memory does not fail; were it to, an empty page says so to whoever scrapes it.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8(out).unwrap_or_default()
    }
}

const fn class(status: u16) -> &'static str {
    match status {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500..600 => "5xx",
        _ => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_own_name() {
        let m = Metrics::new().unwrap();
        m.finished(503, Some(Cause::NoProof));
        m.finished(200, None);
        assert!(m.text().contains(r#"domicile_router_requests_total{cause="no-proof",class="5xx"} 1"#));
    }
}
