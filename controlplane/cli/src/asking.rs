//! What several servers said to one call, and which of it counts.
//!
//! One control plane that is cut off must not end a command that another one could carry out. So a client goes on to the
//! next server as long as that is safe, and shows the best of what it heard only when nobody is left.

use crate::fail::Failure;

/// An answer: what came, or why a server that could know says no.
pub(crate) type Answer = Result<Vec<u8>, Failure>;

/// What one server said.
#[derive(Debug)]
pub(crate) enum Said {
    /// Nobody else needs to be asked, or nobody else may be: it may have been done.
    Final(Answer),
    /// It rests on an old look at the registry, or on one that saw nobody lead.
    Poor {
        /// How old the look was, in milliseconds.
        age_ms: u64,
        /// Who said it.
        server: String,
        /// What.
        answer: Answer,
    },
    /// No answer, and safe to ask the next one.
    Not(Weight, Failure),
}

/// How much a failure says about why the command failed. The heaviest one is shown, the last of equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Nobody there.
    Silent,
    /// This one does not know the token; another one's file may be newer.
    Stranger,
    /// It was there and could not do it: it did not.
    Refused,
    /// It may have been done there, and all others could not. Must not be hidden by what they said.
    Uncertain,
}

/// What was heard so far.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    poor: Option<(u64, String, Answer)>,
    failed: Vec<(Weight, Failure)>,
}

/// How a call ended: the answer, and what to tell people about it.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The answer that counts.
    pub(crate) answer: Answer,
    /// A caution that belongs to it.
    pub(crate) note: Option<String>,
}

impl Heard {
    /// One more. Some: nobody else is to be asked.
    pub(crate) fn take(&mut self, said: Said) -> Option<Verdict> {
        match said {
            Said::Final(answer) => {
                let answer = answer.map_err(|failure| self.with_the_others(failure));
                return Some(Verdict { answer, note: None });
            }
            Said::Poor { age_ms, server, answer } => {
                if self.poor.as_ref().is_none_or(|(best, _, _)| age_ms < *best) {
                    self.poor = Some((age_ms, server, answer));
                }
            }
            Said::Not(weight, failure) => self.failed.push((weight, failure)),
        }
        None
    }

    /// Whether all were there, and none could do it or say that it did not.
    pub(crate) fn nobody_leads(&self) -> bool {
        let could_not = |weight: Weight| matches!(weight, Weight::Refused | Weight::Uncertain);
        self.poor.is_none() && !self.failed.is_empty() && self.failed.iter().all(|(w, _)| could_not(*w))
    }

    /// Everybody was asked. None if nobody was there to be asked.
    pub(crate) fn end(mut self) -> Option<Verdict> {
        if let Some((age_ms, server, answer)) = self.poor.take() {
            let answer = answer.map_err(|failure| self.with_the_others(failure));
            return Some(Verdict { answer, note: Some(caution(age_ms, &server)) });
        }
        let best = (0..self.failed.len()).max_by_key(|n| (self.failed[*n].0, *n))?;
        let (_, failure) = self.failed.remove(best);
        Some(Verdict { answer: Err(self.with_the_others(failure)), note: None })
    }

    fn with_the_others(&mut self, mut failure: Failure) -> Failure {
        failure.others = self.failed.drain(..).map(|(_, other)| other.what).collect();
        failure
    }
}

fn caution(age_ms: u64, server: &str) -> String {
    if age_ms == 0 {
        return format!("nobody leads, as {server} sees it: nothing can be changed at the moment");
    }
    format!(
        "{server} does not reach the registry: what it shows is {}.{} s old, and may have changed since; \
         name all control planes with --server",
        age_ms / 1000,
        age_ms % 1000 / 100
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn not(weight: Weight, what: &str) -> Said {
        Said::Not(weight, Failure::new(Exit::Temporary, what))
    }

    fn poor(age_ms: u64, server: &str) -> Said {
        Said::Poor { age_ms, server: server.into(), answer: Ok(server.as_bytes().to_vec()) }
    }

    #[test]
    fn the_heaviest_reason_is_shown_the_last_of_equals_and_the_others_are_named() {
        use Weight::{Refused, Silent, Stranger, Uncertain};
        for (said, best) in [
            (vec![(Refused, "a"), (Silent, "b")], "a"),
            (vec![(Silent, "a"), (Silent, "b")], "b"),
            (vec![(Stranger, "a"), (Refused, "b"), (Silent, "c")], "b"),
            (vec![(Uncertain, "a"), (Refused, "b")], "a"),
        ] {
            let mut heard = Heard::default();
            for (weight, what) in &said {
                assert!(heard.take(not(*weight, what)).is_none());
            }
            let failure = heard.end().unwrap().answer.unwrap_err();
            assert_eq!(failure.what, best);
            assert_eq!(failure.others.len(), said.len() - 1, "{failure:?}");
        }
        assert!(Heard::default().end().is_none());
    }

    #[test]
    fn a_poor_answer_counts_only_when_there_is_no_better_one() {
        let mut heard = Heard::default();
        assert!(heard.take(poor(900, "old")).is_none());
        assert!(heard.take(not(Weight::Refused, "no")).is_none());
        assert!(heard.take(poor(20, "young")).is_none());
        assert!(heard.take(poor(4_000, "older")).is_none());
        let end = heard.end().unwrap();
        assert_eq!(end.answer.unwrap(), b"young");
        assert!(end.note.unwrap().contains("young"));

        let mut heard = Heard::default();
        assert!(heard.take(poor(0, "leaderless")).is_none());
        let end = heard.take(Said::Final(Ok(b"led".to_vec()))).unwrap();
        assert_eq!(end.answer.unwrap(), b"led");
        assert!(end.note.is_none());
    }
}
