//! Where the story is told: the fleet, the terminal, and everything that was promised and looked at.

use std::time::Duration;

use anyhow::{Context, bail};
use domicile_model::clock::{BootTime, Clock};
use indicatif::{ProgressBar, ProgressStyle};

use super::operator::{Operator, Started};
use super::routers;
use crate::control::Control;
use crate::fleet::{FleetFile, Kind};
use crate::load::client::Edges;
use crate::load::{Load, Record, Shape};
use crate::oracle::{self, Stored};

/// The stage.
#[derive(Debug)]
pub(crate) struct Stage {
    began: BootTime,
    bar: ProgressBar,
    play: Option<Play>,
    broken: Vec<String>,
    records: Vec<Record>,
    runs: usize,
    shape: Shape,
}

#[derive(Debug)]
struct Play {
    fleet: FleetFile,
    operator: Operator,
    control: Control,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        Self {
            began: Clock::Machine.now(),
            bar,
            play: None,
            broken: Vec::new(),
            records: Vec::new(),
            runs: 0,
            shape: Shape::demo(),
        }
    }

    /// With a running fleet.
    pub(crate) fn with(mut self, fleet: FleetFile) -> anyhow::Result<Self> {
        self.play = Some(Play { operator: Operator::new(&fleet)?, control: Control::new(&fleet)?, fleet });
        Ok(self)
    }

    #[expect(clippy::expect_used, reason = "chapters are told on a stage with a fleet")]
    fn play(&self) -> &Play {
        self.play.as_ref().expect("the fleet is up before the first chapter that asks for it")
    }

    pub(crate) fn fleet(&self) -> &FleetFile {
        &self.play().fleet
    }

    pub(crate) fn operator(&self) -> &Operator {
        &self.play().operator
    }

    pub(crate) fn control(&self) -> &Control {
        &self.play().control
    }

    /// With other users than the demo's.
    pub(crate) fn with_users(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// The users of a chapter, to be added to.
    pub(crate) fn shape(&self) -> Shape {
        self.shape.clone()
    }

    /// A heading.
    pub(crate) fn chapter(&self, title: &str) {
        self.bar.suspend(|| eprintln!("\n== {title}"));
    }

    /// What happens now.
    pub(crate) fn say(&self, text: &str) {
        let at = Clock::Machine.now().since(self.began).as_secs_f64();
        self.bar.suspend(|| eprintln!("[{at:6.1} s] {text}"));
        self.bar.set_message(text.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(120));
    }

    /// Something that must be true. If it is not, the story goes on and the demo fails at its end.
    pub(crate) fn must(&mut self, holds: bool, what: &str) {
        if holds {
            self.say(&format!("  ok: {what}"));
        } else {
            self.say(&format!("  NOT TRUE: {what}"));
            self.broken.push(what.to_owned());
        }
    }

    /// Starts a move as the operator; what blocks it meanwhile is said.
    pub(crate) async fn start_move(&self, cell: &str, to: &str, extra: &[&str]) -> anyhow::Result<Started> {
        self.operator().start_telling(cell, to, extra, |line| self.say(line)).await
    }

    /// Starts users.
    pub(crate) async fn load(&mut self, shape: Shape) -> anyhow::Result<Load> {
        self.runs += 1;
        let run = format!("run{}", self.runs);
        let edges: Vec<_> = self
            .fleet()
            .units
            .iter()
            .filter(|u| u.kind == Kind::Edge)
            .map(crate::fleet::Unit::listen)
            .collect();
        let load = Load::start(&run, self.fleet().tenants.clone(), Edges::new(edges), shape).await?;
        Ok(load.beside(self.fleet().journals()))
    }

    /// Ends users and remembers what they saw.
    pub(crate) async fn unload(&mut self, load: Load) -> Vec<Record> {
        let records = load.finish().await;
        self.records.extend(records.iter().cloned());
        records
    }

    /// What all databases that serve hold now, asked directly.
    pub(crate) async fn stored(&self) -> anyhow::Result<Stored> {
        let mut all = Stored::new();
        for cell in self.operator().status().await?.cells {
            let region = cell.holder.with_context(|| format!("nobody holds cell {}", cell.id))?;
            all.extend(oracle::stored(self.fleet().database(cell.id.as_str(), region.as_str())?).await?);
        }
        Ok(all)
    }

    /// Everything that users saw so far.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// What was promised and did not hold.
    pub(crate) fn broken(&self) -> &[String] {
        &self.broken
    }

    /// Says how many requests failed, and as what.
    pub(crate) fn tell_failures(&self, records: &[Record]) {
        for line in oracle::failures(records) {
            self.say(&format!("  failed: {line}"));
        }
    }

    /// Requests that waited for a move, by the routers' own count.
    pub(crate) async fn held(&self) -> u64 {
        routers::held(self.fleet()).await
    }

    /// *One writer* and no surprise, over everything that was acknowledged in the whole story.
    pub(crate) fn check_all_epochs(&mut self) {
        let judged = oracle::check_one_writer(&self.records);
        let what = match &judged {
            Ok(()) => "one writer: every cell's epochs acknowledged in order".to_owned(),
            Err(broken) => broken.to_string(),
        };
        self.must(judged.is_ok(), &what);
    }

    /// The end.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        if self.broken.is_empty() {
            let took = Clock::Machine.now().since(self.began).as_secs();
            eprintln!("everything that was promised was seen to hold ({took} s)");
            return Ok(());
        }
        bail!("{} of what was promised did not hold:\n  - {}", self.broken.len(), self.broken.join("\n  - "))
    }
}
