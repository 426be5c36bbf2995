//! A map of which a change copies one part in sixteen thousand.
//!
//! Two levels of 128 shared nodes above small leaves: with a million entries a change copies 128 + 128 pointers and
//! about 60 entries, a few microseconds, and every other snapshot of the map stays as it was.
//!
//! A leaf is two lists of exactly the length that they need: one byte of each key's hash, and the entries. A lookup
//! runs over the bytes and compares, as a rule, one entry. A hash table would leave up to half of its places empty,
//! which is what a million tenants would mostly consist of.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

const FAN: usize = 128;

/// Something that is found by a text that it holds itself, so that the text is stored once.
pub(super) trait Keyed: Clone {
    fn key(&self) -> &str;
}

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
        let folded = (self.0 ^ (self.0 >> 32)).wrapping_mul(Self::K);
        folded ^ (folded >> 29)
    }
}

/// Where a key belongs.
#[derive(Debug, Clone, Copy)]
struct Place {
    branch: usize,
    leaf: usize,
    tag: u8,
}

fn place(key: &str) -> Place {
    let mut mix = Mix::default();
    key.hash(&mut mix);
    let [a, b, tag, ..] = mix.finish().to_be_bytes();
    Place { branch: usize::from(a) % FAN, leaf: usize::from(b) % FAN, tag }
}

#[derive(Debug, Clone)]
struct Leaf<T> {
    tags: Vec<u8>,
    entries: Vec<T>,
}

impl<T: Keyed> Leaf<T> {
    fn find(&self, tag: u8, key: &str) -> Option<usize> {
        let mut from = 0;
        while let Some(at) = self.tags[from..].iter().position(|found| *found == tag) {
            if self.entries[from + at].key() == key {
                return Some(from + at);
            }
            from += at + 1;
        }
        None
    }
}

type Branch<T> = Vec<Arc<Leaf<T>>>;

/// The map. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Shards<T> {
    root: Arc<Vec<Arc<Branch<T>>>>,
    len: usize,
}

impl<T: Keyed> Shards<T> {
    pub(super) fn new() -> Self {
        let leaf = Arc::new(Leaf { tags: Vec::new(), entries: Vec::new() });
        let branch = Arc::new(vec![leaf; FAN]);
        Self { root: Arc::new(vec![branch; FAN]), len: 0 }
    }

    /// Whether it is the very same map: never wrongly yes.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &str) -> Option<&T> {
        let place = place(key);
        let leaf = &self.root[place.branch][place.leaf];
        leaf.find(place.tag, key).map(|at| &leaf.entries[at])
    }

    fn leaf_mut(&mut self, place: Place) -> &mut Leaf<T> {
        let branch = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[place.branch]);
        Arc::make_mut(&mut branch[place.leaf])
    }

    /// Puts an entry in the place of the one with its key, which is returned.
    pub(super) fn insert(&mut self, entry: T) -> Option<T> {
        let place = place(entry.key());
        let leaf = self.leaf_mut(place);
        if let Some(at) = leaf.find(place.tag, entry.key()) {
            return Some(std::mem::replace(&mut leaf.entries[at], entry));
        }
        // Not a byte more than is needed: there are many leaves.
        leaf.tags.reserve_exact(1);
        leaf.entries.reserve_exact(1);
        leaf.tags.push(place.tag);
        leaf.entries.push(entry);
        self.len += 1;
        None
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<T> {
        let place = place(key);
        // Looked for first, so that nothing is copied for a key that is not there.
        let at = self.root[place.branch][place.leaf].find(place.tag, key)?;
        let leaf = self.leaf_mut(place);
        leaf.tags.swap_remove(at);
        self.len -= 1;
        Some(self.leaf_mut(place).entries.swap_remove(at))
    }

    /// In no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.root.iter().flat_map(|branch| branch.iter()).flat_map(|leaf| leaf.entries.iter())
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
        for n in 0..163_840 {
            map.insert(format!("clinic-{n}.example.com"));
        }
        let fullest = map.root.iter().flat_map(|b| b.iter()).map(|leaf| leaf.entries.len()).max().unwrap();
        assert!(fullest < 60, "10 expected, {fullest} found in one leaf");
        let mut tags = [0_usize; 256];
        map.root.iter().flat_map(|b| b.iter()).flat_map(|l| &l.tags).for_each(|t| tags[usize::from(*t)] += 1);
        let most = tags.iter().max().unwrap();
        assert!(*most < 1_000, "640 expected, {most} keys have one tag");
        assert!((0..163_840).all(|n| map.get(&format!("clinic-{n}.example.com")).is_some()));
        assert_eq!(map.iter().count(), map.len());
    }
}
