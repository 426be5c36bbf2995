//! Keys, signatures, rotation and revocation.

use std::os::unix::fs::PermissionsExt;

use domicile_model::SecretRef;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::canonical::tests::values;

const P: Purpose = Purpose("test/1");

fn key() -> PrivateKey {
    PrivateKey::generate().unwrap()
}

fn at(n: u64) -> Moment {
    Moment::Position(n)
}

fn file(dir: &tempfile::TempDir, text: &str, mode: u32) -> SecretRef {
    let path = dir.path().join("key");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    SecretRef::new(&format!("file:{}", path.display())).unwrap()
}

/// RFC 8032, 7.1, test 1: the public key of a private one, and the signature of nothing.
#[test]
fn keys_and_signatures_are_those_of_the_rfc() {
    let dir = tempfile::tempdir().unwrap();
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let key = PrivateKey::read(&file(&dir, &format!("domicile-ed25519-private-1:{seed}\n"), 0o600)).unwrap();
    assert_eq!(key.public().to_string(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    assert_eq!(
        key.sign_bytes(b"").to_string(),
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    );
    assert_eq!(
        key.public().id().to_string(),
        crate::Digest::of(&hex::decode(key.public().to_string()).unwrap()).to_string()
    );
    assert!(key.to_text().contains(seed));
    assert!(!format!("{key:?}").contains(seed), "a private key is never printed");
}

#[test]
fn a_private_key_is_read_from_where_only_its_owner_reads() {
    let dir = tempfile::tempdir().unwrap();
    let made = key();
    let read = |text: &str, mode| PrivateKey::read(&file(&dir, text, mode));
    assert_eq!(read(&made.to_text(), 0o600).unwrap().public(), made.public());
    let open = read(&made.to_text(), 0o644).unwrap_err();
    assert!(
        matches!(open, PrivateKeyError::Open { mode: 0o644, .. }) && open.to_string().contains("chmod 600")
    );
    for (i, bad) in ["", "x", "domicile-ed25519-private-1:00", &"z".repeat(10_000)].iter().enumerate() {
        let error = read(bad, 0o600).unwrap_err();
        assert!(matches!(error, PrivateKeyError::Form { .. }), "{i}: {error}");
    }
    // What is there may be a secret for something else: it is not repeated.
    assert!(!read("hunter2", 0o600).unwrap_err().to_string().contains("hunter2"));
    let missing = SecretRef::new("file:/nowhere/key").unwrap();
    assert!(matches!(PrivateKey::read(&missing), Err(PrivateKeyError::Secret(_))));
}

#[test]
fn a_signature_is_of_one_body_one_purpose_and_one_key() {
    let (key, other) = (key(), key());
    let body = json!({ "cell": "c", "epoch": 7 });
    let signature = key.sign(P, &body).unwrap();
    assert_eq!(key.public().verify(P, &body, &signature, "it"), Ok(()));
    let forged = key
        .public()
        .verify(P, &json!({ "cell": "c", "epoch": 8 }), &signature, "the token of c")
        .unwrap_err();
    assert!(matches!(forged, VerifyError::Forged { .. }) && forged.to_string().starts_with("the token of c"));
    assert!(matches!(
        key.public().verify(Purpose("test/2"), &body, &signature, "it"),
        Err(VerifyError::Forged { .. })
    ));
    assert!(matches!(other.public().verify(P, &body, &signature, "it"), Err(VerifyError::UnknownKey { .. })));
    let renamed = Signature { key: other.public().id(), ..signature };
    assert!(matches!(other.public().verify(P, &body, &renamed, "it"), Err(VerifyError::Forged { .. })));
}

#[test]
fn weak_and_misspelt_keys_are_no_keys() {
    // The neutral element: any message has a signature under it.
    let neutral = format!("01{}", "00".repeat(31));
    let good = key().public().to_string();
    for bad in [neutral.as_str(), "", "00", &good.to_uppercase(), &format!("{good}0"), &"ff".repeat(32)] {
        assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
    }
    assert_eq!(good.parse::<PublicKey>().unwrap().to_string(), good);
    assert!("zz".parse::<KeyId>().is_err() && "zz".parse::<SignatureText>().is_err());
}

#[test]
fn after_a_rotation_each_key_counts_for_its_own_stretch() {
    let (old, new) = (key(), key());
    let mut ring = Keyring::default();
    ring.rotate(KeyEntry::new(old.public(), "cp"), at(0)).unwrap();
    ring.rotate(KeyEntry::new(new.public(), "cp"), at(100)).unwrap();
    assert_eq!(ring.signs(), Some(new.public().id()));
    let check = |signer: &PrivateKey, n| {
        ring.verify(P, "x", &signer.sign(P, "x").unwrap(), When::position(n), "it").map(|k| k.id)
    };
    assert_eq!(check(&old, 99), Ok(old.public().id()));
    assert_eq!(check(&new, 100), Ok(new.public().id()));
    for late in [check(&old, 100), check(&new, 99)] {
        assert!(matches!(late, Err(VerifyError::OutOfTurn { .. })), "{late:?}");
    }
    assert!(ring.verify(P, "x", &key().sign(P, "x").unwrap(), When::position(5), "it").is_err());
    // The end of a stretch must come after its beginning.
    assert!(ring.clone().rotate(KeyEntry::new(key().public(), "cp"), at(100)).is_err());
    assert!(ring.clone().rotate(KeyEntry::new(old.public(), "cp"), at(200)).is_err(), "no key comes back");
}

#[test]
fn a_revoked_key_counts_for_what_it_signed_before() {
    let now: Timestamp = "2026-11-22T20:00:00Z".parse().unwrap();
    let key = key();
    let id = key.public().id();
    let mut ring = Keyring::default();
    ring.rotate(KeyEntry::new(key.public(), "cp"), at(0)).unwrap();
    let signature = key.sign(P, "x").unwrap();
    ring.revoke(&id, at(50), "the laptop was stolen").unwrap();
    let check = |ring: &Keyring, when| ring.verify(P, "x", &signature, when, "the seal").map(|_| ());
    assert_eq!(check(&ring, When::position(49)), Ok(()));
    let refused = check(&ring, When::position(50)).unwrap_err();
    assert!(refused.to_string().contains("the laptop was stolen"), "{refused}");
    // Nothing is assumed where the position is not known.
    assert!(matches!(check(&ring, When::default()), Err(VerifyError::Unplaced { .. })));
    assert!(matches!(check(&ring, When::time(now)), Err(VerifyError::Unplaced { .. })));

    let mut by_time = Keyring::default();
    by_time.add(KeyEntry::new(key.public(), "cp")).unwrap();
    by_time.revoke(&id, Moment::Time(now), "found on a share").unwrap();
    let second = jiff::SignedDuration::from_secs(1);
    assert_eq!(check(&by_time, When::time(now - second)), Ok(()));
    assert!(matches!(check(&by_time, When::time(now)), Err(VerifyError::Revoked { .. })));
    assert!(matches!(check(&by_time, When::time(now + second)), Err(VerifyError::Revoked { .. })));
}

#[test]
fn a_revocation_only_ever_reaches_further_back() {
    let key = key();
    let id = key.public().id();
    let mut ring = Keyring::default();
    ring.rotate(KeyEntry::new(key.public(), "cp"), at(0)).unwrap();
    ring.revoke(&id, at(50), "w").unwrap();
    assert!(ring.revoke(&id, at(60), "never mind").unwrap_err().to_string().contains("only become earlier"));
    assert!(ring.revoke(&id, Moment::Time(Timestamp::UNIX_EPOCH), "by time").is_err());
    ring.revoke(&id, at(40), "earlier still").unwrap();
    assert_eq!(ring.signs(), None, "nobody signs with a revoked key");
    assert!(matches!(ring.signer(), Err(KeyringError::Silent)));
    assert!(ring.revoke(&PrivateKey::generate().unwrap().public().id(), at(1), "w").is_err());
    // A new one takes over.
    ring.rotate(KeyEntry::new(PrivateKey::generate().unwrap().public(), "cp"), at(60)).unwrap();
}

#[test]
fn the_file_reads_back_and_the_private_half_is_a_reference() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, other) = (key(), key());
    let mut entry = KeyEntry::new(mine.public(), "cp-1 in us-east-1");
    entry.private = Some(file(&dir, &mine.to_text(), 0o600));
    let mut ring = Keyring::default();
    ring.add(KeyEntry { until: Some(at(9)), ..KeyEntry::new(other.public(), "auditor") }).unwrap();
    ring.rotate(entry, at(3)).unwrap();
    ring.revoke(&other.public().id(), Moment::Time("2026-01-02T03:04:05Z".parse().unwrap()), "left").unwrap();
    let text = ring.to_text().unwrap();
    assert_eq!(Keyring::parse(&text).unwrap(), ring);
    assert!(text.contains("file:") && !text.contains("private-1:"), "{text}");
    assert!(!format!("{ring:?}").contains("private-1:"));
    assert_eq!(ring.signer().unwrap().public(), mine.public());
    // The file now holds another key than the ring says.
    file(&dir, &other.to_text(), 0o600);
    assert!(ring.signer().unwrap_err().to_string().contains(&other.public().id().to_string()));
}

