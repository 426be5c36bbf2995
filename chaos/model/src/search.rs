//! Breadth-first search of a finite space, whole.

use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use indexmap::IndexSet;

/// A space to be searched. Actions of one state must come in the same order each time.
pub trait Space {
    /// A state.
    type State: Clone + Eq + Hash + Debug;
    /// What leads from one to another.
    type Action: Copy + Debug;
    /// Where it begins.
    fn starts(&self) -> Vec<Self::State>;
    /// What might be done in a state.
    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>);
    /// What comes of it; none if it can't be done or changes nothing.
    fn next(&self, state: &Self::State, action: Self::Action) -> Option<Self::State>;
}

/// A named question to a state.
pub struct Named<S: Space> {
    /// What it is called.
    pub name: &'static str,
    /// The question.
    pub holds: fn(&S, &S::State) -> bool,
}

/// A way through the space: a start, then actions with the states that they lead to.
pub type Path<S> = (<S as Space>::State, Vec<(<S as Space>::Action, <S as Space>::State)>);

/// What was found.
pub struct Found<S: Space> {
    /// How many different states were visited.
    pub states: usize,
    /// How many steps were taken.
    pub steps: u64,
    /// How many steps the farthest state is from a start.
    pub depth: u32,
    /// The first law that a state breaks, with a shortest way there.
    pub broken: Option<(&'static str, Path<S>)>,
    /// The sights that were seen, each with a shortest way there.
    pub seen: Vec<(&'static str, Path<S>)>,
    /// Whether every state within the bounds was visited.
    pub whole: bool,
}

/// Visits every state, up to `most` of them, or up to the first that breaks a law.
pub fn search<S: Space>(space: &S, laws: &[Named<S>], sights: &[Named<S>], most: usize) -> Found<S> {
    let mut visited: IndexSet<S::State, BuildHasherDefault<Mixer>> = IndexSet::default();
    let mut came: Vec<(usize, Option<S::Action>, u32)> = Vec::new();
    for start in space.starts() {
        if visited.insert(start) {
            came.push((0, None, 0));
        }
    }
    let mut found = Found { states: 0, steps: 0, depth: 0, broken: None, seen: Vec::new(), whole: false };
    let mut actions = Vec::new();
    let mut at = 0;
    while let Some(state) = visited.get_index(at).cloned() {
        let depth = came[at].2;
        found.depth = depth;
        found.states = visited.len();
        if let Some(law) = laws.iter().find(|law| !(law.holds)(space, &state)) {
            found.broken = Some((law.name, path(space, &visited, &came, at)));
            return found;
        }
        for sight in sights {
            if !found.seen.iter().any(|(name, _)| *name == sight.name) && (sight.holds)(space, &state) {
                found.seen.push((sight.name, path(space, &visited, &came, at)));
            }
        }
        actions.clear();
        space.actions(&state, &mut actions);
        for action in &actions {
            if let Some(next) = space.next(&state, *action) {
                found.steps += 1;
                if visited.insert(next) {
                    came.push((at, Some(*action), depth + 1));
                }
            }
        }
        if visited.len() > most {
            return found;
        }
        at += 1;
    }
    found.whole = true;
    found
}

fn path<S: Space>(
    _: &S,
    visited: &IndexSet<S::State, BuildHasherDefault<Mixer>>,
    came: &[(usize, Option<S::Action>, u32)],
    mut at: usize,
) -> Path<S> {
    let mut steps = Vec::new();
    while let (before, Some(action), _) = came[at] {
        steps.push((action, visited[at].clone()));
        at = before;
    }
    steps.reverse();
    (visited[at].clone(), steps)
}

/// A quick hash of small numbers, eight at a time. States are compared in full, so it need not be a good one.
#[derive(Default)]
pub struct Mixer {
    mixed: u64,
    waiting: u64,
    count: u8,
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let all = (self.mixed.rotate_left(5) ^ self.waiting).wrapping_mul(0x517C_C1B7_2722_0A95);
        all ^ (all >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }
    fn write_u8(&mut self, value: u8) {
        self.waiting = self.waiting << 8 | u64::from(value);
        self.count += 1;
        if self.count == 8 {
            self.mixed = (self.mixed.rotate_left(5) ^ self.waiting).wrapping_mul(0x517C_C1B7_2722_0A95);
            (self.waiting, self.count) = (0, 0);
        }
    }
    fn write_isize(&mut self, value: isize) {
        // Which of a few variants it is.
        self.write_u8(value.to_le_bytes()[0]);
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u8(value.to_le_bytes()[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts to nine by ones and threes.
    struct Counting;

    impl Space for Counting {
        type State = u8;
        type Action = u8;
        fn starts(&self) -> Vec<u8> {
            vec![0]
        }
        fn actions(&self, _: &u8, actions: &mut Vec<u8>) {
            actions.extend([1, 3]);
        }
        fn next(&self, state: &u8, action: u8) -> Option<u8> {
            Some(state + action).filter(|next| *next <= 9)
        }
    }

    #[test]
    fn every_state_is_visited_and_the_shortest_way_is_told() {
        let sight = Named { name: "seven", holds: |_: &Counting, s: &u8| *s == 7 };
        let found = search(&Counting, &[], &[sight], 100);
        assert!(found.whole);
        assert_eq!((found.states, found.steps, found.depth), (10, 16, 4));
        let (start, steps) = &found.seen[0].1;
        assert_eq!((*start, steps.len(), steps[2].1), (0, 3, 7));
    }

    #[test]
    fn a_broken_law_ends_the_search_and_too_many_states_are_not_whole() {
        let law = || Named { name: "below six", holds: |_: &Counting, s: &u8| *s < 6 };
        let (name, (_, steps)) = search(&Counting, &[law()], &[], 100).broken.unwrap();
        assert_eq!((name, steps.len()), ("below six", 2));
        let cut = search(&Counting, &[], &[], 5);
        assert!(!cut.whole && cut.broken.is_none());
    }
}
