//! `domicile report …`

use clap::{Args, Subcommand};
use domicile_model::{MoveId, TenantId};
use jiff::Timestamp;

/// The reports.
#[derive(Debug, Subcommand)]
pub enum ReportVerb {
    /// The time that a move, or what it answered, cost each tenant, as clients saw it.
    Rto {
        /// The move.
        id: MoveId,
        /// This one only.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// As CSV.
        #[arg(long)]
        csv: bool,
    },
    /// Availability of a month and what is left of the error budget. Minutes of which nothing is known are none that were
    /// available.
    Sla(SlaArgs),
}

/// `domicile report sla`.
#[derive(Debug, Args)]
pub struct SlaArgs {
    /// Which, such as 2026-11 [default: this one]
    #[arg(long)]
    pub month: Option<String>,
    /// This one only.
    #[arg(long)]
    pub tenant: Option<TenantId>,
    /// In percent of the month's minutes.
    #[arg(long, default_value = "99.9")]
    pub objective: f64,
    /// No minute after this moment is counted, so that the report can be repeated.
    #[arg(long)]
    pub until: Option<Timestamp>,
    /// As CSV.
    #[arg(long)]
    pub csv: bool,
}
