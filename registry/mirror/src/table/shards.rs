//! A map of which a change copies one part in four thousand.
//!
//! Two levels of 64 shared nodes above small hash sets: with a million entries a change copies 64 + 64 pointers and
//! about 250 entries, a few microseconds, and every other snapshot of the map stays as it was.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

const FAN: usize = 64;

/// Something that is found by a text that it holds itself, so that the text is stored once.
pub(super) trait Keyed: Clone {
    fn key(&self) -> &str;
}

#[derive(Debug, Clone)]
struct ByKey<T>(T);

impl<T: Keyed> Borrow<str> for ByKey<T> {
    fn borrow(&self) -> &str {
        self.0.key()
    }
}
impl<T: Keyed> Hash for ByKey<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}
impl<T: Keyed> PartialEq for ByKey<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}
impl<T: Keyed> Eq for ByKey<T> {}

/// Multiply-and-rotate over words of eight bytes. Not keyed: entries come from the operator, users only look up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mix(u64);

impl Mix {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;

    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(Self::K);
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mut buffer = [0; 8];
            buffer.copy_from_slice(word);
            self.word(u64::from_le_bytes(buffer));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut buffer = [0; 8];
            buffer[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(buffer));
        }
    }
    fn write_u8(&mut self, byte: u8) {
        self.word(u64::from(byte));
    }
    fn finish(&self) -> u64 {
        // The set below takes its bucket from the low bits and its tag from the top ones; the shard stands between.
        let folded = (self.0 ^ (self.0 >> 32)).wrapping_mul(Self::K);
        folded ^ (folded >> 29)
    }
}

type Leaf<T> = HashSet<ByKey<T>, BuildHasherDefault<Mix>>;
type Branch<T> = Vec<Arc<Leaf<T>>>;

/// The map. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Shards<T> {
    root: Arc<Vec<Arc<Branch<T>>>>,
    len: usize,
}

fn place(key: &str) -> (usize, usize) {
    let mut mix = Mix::default();
    key.hash(&mut mix);
    let hash = mix.finish();
    ((hash >> 40) as usize % FAN, (hash >> 46) as usize % FAN)
}

impl<T: Keyed> Shards<T> {
    pub(super) fn new() -> Self {
        let leaf = Arc::new(Leaf::default());
        let branch = Arc::new(vec![leaf; FAN]);
        Self { root: Arc::new(vec![branch; FAN]), len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &str) -> Option<&T> {
        let (branch, leaf) = place(key);
        self.root[branch][leaf].get(key).map(|found| &found.0)
    }

    fn leaf_mut(&mut self, key: &str) -> &mut Leaf<T> {
        let (branch, leaf) = place(key);
        let branch = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[branch]);
        Arc::make_mut(&mut branch[leaf])
    }

    /// Puts an entry in the place of the one with its key, which is returned.
    pub(super) fn insert(&mut self, entry: T) -> Option<T> {
        let key = entry.key().to_owned();
        let old = self.leaf_mut(&key).replace(ByKey(entry));
        if old.is_none() {
            self.len += 1;
        }
        old.map(|found| found.0)
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<T> {
        self.get(key)?;
        let old = self.leaf_mut(key).take(key);
        if old.is_some() {
            self.len -= 1;
        }
        old.map(|found| found.0)
    }

    /// In no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.root.iter().flat_map(|branch| branch.iter()).flat_map(|leaf| leaf.iter()).map(|found| &found.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Keyed for String {
        fn key(&self) -> &str {
            self
        }
    }

    #[test]
    fn a_change_leaves_older_snapshots_and_most_nodes_alone() {
        let mut map = Shards::new();
        for n in 0..20_000 {
            map.insert(format!("tenant-{n}"));
        }
        let before = map.clone();
        map.insert("one-more".to_owned());
        assert_eq!(map.remove("tenant-7").as_deref(), Some("tenant-7"));
        assert_eq!((before.len(), map.len()), (20_000, 20_000));
        assert!(before.get("tenant-7").is_some() && before.get("one-more").is_none());
        assert!(map.get("tenant-7").is_none() && map.get("one-more").is_some());
        let shared = (before.root.iter().flat_map(|b| b.iter()))
            .zip(map.root.iter().flat_map(|b| b.iter()))
            .filter(|(a, b)| Arc::ptr_eq(a, b))
            .count();
        assert!(shared >= FAN * FAN - 2, "{shared} nodes are shared");
    }

    #[test]
    fn entries_spread_over_the_shards() {
        let mut map = Shards::new();
        for n in 0..40_960 {
            map.insert(format!("clinic-{n}.example.com"));
        }
        let fullest = map.root.iter().flat_map(|b| b.iter()).map(|leaf| leaf.len()).max().unwrap();
        assert!(fullest < 60, "10 expected, {fullest} found in one shard");
        assert_eq!(map.iter().count(), map.len());
    }
}
