//! How far the table can be trusted to be recent. No safety rests on it: proofs are asked for apart.

use std::time::Duration;

use domicile_model::clock::BootTime;

/// Where the table came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nothing was read yet: there is no table.
    None,
    /// The file of the last run; the registry did not answer so far.
    LastGood,
    /// The registry.
    Live,
}

/// Source and age of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Where it came from.
    pub source: Source,
    /// Live: since the last sign of life of the registry, counted from when it was asked for where that is known.
    /// Last-good: since the file was last written, by the wall clock, so for people only. None: no table.
    pub age: Option<Duration>,
}

/// What freshness is computed from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sign {
    None,
    LastGood { loaded: BootTime, age: Duration },
    Live { seen: BootTime },
}

impl Sign {
    pub(crate) fn freshness(self, now: BootTime) -> Freshness {
        match self {
            Self::None => Freshness { source: Source::None, age: None },
            Self::LastGood { loaded, age } => {
                Freshness { source: Source::LastGood, age: Some(age + now.since(loaded)) }
            }
            Self::Live { seen } => Freshness { source: Source::Live, age: Some(now.since(seen)) },
        }
    }
}
