//! The form in which facts travel and lie on disk: a head and a line for each fact, in JSON. A batch has a name that no other
//! one will ever have, so that telling it twice does no harm.

use domicile_model::{BootId, RegionId, Role, RouterId};
use serde::{Deserialize, Serialize};

use crate::{Fact, Minute};

/// The version of the form that is written.
pub const VERSION: u32 = 1;
/// Most facts of a batch. A minute with more is told in several.
pub const MOST_FACTS: usize = 5_000;
/// Largest batch that is read, in bytes.
pub const LARGEST: usize = 8 << 20;

/// The name of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BatchId {
    /// Who has counted.
    pub router: RouterId,
    /// In which life of the process.
    pub boot: BootId,
    /// How many batches of this life came before.
    pub number: u64,
}

/// How far a router's clock is from a control plane's, by a question and its answer: theirs is ahead of ours by this, and
/// the truth is within the bound around it (RFC 5905, section 8: offset and half the round trip).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockBound {
    /// Milliseconds that the control plane's clock is ahead.
    pub ahead_ms: i64,
    /// Half of the time between question and answer, in milliseconds, rounded up.
    pub within_ms: u64,
}

/// Begins a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the form.
    pub version: u32,
    /// Its name.
    #[serde(flatten)]
    pub id: BatchId,
    /// As what the router has counted.
    pub role: Role,
    /// Where; there its TLS ended, too.
    pub region: RegionId,
    /// What was counted in it.
    pub minute: Minute,
    /// How many facts follow. A minute without any is told as well: nobody came, and that is known.
    pub facts: usize,
    /// How far its clock was off when it was last compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub clock: Option<ClockBound>,
}

/// Facts of one minute, of one router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Whose and when.
    pub head: Head,
    /// In the order of tenant and region; of those without a tenant there is at most one, and it comes first.
    pub facts: Vec<Fact>,
}

/// Why bytes are no batch.
#[derive(Debug, thiserror::Error)]
pub enum NotABatch {
    /// It is larger than any.
    #[error("a batch of facts has at most {LARGEST} bytes")]
    TooLarge,
    /// A line is not what it should be.
    #[error("line {line} of a batch of facts: {what}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A newer program has written it.
    #[error("the batch of facts is of version {0}, this program reads up to {VERSION}")]
    Newer(u32),
    /// It was cut, or something was added.
    #[error("the batch of facts says that it has {said} facts, and has {has}")]
    Count {
        /// What its head says.
        said: usize,
        /// How many there are.
        has: usize,
    },
}

impl Batch {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + 160 * self.facts.len());
        line(&mut bytes, &self.head);
        for fact in &self.facts {
            line(&mut bytes, fact);
        }
        bytes
    }

    /// From bytes; checks all that a reader relies on.
    ///
    /// # Errors
    /// What is wrong, and in which line.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotABatch> {
        if bytes.len() > LARGEST {
            return Err(NotABatch::TooLarge);
        }
        let wrong =
            |line: usize, what: &dyn std::fmt::Display| NotABatch::Line { line, what: what.to_string() };
        let text = std::str::from_utf8(bytes).map_err(|e| wrong(1, &e))?;
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(first).map_err(|e| wrong(1, &e))?;
        if version > VERSION {
            return Err(NotABatch::Newer(version));
        }
        let head: Head = serde_json::from_str(first).map_err(|e| wrong(1, &e))?;
        if head.facts > MOST_FACTS {
            return Err(wrong(1, &format!("a batch has at most {MOST_FACTS} facts")));
        }
        let mut facts: Vec<Fact> = Vec::with_capacity(head.facts);
        for (n, text) in lines.enumerate() {
            if n == head.facts {
                let has = head.facts + text.lines().count().max(1);
                return Err(NotABatch::Count { said: head.facts, has });
            }
            let fact: Fact = serde_json::from_str(text).map_err(|e| wrong(n + 2, &e))?;
            let order = |f: &Fact| (f.tenant.clone(), f.region.clone());
            if facts.last().is_some_and(|last| order(last) >= order(&fact)) {
                return Err(wrong(n + 2, &"facts stand in the order of tenant and region, each once"));
            }
            let episodes = fact.tally.episodes.as_slice().iter();
            let episodes = episodes.flat_map(|e| [Some(e.first), Some(e.last), e.good]);
            if fact
                .tally
                .at
                .all()
                .into_iter()
                .chain(episodes)
                .flatten()
                .any(|ms| head.minute.offset(head.minute.at(ms)) != ms)
            {
                return Err(wrong(n + 2, &"a moment lies in its minute, or at most a day before it"));
            }
            facts.push(fact);
        }
        if facts.len() != head.facts {
            return Err(NotABatch::Count { said: head.facts, has: facts.len() });
        }
        Ok(Self { head, facts })
    }
}

