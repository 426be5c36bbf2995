//! What the binary runs itself: a control plane, an agent, its supervisor. Only parsed here.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use domicile_model::RegionId;

/// `domicile serve`. The binary runs it; this crate only parses.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The name of this control plane, in logs and as the leader.
    #[arg(long, value_parser = name)]
    pub name: String,
    /// The region that it runs in.
    #[arg(long)]
    pub region: RegionId,
    /// The registry: etcd://host:port,host:port/prefix.
    #[arg(long)]
    pub registry: String,
    /// Where it listens.
    #[arg(long, value_parser = address)]
    pub listen: SocketAddr,
    /// Where the other control planes reach it, if not at the address it listens on.
    #[arg(long, value_parser = address)]
    pub advertise: Option<SocketAddr>,
    /// The operators: a file with lines `name sha256-of-token-in-hex [roles]`; roles are viewer, operator (the default),
    /// approver, losses, admin and router, joined by commas.
    #[arg(long)]
    pub tokens: PathBuf,
    /// The secret of the agents: file:/path or env:NAME.
    #[arg(long, value_name = "REF")]
    pub agent_secret: String,
    /// A JSON object from addresses in the registry to the addresses to dial.
    #[arg(long)]
    pub links: Option<PathBuf>,
    /// FENCE, life of a proof. Used when this control plane makes the registry's world; later the registry's value counts.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub fence: Duration,
    /// Life of the leader's lease: how long a dead leader is waited for.
    #[arg(long, default_value = "3s", value_parser = duration)]
    pub lease: Duration,
    /// The longest that requests are held during a move.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub hold: Duration,
    /// Shortest time between two planned moves of a cell; 0s for none.
    #[arg(long, default_value = "1m", value_parser = duration_or_none)]
    pub min_interval: Duration,
    /// Bytes that an etcd member's database may have: what its --quota-backend-bytes says [default: etcd's own, 2 GiB].
    /// Counts where etcd does not tell it itself, as none before 3.6 does.
    #[arg(long, default_value_t = 2 << 30, hide_default_value = true, value_name = "BYTES")]
    pub registry_quota_bytes: u64,
    /// Bytes of it that ordinary changes and planned moves leave to forced moves [default: by the number of cells and
    /// routers, at most half of the quota].
    #[arg(long, value_name = "BYTES")]
    pub registry_reserve_bytes: Option<u64>,
    /// A directory of this control plane's own, into which finished moves, old audit entries and old versions leave etcd:
    /// sealed, chained, and copied to the other control planes. Without it nothing leaves.
    #[arg(long)]
    pub archive_dir: Option<PathBuf>,
    /// So many of the newest stay in etcd: finished moves of each cell, versions of each thing, audit entries in all.
    #[arg(long, default_value_t = 20, requires = "archive_dir", value_name = "N")]
    pub archive_keep: usize,
    /// Whatever is younger stays in etcd, such as 36h or 7d.
    #[arg(long, default_value = "7d", value_parser = long_duration, requires = "archive_dir")]
    pub archive_age: Duration,
    /// How many control planes must hold a segment before its keys leave etcd [default: 2 once another control plane has
    /// ever kept a copy, else 1].
    #[arg(long, requires = "archive_dir", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub archive_copies: Option<u16>,
    /// A directory of this control plane's own, for what routers tell it of their traffic (their --facts-to): reports rest on
    /// it. Without it routers keep it for the others.
    #[arg(long)]
    pub history_dir: Option<PathBuf>,
    /// Whatever is older is forgotten, such as 400d.
    #[arg(long, default_value = "400d", value_parser = long_duration, requires = "history_dir")]
    pub history_age: Duration,
    /// How long etcd's history is kept before the leader compacts it; 0s if something else does.
    #[arg(long, default_value = "5m", value_parser = duration_or_none)]
    pub registry_history: Duration,
    /// Stop at a point of a workflow: step:before-effect=pause, step:after-effect=exit. For tests.
    #[arg(long, hide = true)]
    pub failpoint: Vec<String>,
}

/// `domicile agent`. The binary runs it.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The agent's TOML file.
    #[arg(long)]
    pub config: PathBuf,
}

/// `domicile agent-supervise`. The binary runs it.
#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// Passed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

fn name(text: &str) -> Result<String, String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(fine) {
        return Ok(text.to_owned());
    }
    Err("write 1 to 64 letters, digits, `-`, `_` and `.`".into())
}

pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:7400".into())
}

fn long_duration(text: &str) -> Result<Duration, String> {
    let rule = "write a length of time from 1s to 3650d, such as 36h or 7d";
    let whole = |digits: &str, seconds: u64| {
        digits.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
    };
    let length = match text.strip_suffix('d') {
        Some(days) => whole(days, 86_400),
        None => text.parse().ok().and_then(|parsed: jiff::SignedDuration| Duration::try_from(parsed).ok()),
    };
    length
        .filter(|l| (Duration::from_secs(1)..=Duration::from_secs(3_650 * 86_400)).contains(l))
        .ok_or_else(|| rule.to_owned())
}

fn duration_or_none(text: &str) -> Result<Duration, String> {
    if text == "0s" { Ok(Duration::ZERO) } else { duration(text) }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let rule = "write a length of time such as 10s, 500ms or 2m";
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| rule.to_owned())?;
    let length = Duration::try_from(parsed).map_err(|_| rule.to_owned())?;
    if length.is_zero() || length > Duration::from_secs(600) {
        return Err("it must be above zero and at most 10 minutes".into());
    }
    Ok(length)
}
