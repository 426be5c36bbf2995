//! Free loopback ports, without races between tests that run side by side.
//!
//! Asking the kernel for port 0 and closing the socket again hands the same port to the next one who asks, and an
//! outgoing connection may take it before the server binds. So ports come from below the ephemeral range, and each is
//! reserved by a lock on a file for as long as this process lives.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};

/// Above what servers usually take, below where Linux picks the ports of outgoing connections (32768).
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// Locks of the ports handed out. Closing a file gives its port back, so they stay open until the process ends.
static RESERVED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A free port on 127.0.0.1, reserved until this process ends.
///
/// # Errors
/// When no port is left, or the lock files can't be written.
pub fn free() -> anyhow::Result<u16> {
    let dir = lock_dir()?;
    // Processes start at different places, so that they do not queue up at the same ports.
    let width = u32::from(RANGE.end - RANGE.start);
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let start = std::process::id().wrapping_mul(7919).wrapping_add(nanos) % width;
    for step in 0..width {
        let offset =
            u16::try_from((start + step) % width).context("the range of ports is narrower than 65536")?;
        let port = RANGE.start + offset;
        let Ok(lock) = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o666)
            .open(dir.join(port.to_string()))
        else {
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            continue;
        }
        RESERVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(lock);
        return Ok(port);
    }
    bail!("no free port between {} and {}: something leaves servers behind", RANGE.start, RANGE.end)
}

/// A free address on 127.0.0.1, reserved until this process ends.
///
/// # Errors
/// As [`free`].
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free()?)))
}

/// Where the locks lie, shared by all users of the machine.
fn lock_dir() -> anyhow::Result<PathBuf> {
    let dir = std::env::temp_dir().join("domicile-ports");
    if !dir.is_dir() {
        std::fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o1777))?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_each_can_be_bound() {
        let ports: std::collections::BTreeSet<_> = (0..50).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            assert!(RANGE.contains(&port));
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_port_is_reserved_against_everybody_else() {
        let port = free().unwrap();
        let again = File::open(lock_dir().unwrap().join(port.to_string())).unwrap();
        assert!(flock(&again, FlockOperation::NonBlockingLockExclusive).is_err());
    }
}