#[test]
fn a_damaged_ring_is_refused_as_a_whole() {
    let (a, b) = (key().public(), key().public());
    let entry = |id: &KeyId, public: &PublicKey, more: &str| {
        format!("[[keys]]\nid = \"{id}\"\npublic = \"{public}\"\nowner = \"o\"\n{more}\n")
    };
    let good = format!("version = 1\nsigns = \"{}\"\n{}", a.id(), entry(&a.id(), &a, ""));
    assert!(Keyring::parse(&good).is_ok());
    for (bad, word) in [
        (String::new(), "version"),
        ("version = 2\nfuture = true".to_owned(), "newer program"),
        (format!("version = 1\nzebra = 1\n{}", entry(&a.id(), &a, "")), "zebra"),
        (format!("version = 1\n{}", entry(&b.id(), &a, "")), "another key's public half"),
        (format!("{good}{}", entry(&a.id(), &a, "")), "twice"),
        (format!("version = 1\nsigns = \"{}\"\n{}", b.id(), entry(&a.id(), &a, "")), "not in it"),
        (good.replace("owner = \"o\"", "owner = \"o\"\nuntil = { position = 4 }"), "has ended"),
        (good.replace("owner = \"o\"", "owner = \"o\"\nfrom = { position = -4 }"), "position"),
        (format!("version = 1\n{}", entry(&b.id(), &b, "private = \"hunter2\"")), "never the secret itself"),
        (
            format!(
                "version = 1\n{}",
                entry(&a.id(), &a, "from = { position = 4 }\nuntil = { time = \"2026-01-01T00:00:00Z\" }")
            ),
            "count alike",
        ),
        ("x".repeat(2_000_000), "longer"),
    ] {
        let error = Keyring::parse(&bad).unwrap_err().to_string();
        assert!(error.contains(word), "{error} lacks {word}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_other_body_is_found(body in values(), other in values()) {
        let key = key();
        let signature = key.sign(P, &body).unwrap();
        let same = crate::canonical(&body).unwrap() == crate::canonical(&other).unwrap();
        prop_assert!(key.public().verify(P, &body, &signature, "it").is_ok());
        prop_assert_eq!(key.public().verify(P, &other, &signature, "it").is_ok(), same);
    }

    #[test]
    fn any_flipped_bit_of_a_signature_is_found(at in 0..64usize, bit in 0..8u8) {
        let key = key();
        let signature = key.sign(P, "x").unwrap();
        let mut bytes = hex::decode(signature.value.to_string()).unwrap();
        bytes[at] ^= 1 << bit;
        let flipped = Signature { value: hex::encode(bytes).parse().unwrap(), ..signature };
        prop_assert!(key.public().verify(P, "x", &flipped, "it").is_err());
    }

    #[test]
    fn rubbish_is_no_ring_and_no_panic(text in "\\PC{0,200}", toml in "(version = 1\n)?(keys|signs|\\[\\[keys\\]\\])?[ =\\[\\]{}\"a-z0-9\n]{0,80}") {
        let _ = Keyring::parse(&text);
        let _ = Keyring::parse(&toml);
        let _ = serde_json::from_str::<Signed<Value>>(&text);
    }
}
