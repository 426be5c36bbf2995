//! Whoever changes, drops, swaps or repeats a segment is found, and the segment is named.

#![expect(clippy::unwrap_used, reason = "what goes wrong in a test shall stop it")]

use std::os::unix::fs::PermissionsExt;

use domicile_archive::{Directory, End, Finding, Item, items, seal, verify};
use domicile_seal::chain::{Head, Segment};
use domicile_seal::keys::{KeyEntry, Keyring, PrivateKey};

const CHAIN: &str = "archive of a test";

struct Copy {
    _dir: tempfile::TempDir,
    archive: Directory,
    ring: Keyring,
    end: End,
}

fn item(n: u64) -> Item {
    Item {
        key: format!("audit/{n}"),
        created: 5,
        modified: i64::try_from(n).unwrap(),
        value: format!("{{\"v\":1,\"data\":{{\"n\":{n}}}}}").into_bytes(),
    }
}

fn copy() -> Copy {
    let dir = tempfile::tempdir().unwrap();
    let archive = Directory::create(dir.path()).unwrap();
    let key = archive.signing_key().unwrap();
    let mut ring = Keyring::default();
    ring.add(KeyEntry::new(key.public(), "cp-1")).unwrap();
    let mut head = Head::genesis(CHAIN);
    for segment in 1..=4 {
        let some: Vec<Item> = (0..3).map(|n| item(10 * segment + n)).collect();
        let (sealed, next) = seal(CHAIN, head, &some, &key).unwrap();
        assert_eq!(items(&sealed).len(), 3);
        archive.write(segment, &sealed.to_lines().unwrap()).unwrap();
        head = next;
    }
    archive.write_keys(&ring).unwrap();
    Copy { _dir: dir, archive, ring, end: End { segment: 4, head } }
}

impl Copy {
    fn check(&self) -> Result<Option<End>, Finding> {
        verify(&self.archive, &self.ring, Some(self.end)).map(|report| report.end)
    }

    fn names(&self, segment: u64) {
        let found = self.check().unwrap_err();
        let named = match &found {
            Finding::Segment { segment, .. } => Some(*segment),
            Finding::Missing(n, _) => Some(*n),
            _ => None,
        };
        assert_eq!(named, Some(segment), "{found}");
        assert!(found.to_string().contains(&format!("segment {segment}")), "{found}");
    }
}

#[test]
fn a_sound_copy_is_sound_and_private() {
    let copy = copy();
    assert_eq!(copy.check().unwrap(), Some(copy.end));
    assert_eq!(verify(&copy.archive, &copy.archive.keys().unwrap(), None).unwrap().end, Some(copy.end));
    let mode = std::fs::metadata(copy.archive.path(1)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(copy.archive.signing_key().unwrap().public(), copy.ring.keys()[0].public, "the key is kept");
    let segment = Segment::from_lines(&copy.archive.read(2).unwrap().unwrap()).unwrap();
    assert_eq!(items(&segment)[1].key, "audit/21");
    let back: serde_json::Value = serde_json::from_slice(&items(&segment)[1].value).unwrap();
    assert_eq!(back, serde_json::json!({ "v": 1, "data": { "n": 21 } }));
}

#[test]
fn every_flipped_byte_is_found_in_its_segment() {
    let copy = copy();
    let sound = copy.archive.read(2).unwrap().unwrap();
    for at in (0..sound.len()).step_by(7) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        std::fs::write(copy.archive.path(2), &bytes).unwrap();
        copy.names(2);
    }
    std::fs::write(copy.archive.path(2), &sound).unwrap();
    assert!(copy.check().is_ok());
}

#[test]
fn what_is_dropped_swapped_repeated_or_cut_short_is_named() {
    let copy = copy();
    let bytes: Vec<Vec<u8>> = (1..=4).map(|n| copy.archive.read(n).unwrap().unwrap()).collect();
    std::fs::remove_file(copy.archive.path(3)).unwrap();
    copy.names(3);
    copy.archive.write(3, &bytes[1]).unwrap();
    copy.names(3);
    copy.archive.write(2, &bytes[2]).unwrap();
    copy.names(2);
    copy.archive.write(2, &bytes[1]).unwrap();
    copy.archive.write(3, &bytes[2][..bytes[2].len() / 2]).unwrap();
    copy.names(3);
    copy.archive.write(3, &bytes[2]).unwrap();
    // The end: only the registry's head shows that it is missing.
    std::fs::remove_file(copy.archive.path(4)).unwrap();
    copy.names(4);
    assert!(verify(&copy.archive, &copy.ring, None).is_ok());
}

#[test]
fn what_somebody_else_sealed_anew_is_not_believed() {
    let copy = copy();
    let stranger = PrivateKey::generate().unwrap();
    let before = Segment::from_lines(&copy.archive.read(3).unwrap().unwrap()).unwrap();
    let start = Head { n: before.seal.body.last, digest: before.seal.body.head };
    let (forged, _) = seal(CHAIN, start, &[item(99)], &stranger).unwrap();
    copy.archive.write(4, &forged.to_lines().unwrap()).unwrap();
    copy.names(4);
    // Also not by a key that counts, when the registry knows another end.
    let (other, _) = seal(CHAIN, start, &[item(99)], &copy.archive.signing_key().unwrap()).unwrap();
    copy.archive.write(4, &other.to_lines().unwrap()).unwrap();
    assert!(matches!(copy.check(), Err(Finding::End { .. })));
}

#[test]
fn a_value_that_is_no_json_of_one_meaning_comes_back_byte_for_byte() {
    let key = PrivateKey::generate().unwrap();
    for value in [&b"\xff\x00"[..], b"{\"n\":18446744073709551615}", b"{\"a\":1,\"a\":2}", b"null", b""] {
        let odd = Item { value: value.to_vec(), ..item(1) };
        let (sealed, _) = seal(CHAIN, Head::genesis(CHAIN), std::slice::from_ref(&odd), &key).unwrap();
        let read = Segment::from_lines(&sealed.to_lines().unwrap()).unwrap();
        assert_eq!(items(&read), [odd]);
    }
}

#[test]
fn a_segment_that_is_set_aside_leaves_the_chain_and_stays_on_disk() {
    let copy = copy();
    let aside = copy.archive.set_aside(4).unwrap();
    assert!(aside.exists() && copy.archive.list().unwrap() == [1, 2, 3]);
    std::fs::write(aside.with_file_name("segment-4.jsonl"), b"another spelling").unwrap();
    assert_eq!(copy.archive.list().unwrap(), [1, 2, 3]);
}
