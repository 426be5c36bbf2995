//! Whoever touches a chain is found, and where.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::canonical::JsonError;
use crate::digest::Digest;
use crate::keys::{KeyEntry, Keyring, Moment, PrivateKey, VerifyError};

fn chain(name: &str, bodies: impl IntoIterator<Item = Value>) -> (Head, Vec<Link>, Head) {
    let start = Head::genesis(name);
    let mut chain = Chain::after(start);
    let links = bodies.into_iter().map(|body| chain.append(body).unwrap()).collect();
    (start, links, chain.head())
}

fn numbered(count: u64) -> (Head, Vec<Link>, Head) {
    chain("audit", (1..=count).map(|n| json!({ "did": n })))
}

fn ring(key: &PrivateKey) -> Keyring {
    let mut ring = Keyring::default();
    ring.rotate(KeyEntry::new(key.public(), "control plane"), Moment::Position(0)).unwrap();
    ring
}

/// The form of a link is a contract with auditors.
#[test]
fn a_links_digest_is_of_its_canonical_bytes() {
    let (start, links, end) = chain("audit", [json!({ "b": 1, "a": "x" })]);
    assert_eq!(start.digest, Digest::of(b"domicile chain audit"));
    let bytes = format!(r#"{{"body":{{"a":"x","b":1}},"n":1,"prev":"{}"}}"#, start.digest);
    assert_eq!(links[0].bytes().unwrap(), bytes.as_bytes());
    assert_eq!(end, Head { n: 1, digest: Digest::of(bytes.as_bytes()) });
}

#[test]
fn the_first_broken_link_is_named() {
    let (start, links, end) = numbered(5);
    assert_eq!(verify(start, &links, end), Ok(()));

    let mut changed = links.clone();
    changed[2].body = json!({ "did": 99 });
    // Its own digest is not written in it, so the one after it tells.
    let broken = verify(start, &changed, end).unwrap_err();
    assert!(matches!(broken, Broken::Prev { n: 4, .. }), "{broken}");
    assert!(broken.to_string().contains("breaks at link 4"), "{broken}");

    let mut short = links.clone();
    short.remove(1);
    assert_eq!(verify(start, &short, end), Err(Broken::Number { expected: 2, found: 3 }));

    let mut swapped = links.clone();
    swapped.swap(3, 4);
    assert_eq!(verify(start, &swapped, end), Err(Broken::Number { expected: 4, found: 5 }));

    let (_, other, _) = chain("billing", [json!({ "did": 1 })]);
    assert!(matches!(walk(start, &other), Err(Broken::Prev { n: 1, .. })));
}

#[test]
fn a_missing_end_shows_only_against_a_known_head() {
    let (start, links, end) = numbered(3);
    assert_eq!(walk(start, &links[..2]).unwrap().n, 2);
    let broken = verify(start, &links[..2], end).unwrap_err();
    assert!(matches!(broken, Broken::End { found: Head { n: 2, .. }, .. }), "{broken}");
}

#[test]
fn a_body_that_has_no_canonical_form_is_not_appended() {
    let mut chain = Chain::after(Head::genesis("audit"));
    let before = chain.head();
    assert_eq!(chain.append(json!(u64::MAX)), Err(JsonError::Inexact(u64::MAX.to_string())));
    assert_eq!(chain.head(), before);
}

#[test]
fn segments_follow_each_other() {
    let key = PrivateKey::generate().unwrap();
    let keys = ring(&key);
    let (start, links, end) = numbered(5);
    let middle = walk(start, &links[..3]).unwrap();
    let first = Segment::close("audit", start, links[..3].to_vec(), &key).unwrap();
    let second = Segment::close("audit", middle, links[3..].to_vec(), &key).unwrap();
    assert_eq!((second.seal.body.first, second.seal.body.last, second.seal.body.count), (4, 5, 2));
    assert_eq!(first.verify("audit", start, &keys), Ok(middle));
    assert_eq!(second.verify("audit", middle, &keys), Ok(end));
    // Left out, the second one has nothing to follow.
    let gap = second.verify("audit", start, &keys).unwrap_err();
    assert!(gap.to_string().contains("a segment is missing"), "{gap}");
    assert!(matches!(first.verify("billing", start, &keys), Err(SegmentError::Misfit { .. })));
    assert_eq!(Segment::close("audit", start, Vec::new(), &key), Err(SegmentError::Empty));
    let gap = Segment::close("audit", start, links[1..].to_vec(), &key).unwrap_err();
    assert!(gap.to_string().contains("where link 1 should be"), "{gap}");
}

#[test]
fn a_segment_sealed_by_a_stranger_or_after_a_revocation_is_refused() {
    let key = PrivateKey::generate().unwrap();
    let mut keys = ring(&key);
    let (start, links, _) = numbered(4);
    let segment = Segment::close("audit", start, links.clone(), &key).unwrap();
    let stranger = Segment::close("audit", start, links, &PrivateKey::generate().unwrap()).unwrap();
    assert!(matches!(
        stranger.verify("audit", start, &keys),
        Err(SegmentError::Signature(VerifyError::UnknownKey { .. }))
    ));
    keys.revoke(&key.public().id(), Moment::Position(5), "the disk was sold").unwrap();
    assert!(segment.verify("audit", start, &keys).is_ok(), "sealed before the revocation");
    keys.revoke(&key.public().id(), Moment::Position(4), "it was sold earlier").unwrap();
    let refused = segment.verify("audit", start, &keys).unwrap_err();
    assert!(refused.to_string().contains("it was sold earlier"), "{refused}");
}

#[test]
fn a_segment_cut_short_is_no_segment() {
    let key = PrivateKey::generate().unwrap();
    let (start, links, _) = numbered(2);
    let lines = Segment::close("audit", start, links, &key).unwrap().to_lines().unwrap();
    assert!(Segment::from_lines(&lines).is_ok());
    for end in 0..lines.len() {
        let cut = Segment::from_lines(&lines[..end]).and_then(|s| s.verify("audit", start, &ring(&key)));
        assert!(cut.is_err(), "cut at {end}");
    }
}

fn some_links() -> impl Strategy<Value = (Head, Vec<Link>, Head)> {
    prop::collection::vec(crate::canonical::tests::values(), 1..6).prop_map(|bodies| chain("c", bodies))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn removed_reordered_repeated_and_inserted_links_are_found(
        (start, links, end) in some_links(), at in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), how in 0..4u8
    ) {
        let (at, to) = (at.index(links.len()), to.index(links.len()));
        let mut touched = links.clone();
        match how {
            0 => { touched.remove(at); }
            1 => touched.swap(at, to),
            2 => touched.insert(to, links[at].clone()),
            // By somebody who knows how links are made.
            _ => {
                let head = walk(start, &links[..at]).unwrap();
                touched.insert(at, Chain::after(head).append(json!("forged")).unwrap());
            }
        }
        prop_assert!(verify(start, &links, end).is_ok());
        prop_assert_eq!(verify(start, &touched, end).is_ok(), touched == links);
    }

    #[test]
    fn any_flipped_bit_of_a_segment_is_found(
        (start, links, _) in some_links(), at in any::<prop::sample::Index>(), bit in 0..8u8
    ) {
        let key = PrivateKey::generate().unwrap();
        let keys = ring(&key);
        let lines = Segment::close("c", start, links, &key).unwrap().to_lines().unwrap();
        prop_assert!(Segment::from_lines(&lines).unwrap().verify("c", start, &keys).is_ok());
        let mut flipped = lines.clone();
        flipped[at.index(lines.len())] ^= 1 << bit;
        let outcome = Segment::from_lines(&flipped).and_then(|s| s.verify("c", start, &keys));
        prop_assert!(outcome.is_err(), "bit {bit} of byte {}", at.index(lines.len()));
    }

    #[test]
    fn rubbish_is_no_segment_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Segment::from_lines(&bytes).is_err());
    }
}
