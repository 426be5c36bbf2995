//! The router's question to its own TLS listener: through the accept loop, the handshake and the way of a request. It has a
//! name and a certificate of its own, which nobody else trusts, so that it needs none of the operator's.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::shelf::Certificate;

/// The name that it asks for. `invalid` is reserved (RFC 6761): nobody's host.
pub const PROBE_NAME: &str = "probe.domicile.invalid";

/// Both ends of it.
#[derive(Debug)]
pub struct Probe {
    /// What the listener accepts it on.
    pub server: Arc<ServerConfig>,
    /// What it is shown.
    pub certificate: Arc<Certificate>,
    client: Arc<ClientConfig>,
}

impl Probe {
    /// Makes a certificate for this life of the process.
    ///
    /// # Errors
    /// When there is no randomness to be had.
    pub fn new() -> Result<Self, String> {
        let provider: &Arc<CryptoProvider> = &super::provider();
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let made = rcgen::generate_simple_self_signed([PROBE_NAME.to_owned()]).map_err(|e| text(&e))?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let chain = vec![made.cert.der().clone()];
        let certified =
            CertifiedKey::from_der(chain.clone(), key.clone_key().into(), provider).map_err(|e| text(&e))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| text(&e))?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key.into())
            .map_err(|e| text(&e))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut roots = RootCertStore::empty();
        for cert in chain {
            roots.add(cert).map_err(|e| text(&e))?;
        }
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| text(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let certificate = Arc::new(Certificate::of(vec![PROBE_NAME.to_owned()], certified));
        Ok(Self { server: Arc::new(server), certificate, client: Arc::new(client) })
    }

    /// The handshake of one who asks, and who trusts this listener's certificate and no other.
    ///
    /// # Errors
    /// When it fails. It takes as long as it takes: bound it.
    pub async fn secure(&self, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(PROBE_NAME).map_err(std::io::Error::other)?;
        TlsConnector::from(self.client.clone()).connect(name, socket).await
    }
}
