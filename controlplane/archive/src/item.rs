//! What one line of a segment says: a key of the registry as it stood when it was removed.

use domicile_seal::chain::{Chain, Head, Segment, SegmentError};
use domicile_seal::keys::PrivateKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A key of the registry with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key, without the registry's prefix.
    pub key: String,
    /// The revision that created it.
    pub created: i64,
    /// The revision that last changed it.
    pub modified: i64,
    /// Its value. JSON comes back in its canonical spelling, anything else byte for byte.
    pub value: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    key: String,
    created: i64,
    modified: i64,
    /// A value that is JSON of one meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    /// Any other value, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

impl Item {
    fn body(&self) -> Result<Value, SegmentError> {
        // `null` would read back as no value.
        let one_meaning = |v: &Value| !v.is_null() && domicile_seal::canonical(v).is_ok();
        let json = domicile_seal::parse(&self.value).ok().filter(one_meaning);
        let bytes = json.is_none().then(|| hex::encode(&self.value));
        let body = Body {
            key: self.key.clone(),
            created: self.created,
            modified: self.modified,
            value: json,
            bytes,
        };
        serde_json::to_value(body)
            .map_err(|e| SegmentError::Form(domicile_seal::JsonError::Form(e.to_string())))
    }

    fn read(body: &Value) -> Option<Self> {
        let body = Body::deserialize(body).ok()?;
        let value = match (body.value, body.bytes) {
            (Some(json), None) => domicile_seal::canonical(&json).ok()?,
            (None, Some(bytes)) => hex::decode(bytes).ok()?,
            _ => return None,
        };
        Some(Self { key: body.key, created: body.created, modified: body.modified, value })
    }
}

/// Seals items as the segment that follows `start`.
///
/// # Errors
/// When there are none, or one has no canonical form.
pub fn seal(
    chain: &str,
    start: Head,
    items: &[Item],
    key: &PrivateKey,
) -> Result<(Segment, Head), SegmentError> {
    let mut growing = Chain::after(start);
    let mut links = Vec::with_capacity(items.len());
    for item in items {
        links.push(growing.append(item.body()?)?);
    }
    Ok((Segment::close(chain, start, links, key)?, growing.head()))
}

/// The items of a segment; one that is none of ours is left out.
#[must_use]
pub fn items(segment: &Segment) -> Vec<Item> {
    segment.links.iter().filter_map(|link| Item::read(&link.body)).collect()
}
