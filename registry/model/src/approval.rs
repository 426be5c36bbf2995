//! Whose approval a change of who serves a cell waits for. A rule among people: nothing about who may write rests on it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::CellId;

/// A kind of change that may have to be approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A planned move.
    Switchover,
    /// A forced move.
    Failover,
    /// Taking a cell out of service.
    Close,
    /// Putting a closed cell back into service.
    Open,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Switchover, Self::Failover, Self::Close, Self::Open];

    /// The word in regions.toml.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
            Self::Close => "close",
            Self::Open => "open",
        }
    }
}

/// How many people must approve. Whoever asked for the change is never one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Nobody.
    #[default]
    None,
    /// One person other than the one who asked.
    One,
    /// Two different people other than the one who asked.
    Two,
}

impl Need {
    /// How many people that are.
    #[must_use]
    pub const fn people(self) -> usize {
        match self {
            Self::None => 0,
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::One => "one",
            Self::Two => "two",
        })
    }
}

/// The text is no number of people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it must be \"none\", \"one\" or \"two\"")]
pub struct NeedError;

impl FromStr for Need {
    type Err = NeedError;

    fn from_str(text: &str) -> Result<Self, NeedError> {
        [Self::None, Self::One, Self::Two].into_iter().find(|n| n.to_string() == text).ok_or(NeedError)
    }
}

/// The key `approvals`: whose approval each kind of change waits for. Kinds that it does not name wait for nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approvals {
    /// In the whole fleet.
    #[serde(default)]
    pub fleet: BTreeMap<Change, Need>,
    /// Instead of that, in single cells.
    #[serde(default)]
    pub cells: BTreeMap<CellId, BTreeMap<Change, Need>>,
    /// How long a change waits for its approvals, and how old they may be when it goes on, in milliseconds.
    pub expires_ms: u64,
}

impl Default for Approvals {
    fn default() -> Self {
        Self { fleet: BTreeMap::new(), cells: BTreeMap::new(), expires_ms: Self::EXPIRES_MS }
    }
}

impl Approvals {
    /// How long a change waits where nobody says: one hour.
    pub const EXPIRES_MS: u64 = 3_600_000;

    /// How many people must approve such a change of this cell.
    #[must_use]
    pub fn need(&self, cell: &CellId, change: Change) -> Need {
        let own = self.cells.get(cell).and_then(|cell| cell.get(&change));
        own.or_else(|| self.fleet.get(&change)).copied().unwrap_or_default()
    }

    /// The first place, as in regions.toml, where this policy asks for fewer people than `old` did; none if it does
    /// nowhere.
    #[must_use]
    pub fn weaker_than(&self, old: &Self) -> Option<String> {
        let fleet = |change: Change| {
            let needs = |policy: &Self| policy.fleet.get(&change).copied().unwrap_or_default();
            (needs(self) < needs(old)).then(|| format!("approvals.{}", change.as_str()))
        };
        let cell = |cell: &CellId| {
            let weaker = Change::ALL.into_iter().find(|c| self.need(cell, *c) < old.need(cell, *c))?;
            Some(format!("approvals.cells.{cell}.{}", weaker.as_str()))
        };
        Change::ALL
            .into_iter()
            .find_map(fleet)
            .or_else(|| self.cells.keys().chain(old.cells.keys()).find_map(cell))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_may_ask_for_more_or_fewer_people_than_the_fleet() {
        let cell = |id: &str| CellId::new(id).unwrap();
        let approvals = Approvals {
            fleet: [(Change::Close, Need::One), (Change::Switchover, Need::Two)].into(),
            cells: [(cell("a"), [(Change::Close, Need::Two), (Change::Switchover, Need::None)].into())]
                .into(),
            ..Approvals::default()
        };
        assert_eq!(approvals.need(&cell("a"), Change::Close), Need::Two);
        assert_eq!(approvals.need(&cell("a"), Change::Switchover), Need::None);
        assert_eq!(approvals.need(&cell("b"), Change::Close), Need::One);
        assert_eq!(
            approvals.need(&cell("b"), Change::Failover),
            Need::None,
            "what nobody names waits for nobody"
        );
        assert_eq!(Approvals::default().need(&cell("a"), Change::Close), Need::None);
    }

    #[test]
    fn a_policy_is_weaker_where_any_cell_waits_for_fewer_people() {
        let policy = |fleet: &[(Change, Need)], cell: &[(Change, Need)]| Approvals {
            fleet: fleet.iter().copied().collect(),
            cells: [(CellId::new("a").unwrap(), cell.iter().copied().collect())].into(),
            ..Approvals::default()
        };
        let old = policy(&[(Change::Close, Need::One)], &[(Change::Close, Need::Two)]);
        assert_eq!(old.weaker_than(&old), None);
        assert_eq!(policy(&[(Change::Close, Need::Two)], &[]).weaker_than(&old), None, "two either way");
        let weaker = policy(&[(Change::Close, Need::One)], &[]).weaker_than(&old);
        assert_eq!(weaker.as_deref(), Some("approvals.cells.a.close"));
        assert_eq!(Approvals::default().weaker_than(&old).as_deref(), Some("approvals.close"));
        let one = policy(&[(Change::Close, Need::One)], &[(Change::Close, Need::None)]);
        assert_eq!(one.weaker_than(&Approvals::default()), None);
    }

    #[test]
    fn needs_read_as_they_are_written() {
        for need in [Need::None, Need::One, Need::Two] {
            assert_eq!(need.to_string().parse(), Ok(need));
        }
        assert_eq!("three".parse::<Need>(), Err(NeedError));
        for change in Change::ALL {
            assert_eq!(serde_json::to_value(change).unwrap(), change.as_str());
        }
    }
}
