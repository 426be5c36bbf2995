//! HTTP/1.1 or HTTP/2 in the clear: told by the first bytes (RFC 9113, section 3.4).

use std::time::Duration;

use pingora_core::protocols::ALPN;
use tokio::io::AsyncReadExt;

use super::balancer::Begun;
use super::stream::{Prefixed, Socket};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads as much as is needed to tell, for as long as a connection may be `silent`; nothing is lost of it. None: the client has left, or never said anything.
pub(super) async fn read(begun: Begun, silent: Duration) -> Option<(Socket, ALPN)> {
    let Begun { mut ahead, mut socket, .. } = begun;
    let version = tokio::time::timeout(silent, async {
        loop {
            if ahead.is_empty() && socket.read_buf(&mut ahead).await.ok()? == 0 {
                return None;
            }
            if ahead.len() >= PREFACE.len() {
                return Some(if ahead.starts_with(PREFACE) { ALPN::H2 } else { ALPN::H1 });
            }
            if !PREFACE.starts_with(&ahead) {
                return Some(ALPN::H1);
            }
            if socket.read_buf(&mut ahead).await.ok()? == 0 {
                return None;
            }
        }
    });
    let version = version.await.ok()??;
    Some((Prefixed::new(ahead.freeze(), socket), version))
}
