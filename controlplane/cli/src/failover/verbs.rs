//! `domicile failover retry|rollback ID`: a person's answer to a move that is stuck.

use domicile_api::moves::{MoveView, RetryRequest};
use domicile_model::MoveId;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::failover::status;
use crate::out::Out;

/// What the person says.
#[derive(Debug, Clone, Copy)]
pub enum Verb {
    /// Try the step again, with this consent.
    Retry(RetryRequest),
    /// Turn back.
    Rollback,
}

/// Runs it.
///
/// # Errors
/// When the move does not exist, is past the point where the verb is possible, or no leader answers.
pub async fn run(verb: Verb, id: MoveId, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let (word, consent) = match verb {
        Verb::Retry(consent) => ("retry", consent),
        Verb::Rollback => ("rollback", RetryRequest::default()),
    };
    let view: MoveView = client.verb(&format!("/v1/moves/{id}/{word}"), &consent).await?;
    if out.json {
        out.data(&view)?;
    } else {
        writeln!(out.stdout, "{}", view.id)?;
        out.say(&format!(
            "{word} accepted; {}. Follow it with `domicile failover watch {id}`",
            status(&view.status)
        ))?;
    }
    Ok(Exit::Ok)
}
