//! `domicile failover retry|rollback|skip|pause|resume|reject ID`: what a person says to a move that has begun.

use domicile_api::moves::{MoveView, ReasonRequest, RetryRequest};
use domicile_model::MoveId;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::failover::standing;
use crate::out::Out;

/// What the person says.
#[derive(Debug, Clone)]
pub enum Verb {
    /// Try the step again, with this consent.
    Retry(RetryRequest),
    /// Turn back.
    Rollback,
    /// Go on without the step.
    Skip(ReasonRequest),
    /// Stop before the next calm step.
    Pause(ReasonRequest),
    /// Go on.
    Resume,
    /// End it instead of approving it.
    Reject(ReasonRequest),
}

/// Runs it.
///
/// # Errors
/// When the move does not exist, is past the point where the verb is possible, or no leader answers.
pub async fn run(verb: Verb, id: MoveId, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let path = |word| format!("/v1/moves/{id}/{word}");
    let (word, view): (_, MoveView) = match verb {
        Verb::Retry(consent) => ("retry", client.verb(&path("retry"), &consent).await?),
        Verb::Rollback => ("rollback", client.verb(&path("rollback"), &()).await?),
        Verb::Skip(reason) => ("skip", client.verb(&path("skip"), &reason).await?),
        Verb::Pause(reason) => ("pause", client.verb(&path("pause"), &reason).await?),
        Verb::Resume => ("resume", client.verb(&path("resume"), &()).await?),
        Verb::Reject(reason) => ("reject", client.verb(&path("reject"), &reason).await?),
    };
    if out.json {
        out.data(&view)?;
    } else {
        writeln!(out.stdout, "{}", view.id)?;
        out.say(&format!(
            "{word} accepted; {}. Follow it with `domicile failover watch {id}`",
            standing(&view)
        ))?;
    }
    Ok(Exit::Ok)
}