fn line(bytes: &mut Vec<u8>, value: &impl Serialize) {
    // Numbers, names and options can always be written.
    if serde_json::to_writer(&mut *bytes, value).is_ok() {
        bytes.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Moments, Tally};

    fn head(facts: usize) -> Head {
        Head {
            version: VERSION,
            id: BatchId { router: RouterId::new("edge-1").unwrap(), boot: BootId::new(), number: 7 },
            role: Role::Edge,
            region: RegionId::new("us-east-1").unwrap(),
            minute: Minute(29_000_000),
            facts,
            clock: Some(ClockBound { ahead_ms: -3, within_ms: 2 }),
        }
    }

    fn batch(facts: usize) -> Batch {
        let fact = |n: usize| Fact {
            tenant: (n > 0).then(|| domicile_model::TenantId::new(&format!("t{n:05}")).unwrap()),
            region: (n > 0).then(|| RegionId::new("us-west-2").unwrap()),
            tally: Tally {
                good: n as u64 + 1,
                at: Moments { last_bad: Some(59_999), ..Moments::default() },
                ..Tally::default()
            },
        };
        Batch { head: head(facts), facts: (0..facts).map(fact).collect() }
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        for facts in [0, 1, 2, MOST_FACTS] {
            let batch = batch(facts);
            assert_eq!(Batch::decode(&batch.encode()).unwrap(), batch);
        }
    }

    #[test]
    fn what_is_cut_added_doubled_or_newer_is_no_batch() {
        let whole = batch(3).encode();
        let text = String::from_utf8(whole.clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let refused = |text: &str, what: &str| {
            let error = Batch::decode(text.as_bytes()).expect_err(what);
            assert!(error.to_string().contains(what), "{error}");
        };
        refused("", "line 1");
        refused(&lines[..3].join("\n"), "has 2");
        refused(&[&lines[..], &[lines[3]]].concat().join("\n"), "has 4");
        refused(&[lines[0], lines[1], lines[2], lines[2]].join("\n"), "line 4");
        refused(&[lines[0], lines[1], lines[3], lines[2]].join("\n"), "line 4");
        refused(&text.replacen("\"version\":1", "\"version\":2", 1), "version 2");
        refused(&text.replacen("59999", "60000", 1), "line 2");
        refused(&text.replacen("59999", "-86400001", 1), "line 2");
        refused(&text.replacen("\"facts\":3", "\"facts\":5001", 1), "line 1");
        refused(&text.replacen("t00001", "T 1", 1), "line 3");
        assert!(matches!(Batch::decode(&vec![b' '; LARGEST + 1]), Err(NotABatch::TooLarge)));
    }

    /// What a whole fleet says in a minute has to fit.
    #[test]
    fn the_largest_batch_is_within_the_bound() {
        let mut batch = batch(MOST_FACTS);
        let most = u64::MAX;
        for fact in &mut batch.facts {
            fact.tally = Tally {
                good: most,
                application_error: most,
                refused: most,
                failed: most,
                unknown: most,
                gone: most,
                writes: most,
                held: most,
                held_ms: most,
                held_most_ms: most,
                decrypted: most,
                spliced: most,
                bytes_up: most,
                bytes_down: most,
                at: fact.tally.at,
                episodes: fact.tally.episodes,
            };
        }
        assert!(batch.encode().len() < LARGEST, "{}", batch.encode().len());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..400_usize, new in any::<u8>()) {
            let _ = Batch::decode(&bytes);
            let mut bent = batch(2).encode();
            let at = at % bent.len();
            bent[at] = new;
            if let Ok(read) = Batch::decode(&bent) {
                prop_assert_eq!(Batch::decode(&read.encode()).unwrap(), read);
            }
        }
    }
}
