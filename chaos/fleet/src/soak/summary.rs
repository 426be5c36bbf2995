//! `summary.json` of a long run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::demo::stage::Stage;
use crate::demo::summary::{Forced, Planned};
use crate::fault::Fault;
use crate::oracle::quantile;

/// The spread of a figure. All in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Spread {
    /// How many values there are: zero of none says nothing.
    count: usize,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            count: sorted.len(),
            p50: quantile(&sorted, 50),
            p90: quantile(&sorted, 90),
            p99: quantile(&sorted, 99),
            max: quantile(&sorted, 100),
        }
    }

    fn text(&self) -> String {
        format!(
            "p50 {:.0}, p90 {:.0}, p99 {:.0}, max {:.0} (of {})",
            self.p50, self.p90, self.p99, self.max, self.count
        )
    }
}

/// A forced move, and after what.
#[derive(Debug, Clone, Serialize)]
struct Struck {
    cell: String,
    fault: Fault,
    #[serde(flatten)]
    cost: Forced,
}

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) seed: u64,
    pub(super) fence_time_ms: u64,
    planned: Vec<Planned>,
    forced: Vec<Struck>,
    /// Acknowledged writes that are not there in the end.
    pub(super) gone_at_the_end: Option<u64>,
    /// Whether every cell's epochs acknowledged in order, over the whole run.
    pub(super) one_writer: bool,
}

impl Summary {
    pub(super) const fn new(seed: u64, fence_time_ms: u64) -> Self {
        Self {
            seed,
            fence_time_ms,
            planned: Vec::new(),
            forced: Vec::new(),
            gone_at_the_end: None,
            one_writer: false,
        }
    }

    pub(super) fn planned(&mut self, planned: Planned) {
        self.planned.push(planned);
    }

    pub(super) fn forced(&mut self, cell: &str, fault: Fault, cost: Forced) {
        self.forced.push(Struck { cell: cell.to_owned(), fault, cost });
    }

    /// Acknowledged writes that forced moves have listed as lost.
    pub(super) fn listed(&self) -> u64 {
        self.forced.iter().map(|f| f.cost.listed_acknowledged).sum()
    }

    fn lost_something(&self) -> usize {
        self.forced.iter().filter(|f| f.cost.writes_lost > 0).count()
    }

    fn pauses(&self) -> Spread {
        Spread::of(self.planned.iter().flat_map(|p| p.write_pauses_ms.iter().copied()))
    }

    fn sum(&self, of: impl Fn(&Planned) -> u64) -> u64 {
        self.planned.iter().map(of).sum()
    }

    /// What must be true of the whole: figures that are zero because nothing happened are no good ones.
    pub(super) fn verdict(&self, stage: &mut Stage) {
        if !self.planned.is_empty() {
            let held = self.sum(|p| p.requests_held);
            stage.must(held > 0, &format!("{held} requests were held by planned moves"));
            let uploads = self.sum(|p| p.uploads_across_the_pause);
            stage.must(uploads > 0, &format!("{uploads} uploads spanned a pause and arrived whole"));
        }
        if !self.forced.is_empty() {
            let (lost, all) = (self.lost_something(), self.forced.len());
            // Five of six, as 25 of 30.
            stage.must(lost * 6 >= all * 5, &format!("{lost} of {all} forced moves lost something"));
        }
    }

    fn json(&self, broken: &[String]) -> serde_json::Value {
        let millis = |of: fn(&Planned) -> Option<u64>| {
            Spread::of(self.planned.iter().filter_map(of).map(|ms| ms as f64))
        };
        let costs = || self.forced.iter().map(|f| &f.cost);
        let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
        for forced in &self.forced {
            *faults.entry(forced.fault).or_default() += 1;
        }
        serde_json::json!({
            "seed": self.seed,
            "fence_time_ms": self.fence_time_ms,
            "switchovers": {
                "count": self.planned.len(),
                "requests": self.sum(|p| p.requests),
                "requests_failed": self.sum(|p| p.requests_failed),
                "requests_held": self.sum(|p| p.requests_held),
                "writes_acknowledged": self.sum(|p| p.writes_acknowledged),
                "writes_lost": self.sum(|p| p.writes_lost),
                "uploads_across_the_pause": self.sum(|p| p.uploads_across_the_pause),
                "starts_blocked": self.sum(|p| p.starts_blocked),
                "write_pause_ms": self.pauses(),
                "hold_ms": millis(|p| p.hold_ms),
                "closed_ms": millis(|p| p.closed_ms),
                "unprotected_ms": millis(|p| p.unprotected_ms),
            },
            "failovers": {
                "count": self.forced.len(),
                "faults": faults,
                "lost_something": self.lost_something(),
                "writes_acknowledged": costs().map(|c| c.writes_acknowledged).sum::<u64>(),
                "writes_lost": costs().map(|c| c.writes_lost).sum::<u64>(),
                "listed_acknowledged": self.listed(),
                "listed_unanswered": costs().map(|c| c.listed_unanswered).sum::<u64>(),
                "listed_unknown": costs().map(|c| c.listed_unknown).sum::<u64>(),
                "rpo_ms": Spread::of(costs().map(|c| c.rpo_ms)),
                "rto_ms": Spread::of(costs().filter_map(|c| c.rto_ms)),
                "fence_wait_ms": Spread::of(costs().filter_map(|c| c.fence_wait_ms).map(|ms| ms as f64)),
                "unprotected_ms": Spread::of(costs().filter_map(|c| c.unprotected_ms).map(|ms| ms as f64)),
                "moves": self.forced,
            },
            "gone_at_the_end": self.gone_at_the_end,
            "one_writer": self.one_writer,
            "broken": broken,
        })
    }

    pub(super) fn write(&self, stage: &Stage, dir: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.json(stage.broken()))? + "\n";
        Ok(std::fs::write(dir.join("summary.json"), text)?)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let costs = || self.forced.iter().map(|f| &f.cost);
        format!(
            "{} switchovers: {} requests, {} failed, {} held, {} writes, {} lost; write pause ms {}\n\
             {} failovers: {} lost something; {} writes lost, {} of them listed; {} unanswered and {} unknown listed; \
             rto ms {}",
            self.planned.len(),
            self.sum(|p| p.requests),
            self.sum(|p| p.requests_failed),
            self.sum(|p| p.requests_held),
            self.sum(|p| p.writes_acknowledged),
            self.sum(|p| p.writes_lost),
            self.pauses().text(),
            self.forced.len(),
            self.lost_something(),
            costs().map(|c| c.writes_lost).sum::<u64>(),
            self.listed(),
            costs().map(|c| c.listed_unanswered).sum::<u64>(),
            costs().map(|c| c.listed_unknown).sum::<u64>(),
            Spread::of(costs().filter_map(|c| c.rto_ms)).text(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_counts_what_it_is_of() {
        let spread = Spread::of((1..=100).map(f64::from));
        assert_eq!((spread.count, spread.p50, spread.p99, spread.max), (100, 51.0, 100.0, 100.0));
        assert_eq!(Spread::of([]), Spread { count: 0, p50: 0.0, p90: 0.0, p99: 0.0, max: 0.0 });
    }
}
