//! The TLS handshake of a client: by which certificate, or why not at all.

use std::sync::Arc;

use domicile_router_core::wire::hello::{self, Hello, Progress};
use pingora_core::protocols::ALPN;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::balancer::Begun;
use super::stream::Socket;
use crate::tls::peers::{PeerName, SUFFIX};
use crate::tls::shelf::Certificate;
use crate::tls::{Keys, PROBE_NAME, Secure, Tls};

/// Why a connection ended before its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It asks for no name, and none is served without.
    NoName,
    /// No tenant has the name, or no certificate here is for it.
    UnknownName,
    /// It has an encrypted hello in it, and those are not wanted.
    Encrypted,
    /// The fleet is not known yet, so nobody knows who may decrypt it.
    NoTable,
    /// It may not be decrypted here, and no edge inside is known or answers; or another edge has passed it on already.
    Outside,
    /// It may not be decrypted here, and the only edges inside stand in a region that is being left for too long.
    Moving,
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
    pub const ALL: [Self; 11] = [
        Self::NoName,
        Self::UnknownName,
        Self::Encrypted,
        Self::NoTable,
        Self::Outside,
        Self::Moving,
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
            Self::Encrypted => "encrypted-hello",
            Self::NoTable => "no-table",
            Self::Outside => "outside",
            Self::Moving => "moving",
            Self::Broken => "broken",
            Self::Stranger => "stranger",
            Self::NoHeader => "no-proxy-header",
            Self::Late => "late",
            Self::SlowHead => "slow-head",
        }
    }

    /// What a client is told that has sent a hello: a fatal alert in a record of its own, in the clear as every alert
    /// before the handshake has begun (RFC 8446, section 6). None: nothing it would understand.
    pub(super) const fn alert(self) -> Option<[u8; 7]> {
        let code = match self {
            // RFC 6066, section 3: `unrecognized_name`.
            Self::NoName | Self::UnknownName => 112,
            // `access_denied`.
            Self::Encrypted | Self::Outside => 49,
            // `internal_error`: worth another try.
            Self::NoTable | Self::Moving => 80,
            Self::Broken | Self::Stranger | Self::NoHeader | Self::Late | Self::SlowHead => return None,
        };
        Some([0x15, 0x03, 0x03, 0x00, 0x02, 0x02, code])
    }
}

/// Reads the hello, and leaves it where it was.
pub(super) async fn hello(begun: &mut Begun) -> Result<Hello, Refused> {
    loop {
        match hello::read(&begun.ahead).map_err(|_| Refused::Broken)? {
            Progress::Done(hello) => return Ok(hello),
            Progress::NeedMore => {
                if begun.socket.read_buf(&mut begun.ahead).await.unwrap_or(0) == 0 {
                    return Err(Refused::Broken);
                }
            }
        }
    }
}

/// Who is asked for.
pub(super) fn name(keys: &Keys, hello: Hello) -> Result<String, Refused> {
    let default = || keys.clients.as_ref().and_then(|tls| tls.default_name().map(str::to_owned));
    if hello.encrypted && keys.clients.as_ref().is_some_and(Tls::refuses_encrypted) {
        return Err(Refused::Encrypted);
    }
    hello.name.or_else(default).ok_or(Refused::NoName)
}

/// Whether the name is this router's own: its probe's, or that by which routers know each other. No tenant's plaintext is
/// decided by it.
pub(super) fn own(name: &str) -> bool {
    name == PROBE_NAME || name.ends_with(SUFFIX)
}

/// Accepts a connection whose hello was read to ask for `name`.
pub(super) async fn accept(
    keys: &Keys,
    socket: Socket,
    name: String,
) -> Result<(TlsStream<Socket>, ALPN, Secure), Refused> {
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), socket);
    tokio::pin!(acceptor);
    let mut start = match acceptor.as_mut().await {
        Ok(start) => start,
        Err(_) => return Err(Refused::Broken),
    };
    // Two readers of one hello. Where they differ, nobody knows whose plaintext it would be.
    if start.client_hello().server_name().is_some_and(|read| !read.eq_ignore_ascii_case(&name)) {
        return Err(Refused::Broken);
    }
    let Some((certificate, config, between_routers)) = by_name(keys, &name) else {
        say(&mut start.io, Refused::UnknownName).await;
        return Err(Refused::UnknownName);
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
        name,
        version: session.protocol_version().and_then(|v| v.as_str()).unwrap_or("unknown"),
        client,
        peer,
    };
    Ok((stream, version, secure))
}

/// Tells a client that has sent its hello why it is not served.
pub(super) async fn say(socket: &mut (impl AsyncWrite + Unpin), why: Refused) {
    if let Some(alert) = why.alert() {
        let _ = socket.write_all(&alert).await;
        let _ = socket.shutdown().await;
    }
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
