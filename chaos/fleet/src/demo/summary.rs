//! `summary.json`: what was measured, by the oracle and the routers' own facts.

use std::path::Path;

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

/// All chapters. A chapter that was not finished is none.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    pub(super) fence_time_ms: u64,
    pub(super) switchover: Option<Planned>,
    pub(super) switchback: Option<Planned>,
    pub(super) failover: Option<Forced>,
    pub(super) registry_outage: Option<Outage>,
}

/// A planned move under load.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Planned {
    pub(super) requests: u64,
    pub(super) requests_failed: u64,
    pub(super) requests_held: u64,
    pub(super) writes_acknowledged: u64,
    pub(super) writes_lost: u64,
    pub(super) write_pause_ms_p50: f64,
    pub(super) write_pause_ms_max: f64,
    pub(super) read_ms_p99: f64,
    pub(super) uploads_across_the_pause: u64,
    pub(super) unprotected_ms: Option<u64>,
    /// How many times checks refused the move before it started.
    pub(super) starts_blocked: u64,
    /// Of the write pause: until what was in flight, an upload foremost, had ended. By the leader's wall clock.
    pub(super) hold_ms: Option<u64>,
    /// Of the write pause: from the close to the switch.
    pub(super) closed_ms: Option<u64>,
}

/// A forced move under load.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Forced {
    pub(super) writes_acknowledged: u64,
    pub(super) writes_lost: u64,
    pub(super) preview_sampled_transactions: u64,
    pub(super) preview_sample_age_ms: u64,
    pub(super) preview_until_stopped_transactions: u64,
    pub(super) write_rate_per_s: f64,
    pub(super) listed_acknowledged: u64,
    pub(super) listed_unanswered: u64,
    pub(super) listed_unknown: u64,
    pub(super) rpo_ms: f64,
    pub(super) rto_ms: Option<f64>,
    pub(super) fence_wait_ms: Option<u64>,
    pub(super) unprotected_ms: Option<u64>,
    pub(super) reprotected_by: Option<String>,
    /// As in [`Planned`].
    pub(super) starts_blocked: u64,
}

/// Life without registry and control plane.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outage {
    pub(super) duration_ms: u64,
    pub(super) requests: u64,
    pub(super) requests_failed: u64,
    pub(super) writes_acknowledged: u64,
    pub(super) writes_lost: u64,
    pub(super) read_ms_p99: f64,
}

impl Summary {
    pub(super) const fn new(fence_time_ms: u64) -> Self {
        Self { fence_time_ms, switchover: None, switchback: None, failover: None, registry_outage: None }
    }

    pub(super) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        Ok(std::fs::write(dir.join("summary.json"), serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// For people.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["", "measured", "value"]);
        let value = serde_json::to_value(self).unwrap_or_default();
        for (chapter, numbers) in value.as_object().into_iter().flatten() {
            match numbers {
                Value::Object(numbers) => {
                    for (n, (name, number)) in numbers.iter().enumerate() {
                        let chapter = if n == 0 { chapter.as_str() } else { "" };
                        table.add_row([chapter, name, &text(number)]);
                    }
                }
                other => {
                    table.add_row([chapter.as_str(), "", &text(other)]);
                }
            }
        }
        table
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "not measured".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or(0.0)),
        other => other.to_string(),
    }
}
