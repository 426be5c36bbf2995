//! Files, users and processes: what the agent does to the machine.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use domicile_model::clock::{BootTime, Clock};
use rustix::process::{Pid, Signal};

/// Something of the machine that did not work.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct OsError {
    what: String,
    source: std::io::Error,
}

pub(crate) fn os(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> OsError {
    let what = what.into();
    move |source| OsError { what, source }
}

/// The user that owns the data directory, and how to run programs as that user.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Its name and the name of the agent's own user, for peer authentication.
    pub(crate) name: String,
    pub(crate) me: String,
    bin: PathBuf,
}

impl Owner {
    pub(crate) fn of(data_dir: &Path, bin_dir: Option<&Path>) -> Result<Self, OsError> {
        let meta = std::fs::metadata(data_dir)
            .or_else(|e| data_dir.parent().map_or(Err(e), std::fs::metadata))
            .map_err(os(format!("looking at the data directory {}", data_dir.display())))?;
        let euid = rustix::process::geteuid().as_raw();
        if euid != 0 && euid != meta.uid() {
            return Err(os(format!(
                "the agent runs as user {euid} but {} belongs to user {}: run it as that user",
                data_dir.display(),
                meta.uid()
            ))(std::io::ErrorKind::PermissionDenied.into()));
        }
        if meta.uid() == 0 {
            return Err(os(format!(
                "{} belongs to root, and PostgreSQL refuses to run as root: give it to another user",
                data_dir.display()
            ))(std::io::ErrorKind::PermissionDenied.into()));
        }
        let passwd = std::fs::read_to_string("/etc/passwd").map_err(os("reading /etc/passwd"))?;
        let name = |uid: u32| {
            passwd
                .lines()
                .find_map(|line| {
                    let mut parts = line.split(':');
                    let name = parts.next()?;
                    (parts.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
                })
                .ok_or_else(|| {
                    os(format!("user {uid} has no name in /etc/passwd"))(std::io::ErrorKind::NotFound.into())
                })
        };
        let bin = match bin_dir {
            Some(bin) => bin.to_owned(),
            None => newest_bin()?,
        };
        Ok(Self { uid: meta.uid(), gid: meta.gid(), name: name(meta.uid())?, me: name(euid)?, bin })
    }

    /// The words that run one of PostgreSQL's programs as its owner. `mortal`: it dies with the thread that starts it.
    pub(crate) fn argv(&self, program: &str, mortal: bool) -> Vec<String> {
        let mut argv = Vec::new();
        let other = rustix::process::geteuid().is_root();
        if other || mortal {
            argv.push("setpriv".to_owned());
            if other {
                argv.push(format!("--reuid={}", self.name));
                argv.push(format!("--regid={}", self.gid));
                argv.push("--init-groups".into());
            }
            if mortal {
                argv.push("--pdeathsig=KILL".into());
            }
            argv.push("--".into());
        }
        argv.push(self.bin.join(program).to_string_lossy().into_owned());
        argv
    }

    /// A command that runs one of PostgreSQL's programs as its owner and dies when dropped.
    pub(crate) fn command(&self, program: &str) -> tokio::process::Command {
        let argv = self.argv(program, false);
        let mut command = tokio::process::Command::new(&argv[0]);
        command.args(&argv[1..]).current_dir("/").env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Makes a directory (0700) of the owner.
    pub(crate) fn dir(&self, dir: &Path) -> Result<(), OsError> {
        let what = || format!("making {}", dir.display());
        std::fs::create_dir_all(dir).map_err(os(what()))?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(os(what()))?;
        self.own(dir)
    }

    pub(crate) fn own(&self, path: &Path) -> Result<(), OsError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).map_err(os(format!(
            "giving {} to {}",
            path.display(),
            self.name
        )))
    }

