//! Trouble as one router saw it in one minute: from the first request that failed or was held to the first good write after it.

use serde::{Deserialize, Serialize};

/// Most that are told apart in one minute. What comes beyond that makes the last one longer: never too short.
const MOST: usize = 4;

/// One of them. Moments are in milliseconds from the minute's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "(i32, i32, Option<i32>)", into = "(i32, i32, Option<i32>)")]
pub struct Episode {
    /// When the first request came that failed or was held.
    pub first: i32,
    /// When the last one came. One that hung for long is no trouble of later than that.
    pub last: i32,
    /// When a write had ended well since then, the first that is known; none yet.
    pub good: Option<i32>,
}

impl From<(i32, i32, Option<i32>)> for Episode {
    fn from((first, last, good): (i32, i32, Option<i32>)) -> Self {
        Self { first, last, good }
    }
}

impl From<Episode> for (i32, i32, Option<i32>) {
    fn from(e: Episode) -> Self {
        (e.first, e.last, e.good)
    }
}

impl Episode {
    /// Makes it one with trouble that it can't be told apart from.
    fn takes(&mut self, first: i32, last: i32) {
        self.first = self.first.min(first);
        self.last = self.last.max(last);
        self.good = self.good.filter(|good| *good >= self.last);
    }
}

/// Those of one minute, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<Episode>", into = "Vec<Episode>")]
pub struct Episodes {
    list: [Episode; MOST],
    len: u8,
}

impl TryFrom<Vec<Episode>> for Episodes {
    type Error = String;

    fn try_from(list: Vec<Episode>) -> Result<Self, String> {
        let mut all = Self::default();
        if list.len() > MOST {
            return Err(format!("at most {MOST} episodes are told apart"));
        }
        for episode in list {
            let sound = episode.first <= episode.last && episode.good.is_none_or(|good| good >= episode.last);
            let after =
                all.as_slice().last().is_none_or(|before| before.good.is_some_and(|g| g < episode.first));
            if !sound || !after {
                return Err("episodes stand in order, each over before the next".to_owned());
            }
            all.push(episode);
        }
        Ok(all)
    }
}

impl From<Episodes> for Vec<Episode> {
    fn from(all: Episodes) -> Self {
        all.as_slice().to_vec()
    }
}

impl Episodes {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Episode] {
        &self.list[..usize::from(self.len)]
    }

    /// Whether there was no trouble.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn last_mut(&mut self) -> Option<&mut Episode> {
        usize::from(self.len).checked_sub(1).map(|at| &mut self.list[at])
    }

    fn push(&mut self, episode: Episode) {
        self.list[usize::from(self.len)] = episode;
        self.len += 1;
    }

    /// A request that failed or was held, by when it came.
    pub(crate) fn trouble(&mut self, came: i32) {
        self.between(came, came);
    }

    fn between(&mut self, first: i32, last: i32) {
        // Told late: of what is over already.
        let over = |e: &&mut Episode| e.first <= first && e.good.is_some_and(|good| good >= last);
        if let Some(over) = self.list[..usize::from(self.len)].iter_mut().find(over) {
            over.last = over.last.max(last);
            return;
        }
        let full = usize::from(self.len) == MOST;
        match self.last_mut() {
            // A write that ended well before this one came has ended what was before.
            Some(open) if full || open.good.is_none_or(|good| good >= first) => open.takes(first, last),
            _ => self.push(Episode { first, last, good: None }),
        }
        self.join();
    }

    /// A write that ended well.
    pub(crate) fn wrote(&mut self, ended: i32) {
        if let Some(open) = self.last_mut().filter(|e| e.good.is_none() && ended >= e.last) {
            open.good = Some(ended);
        }
    }

    /// A request may have come long before what is known already: makes one of those that it joins.
    fn join(&mut self) {
        while self.len > 1 {
            let [.., before, last] = &mut self.list[..usize::from(self.len)] else { return };
            if before.good.is_some_and(|good| good < last.first) {
                return;
            }
            // What lies beyond the length is nobody's: equal ones are equal there, too.
            let Episode { first, last, good } = std::mem::take(last);
            before.takes(first, last);
            before.good = before.good.or(good).filter(|good| *good >= before.last);
            self.len -= 1;
        }
    }

    /// Adds what another one has seen in the same minute.
    pub(crate) fn add(&mut self, other: &Self) {
        let mut all = [self.as_slice(), other.as_slice()].concat();
        all.sort_unstable_by_key(|e| (e.first, e.last));
        *self = Self::default();
        for episode in all {
            self.between(episode.first, episode.last);
            if let Some(good) = episode.good {
                self.wrote(good);
            }
        }
    }
}
