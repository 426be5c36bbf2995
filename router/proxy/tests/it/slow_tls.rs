//! A TLS client whose connection stays open, and which may send its hello in single bytes.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::Authority;

/// How it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drip {
    No,
    /// A packet for every byte.
    Bytes,
}

pub(crate) struct Slow {
    socket: TcpStream,
    drip: Drip,
}

impl AsyncRead for Slow {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let end = if this.drip == Drip::Bytes { buf.len().min(1) } else { buf.len() };
        Pin::new(&mut this.socket).poll_write(cx, &buf[..end])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

/// Opens a connection to `host`, which is at this address.
pub(crate) async fn connect(
    ca: &Authority,
    at: SocketAddr,
    host: &str,
    drip: Drip,
) -> io::Result<TlsStream<Slow>> {
    connect_with(&ca.pem, at, host, drip).await
}

/// The same, by the authority's file.
pub(crate) async fn connect_with(
    pem: &Path,
    at: SocketAddr,
    host: &str,
    drip: Drip,
) -> io::Result<TlsStream<Slow>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(at).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, Slow { socket, drip }).await
}

/// A hello for `host` that pretends to have an encrypted one in it, as browsers do (RFC 9849, section 6.2).
pub(crate) fn pretending_hello(host: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    // Record, message and list of extensions each begin with their length.
    // An outer one: HKDF-SHA256 and AES-128-GCM, a key of 32 bytes, 48 bytes that nobody can read.
    let inside = [&[0, 0, 1, 0, 1, 7, 0, 32][..], &[9; 32], &[0, 48], &[5; 48]].concat();
    let more = u16::try_from(inside.len()).unwrap();
    let extension = [&[0xfe, 0x0d][..], &more.to_be_bytes(), &inside].concat();
    let grow = |wire: &mut Vec<u8>, at: usize| {
        let len = u16::from_be_bytes([wire[at], wire[at + 1]]) + 4 + more;
        wire[at..at + 2].copy_from_slice(&len.to_be_bytes());
    };
    let session = usize::from(wire[43]);
    let ciphers = 44 + session;
    let methods = ciphers + 2 + usize::from(u16::from_be_bytes([wire[ciphers], wire[ciphers + 1]]));
    let list = methods + 1 + usize::from(wire[methods]);
    for at in [3, 7, list] {
        grow(&mut wire, at);
    }
    // A pre-shared key would have to be the last; there is none.
    wire.extend(extension);
    wire
}
