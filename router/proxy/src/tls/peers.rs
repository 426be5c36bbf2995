//! TLS between routers, both ends showing certificates. A router is known by one DNS name in its certificate,
//! `ROLE.REGION.domicile.internal`, signed by an authority that signs nothing else: whoever forwards asks for the region it
//! means, whoever takes believes `Domicile-*` only from such a name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use domicile_model::{RegionId, Role};
use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::shelf::{Certificate, Unusable, certificates};

/// What all names of routers end with. `internal` is reserved for private use (ICANN, 2024).
pub const SUFFIX: &str = ".domicile.internal";

/// What was configured.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Who signs routers' certificates.
    pub ca: PathBuf,
    /// This router's chain, leaf first.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Which router a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// Edge or gate.
    pub role: Role,
    /// Where.
    pub region: RegionId,
}

impl PeerName {
    /// As it stands in the certificate.
    #[must_use]
    pub fn dns(&self) -> String {
        let role = match self.role {
            Role::Edge => "edge",
            Role::Gate => "gate",
        };
        format!("{role}.{}{SUFFIX}", self.region)
    }

    /// The router that one of a certificate's names is for.
    #[must_use]
    pub fn among(names: &[String]) -> Option<Self> {
        names.iter().find_map(|name| {
            let (role, region) = name.strip_suffix(SUFFIX)?.split_once('.')?;
            let role = match role {
                "edge" => Role::Edge,
                "gate" => Role::Gate,
                _ => return None,
            };
            Some(Self { role, region: RegionId::new(region).ok()? })
        })
    }
}

/// What routers are accepted on and show, of one reading of the files.
pub struct PeerTerms {
    /// How other routers' connections are accepted.
    pub server: Arc<ServerConfig>,
    /// What is shown to them.
    pub certificate: Arc<Certificate>,
    /// Who signs theirs.
    pub ca: Arc<CaType>,
    /// What is shown where this router connects.
    pub client: Arc<CertKey>,
    /// How gRPC calls are sent to other routers: HTTP/2.
    pub calls: Arc<ClientConfig>,
    /// How tunnels and events are: HTTP/1.1.
    pub tunnels: Arc<ClientConfig>,
    /// Another one for each reading: connections of an earlier one are not used again.
    pub generation: u64,
}

/// TLS between routers.
pub struct Peers {
    config: PeerConfig,
    name: PeerName,
    provider: Arc<CryptoProvider>,
    terms: ArcSwap<PeerTerms>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers")
            .field("config", &self.config)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Peers {
    /// Reads everything.
    ///
    /// # Errors
    /// What can't be used; also a certificate that is not for this router.
    pub fn open(config: PeerConfig, name: PeerName) -> Result<Self, Unusable> {
        let provider = super::provider();
        let terms = terms(&config, &name, &provider, 1)?;
        Ok(Self { config, name, provider, terms: ArcSwap::from_pointee(terms) })
    }

    /// The present terms.
    #[must_use]
    pub fn terms(&self) -> Arc<PeerTerms> {
        self.terms.load_full()
    }

    /// This router's name.
    #[must_use]
    pub const fn name(&self) -> &PeerName {
        &self.name
    }

    /// The files.
    pub(super) fn files(&self) -> [&Path; 3] {
        [&self.config.ca, &self.config.cert, &self.config.key]
    }

    /// Reads everything again; what can't be used leaves what was there.
    pub(super) fn reload(&self) -> Option<Unusable> {
        let generation = self.terms().generation + 1;
        match terms(&self.config, &self.name, &self.provider, generation) {
            Ok(new) => {
                self.terms.store(Arc::new(new));
                None
            }
            Err(why) => Some(why),
        }
    }
}

fn terms(
    config: &PeerConfig,
    name: &PeerName,
    provider: &Arc<CryptoProvider>,
    generation: u64,
) -> Result<PeerTerms, Unusable> {
    let bad = |path: &Path, why: String| Unusable { path: path.display().to_string(), why };
    let certificate = Certificate::read(&config.cert, &config.key, provider)?;
    if PeerName::among(&certificate.names).as_ref() != Some(name) {
        let why = format!("is not for this router: it must name `{}` and no other router", name.dns());
        return Err(bad(&config.cert, why));
    }
    let (mut roots, mut ca) = (RootCertStore::empty(), Vec::new());
    for cert in certificates(&config.ca)? {
        let der = cert.to_vec();
        roots.add(cert).map_err(|e| bad(&config.ca, e.to_string()))?;
        // It was just read by the same rules, so this cannot fail.
        ca.push(WrappedX509::new(der, parse_x509));
    }
    let authorities = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(authorities.clone(), provider.clone())
        .build()
        .map_err(|e| bad(&config.ca, e.to_string()))?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| bad(&config.ca, e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certificate.key())));
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A router that is struck off must not come back with an old ticket; connections are few and kept.
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let (chain, key) = certificate.der(&config.key)?;
    let client = |alpn: &[u8]| {
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| bad(&config.cert, e.to_string()))?
            .with_root_certificates(authorities.clone())
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certificate.key())));
        client.alpn_protocols = vec![alpn.to_vec()];
        Ok(Arc::new(client))
    };
    let (calls, tunnels) = (client(b"h2")?, client(b"http/1.1")?);
    Ok(PeerTerms {
        server: Arc::new(server),
        calls,
        tunnels,
        certificate: Arc::new(certificate),
        ca: ca.into(),
        client: Arc::new(CertKey::new(chain, key)),
        generation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::pair;

    #[test]
    fn a_router_is_known_by_its_name_and_by_no_other() {
        let name = PeerName { role: Role::Gate, region: RegionId::new("us-east-1").unwrap() };
        assert_eq!(name.dns(), "gate.us-east-1.domicile.internal");
        let among =
            |names: &[&str]| PeerName::among(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(among(&["x.example.com", "gate.us-east-1.domicile.internal"]), Some(name));
        for none in [
            "us-east-1.domicile.internal",
            "gate.us-east-1.domicile.example",
            "agent.us-east-1.domicile.internal",
        ] {
            assert_eq!(among(&[none]), None, "{none}");
        }
    }

    #[test]
    fn a_certificate_of_another_router_is_refused_and_a_bad_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |file: &str| dir.path().join(file);
        pair(dir.path(), "r", &["gate.us-east-1.domicile.internal"]);
        pair(dir.path(), "ca", &["routers.example.com"]);
        let config = PeerConfig { ca: at("ca.crt"), cert: at("r.crt"), key: at("r.key") };
        let name = |role, region| PeerName { role, region: RegionId::new(region).unwrap() };
        let peers = Peers::open(config.clone(), name(Role::Gate, "us-east-1")).unwrap();
        for other in [name(Role::Edge, "us-east-1"), name(Role::Gate, "us-west-2")] {
            let why = Peers::open(config.clone(), other).unwrap_err().to_string();
            assert!(why.contains("is not for this router: it must name"), "{why}");
        }
        let before = peers.terms().generation;
        std::fs::write(at("r.key"), "x").unwrap();
        assert!(peers.reload().is_some());
        assert_eq!(peers.terms().generation, before);
        pair(dir.path(), "r", &["gate.us-east-1.domicile.internal"]);
        assert_eq!(peers.reload(), None);
        assert_eq!(peers.terms().generation, before + 1);
    }
}
