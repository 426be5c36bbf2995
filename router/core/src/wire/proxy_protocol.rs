//! The PROXY protocol, versions 1 and 2: a load balancer in front says whose connection it passes on (haproxy,
//! `doc/proxy-protocol.txt`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, with its CRLF (section 2.1).
pub const MOST_V1: usize = 107;
/// The longest header of version 2 that is taken: addresses and what load balancers add to them.
pub const MOST_V2: usize = 4 << 10;
/// What a header of version 2 begins with (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V1: &[u8] = b"PROXY ";
/// What our edges add where they pass a connection on: of a kind that is free for such use (section 2.2.8), with its length.
const SPLICED: [u8; 11] = *b"\xe0\x00\x08domicile";
/// The fixed part of version 2.
const FIXED: usize = 16;

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Who has connected to the load balancer.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
    /// An edge of ours splices the connection: passes it on as it came, undecrypted.
    pub spliced: bool,
}

/// How far the reader has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The header goes on.
    NeedMore,
    /// It took so many bytes.
    Done {
        /// Bytes of the header.
        len: usize,
        /// None: the load balancer speaks for itself (its health check), or of something that is no TCP.
        told: Option<Told>,
    },
}

/// Why it is no such header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It begins with something else.
    #[error("the connection does not begin with a PROXY header")]
    None,
    /// It breaks the rules.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
}

/// Reads a header from everything that has come so far.
///
/// # Errors
/// What is wrong with it. Nothing may be believed of such a connection, not even its address.
pub fn read(bytes: &[u8]) -> Result<Progress, Refused> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(&SIGNATURE) {
        if bytes.len() < FIXED { Ok(Progress::NeedMore) } else { version_2(bytes) }
    } else if begins(V1) {
        version_1(bytes)
    } else {
        Err(Refused::None)
    }
}

fn version_1(bytes: &[u8]) -> Result<Progress, Refused> {
    let within = &bytes[..bytes.len().min(MOST_V1)];
    let Some(end) = within.windows(2).position(|w| w == b"\r\n") else {
        return if bytes.len() < MOST_V1 {
            Ok(Progress::NeedMore)
        } else {
            Err(Refused::Malformed("no end of line"))
        };
    };
    let bad = Refused::Malformed;
    let line = std::str::from_utf8(&within[V1.len().min(end)..end]).map_err(|_| bad("not ASCII"))?;
    let len = end + 2;
    let mut words = line.split(' ');
    let four = match words.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        // What follows is to be ignored.
        Some("UNKNOWN") => return Ok(Progress::Done { len, told: None }),
        _ => return Err(bad("neither TCP4, TCP6 nor UNKNOWN")),
    };
    let mut address = || {
        let text = words.next().ok_or(bad("an address is missing"))?;
        let ip = if four { text.parse().map(IpAddr::V4) } else { text.parse().map(IpAddr::V6) };
        ip.map_err(|_| bad("not an address of its family"))
    };
    let (source, destination) = (address()?, address()?);
    let mut port = || {
        let text = words.next().ok_or(bad("a port is missing"))?;
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        if plain { text.parse::<u16>().map_err(|_| bad("not a port")) } else { Err(bad("not a port")) }
    };
    let (from, to) = (port()?, port()?);
    if words.next().is_some() {
        return Err(bad("more than addresses and ports"));
    }
    let told = Told { source: (source, from).into(), destination: (destination, to).into(), spliced: false };
    Ok(Progress::Done { len, told: Some(told) })
}

