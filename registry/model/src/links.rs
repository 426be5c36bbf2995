//! Addresses as seen from here.
//!
//! The registry names each address once, as it is known in its own network. Through a peering, a private link or a
//! NAT the same server has another address in each region, so every process may be given a map from the one to the
//! other. The chaos fleet puts its fault proxies there.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// From the address in the registry to the address to dial. Addresses that it does not name are dialled as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct AddressMap(pub BTreeMap<SocketAddr, SocketAddr>);

impl AddressMap {
    /// Reads a JSON object: `{"10.0.1.10:8443": "127.0.0.1:4711"}`.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The address to dial.
    #[must_use]
    pub fn dial(&self, address: SocketAddr) -> SocketAddr {
        self.0.get(&address).copied().unwrap_or(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unnamed_addresses_are_dialled_as_they_are() {
        let map = AddressMap::from_json(r#"{"10.0.1.10:8443": "127.0.0.1:4711"}"#).unwrap();
        assert_eq!(map.dial("10.0.1.10:8443".parse().unwrap()), "127.0.0.1:4711".parse().unwrap());
        assert_eq!(map.dial("10.0.1.11:8443".parse().unwrap()), "10.0.1.11:8443".parse().unwrap());
        assert!(AddressMap::from_json("{\"a\": \"b\"}").is_err());
    }
}
