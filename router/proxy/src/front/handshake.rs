//! The TLS handshake of a client: by which certificate, or why not at all.

use pingora_core::protocols::ALPN;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::stream::Socket;
use crate::tls::{PROBE_NAME, Secure, Tls};

/// A fatal alert, as a record of its own: `unrecognized_name` (RFC 6066, section 3). In the clear, as every alert before
/// the handshake has begun.
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x70];

/// Why a connection was not decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It asks for no name, and none is served without.
    NoName,
    /// No certificate here is for the name.
    UnknownName,
    /// What came was no handshake, or the two could not agree.
    Broken,
    /// It took too long.
    Late,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NoName, Self::UnknownName, Self::Broken, Self::Late];

    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoName => "no-name",
            Self::UnknownName => "unknown-name",
            Self::Broken => "broken",
            Self::Late => "late",
        }
    }
}

/// Accepts a connection.
pub(super) async fn accept(tls: &Tls, socket: Socket) -> Result<(TlsStream<Socket>, ALPN, Secure), Refused> {
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), socket);
    tokio::pin!(acceptor);
    let start = match acceptor.as_mut().await {
        Ok(start) => start,
        Err(_) => return Err(Refused::Broken),
    };
    let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let (name, certificate, config) = match name {
        Some(name) if name == PROBE_NAME => (name, tls.probe.certificate.clone(), tls.probe.server.clone()),
        name => {
            let terms = tls.terms();
            let found = name.as_deref().and_then(|n| terms.shelf.find(n)).cloned();
            let Some(certificate) = found else {
                let why = if name.is_none() { Refused::NoName } else { Refused::UnknownName };
                let mut socket = start.io;
                let _ = socket.write_all(&UNRECOGNIZED_NAME).await;
                let _ = socket.shutdown().await;
                return Err(why);
            };
            (name.unwrap_or_default(), certificate, terms.config.clone())
        }
    };
    let stream = start.into_stream(config).await.map_err(|_| Refused::Broken)?;
    let session = stream.get_ref().1;
    let version = if session.alpn_protocol() == Some(b"h2") { ALPN::H2 } else { ALPN::H1 };
    let secure = Secure {
        certificate,
        name,
        version: session.protocol_version().and_then(|v| v.as_str()).unwrap_or("unknown"),
        client: session.peer_certificates().and_then(|c| c.first()).map(|c| c.to_vec()),
    };
    Ok((stream, version, secure))
}