    /// Replaces a file (0600) of the owner in one step: after a crash it holds the old or the new text, and after this
    /// returns the new one also when the power fails.
    pub(crate) fn write(&self, path: &Path, text: &[u8]) -> Result<(), OsError> {
        let mut new = path.to_owned().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let what = || format!("writing {}", path.display());
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(os(what()))?;
        file.write_all(text).and_then(|()| file.sync_all()).map_err(os(what()))?;
        self.own(&new)?;
        std::fs::rename(&new, path).map_err(os(what()))?;
        sync_dir(path.parent().unwrap_or(path))
    }
}

/// Makes renames and removals in a directory last.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), OsError> {
    std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(os(format!("syncing {}", dir.display())))
}

fn newest_bin() -> Result<PathBuf, OsError> {
    let missing = || {
        os("no PostgreSQL under /usr/lib/postgresql: install it or name `bin_dir`")(
            std::io::ErrorKind::NotFound.into(),
        )
    };
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .map_err(|_| missing())?
        .filter_map(Result::ok)
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").is_file())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin).ok_or_else(missing)
}

/// Every process of the server in this directory. All of them, and nobody else, work in it; that also finds backends
/// whose postmaster is gone.
pub(crate) fn server_processes(data_dir: &Path) -> Vec<i32> {
    let Ok(wanted) = std::fs::metadata(data_dir) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|e| {
            let pid: i32 = e.file_name().to_str()?.parse().ok()?;
            let cwd = std::fs::metadata(e.path().join("cwd")).ok()?;
            if (cwd.dev(), cwd.ino()) != (wanted.dev(), wanted.ino()) {
                return None;
            }
            let name = std::fs::read_to_string(e.path().join("comm")).ok()?;
            name.starts_with("postgres").then_some(pid)
        })
        .collect()
}

/// Which file of the log a server in recovery replays, by the title of its process: it says so before it lets anybody ask.
pub(crate) fn recovering(data_dir: &Path) -> Option<String> {
    server_processes(data_dir).into_iter().find_map(|pid| {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        replayed_file(&String::from_utf8_lossy(&title))
    })
}

/// `postgres: startup recovering 00000001000000000000000A`.
fn replayed_file(title: &str) -> Option<String> {
    let (_, rest) = title.split_once("startup recovering ")?;
    let name: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    (name.len() == 24).then_some(name)
}

/// Sends SIGKILL to the server's processes until none is left; stopped ones die as well. Gives up after `patience`
/// (a process in uninterruptible sleep acknowledges nothing either) and says how many are left.
pub(crate) fn kill_server(data_dir: &Path, patience: std::time::Duration) -> usize {
    let clock = Clock::Machine;
    let give_up: BootTime = clock.now() + patience;
    loop {
        let mut left = server_processes(data_dir);
        if left.is_empty() || clock.now() > give_up {
            return left.len();
        }
        // The postmaster first, so that it starts nothing new.
        if let Some(master) = postmaster(data_dir)
            && let Some(at) = left.iter().position(|p| *p == master)
        {
            left.swap(0, at);
        }
        for pid in left {
            signal(pid, Signal::KILL);
        }
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    }
}

/// The postmaster, by its own file. May be stale: compare with [`server_processes`].
pub(crate) fn postmaster(data_dir: &Path) -> Option<i32> {
    std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

/// Signals a process; whether it was there.
pub(crate) fn signal(pid: i32, signal: Signal) -> bool {
    pid > 1 && Pid::from_raw(pid).is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_replayed_stands_in_the_title_of_its_process() {
        let name = "00000002000000000000000A";
        for title in [
            "postgres: startup recovering 00000002000000000000000A",
            "postgres: startup recovering 00000002000000000000000A waiting\0\0",
        ] {
            assert_eq!(replayed_file(title).as_deref(), Some(name));
        }
        for title in ["", "postgres: startup", "postgres: startup recovering 0000", "postgres: checkpointer"]
        {
            assert_eq!(replayed_file(title), None, "{title}");
        }
    }
}
