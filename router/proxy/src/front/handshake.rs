//! The TLS handshake of a client: by which certificate, or why not at all.

use std::sync::Arc;

use pingora_core::protocols::ALPN;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::stream::Socket;
use crate::tls::peers::{PeerName, SUFFIX};
use crate::tls::shelf::Certificate;
use crate::tls::{Keys, PROBE_NAME, Secure};

/// A fatal alert, as a record of its own: `unrecognized_name` (RFC 6066, section 3). In the clear, as every alert before
/// the handshake has begun.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x70];

/// Why a connection ended before its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It asks for no name, and none is served without.
    NoName,
    /// No certificate here is for the name.
    UnknownName,
    /// What came was no handshake, or the two could not agree.
    Broken,
    /// It was signed like a router, but for none.
    Stranger,
    /// It comes from a load balancer's network and does not begin with a PROXY header.
    NoHeader,
    /// It took too long.
    Late,
    /// The head of a request, first or later, came too slowly.
    SlowHead,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::NoName,
        Self::UnknownName,
        Self::Broken,
        Self::Stranger,
        Self::NoHeader,
        Self::Late,
        Self::SlowHead,
    ];

    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoName => "no-name",
            Self::UnknownName => "unknown-name",
            Self::Broken => "broken",
            Self::Stranger => "stranger",
            Self::NoHeader => "no-proxy-header",
            Self::Late => "late",
            Self::SlowHead => "slow-head",
        }
    }
}

/// Accepts a connection.
pub(super) async fn accept(
    keys: &Keys,
    socket: Socket,
) -> Result<(TlsStream<Socket>, ALPN, Secure), Refused> {
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), socket);
    tokio::pin!(acceptor);
    let start = match acceptor.as_mut().await {
        Ok(start) => start,
        Err(_) => return Err(Refused::Broken),
    };
    let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let Some((certificate, config, between_routers)) = name.as_deref().and_then(|name| by_name(keys, name))
    else {
        let why = if name.is_none() { Refused::NoName } else { Refused::UnknownName };
        let mut socket = start.io;
        let _ = socket.write_all(&UNRECOGNIZED_NAME).await;
        let _ = socket.shutdown().await;
        return Err(why);
    };
    let stream = start.into_stream(config).await.map_err(|_| Refused::Broken)?;
    let session = stream.get_ref().1;
    let version = if session.alpn_protocol() == Some(b"h2") { ALPN::H2 } else { ALPN::H1 };
    let client = session.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec());
    let peer = if between_routers {
        // Signed by the authority of routers, but for none of them: an agent's, say.
        let names = client.as_deref().map(Certificate::names_in).unwrap_or_default();
        Some(PeerName::among(&names).ok_or(Refused::Stranger)?)
    } else {
        None
    };
    let secure = Secure {
        certificate,
        name: name.unwrap_or_default(),
        version: session.protocol_version().and_then(|v| v.as_str()).unwrap_or("unknown"),
        client,
        peer,
    };
    Ok((stream, version, secure))
}

/// The certificate and the terms for a name, and whether they are those between routers.
fn by_name(keys: &Keys, name: &str) -> Option<(Arc<Certificate>, Arc<ServerConfig>, bool)> {
    if let Some(probe) = keys.probe.as_ref().filter(|_| name == PROBE_NAME) {
        return Some((probe.certificate.clone(), probe.server.clone(), false));
    }
    if name.ends_with(SUFFIX) {
        let peers = keys.peers.as_ref().filter(|peers| peers.name().dns() == name)?;
        let terms = peers.terms();
        return Some((terms.certificate.clone(), terms.server.clone(), true));
    }
    let terms = keys.clients.as_ref()?.terms();
    let certificate = terms.shelf.find(name)?.clone();
    Some((certificate, terms.config.clone(), false))
}
