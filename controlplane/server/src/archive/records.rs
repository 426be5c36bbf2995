//! What the registry knows of the archive.

use std::net::SocketAddr;

use domicile_model::SigningKey;
use domicile_seal::Digest;
use domicile_seal::chain::Head;
use domicile_store::Record;
use serde::{Deserialize, Serialize};

/// The key `archive/head`: how far the chain reaches. Moves only together with the removal of what the last segment holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveHead {
    /// The chain's name.
    pub chain: String,
    /// The number of the last segment.
    pub segment: u64,
    /// Number and digest of its last link.
    pub head: Head,
    /// Whatever was last changed at this revision or before is old enough to be archived, whether or not it says when it
    /// was written.
    pub through: i64,
}

/// The key `archive/keys/<id>`: the public half of what a control plane seals with. Never removed: old segments need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveKey {
    /// The control plane.
    pub server: String,
    /// Its key.
    pub key: SigningKey,
}

/// The key `archive/copies/<name>`: how far the copy of that control plane reaches. Not under a lease: it tells what lies on
/// a disk, not who is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveCopy {
    /// The control plane.
    pub server: String,
    /// Where others reach it.
    pub address: SocketAddr,
    /// The last segment that it holds; 0 for none.
    pub segment: u64,
    /// The digest of that segment's last link.
    pub digest: Option<Digest>,
}

impl Record for ArchiveHead {
    const NAME: &'static str = "archive head";
}
impl Record for ArchiveKey {
    const NAME: &'static str = "archive key";
}
impl Record for ArchiveCopy {
    const NAME: &'static str = "archive copy";
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_store::codec::decode;

    /// As version 1 was written. A later version must still read it.
    #[test]
    fn records_of_version_1_read() {
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let head = format!(
            r#"{{"v":1,"data":{{"chain":"c","segment":3,"head":{{"n":9,"digest":"{digest}"}},"through":7}}}}"#
        );
        let head: ArchiveHead = decode(head.as_bytes()).unwrap();
        assert_eq!((head.segment, head.head.n, head.through), (3, 9, 7));
        let copy = format!(
            r#"{{"v":1,"data":{{"server":"a","address":"127.0.0.1:1","segment":3,"digest":"{digest}"}}}}"#
        );
        assert_eq!(decode::<ArchiveCopy>(copy.as_bytes()).unwrap().digest, Some(head.head.digest));
        let key = r#"{"v":1,"data":{"server":"a","key":{"id":"i","public":"p"}}}"#;
        assert_eq!(decode::<ArchiveKey>(key.as_bytes()).unwrap().server, "a");
    }
}
