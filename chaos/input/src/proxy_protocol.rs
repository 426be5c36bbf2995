//! The PROXY header: whoever it names is believed to be the client.

use std::net::{IpAddr, SocketAddr};

use domicile_router_core::wire::proxy_protocol::{self, MOST_V1, MOST_V2, Progress, Refused, Told};

use crate::growing::decides_once;

/// A reader.
pub type Read<'r> = &'r dyn Fn(&[u8]) -> Result<Progress, Refused>;

/// The laws, of the router's reader.
///
/// # Panics
/// When it breaks one.
pub fn check(bytes: &[u8]) {
    check_reader(&proxy_protocol::read, bytes);
}

/// The laws, of any reader.
///
/// # Panics
/// When it breaks one.
pub fn check_reader(read: Read<'_>, bytes: &[u8]) {
    decides_once(bytes, |bytes| match read(bytes) {
        Ok(Progress::NeedMore) => None,
        other => Some(other),
    });
    match read(bytes) {
        Ok(Progress::NeedMore) => assert!(bytes.len() < MOST_V2, "it waits after {} bytes", bytes.len()),
        Ok(Progress::Done { len, told }) => {
            assert!((1..=bytes.len().min(MOST_V2)).contains(&len), "{len} of {} bytes", bytes.len());
            assert_eq!(read(&bytes[..len]), Ok(Progress::Done { len, told }), "the header alone is enough");
            if let Some(told) = told {
                written(read, told);
            }
        }
        Err(_) => {}
    }
}

/// What was told is told again by either version, and read as it was.
fn written(read: Read<'_>, told: Told) {
    let Told { source, destination, .. } = told;
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let line = format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port());
    assert!(line.len() <= MOST_V1, "{line:?}");
    // Version 1 has no room for what edges add.
    let alone = Told { spliced: false, ..told };
    assert_eq!(read(line.as_bytes()), Ok(Progress::Done { len: line.len(), told: Some(alone) }), "{line:?}");

    let bytes = proxy_protocol::write(told);
    match read(&bytes) {
        Ok(Progress::Done { len, told: Some(again) }) => {
            assert_eq!(len, bytes.len());
            let all = |told: Told| (plain(told.source), plain(told.destination), told.spliced);
            assert_eq!(all(again), all(told));
        }
        other => panic!("{other:?} of {told:?}, written"),
    }
}

/// IPv4 inside IPv6 is the same address: `write` chooses.
fn plain(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}
