//! `domicile cell witnesses`.

use clap::Args;
use domicile_model::RouterId;

/// What is wanted of a cell's witnesses; nothing: to see them.
#[derive(Debug, Clone, Args)]
pub struct WitnessArgs {
    /// Name others with the next placement that finds the present ones silent: of a forced move by waiting, or when the
    /// cell is opened after a close.
    #[arg(long, requires = "reason")]
    pub replace: bool,
    /// A router that shall not be among them. May be repeated.
    #[arg(long, value_name = "ROUTER", requires = "replace")]
    pub without: Vec<RouterId>,
    /// Let the next planned move wait until they are silent: writes wait for WAIT longer, requests beyond the hold get 503.
    #[arg(long, requires = "replace")]
    pub wait: bool,
    /// Why, for the audit log.
    #[arg(long)]
    pub reason: Option<String>,
    /// Take the wish back.
    #[arg(long, conflicts_with = "replace")]
    pub keep: bool,
    /// Show who would be named now and change nothing.
    #[arg(long, requires = "replace")]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}
