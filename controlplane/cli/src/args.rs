//! The command line. Parsing reads no file and connects nowhere.

mod report;
mod serve;
mod witnesses;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use domicile_model::{CellId, FreezeId, MoveId, RegionId, RouterId, TenantId};
use jiff::Timestamp;

use crate::registry::RegistryVerb;

pub use report::{ReportVerb, SlaArgs};
pub use serve::{AgentArgs, ServeArgs, SuperviseArgs};
pub(crate) use serve::{address, duration};
pub use witnesses::WitnessArgs;

/// Multi-region tenant router and control plane: who is served from where, and moving them without losing a write.
#[derive(Debug, Parser)]
#[command(name = "domicile", version, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    /// What all commands that talk to a control plane share.
    #[command(flatten)]
    pub global: Global,
    /// The noun.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Control planes, tried in this order: host:port, separated by commas.
    #[arg(
        long,
        global = true,
        env = "DOMICILE_SERVER",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400"
    )]
    pub server: Vec<String>,
    /// Where the operator token is to be read: file:/path or env:NAME. Never the token itself.
    // Parsed later: clap would repeat a bad value, which may be the token itself.
    #[arg(long, global = true, env = "DOMICILE_TOKEN_REF", value_name = "REF", hide_env_values = true)]
    pub token: Option<String>,
    /// Print data as JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look for every mistake in a regions.toml, offline.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Bring the registry to what a regions.toml says. Moves nothing.
    Apply(ApplyArgs),
    /// Who serves what now.
    Status,
    /// Regions.
    #[command(subcommand)]
    Region(RegionVerb),
    /// Cells: the tenants that share a database pair and move together.
    #[command(subcommand)]
    Cell(CellVerb),
    /// Tenants.
    #[command(subcommand)]
    Tenant(TenantVerb),
    /// Moving cells: planned, or forced when a region is lost.
    #[command(subcommand)]
    Failover(FailoverVerb),
    /// Rows that a forced move has lost: where they lie, and reading them with the recipient's key.
    #[command(subcommand)]
    Losses(LossesVerb),
    /// Windows in which no planned move starts.
    #[command(subcommand)]
    Freeze(FreezeVerb),
    /// The keys that agents sign handovers with.
    #[command(subcommand)]
    Key(crate::key::KeyVerb),
    /// What has left the registry: finished moves, old audit entries and old versions.
    #[command(subcommand)]
    Archive(ArchiveVerb),
    /// Who changed what, when and why: the whole log, also what has left the registry, checked up to the registry's head.
    Audit(AuditArgs),
    /// What tenants saw, by the routers' own facts.
    #[command(subcommand)]
    Report(ReportVerb),
    /// The registry itself: backup, restore, rebuild. Works without a control plane.
    #[command(subcommand)]
    Registry(Box<RegistryVerb>),
    /// Run a control plane.
    Serve(Box<ServeArgs>),
    /// Run the agent beside a PostgreSQL.
    Agent(AgentArgs),
    /// Started by the agent; kills PostgreSQL when the agent's proof has ended.
    #[command(hide = true)]
    AgentSupervise(SuperviseArgs),
    /// The list of exit codes.
    ExitCodes,
}

/// `domicile apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The file.
    pub file: PathBuf,
    /// Show the plan and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Remove what the file no longer names.
    #[arg(long)]
    pub prune: bool,
    /// Do not ask before removing.
    #[arg(long, short)]
    pub yes: bool,
}

/// `domicile audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// So many of the newest.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// All of them.
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
    /// Of this person only.
    #[arg(long)]
    pub by: Option<String>,
    /// Of this action only: apply, start-move, close-cell…
    #[arg(long)]
    pub action: Option<String>,
}

/// `domicile region …`.
#[derive(Debug, Subcommand)]
pub enum RegionVerb {
    /// All regions, the cells that they hold and their gates.
    List,
}