fn version_2(bytes: &[u8]) -> Result<Progress, Refused> {
    let bad = Refused::Malformed;
    if bytes[12] >> 4 != 2 {
        return Err(bad("not version 2"));
    }
    let local = match bytes[12] & 0x0f {
        0 => true,
        1 => false,
        _ => return Err(bad("neither LOCAL nor PROXY")),
    };
    let len = FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if len > MOST_V2 {
        return Err(bad("too long"));
    }
    let Some(rest) = bytes.get(FIXED..len) else { return Ok(Progress::NeedMore) };
    let (told, extra) = match bytes[13] {
        _ if local => return Ok(Progress::Done { len, told: None }),
        0x11 => {
            let (a, extra) = rest.split_first_chunk::<12>().ok_or(bad("addresses cut short"))?;
            let ip = |at: usize| IpAddr::V4(Ipv4Addr::new(a[at], a[at + 1], a[at + 2], a[at + 3]));
            (Some(told(ip(0), ip(4), &a[8..])), extra)
        }
        0x21 => {
            let (a, extra) = rest.split_first_chunk::<36>().ok_or(bad("addresses cut short"))?;
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&a[at..at + 16]);
                IpAddr::V6(Ipv6Addr::from(octets))
            };
            (Some(told(ip(0), ip(16), &a[32..])), extra)
        }
        // Not TCP over IP: taken, and nothing is told by it. What follows has no known form.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => (None, &[][..]),
        _ => return Err(bad("an unknown family")),
    };
    let spliced = additions(extra, &bytes[..len])?;
    Ok(Progress::Done { len, told: told.map(|told| Told { spliced, ..told }) })
}

fn told(source: IpAddr, destination: IpAddr, ports: &[u8]) -> Told {
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Told { source: (source, port(0)).into(), destination: (destination, port(2)).into(), spliced: false }
}

/// What load balancers add (section 2.2.1): it must be whole; a checksum among it must be right. Whether our own addition
/// is there.
fn additions(mut rest: &[u8], header: &[u8]) -> Result<bool, Refused> {
    const CRC32C: u8 = 0x03;
    let cut = Refused::Malformed("an addition is cut short");
    let mut spliced = false;
    while let Some((head, after)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let value = after.get(..len).ok_or(cut)?;
        if head[0] == CRC32C {
            let sum: [u8; 4] =
                value.try_into().map_err(|_| Refused::Malformed("a checksum of another size"))?;
            // Computed with zeros in its place.
            let at = header.len() - after.len();
            let zeroed = header[..at].iter().chain(&[0; 4]).chain(&header[at + 4..]);
            if crc32c(zeroed) != u32::from_be_bytes(sum) {
                return Err(Refused::Malformed("its checksum is wrong"));
            }
        }
        spliced |= head[0] == SPLICED[0] && value == &SPLICED[3..];
        rest = &after[len..];
    }
    if rest.is_empty() { Ok(spliced) } else { Err(cut) }
}

/// CRC-32C (Castagnoli, RFC 9260, appendix A), bit by bit: a header is short and comes once.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !bytes.fold(!0, step)
}

/// A header of version 2 for a connection that is spliced on.
#[must_use]
pub fn write(told: Told) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.push(0x21);
    let added = if told.spliced { 11 } else { 0 };
    let ports = [told.source.port().to_be_bytes(), told.destination.port().to_be_bytes()].concat();
    match (told.source.ip().to_canonical(), told.destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend([0x11, 0, 12 + added]);
            out.extend(source.octets());
            out.extend(destination.octets());
        }
        (source, destination) => {
            let six = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            out.extend([0x21, 0, 36 + added]);
            out.extend(six(source).octets());
            out.extend(six(destination).octets());
        }
    }
    out.extend(ports);
    if told.spliced {
        out.extend(SPLICED);
    }
    out
}

