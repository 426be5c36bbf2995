//! What the supervisor can be told: the types of its control address, and a client for it.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::fleet::FleetFile;

/// Does something to links. `from` and `to` are each a unit, a region or a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkOrder {
    /// What.
    pub act: LinkAct,
    /// The dialling side.
    pub from: String,
    /// The dialled side.
    pub to: String,
    /// Only what `from` sends towards `to`; otherwise both ways, whoever dialled.
    #[serde(default)]
    pub one_way: bool,
}

/// What can be done to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum LinkAct {
    /// Connections are reset; one way: bytes vanish.
    Cut,
    /// Bytes arrive later.
    Delay {
        /// Milliseconds, each way.
        ms: u64,
    },
    /// Nothing moves, nothing is lost.
    Stall,
    /// At most so many bytes a second.
    Limit {
        /// Bytes a second, each way.
        bytes_per_s: u64,
    },
    /// As if nothing had been.
    Heal,
}

/// Does something to a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionOrder {
    /// What.
    pub act: RegionAct,
    /// Which.
    pub region: String,
}

/// What can be done to a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegionAct {
    /// Every link in or out.
    Cut,
    /// The links again.
    Heal,
    /// SIGKILLs everything in it, at once.
    Kill,
    /// Starts what is not running, and heals the links.
    Start,
}

/// Does something to processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitOrder {
    /// What.
    pub act: UnitAct,
    /// A unit, or a kind for all of that kind.
    pub unit: String,
    /// Arguments that [`UnitAct::Start`] adds to the unit's own, this time.
    #[serde(default)]
    pub args: Vec<String>,
}

/// What can be done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitAct {
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Terminate,
    /// Start again.
    Start,
}

/// What runs, and how the links are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// Every unit.
    pub units: Vec<UnitStatus>,
    /// The links that are not healthy: `from`, `to`, and what is wrong.
    pub faults: Vec<(String, String, domicile_chaos_kit::link::Faults)>,
}

/// A unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Its name.
    pub name: String,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// `running`, `paused` or `stopped`.
    pub state: String,
}

/// The supervisor's answer to an order that it could not carry out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What, and what to do.
    pub error: String,
}

/// Talks to a running supervisor.
#[derive(Debug, Clone)]
pub struct Control {
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Control {
    /// To the supervisor of this fleet.
    ///
    /// # Errors
    /// When its token can't be read.
    pub fn new(fleet: &FleetFile) -> anyhow::Result<Self> {
        let token = fleet.supervisor.token.read()?;
        // An order may start servers and wait for them.
        let http =
            reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_secs(120)).build()?;
        Ok(Self { base: fleet.supervisor.control.clone(), token, http })
    }

    /// Faults on links. Gives how many it touched.
    ///
    /// # Errors
    /// When nothing matches, or the supervisor can't be reached.
    pub async fn link(&self, act: LinkAct, from: &str, to: &str, one_way: bool) -> anyhow::Result<usize> {
        self.order("link", &LinkOrder { act, from: from.to_owned(), to: to.to_owned(), one_way }).await
    }

    /// A whole region.
    ///
    /// # Errors
    /// As [`Control::link`].
    pub async fn region(&self, act: RegionAct, region: &str) -> anyhow::Result<usize> {
        self.order("region", &RegionOrder { act, region: region.to_owned() }).await
    }

    /// Processes.
    ///
    /// # Errors
    /// As [`Control::link`].
    pub async fn unit(&self, act: UnitAct, unit: &str) -> anyhow::Result<usize> {
        self.order("unit", &UnitOrder { act, unit: unit.to_owned(), args: Vec::new() }).await
    }

    /// Starts a process with arguments beside its own, `--failpoint` of a control plane for one.
    ///
    /// # Errors
    /// As [`Control::link`], and when it does not come up.
    pub async fn start_with(&self, unit: &str, args: &[&str]) -> anyhow::Result<usize> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.order("unit", &UnitOrder { act: UnitAct::Start, unit: unit.to_owned(), args }).await
    }

    /// What runs.
    ///
    /// # Errors
    /// When the supervisor can't be reached.
    pub async fn status(&self) -> anyhow::Result<FleetStatus> {
        let answer = self.http.get(format!("{}/status", self.base)).bearer_auth(&self.token).send().await;
        let answer = answer.context("the fleet's supervisor does not answer: is it still running?")?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// Ends everything. The answer comes before the supervisor itself ends.
    ///
    /// # Errors
    /// When the supervisor can't be reached.
    pub async fn down(&self) -> anyhow::Result<usize> {
        self.order("down", &()).await
    }

    async fn order<T: Serialize + ?Sized>(&self, path: &str, order: &T) -> anyhow::Result<usize> {
        let request = self.http.post(format!("{}/{path}", self.base)).bearer_auth(&self.token).json(order);
        let answer =
            request.send().await.context("the fleet's supervisor does not answer: is it still running?")?;
        if answer.status().is_success() {
            return Ok(answer.json().await?);
        }
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        match serde_json::from_str::<Refusal>(&text) {
            Ok(refusal) => bail!("{}", refusal.error),
            Err(_) => bail!("the fleet's supervisor answered {status}: {text}"),
        }
    }
}
