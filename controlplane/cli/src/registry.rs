//! `domicile registry …`: only parsed here. The binary runs it, because it needs the store: these verbs work while no
//! control plane leads.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use domicile_model::{CellId, RegionId, WorldId};

use crate::args::{address, duration};

/// `domicile registry …`.
#[derive(Debug, Subcommand)]
pub enum RegistryVerb {
    /// Write everything in the registry to a file, at one revision. Safe while the fleet runs.
    Backup {
        /// The file; replaced in one step if it exists.
        file: PathBuf,
        /// Which registry.
        #[command(flatten)]
        at: At,
    },
    /// Check a backup: that no byte was changed, that this program reads every value, and that the rules hold.
    Verify {
        /// The file.
        file: PathBuf,
        /// Compare it with this registry: etcd://host:port,host:port/prefix.
        #[arg(long, value_name = "REGISTRY")]
        against: Option<String>,
    },
    /// Bring an empty registry back from a backup, as a new world with epochs above all that anybody knows. Contradictions
    /// are closed.
    Restore {
        /// The file.
        file: PathBuf,
        /// How.
        #[command(flatten)]
        how: How,
    },
    /// Bring an empty registry back without a backup: definitions from a regions.toml, placements from what routers and
    /// agents know.
    Rebuild {
        /// The file with the fleet.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// FENCE, life of a proof, if no router knows a longer one.
        #[arg(long, default_value = "10s", value_parser = duration)]
        fence: Duration,
        /// How.
        #[command(flatten)]
        how: How,
    },
    /// Say who holds a cell that a restore has closed. Refused while another database of it can be written.
    Decide {
        /// The cell.
        cell: CellId,
        /// The region whose database shall be the primary. It must be one already: this promotes nothing.
        region: RegionId,
        /// Go on although the agent of that region does not answer: it held the cell and is lost, and a forced failover
        /// comes next.
        #[arg(long)]
        unseen: bool,
        /// Who is asked, and why.
        #[command(flatten)]
        ask: Ask,
    },
}

/// Which registry.
#[derive(Debug, Clone, Args)]
pub struct At {
    /// The registry: etcd://host:port,host:port/prefix. Asked directly, no control plane is needed.
    #[arg(long)]
    pub registry: String,
    /// A JSON object from addresses in the registry to the addresses to dial.
    #[arg(long)]
    pub links: Option<PathBuf>,
}

/// Who is asked, and why.
#[derive(Debug, Clone, Args)]
pub struct Ask {
    /// Which registry.
    #[command(flatten)]
    pub at: At,
    /// The secret of the agents: file:/path or env:NAME.
    #[arg(long, value_name = "REF")]
    pub agent_secret: String,
    /// The secret that routers share: file:/path or env:NAME. Without it no router is asked.
    #[arg(long, value_name = "REF")]
    pub peer_secret: Option<String>,
    /// The peer address of a router, asked besides those that the backup names. May be repeated.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub router: Vec<SocketAddr>,
    /// Who does this, for the audit log.
    #[arg(long, env = "USER", default_value = "unknown")]
    pub by: String,
    /// Why, for the audit log.
    #[arg(long)]
    pub reason: String,
    /// Show what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

/// How a registry is brought back.
#[derive(Debug, Clone, Args)]
pub struct How {
    /// Who is asked, and why.
    #[command(flatten)]
    pub ask: Ask,
    /// The registry is not empty but holds this world: an old copy, or a restore that was interrupted. Everything in it is
    /// replaced.
    #[arg(long, value_name = "WORLD")]
    pub replace_world: Option<WorldId>,
}
