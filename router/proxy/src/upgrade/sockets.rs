//! The listening sockets of a router: bound by itself, or taken over from the process before it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::wire::Passed;
use crate::app::BuildError;
use crate::config::Config;

/// New processes that may wait to be heard.
const WAITING: i32 = 8;
const UPGRADE: &str = "upgrade-socket";

/// All of them.
#[derive(Debug)]
pub struct Sockets {
    /// Traffic in the clear.
    pub listen: Option<TcpListener>,
    /// Traffic in TLS.
    pub listen_tls: Option<TcpListener>,
    /// State, for people and probes.
    pub admin: TcpListener,
    /// Gates and agents.
    pub peer: Option<TcpListener>,
    /// A process that is to take this one's place.
    pub upgrade: Option<UnixListener>,
}

/// The addresses that a configuration names, with the options that do.
fn wanted(config: &Config) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let all = [
        ("listen", config.listen),
        ("listen-tls", config.listen_tls),
        ("admin", Some(config.admin)),
        ("peer", config.peer),
    ];
    all.into_iter().filter_map(|(name, address)| Some((name, address?)))
}

impl Sockets {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// What can't be had, and where.
    pub fn bind(config: &Config) -> Result<Self, BuildError> {
        let upgrade = config.upgrade_socket.as_deref();
        let door = |name, address: Option<SocketAddr>| address.map(|a| bind_tcp(name, a)).transpose();
        Ok(Self {
            listen: door("listen", config.listen)?,
            listen_tls: door("listen-tls", config.listen_tls)?,
            admin: bind_tcp("admin", config.admin)?,
            peer: door("peer", config.peer)?,
            upgrade: upgrade.map(|path| bind_unix(path).map_err(|e| unusable(path, e))).transpose()?,
        })
    }

    /// What is passed on, in this order.
    pub(super) fn all(&self) -> io::Result<(Vec<Passed>, Vec<BorrowedFd<'_>>)> {
        let doors = [
            ("listen", self.listen.as_ref()),
            ("listen-tls", self.listen_tls.as_ref()),
            ("admin", Some(&self.admin)),
            ("peer", self.peer.as_ref()),
        ];
        let (mut names, mut sockets) = (Vec::new(), Vec::new());
        for (name, door) in doors.into_iter().filter_map(|(name, door)| Some((name, door?))) {
            names.push(Passed { name: name.into(), address: door.local_addr()?.to_string() });
            sockets.push(door.as_fd());
        }
        if let Some(upgrade) = &self.upgrade {
            names.push(Passed { name: UPGRADE.into(), address: String::new() });
            sockets.push(upgrade.as_fd());
        }
        Ok((names, sockets))
    }

    /// What was passed on, if it is what the configuration names.
    pub(super) fn taken(config: &Config, names: &[Passed], sockets: Vec<OwnedFd>) -> Result<Self, String> {
        if names.len() != sockets.len() {
            return Err(format!("{} sockets came where {} were named", sockets.len(), names.len()));
        }
        let (mut doors, mut upgrade) = (Vec::new(), None);
        for (passed, socket) in names.iter().zip(sockets) {
            if passed.name == UPGRADE {
                upgrade = Some(UnixListener::from(socket));
                continue;
            }
            let door = TcpListener::from(socket);
            // What it says of itself counts, not what is said of it.
            let address = door.local_addr().map_err(|e| format!("--{}: {e}", passed.name))?;
            doors.push((passed.name.as_str(), address, door));
        }
        let mut missing = Vec::new();
        for (name, address) in wanted(config) {
            let found = doors.iter().find(|(n, _, _)| *n == name).map(|(_, a, _)| *a);
            if !found.is_some_and(|a| {
                a.ip() == address.ip() && (address.port() == 0 || a.port() == address.port())
            }) {
                let has = found.map_or_else(|| "does not listen for it".to_owned(), |a| format!("has {a}"));
                missing.push(format!("--{name} {address}: the running router {has}"));
            }
        }
        for (name, address, _) in &doors {
            if !wanted(config).any(|(n, _)| n == *name) {
                missing.push(format!(
                    "--{name}: the running router listens at {address}, and this one would not"
                ));
            }
        }
        if !missing.is_empty() {
            missing.push("another address needs a restart".into());
            return Err(missing.join("; "));
        }
        let mut take = |name: &str| {
            let at = doors.iter().position(|(n, _, _)| *n == name)?;
            Some(doors.swap_remove(at).2)
        };
        Ok(Self {
            listen: take("listen"),
            listen_tls: take("listen-tls"),
            admin: take("admin").ok_or("no admin listener came")?,
            peer: take("peer"),
            upgrade,
        })
    }
}

fn bind_tcp(option: &'static str, address: SocketAddr) -> Result<TcpListener, BuildError> {
    let error = |source| BuildError::Bind { option, address, source };
    let listener = TcpListener::bind(address).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    Ok(listener)
}

pub(super) fn unusable(path: &Path, source: io::Error) -> BuildError {
    BuildError::File { option: UPGRADE, path: path.display().to_string(), source }
}

/// Listens there, for this user alone. What an earlier process has left is replaced; one that lives is not.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something else than a socket is there",
            ));
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "a running router listens there: `--upgrade` takes its place",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file is made with the mode of its socket: there is no moment at which others could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, WAITING)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_this_user_may_and_only_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upgrade");
        let first = bind_unix(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(bind_unix(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
