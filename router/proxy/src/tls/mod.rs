//! TLS towards clients: certificates by name, terms of the handshake, both replaced while connections go on.

pub mod guard;
pub mod peers;
mod probe;
mod reload;
pub mod shelf;
#[cfg(test)]
pub(crate) mod testing;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use serde::Deserialize;

use guard::Guard;
use peers::{PeerName, Peers};
pub use probe::{PROBE_NAME, Probe};
pub use reload::run;
use shelf::{Certificate, Shelf, Unusable};

/// Sessions that are remembered for clients that resume without a ticket.
const MOST_SESSIONS: usize = 10_000;

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAuth {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked; who has none is served all the same, who shows a bad one is not.
    Optional,
    /// Who has none is not served.
    Required,
}

/// What was configured.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// Where certificates and keys lie.
    pub certs: PathBuf,
    /// Who may sign clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether clients show some.
    pub client_auth: ClientAuth,
    /// TLS 1.3 only.
    pub only_13: bool,
    /// Who is meant by a client that names nobody.
    pub default_name: Option<String>,
    /// Refuse a hello that has an encrypted one in it, instead of going by its outer name.
    pub refuse_encrypted: bool,
}

/// One provider of cryptography for the whole process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a connection is accepted on. Certificates and terms belong together: a connection takes both at once.
#[derive(Debug)]
pub struct Terms {
    /// The certificates.
    pub shelf: Arc<Shelf>,
    /// The handshake.
    pub config: Arc<ServerConfig>,
    /// What could not be used when these were made.
    pub unusable: Vec<Unusable>,
    client_ca: Vec<u8>,
}

/// TLS towards clients.
pub struct Tls {
    config: TlsConfig,
    provider: Arc<CryptoProvider>,
    terms: ArcSwap<Terms>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Answers with the certificate for the name that the client asks for or, if it asks for none, for the default one; with
/// none for another.
#[derive(Debug)]
struct ByName {
    shelf: Arc<Shelf>,
    default: Option<String>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase).or_else(|| self.default.clone())?;
        self.shelf.find(&name).map(|certificate| certificate.key())
    }
}

impl Tls {
    /// Reads everything.
    ///
    /// # Errors
    /// All that can't be used, at once: a router that starts serves all that it is told to.
    pub fn open(config: TlsConfig, guard: &Guard) -> Result<Self, Vec<Unusable>> {
        let provider = provider();
        let terms = terms(&config, &provider, guard, None)?;
        if !terms.unusable.is_empty() {
            return Err(terms.unusable);
        }
        if terms.shelf.all().next().is_none() && terms.shelf.kept_out().is_empty() {
            let why =
                "holds no certificate: put NAME.crt (the chain, leaf first) and NAME.key there".to_owned();
            return Err(vec![Unusable { path: config.certs.display().to_string(), why }]);
        }
        Ok(Self { config, provider, terms: ArcSwap::from_pointee(terms) })
    }

    /// Who is meant by a client that names nobody.
    #[must_use]
    pub fn default_name(&self) -> Option<&str> {
        self.config.default_name.as_deref()
    }

    /// Whether a hello with an encrypted one in it is refused.
    #[must_use]
    pub const fn refuses_encrypted(&self) -> bool {
        self.config.refuse_encrypted
    }

    /// What a connection is accepted on now.
    #[must_use]
    pub fn terms(&self) -> Arc<Terms> {
        self.terms.load_full()
    }

    /// Reads everything again. What can't be used leaves what was there; returns that.
    pub fn reload(&self, guard: &Guard) -> Vec<Unusable> {
        let old = self.terms();
        match terms(&self.config, &self.provider, guard, Some(&old)) {
            Ok(new) => {
                let wrong = new.unusable.clone();
                self.terms.store(Arc::new(new));
                wrong
            }
            Err(wrong) => wrong,
        }
    }
}

fn terms(
    config: &TlsConfig,
    provider: &Arc<CryptoProvider>,
    guard: &Guard,
    old: Option<&Terms>,
) -> Result<Terms, Vec<Unusable>> {
    let none = Shelf::default();
    let (shelf, unusable) = Shelf::read(&config.certs, old.map_or(&none, |o| &o.shelf), guard, provider);
    let shelf = Arc::new(shelf);
    let bad = |path: String, why: String| vec![Unusable { path, why }];
    let versions: &[&SupportedProtocolVersion] = if config.only_13 {
        &[&rustls::version::TLS13]
    } else {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|e| bad("TLS".into(), e.to_string()))?;
    let mut client_ca = Vec::new();
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let certs = shelf::certificates(path).map_err(|e| vec![e])?;
            let mut roots = RootCertStore::empty();
            for cert in certs {
                client_ca.extend_from_slice(&cert);
                roots.add(cert).map_err(|e| bad(path.display().to_string(), e.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            let verifier = match config.client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Off | ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build().map_err(|e| bad(path.display().to_string(), e.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder
        .with_cert_resolver(Arc::new(ByName { shelf: shelf.clone(), default: config.default_name.clone() }));
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    match old.filter(|old| old.client_ca == client_ca) {
        // Clients resume across a reload.
        Some(old) => {
            server.session_storage = old.config.session_storage.clone();
            server.ticketer = old.config.ticketer.clone();
        }
        // A session that began under another authority for clients must not go on under this one.
        None => {
            server.session_storage = ServerSessionMemoryCache::new(MOST_SESSIONS);
            server.ticketer =
                rustls::crypto::ring::Ticketer::new().map_err(|e| bad("TLS".into(), e.to_string()))?;
        }
    }
    Ok(Terms { shelf, config: Arc::new(server), unusable, client_ca })
}

/// What is known of a connection that was decrypted.
#[derive(Debug)]
pub struct Secure {
    /// The certificate that was shown.
    pub certificate: Arc<Certificate>,
    /// The name that the client asked for, in lower case.
    pub name: String,
    /// `TLSv1_3` and so on.
    pub version: &'static str,
    /// The leaf that the client showed and proved, in DER.
    pub client: Option<Vec<u8>>,
    /// The router at the other end, if it is one.
    pub peer: Option<PeerName>,
}

/// All that this router knows of TLS.
#[derive(Debug, Default)]
pub struct Keys {
    /// Towards clients, if it speaks TLS with them.
    pub clients: Option<Tls>,
    /// Between routers, if they show each other certificates.
    pub peers: Option<Peers>,
    /// For the probe of the own TLS listener, if there is one.
    pub probe: Option<Probe>,
    /// Rung by SIGHUP: look at the files now.
    pub look_now: tokio::sync::Notify,
}
