//! `domicile failover …`: planned moves, and forced ones when a region is lost.

pub mod approve;
pub mod list;
pub mod losses;
pub mod plan;
pub mod show;
pub mod start;
pub mod stop;
pub mod verbs;
pub mod watch;

use domicile_api::moves::{MoveKind, MoveRequest, MoveStatus, MoveView};
use domicile_api::views::TenantView;

use crate::args::MoveArgs;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;

/// The request that the arguments stand for; a tenant is turned into its cell.
pub(crate) async fn request(args: &MoveArgs, client: &Client) -> Result<MoveRequest, Failure> {
    let cell = match (&args.cell, &args.tenant) {
        (Some(cell), _) => cell.clone(),
        (None, Some(tenant)) => client.get::<TenantView>(&format!("/v1/tenants/{tenant}")).await?.cell,
        (None, None) => return Err(Failure::new(Exit::Usage, "name a cell, or --tenant")),
    };
    Ok(MoveRequest {
        cell,
        to: args.to.clone(),
        force: args.force,
        accept_loss: args.accept_loss,
        accept_unknown: args.accept_unknown,
        tenants: Vec::new(),
        reason: args.reason.clone(),
    })
}

/// The kind of a move, in a word.
pub(crate) const fn kind(kind: MoveKind) -> &'static str {
    match kind {
        MoveKind::Switchover => "switchover",
        MoveKind::Failover => "failover",
        MoveKind::Reprotect => "re-protect",
        MoveKind::Close => "close",
        MoveKind::Open => "open",
    }
}

/// How a move stands, in a sentence.
pub(crate) fn status(status: &MoveStatus) -> String {
    match status {
        MoveStatus::Running => "running".into(),
        MoveStatus::RollingBack => "rolling back".into(),
        MoveStatus::Done => "done".into(),
        MoveStatus::RolledBack { why } => format!("rolled back: {why}"),
        MoveStatus::Stuck { step, why } => format!("stuck at {step}: {why}"),
    }
}

/// How a move stands, and whom it waits for.
pub(crate) fn standing(view: &MoveView) -> String {
    match view.waits_for() {
        Some(approval) => format!(
            "waits for approval, {} of {} until {:.0}",
            approval.given.len(),
            approval.need.people(),
            approval.until
        ),
        None => status(&view.status),
    }
}

/// The exit code that a status stands for once nobody waits any longer.
pub(crate) const fn exit(status: &MoveStatus) -> Exit {
    match status {
        MoveStatus::RolledBack { .. } | MoveStatus::Stuck { .. } => Exit::NotDone,
        MoveStatus::Running | MoveStatus::RollingBack | MoveStatus::Done => Exit::Ok,
    }
}
