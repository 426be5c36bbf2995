//! `domicile key list|revoke`: the keys that agents sign handovers with.

use clap::Subcommand;
use domicile_api::keys::KeyView;
use domicile_api::moves::ReasonRequest;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, or_dash};

/// `domicile key …`.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Which key each agent is believed by, which one it shows, and which ones were revoked.
    List,
    /// Take no handover any more that this key signed, whenever that was, and never trust it again. Planned moves of its
    /// cell turn back until the agent has a new key; forced ones need none.
    Revoke {
        /// The id of the key.
        id: String,
        /// Why, for the audit log.
        #[arg(long)]
        reason: String,
        /// Show whose key it is and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs one of the verbs.
///
/// # Errors
/// When the key is unknown, the answer is no, or no control plane answers.
pub async fn run(verb: &KeyVerb, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let keys: Vec<KeyView> = match verb {
        KeyVerb::List => client.get("/v1/keys").await?,
        KeyVerb::Revoke { id, reason, dry_run, yes } => {
            let all: Vec<KeyView> = client.get("/v1/keys").await?;
            let found: Vec<KeyView> = all.into_iter().filter(|key| key.id == *id).collect();
            if found.is_empty() {
                return Err(Failure::new(Exit::NotFound, format!("no agent bears a key {id}"))
                    .hint("`domicile key list` names them"));
            }
            if *dry_run {
                found
            } else {
                out.confirm(&format!("Revoke key {id} for ever?"), *yes)?;
                let wanted = ReasonRequest { reason: reason.clone() };
                client.post(&format!("/v1/keys/{id}/revoke"), &wanted).await?
            }
        }
    };
    if out.json {
        out.data(&keys)?;
    } else {
        out.table(&["KEY", "CELL", "REGION", "TRUSTED", "SHOWN", "REVOKED"], keys.iter().map(row).collect())?;
    }
    Ok(Exit::Ok)
}

fn row(key: &KeyView) -> Vec<String> {
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let revoked = key.revoked.as_ref().map(|r| format!("by {} at {:.0}: {}", r.by, r.at, r.reason));
    vec![
        key.id.clone(),
        or_dash(key.cell.as_ref()),
        or_dash(key.region.as_ref()),
        yes(key.trusted),
        yes(key.shown),
        or_dash(revoked),
    ]
}