/// A header of version 2 that says: this connection is mine, there is nobody behind it.
pub const LOCAL: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn done(bytes: &[u8]) -> Option<Told> {
        match read(bytes) {
            Ok(Progress::Done { len, told }) => {
                assert_eq!(len, bytes.len());
                told
            }
            other => panic!("{other:?} of {bytes:?}"),
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn version_1_is_read_strictly() {
        let told = done(b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n").unwrap();
        assert_eq!(
            (told.source, told.destination),
            (address("192.0.2.1:56324"), address("198.51.100.7:443"))
        );
        let told = done(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n").unwrap();
        assert_eq!(told.source, address("[2001:db8::1]:1"));
        assert_eq!(done(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(done(b"PROXY UNKNOWN ff:ff whatever it says\r\n"), None);
        for bad in [
            "PROXY TCP4 192.0.2.1 198.51.100.7 056324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 +443\r\n",
            "PROXY TCP4 192.0.2.1  198.51.100.7 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 \r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.7 56324 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY TCP4 192.0.2.1\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY \r\n",
        ] {
            assert!(matches!(read(bad.as_bytes()), Err(Refused::Malformed(_))), "{bad}");
        }
        assert!(matches!(read(&[b"PROXY ", &[b'x'; 200][..]].concat()), Err(Refused::Malformed(_))));
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PROXX"] {
            assert_eq!(read(other), Err(Refused::None));
        }
    }

    #[test]
    fn version_2_knows_who_speaks_for_itself_and_what_is_no_tcp() {
        assert_eq!(done(&LOCAL), None);
        let mut unix = [&SIGNATURE[..], &[0x21, 0x31, 0, 216], &[0; 216]].concat();
        assert_eq!(done(&unix), None);
        unix[13] = 0x41;
        assert_eq!(read(&unix), Err(Refused::Malformed("an unknown family")));
        for (at, byte, why) in
            [(12, 0x11, "not version 2"), (12, 0x22, "neither LOCAL nor PROXY"), (14, 0xff, "too long")]
        {
            let mut bad = LOCAL;
            bad[at] = byte;
            assert_eq!(read(&bad), Err(Refused::Malformed(why)));
        }
        let short = [&SIGNATURE[..], &[0x21, 0x11, 0, 4], &[0; 4]].concat();
        assert_eq!(read(&short), Err(Refused::Malformed("addresses cut short")));
    }

    #[test]
    fn additions_are_whole_and_a_checksum_is_checked() {
        // The check value of this CRC (RFC 9260 uses the same polynomial).
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
        let told =
            Told { source: address("192.0.2.1:1"), destination: address("192.0.2.2:2"), spliced: false };
        let with = |extra: &[u8]| {
            let mut bytes = [&write(told)[..], extra].concat();
            bytes[15] += u8::try_from(extra.len()).unwrap();
            bytes
        };
        assert_eq!(done(&with(&[0xe0, 0, 2, 7, 7])), Some(told));
        assert_eq!(done(&with(&SPLICED)), Some(Told { spliced: true, ..told }));
        assert_eq!(done(&write(Told { spliced: true, ..told })), Some(Told { spliced: true, ..told }));
        assert_eq!(read(&with(&[0xe0, 0, 9, 7, 7])), Err(Refused::Malformed("an addition is cut short")));
        assert_eq!(read(&with(&[0xe0, 0])), Err(Refused::Malformed("an addition is cut short")));
        let mut sum = with(&[0x03, 0, 4, 0, 0, 0, 0]);
        let right = crc32c(sum.iter()).to_be_bytes();
        let at = sum.len() - 4;
        sum[at..].copy_from_slice(&right);
        assert_eq!(done(&sum), Some(told));
        sum[at] ^= 1;
        assert_eq!(read(&sum), Err(Refused::Malformed("its checksum is wrong")));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(source: SocketAddr, destination: SocketAddr, spliced: bool, after: Vec<u8>) {
            let told = Told {
                source: (source.ip(), source.port()).into(),
                destination: (destination.ip(), destination.port()).into(),
                spliced,
            };
            let mut bytes = write(told);
            let len = bytes.len();
            for cut in 0..len {
                prop_assert_eq!(read(&bytes[..cut]), Ok(Progress::NeedMore));
            }
            bytes.extend(after);
            let Ok(Progress::Done { len: read, told: Some(seen) }) = read(&bytes) else { panic!() };
            prop_assert_eq!((read, seen.spliced), (len, spliced));
            let same = |a: SocketAddr, b: SocketAddr| (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port());
            prop_assert!(same(seen.source, told.source) && same(seen.destination, told.destination));
        }

        #[test]
        fn no_bytes_break_it(mut bytes: Vec<u8>, v2: bool) {
            let _ = read(&bytes);
            let head = if v2 { &SIGNATURE[..] } else { V1 };
            bytes.splice(0..0, head.iter().copied());
            if let Ok(Progress::Done { len, .. }) = read(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
