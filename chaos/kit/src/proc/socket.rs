//! Which inode a TCP connection has.
//!
//! The kernel is asked for the one connection (`sock_diag`). `/proc/net/tcp` knows it too, but is written as a walk through
//! every socket of the machine, some milliseconds of processor a time: members that are cut dial a hundred times a
//! second, and the walk alone kept a busy machine from ever committing anything.

use std::net::{SocketAddr, SocketAddrV4};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};

const REQUEST: u16 = 1;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const INET: u8 = 2;
const TCP: u8 = 6;
/// Where `inet_diag_msg` begins, behind the header of the message, and where it names the ends and the inode.
const BODY: usize = 16;
const ENDS: usize = BODY + 4;
const INODE: usize = ENDS + 48 + 16;

/// The inode of the IPv4 connection with these ends. One local port serves many remote ones, so one end alone names
/// nothing; a dead connection has none.
pub(super) fn inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else { return None };
    asked(local, remote).unwrap_or_else(|_| read(local, remote)).filter(|inode| *inode != 0)
}

/// What the kernel says when it is asked for this connection. An error where it can't be asked.
fn asked(local: SocketAddrV4, remote: SocketAddrV4) -> Result<Option<u64>, Errno> {
    let kernel = socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG))?;
    let ends = ends(local, remote);
    let mut question = Vec::with_capacity(72);
    question.extend(72_u32.to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    // Sequence and sender: there is one question to a socket.
    question.extend([0; 8]);
    question.extend([INET, TCP, 0, 0]);
    // In any state.
    question.extend(u32::MAX.to_ne_bytes());
    question.extend(ends);
    // On any interface, with any cookie.
    question.extend([0; 4]);
    question.extend([0xff; 8]);
    send(&kernel, &question, SendFlags::empty())?;
    let mut answer = [0_u8; 1024];
    // The kernel has answered before `send` returns.
    let (length, _) = recv(&kernel, &mut answer, RecvFlags::DONTWAIT)?;
    let answer = &answer[..length.min(1024)];
    match answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes) {
        Some(SOCK_DIAG_BY_FAMILY) => {}
        Some(NLMSG_ERROR) => {
            let number = four(answer, BODY).map_or(0, i32::from_ne_bytes);
            // There is no such connection.
            return if number == -Errno::NOENT.raw_os_error() { Ok(None) } else { Err(Errno::NOTSUP) };
        }
        _ => return Err(Errno::NOTSUP),
    }
    // For want of the connection it names whoever listens at the port.
    if answer.get(ENDS..ENDS + ends.len()) != Some(&ends[..]) {
        return Ok(None);
    }
    Ok(four(answer, INODE).map(|bytes| u64::from(u32::from_ne_bytes(bytes))))
}

/// Ports and addresses as the kernel has them: big-endian, room for IPv6.
fn ends(local: SocketAddrV4, remote: SocketAddrV4) -> [u8; 36] {
    let mut ends = [0; 36];
    ends[..2].copy_from_slice(&local.port().to_be_bytes());
    ends[2..4].copy_from_slice(&remote.port().to_be_bytes());
    ends[4..8].copy_from_slice(&local.ip().octets());
    ends[20..24].copy_from_slice(&remote.ip().octets());
    ends
}

fn four(answer: &[u8], at: usize) -> Option<[u8; 4]> {
    answer.get(at..at + 4)?.try_into().ok()
}

/// The same from `/proc/net/tcp`, where dead connections (inode 0) stay listed for a minute.
fn read(local: SocketAddrV4, remote: SocketAddrV4) -> Option<u64> {
    let (local, remote) = (key(local), key(remote));
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let ours = fields.next() == Some(&local) && fields.next() == Some(&remote);
        ours.then(|| fields.nth(6)?.parse().ok()).flatten().filter(|inode| *inode != 0)
    })
}

/// An address as `/proc/net/tcp` writes it.
fn key(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(address: SocketAddr) -> SocketAddrV4 {
        let SocketAddr::V4(address) = address else { panic!("{address}") };
        address
    }

    #[test]
    fn the_kernel_and_its_table_name_the_same_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = v4(listener.local_addr().unwrap());
        let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(at).unwrap()).collect();
        for client in &clients {
            let local = v4(client.local_addr().unwrap());
            let inode = asked(local, at).expect("this kernel can be asked");
            assert!(inode.is_some());
            assert_eq!(inode, read(local, at));
            assert_ne!(asked(at, local).unwrap(), inode, "the other end is another socket");
        }
    }

    #[test]
    fn who_listens_is_not_taken_for_a_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = v4(listener.local_addr().unwrap());
        let nobody = "127.0.0.1:9".parse().unwrap();
        assert_eq!(asked(at, nobody).unwrap(), None);
        assert_eq!(asked(nobody, at).unwrap(), None);
    }
}
