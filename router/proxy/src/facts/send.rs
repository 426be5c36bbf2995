//! Tells the control planes what lies in the spool, and takes away what enough of them have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use domicile_facts::ClockBound;
use domicile_model::clock::BootTime;
use domicile_model::{SecretError, SecretRef};
use serde::Deserialize;

use super::spool::{Lies, Spool};
use super::{Facts, FactsConfig, unix_ms};
use crate::state::Shared;

/// How long a control plane may take for a batch.
const ANSWER: Duration = Duration::from_secs(10);
/// Batches for one control plane in one round: the others are not to wait for it.
const AT_ONCE: usize = 64;
/// First and longest pause after a control plane did not answer.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// How many must have a batch before it is taken away, where there are so many.
const COPIES: usize = 2;

/// How often the clock is compared with theirs, and how long an answer may take that is of use.
const COMPARE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(2));

/// A control plane's clock.
#[derive(Debug, Clone, Deserialize)]
struct Now {
    /// Its clock, in milliseconds since 1970.
    now_ms: u64,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum Untold {
    /// Whatever is sent again, it will not be taken: it is damaged.
    #[error("{0}")]
    Refused(String),
    /// Perhaps later.
    #[error("{0}")]
    NotNow(String),
}

/// One control plane.
#[derive(Debug)]
struct Target {
    at: SocketAddr,
    /// Of what lies in the spool, what it has.
    has: BTreeSet<String>,
    /// It did not answer last time: not before then again, and then twice as long.
    away: Option<(BootTime, Duration)>,
}

/// All control planes.
#[derive(Debug)]
pub(super) struct Teller {
    token: SecretRef,
    spool: Spool,
    client: reqwest::Client,
    targets: Vec<Target>,
    said: BTreeMap<SocketAddr, String>,
    compared: Option<BootTime>,
}

impl Teller {
    pub(super) fn new(config: &FactsConfig, spool: Spool, client: reqwest::Client) -> Self {
        let target = |at: &SocketAddr| Target { at: *at, has: BTreeSet::new(), away: None };
        Self {
            token: config.token.clone(),
            spool,
            client,
            targets: config.to.iter().map(target).collect(),
            said: BTreeMap::new(),
            compared: None,
        }
    }

    /// Compares the clock with that of the first control plane that answers, now and then.
    pub(super) async fn compare(&mut self, shared: &Shared, facts: &Facts) {
        if self.compared.is_some_and(|at| shared.now().since(at) < COMPARE.0) {
            return;
        }
        let Ok(token) = self.token.read() else { return };
        for target in self.targets.iter().filter(|t| t.away.is_none()) {
            let at = shared.config.links.dial(target.at);
            if let Some(bound) = ask_clock(shared, &self.client, at, &token).await {
                facts.compared(bound);
                self.compared = Some(shared.now());
                return;
            }
        }
    }

    /// Tells each of them what it lacks, and takes away what is told.
    pub(super) async fn round(&mut self, shared: &Shared, lies: Lies) {
        let names: Vec<String> = lies.batches.into_iter().map(|(name, _)| name).collect();
        let token = self.token.read();
        let (client, spool) = (&self.client, &self.spool);
        let rounds = self.targets.iter_mut().map(|target| {
            target.has.retain(|name| names.binary_search(name).is_ok());
            target.round(shared, client, spool, &token, &names)
        });
        let ends: Vec<Option<String>> = futures::future::join_all(rounds).await;
        for (target, why) in self.targets.iter().zip(ends) {
            match (&why, self.said.contains_key(&target.at)) {
                (Some(why), false) => {
                    tracing::warn!(control_plane = %target.at, why, "it takes no facts now; they wait");
                }
                (None, true) => tracing::info!(control_plane = %target.at, "it takes facts again"),
                _ => {}
            }
            match why {
                Some(why) => drop(self.said.insert(target.at, why)),
                None => drop(self.said.remove(&target.at)),
            }
        }
        for name in names.iter().filter(|name| told(&self.targets, name)) {
            if let Err(error) = self.spool.drop(name) {
                tracing::debug!(%error, name, "a batch that was told stays on disk");
            }
        }
    }
}

/// Whether a batch may go: all that answer have it, and two of them where there are two. One that is away for long copies it
/// from the others when it comes back.
fn told(targets: &[Target], name: &str) -> bool {
    let have = targets.iter().filter(|t| t.has.contains(name)).count();
    have >= COPIES.min(targets.len()) && targets.iter().all(|t| t.away.is_some() || t.has.contains(name))
}

impl Target {
    /// Why it takes nothing, if so.
    async fn round(
        &mut self,
        shared: &Shared,
        client: &reqwest::Client,
        spool: &Spool,
        token: &Result<String, SecretError>,
        names: &[String],
    ) -> Option<String> {
        let token = match token {
            Ok(token) => token,
            Err(why) => return Some(format!("--facts-token: {why}")),
        };
        if self.away.is_some_and(|(until, _)| shared.now() < until) {
            return Some("it did not answer".to_owned());
        }
        let lacks: Vec<&String> =
            names.iter().filter(|name| !self.has.contains(*name)).take(AT_ONCE).collect();
        if lacks.is_empty() {
            return self.away.map(|_| "it did not answer".to_owned());
        }
        for name in lacks {
            let bytes = match spool.read(name) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) => return Some(format!("{name} can't be read: {error}")),
            };
            let at = shared.config.links.dial(self.at);
            match tell(client, at, token, bytes).await {
                Ok(()) => {}
                Err(Untold::Refused(why)) => {
                    tracing::warn!(control_plane = %self.at, name, why, "a batch of facts is not taken; it counts as told");
                }
                Err(Untold::NotNow(why)) => {
                    let wait = self.away.map_or(AGAIN.0, |(_, wait)| (wait * 2).min(AGAIN.1));
                    self.away = Some((shared.now() + wait, wait));
                    return Some(why);
                }
            }
            self.away = None;
            self.has.insert(name.clone());
        }
        None
    }
}

