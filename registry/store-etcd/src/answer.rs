//! etcd's words in ours.

use domicile_model::Revision;
use domicile_store::{Entry, Header, Key};
use etcd_client::{KeyValue, ResponseHeader};

use crate::failure::Failure;

/// The header that every answer must have.
pub(crate) fn header(found: Option<&ResponseHeader>) -> Result<Header, Failure> {
    match found {
        Some(h) if h.revision() > 0 => {
            Ok(Header { cluster: h.cluster_id(), revision: Revision(h.revision()) })
        }
        _ => Err(Failure::Unclear("the answer has no header".to_owned())),
    }
}

/// The key of ours that stands under the prefix, if it is one that this version knows.
pub(crate) fn key(prefix: &str, whole: &[u8]) -> Option<Key> {
    std::str::from_utf8(whole.strip_prefix(prefix.as_bytes())?).ok()?.parse().ok()
}

/// The entry, if its key is one of ours.
pub(crate) fn entry(prefix: &str, kv: &KeyValue) -> Option<Entry> {
    Some(Entry {
        key: key(prefix, kv.key())?,
        value: kv.value().to_vec(),
        created: Revision(kv.create_revision()),
        modified: Revision(kv.mod_revision()),
    })
}
