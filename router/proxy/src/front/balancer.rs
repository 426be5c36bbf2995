//! Who speaks, where a load balancer stands in front and says so.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use domicile_router_core::wire::proxy_protocol::{self, Progress};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::Refused;
use crate::config::cidr::Cidr;

/// A connection of which perhaps something was read.
pub(super) struct Begun {
    /// Who speaks.
    pub(super) client: SocketAddr,
    /// An edge outside the tenant's policy has passed it on.
    pub(super) spliced: bool,
    /// What was read beyond the header.
    pub(super) ahead: BytesMut,
    /// The rest.
    pub(super) socket: TcpStream,
}

/// Reads the header of a connection from one of these networks; any other is what it seems.
pub(super) async fn read(
    balancers: &[Cidr],
    mut socket: TcpStream,
    from: SocketAddr,
) -> Result<Begun, Refused> {
    let mut ahead = BytesMut::new();
    if !balancers.iter().any(|net| net.contains(from.ip())) {
        return Ok(Begun { client: from, spliced: false, ahead, socket });
    }
    loop {
        if socket.read_buf(&mut ahead).await.unwrap_or(0) == 0 {
            return Err(Refused::NoHeader);
        }
        match proxy_protocol::read(&ahead).map_err(|_| Refused::NoHeader)? {
            Progress::NeedMore => {}
            Progress::Done { len, told } => {
                ahead.advance(len);
                let (client, spliced) = told.map_or((from, false), |t| (t.source, t.spliced));
                return Ok(Begun { client, spliced, ahead, socket });
            }
        }
    }
}