/// By how much a control plane's clock is ahead, and within what; none if it did not answer.
async fn ask_clock(
    shared: &Shared,
    client: &reqwest::Client,
    at: SocketAddr,
    token: &str,
) -> Option<ClockBound> {
    let url = format!("http://{at}/v1/facts/clock");
    let asked = shared.now();
    let answer = client.get(url).bearer_auth(token).timeout(COMPARE.1).send().await.ok()?;
    let theirs: Now = answer.error_for_status().ok()?.json().await.ok()?;
    let took = u64::try_from(shared.now().since(asked).as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
    let middle = unix_ms().saturating_sub(took / 2);
    let ahead_ms = i64::try_from(theirs.now_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(middle);
    // One for the milliseconds that both clocks are cut to.
    Some(ClockBound { ahead_ms, within_ms: took.div_ceil(2) + 1 })
}

async fn tell(client: &reqwest::Client, at: SocketAddr, token: &str, bytes: Vec<u8>) -> Result<(), Untold> {
    let request = client
        .post(format!("http://{at}/v1/facts"))
        .bearer_auth(token)
        .header(http::header::CONTENT_TYPE, "application/x-ndjson")
        .body(bytes)
        .timeout(ANSWER);
    let not_now = |e: reqwest::Error| Untold::NotNow(e.without_url().to_string());
    let answer = request.send().await.map_err(not_now)?;
    let status = answer.status().as_u16();
    match status {
        200 => {}
        // It can be read by nobody.
        400 | 413 | 422 => return Err(Untold::Refused(format!("it answered {status}"))),
        // The same name, another content: what was told first counts.
        409 => return Err(Untold::Refused("it has another one of that name".to_owned())),
        401 | 403 => {
            return Err(Untold::NotNow(format!(
                "it answered {status}: does its --tokens know --facts-token, with the role `router`?"
            )));
        }
        _ => return Err(Untold::NotNow(format!("it answered {status}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(has: bool, away: bool) -> Target {
        Target {
            at: "127.0.0.1:1".parse().unwrap(),
            has: has.then(|| "a".to_owned()).into_iter().collect(),
            away: away.then(|| (BootTime::from_nanos(0), AGAIN.0)),
        }
    }

    #[test]
    fn what_all_that_answer_have_and_two_at_least_is_told() {
        let is = |targets: &[(bool, bool)]| {
            let targets: Vec<Target> = targets.iter().map(|(has, away)| target(*has, *away)).collect();
            told(&targets, "a")
        };
        assert!(is(&[(true, false)]) && !is(&[(false, false)]), "one is all there are");
        assert!(is(&[(true, false), (true, false)]));
        assert!(!is(&[(true, false), (false, true)]), "two are configured, so two must have it");
        assert!(is(&[(true, false), (true, false), (false, true)]), "the third one copies it");
        assert!(!is(&[(true, false), (true, false), (false, false)]), "the third one is there and lacks it");
        assert!(is(&[(true, true), (true, false)]), "it had it when it went away");
        assert!(!is(&[(false, true)]));
    }
}
