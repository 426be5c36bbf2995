//! `summary.json`: what was measured, by the oracle and the routers' own facts.

use std::path::Path;

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

/// All chapters. A chapter that was not finished is none.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) fence_time_ms: u64,
    pub(crate) switchover: Option<Planned>,
    pub(crate) switchback: Option<Planned>,
    pub(crate) failover: Option<Forced>,
    pub(crate) registry_outage: Option<Outage>,
}

/// A planned move under load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Planned {
    pub(crate) requests: u64,
    pub(crate) requests_failed: u64,
    pub(crate) requests_held: u64,
    pub(crate) writes_acknowledged: u64,
    pub(crate) writes_lost: u64,
    pub(crate) write_pause_ms_p50: f64,
    pub(crate) write_pause_ms_max: f64,
    pub(crate) read_ms_p99: f64,
    pub(crate) uploads_across_the_pause: u64,
    pub(crate) unprotected_ms: Option<u64>,
    /// How many times checks refused the move before it started.
    pub(crate) starts_blocked: u64,
    /// Of the write pause: until what was in flight, an upload foremost, had ended. By the leader's wall clock.
    pub(crate) hold_ms: Option<u64>,
    /// Of the write pause: from the close to the switch.
    pub(crate) closed_ms: Option<u64>,
    /// Every writer's longest gap between two acknowledgements, in milliseconds.
    #[serde(skip)]
    pub(crate) write_pauses_ms: Vec<f64>,
}

/// A forced move under load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Forced {
    pub(crate) writes_acknowledged: u64,
    pub(crate) writes_lost: u64,
    pub(crate) preview_sampled_transactions: u64,
    pub(crate) preview_sample_age_ms: u64,
    pub(crate) preview_until_stopped_transactions: u64,
    pub(crate) write_rate_per_s: f64,
    pub(crate) listed_acknowledged: u64,
    pub(crate) listed_unanswered: u64,
    pub(crate) listed_unknown: u64,
    pub(crate) rpo_ms: f64,
    pub(crate) rto_ms: Option<f64>,
    pub(crate) fence_wait_ms: Option<u64>,
    pub(crate) unprotected_ms: Option<u64>,
    pub(crate) reprotected_by: Option<String>,
    /// As in [`Planned`].
    pub(crate) starts_blocked: u64,
}

/// Life without registry and control plane.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outage {
    pub(crate) duration_ms: u64,
    pub(crate) requests: u64,
    pub(crate) requests_failed: u64,
    pub(crate) writes_acknowledged: u64,
    pub(crate) writes_lost: u64,
    pub(crate) read_ms_p99: f64,
}

impl Summary {
    pub(crate) const fn new(fence_time_ms: u64) -> Self {
        Self { fence_time_ms, switchover: None, switchback: None, failover: None, registry_outage: None }
    }

    pub(crate) fn write(&self, dir: &Path) -> anyhow::Result<()> {
        Ok(std::fs::write(dir.join("summary.json"), serde_json::to_string_pretty(self)? + "\n")?)
    }

    /// For people.
    pub(crate) fn table(&self) -> Table {
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
