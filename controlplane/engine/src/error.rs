//! Why a move is not started, and why a running one halts.

use domicile_api::moves::MovePlan;
use domicile_model::{CellId, MoveId};
use domicile_store::{CodecError, StoreError};

/// Why an operator's wish is not followed.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// No such cell, or no such move.
    #[error("{0}")]
    NotFound(String),
    /// Checks block it; the plan names them.
    #[error("the move of cell {} is blocked: {}", .0.cell, blocking(.0))]
    Blocked(Box<MovePlan>),
    /// A forced move that was not consented to as it stands; the plan holds the preview.
    #[error("{why}")]
    Consent {
        /// What is missing and how to give it.
        why: String,
        /// With the preview.
        plan: Box<MovePlan>,
    },
    /// Another move of the cell is under way, or the registry changed meanwhile.
    #[error(
        "cell {0} is being moved or was changed meanwhile: look at it (`domicile cell show {0}`) and ask again"
    )]
    Busy(CellId),
    /// This person may not say that to this move.
    #[error("{0}")]
    NotYours(String),
    /// The verb does not fit how the move stands.
    #[error("{0}")]
    NotNow(String),
    /// This control plane does not lead any more.
    #[error("this control plane does not lead any more: ask again, the leader will answer")]
    Deposed,
    /// The commit may or may not have been applied.
    #[error(
        "the registry did not confirm the start of move {0}, which may or may not stand: list the moves before asking again"
    )]
    Unconfirmed(MoveId),
    /// The registry did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something in the registry can't be read.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

fn blocking(plan: &MovePlan) -> String {
    let whys: Vec<String> =
        plan.checks.iter().filter(|c| c.verdict.blocks()).map(|c| format!("{}: {}", c.name, c.why)).collect();
    whys.join("; ")
}

/// Why a running workflow does not go on by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Halt {
    /// Another leader leads, or another world is served: nothing more may be done here.
    #[error("deposed: {0}")]
    Deposed(String),
    /// The record or the placement is not what was read: read again.
    #[error("the registry changed meanwhile")]
    Conflict,
    /// The step waits for people: nothing is to be done until one of them speaks, or their time is up.
    #[error("it waits for approval")]
    Waits,
    /// The step can't be done: back, if there is a way back, else a person is needed.
    #[error("{0}")]
    Turn(String),
    /// A person is needed, whether or not there is a way back.
    #[error("{0}")]
    Stuck(String),
}