/// `domicile cell …`.
#[derive(Debug, Subcommand)]
pub enum CellVerb {
    /// All cells.
    List,
    /// One cell with its lag, tenants and witnesses, and what is wrong with its databases.
    Show {
        /// The cell.
        cell: CellId,
    },
    /// Build the cell's standby: attached where it can be, else rewound, else anew. Nothing else of the cell changes.
    Reprotect {
        /// The cell.
        cell: CellId,
    },
    /// Take a cell out of service where it is: nobody serves it, its database is stopped, requests get 503. At once: what
    /// is under way is cut.
    Close {
        /// The cell.
        cell: CellId,
        /// Why; shown in status and kept in the audit log.
        #[arg(long)]
        reason: String,
        /// How to go about it.
        #[command(flatten)]
        how: ServiceArgs,
    },
    /// Put a closed cell back into service, where its newest data is.
    Open {
        /// The cell.
        cell: CellId,
        /// Where [default: where it was closed]
        #[arg(long)]
        region: Option<RegionId>,
        /// Why, for the audit log.
        #[arg(long)]
        reason: String,
        /// How to go about it.
        #[command(flatten)]
        how: ServiceArgs,
    },
    /// The witnesses of a cell, and the wish for others: named as soon as the present ones can vouch for nothing older.
    Witnesses {
        /// The cell.
        cell: CellId,
        /// What is wanted.
        #[command(flatten)]
        what: WitnessArgs,
    },
    /// Believe the agent of a cell in a region by the key that it shows now. The first key of an agent is trusted by
    /// itself; another one only by this, after its machine was set up anew.
    TrustAgent {
        /// The cell.
        cell: CellId,
        /// Where the agent is.
        #[arg(long)]
        region: RegionId,
        /// The id of the key, as that agent's operator reads it out; `cell show` tells which one the agent shows.
        #[arg(long, value_name = "ID")]
        key: String,
        /// Why, for the audit log.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
}

/// How a cell is closed or opened.
#[derive(Debug, Clone, Copy, Args)]
pub struct ServiceArgs {
    /// Show what would be done and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// Follow it until it is over.
    #[arg(long)]
    pub wait: bool,
}

/// `domicile tenant …`.
#[derive(Debug, Subcommand)]
pub enum TenantVerb {
    /// All tenants.
    List,
    /// One tenant.
    Show {
        /// The tenant.
        tenant: TenantId,
    },
    /// Where a request of this tenant goes now, and why.
    Route {
        /// The tenant.
        tenant: TenantId,
    },
}

/// `domicile failover …`.
#[derive(Debug, Subcommand)]
pub enum FailoverVerb {
    /// What a move would do: checks, tenants, steps, and the loss of a forced one. Changes nothing.
    Plan(MoveArgs),
    /// Start a move. Planned, losing nothing, unless forced.
    Start(StartArgs),
    /// Follow a move until it is over.
    Watch {
        /// The move.
        id: MoveId,
    },
    /// One move with its log and what was measured.
    Show {
        /// The move.
        id: MoveId,
    },
    /// All moves, newest first.
    List,
    /// Let a stuck move try its step again.
    Retry {
        /// The move.
        id: MoveId,
        /// Of a forced move: the most transactions that may be lost, instead of what was accepted before.
        #[arg(long, value_name = "N")]
        accept_loss: Option<u64>,
        /// Of a forced move: accept that part of the loss can't be known.
        #[arg(long)]
        accept_unknown: bool,
        /// Of a move that waits for witnesses to go quiet: those whose machines are destroyed. Their identities are barred
        /// for ever. If one of them lives and is only cut off, two regions may answer.
        #[arg(long, value_name = "ROUTER", value_delimiter = ',', requires = "reason")]
        destroyed: Vec<RouterId>,
        /// How that is known, for the audit log.
        #[arg(long, requires = "destroyed")]
        reason: Option<String>,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Turn a move back, where that is still possible.
    Rollback {
        /// The move.
        id: MoveId,
    },
    /// End a move whose new region serves, without the rest of its steps: return, losses, re-protect, protect. The cell
    /// stays unprotected.
    Skip {
        /// The move.
        id: MoveId,
        /// Why, for the log.
        #[arg(long)]
        reason: String,
    },
    /// Stop a move before its next step at which nobody waits.
    Pause {
        /// The move.
        id: MoveId,
        /// Why, for the log.
        #[arg(long)]
        reason: String,
    },
    /// Let a paused move go on.
    Resume {
        /// The move.
        id: MoveId,
    },
    /// Approve what a move waits for. Takes the role `approver`; whoever asked for the move can't.
    Approve {
        /// The move.
        id: MoveId,
        /// What you approve, as `failover show` names it [default: shown, and asked about]
        #[arg(long)]
        hash: Option<String>,
        /// What to keep with it in the log.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Show what would be approved, and approve nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Refuse what a move waits for: it ends, and nothing was changed. Takes the role `approver`.
    Reject {
        /// The move.
        id: MoveId,
        /// Why, for the log.
        #[arg(long)]
        reason: String,
    },
    /// Emergency stop: no move starts, planned or forced, and a running one stops before its next calm step.
    StopAll {
        /// Why, for the log.
        #[arg(long)]
        reason: String,
    },
    /// Lift the emergency stop.
    AllowAll,
    /// The transactions that a forced move lost.
    Losses {
        /// The move.
        id: MoveId,
    },
}

/// `domicile losses …`.
#[derive(Debug, Subcommand)]
pub enum LossesVerb {
    /// Where the lost rows of a tenant lie, encrypted. Takes the role `losses`; the audit log keeps who asked and why.
    /// Whose rows a move has lost, `failover losses` tells.
    #[command(group(clap::ArgGroup::new("whose").required(true).args(["tenant", "unassigned"])))]
    Locate {
        /// The move.
        id: MoveId,
        /// Whose rows.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Rows that name no tenant of the cell.
        #[arg(long)]
        unassigned: bool,
        /// Why, for the audit log.
        #[arg(long)]
        reason: String,
    },
    /// Decrypt a file of lost rows, offline: a line of JSON for each row on stdout. `age -d -i KEYFILE FILE` does it too.
    Decrypt {
        /// The file.
        file: PathBuf,
        /// The recipient's key file.
        #[arg(long, value_name = "KEYFILE")]
        key: PathBuf,
    },
    /// Make a recipient's key, offline. What it prints goes into [losses] of the agents' files; the key file stays with
    /// whoever may read lost rows.
    Keygen {
        /// The key file to make; it must not exist.
        file: PathBuf,
    },
}

/// `domicile archive …`.
#[derive(Debug, Subcommand)]
pub enum ArchiveVerb {
    /// How far the archive reaches, who holds a copy, and what holds it up.
    Status,
    /// Let what may leave the registry leave it now, not at the leader's next pass within a minute.
    Run {
        /// Say how much may leave, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Check a copy offline: no segment missing, every digest, every signature.
    Verify {
        /// The copy: what `serve` was given as --archive-dir.
        #[arg(long)]
        dir: PathBuf,
        /// The public keys that count [default: keys.toml beside the segments]
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
        /// The registry's head, as `archive status` shows it: without it a missing end is not noticed.
        #[arg(long, value_name = "SEGMENT:LINK:DIGEST")]
        head: Option<String>,
    },
}

/// `domicile freeze …`.
#[derive(Debug, Subcommand)]
pub enum FreezeVerb {
    /// All freezes that are not over.
    List,
    /// No planned move of these cells in this window.
    Add {
        /// The cells; none named: all.
        cells: Vec<CellId>,
        /// From when, such as 2026-12-24T00:00:00Z [default: now]
        #[arg(long)]
        from: Option<Timestamp>,
        /// Until when.
        #[arg(long)]
        until: Timestamp,
        /// Why, for the log.
        #[arg(long)]
        reason: String,
    },
    /// End a freeze early.
    Remove {
        /// The freeze.
        id: FreezeId,
    },
}

/// Which move.
#[derive(Debug, Clone, Args)]
pub struct MoveArgs {
    /// The cell that shall move.
    #[arg(required_unless_present = "tenant", conflicts_with = "tenant")]
    pub cell: Option<CellId>,
    /// Instead of a cell: the cell of this tenant, with everybody in it.
    #[arg(long)]
    pub tenant: Option<TenantId>,
    /// Where it shall go.
    #[arg(long)]
    pub to: RegionId,
    /// The primary is gone or given up: move without it. Loses what had not reached the other region.
    #[arg(long)]
    pub force: bool,
    /// The most transactions that may be lost.
    #[arg(long, requires = "force", value_name = "N")]
    pub accept_loss: Option<u64>,
    /// Accept that part of the loss can't be known before.
    #[arg(long, requires = "force")]
    pub accept_unknown: bool,
    /// Why, for the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// `domicile failover start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Which move.
    #[command(flatten)]
    pub which: MoveArgs,
    /// Do not ask whether the cell's other tenants shall move along.
    #[arg(long, short)]
    pub yes: bool,
    /// Follow the move until it is over (`done`), or until the new region serves (`serving`).
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "done")]
    pub wait: Option<Until>,
    /// Makes a repeat of this command find the move it started instead of starting another one.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// When to stop following.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Until {
    /// Every step is done, the new standby included.
    Done,
    /// The new region serves; a new standby may still be missing.
    Serving,
}
