//! What stops those who write to a database directly, past every gate, when its region's last proof ends.

use serde::{Deserialize, Serialize};

/// What stops direct writers of a database when the proof ends. The stronger one is the greater one.
///
/// Gates fall silent in any case. This is about everybody else: migrations, workers, people with `psql`. It matters only
/// where elapsed time decides: a database that has acknowledged a fence is stopped, whatever its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FenceLevel {
    /// Nothing: gates fall silent, direct writers do not.
    GateOnly,
    /// A job in the database ends sessions and stops writes. It lives only as long as the database lets it run.
    DeadMan,
    /// A process that starts PostgreSQL, knows the end of the proof, and kills it.
    Supervisor,
    /// The host itself is ended by hardware or kernel when the supervisor does not answer in time.
    Watchdog,
}

impl FenceLevel {
    /// All of them, the weakest first.
    pub const ALL: [Self; 4] = [Self::GateOnly, Self::DeadMan, Self::Supervisor, Self::Watchdog];

    /// Whether direct writes end within WAIT of the last proof: only then does elapsed time bound what they may add.
    #[must_use]
    pub const fn bounds_direct_writes(self) -> bool {
        !matches!(self, Self::GateOnly)
    }

    /// What it means, in half a sentence.
    #[must_use]
    pub const fn means(self) -> &'static str {
        match self {
            Self::GateOnly => "nothing stops those who write to it directly",
            Self::DeadMan => "a job in the database stops it",
            Self::Supervisor => "its supervisor kills it",
            Self::Watchdog => "its host is ended by a watchdog",
        }
    }
}

impl std::fmt::Display for FenceLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::GateOnly => "gate-only",
            Self::DeadMan => "dead-man",
            Self::Supervisor => "supervisor",
            Self::Watchdog => "watchdog",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_ordered_by_strength_and_only_the_weakest_bounds_nothing() {
        assert!(FenceLevel::ALL.is_sorted());
        let unbounded: Vec<_> = FenceLevel::ALL.into_iter().filter(|l| !l.bounds_direct_writes()).collect();
        assert_eq!(unbounded, [FenceLevel::GateOnly]);
        for level in FenceLevel::ALL {
            let text = serde_json::to_string(&level).unwrap();
            assert_eq!(text, format!("\"{level}\""), "the name on the wire is the one that people see");
        }
    }
}
