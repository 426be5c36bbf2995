//! What is said of facts, and of whom they are told.

use std::net::SocketAddr;

use domicile_model::SecretRef;

use super::Given;
use crate::facts::FactsConfig;

/// Most control planes.
const MOST: usize = 16;

/// What was given, checked; none where nobody is to be told or something is wrong, which `note` then hears of.
pub(super) fn config(given: &Given, note: &mut impl FnMut(&str, String)) -> Option<FactsConfig> {
    let Some(to) = given.facts_to.as_deref() else {
        if given.facts_token.is_some() {
            note("facts-token", "say which control planes are told, too: --facts-to".into());
        }
        return None;
    };
    let parsed: Result<Vec<SocketAddr>, _> = to.split(',').map(|at| at.trim().parse()).collect();
    let to = match parsed {
        Ok(mut to) if to.len() <= MOST => {
            to.sort_unstable();
            to.dedup();
            Some(to)
        }
        _ => {
            note("facts-to", format!("write up to {MOST} addresses, `ip:port,ip:port`"));
            None
        }
    };
    let token = match given.facts_token.as_deref().map(SecretRef::new) {
        None => {
            note(
                "facts-token",
                "control planes believe nobody without a token: `file:/path` or `env:NAME`".into(),
            );
            None
        }
        Some(Err(why)) => {
            note("facts-token", why.to_string());
            None
        }
        Some(Ok(token)) => {
            if let Err(why) = token.read() {
                note("facts-token", why.to_string());
            }
            Some(token)
        }
    };
    if given.state.is_none() {
        note("state", "facts wait on disk until the control planes have them: name a folder".into());
    }
    Some(FactsConfig { to: to?, token: token?, dir: given.state.as_ref()?.join("facts") })
}
