//! What the kernel knows about processes and sockets: from `/proc`, and asked.

mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A process and its parent, as `/proc/<pid>/stat` shows them.
struct Stat {
    parent: u32,
    group: u32,
    state: char,
    start: u64,
}

/// Reads `/proc/<pid>/stat`. The name in it may hold anything, so fields are counted from its last parenthesis.
fn stat(pid: u32) -> Option<Stat> {
    stat_at(Path::new(&format!("/proc/{pid}")))
}

/// The same of a process or of one of its threads, by its directory.
fn stat_at(of: &Path) -> Option<Stat> {
    let text = std::fs::read_to_string(of.join("stat")).ok()?;
    let mut fields = text.get(text.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let start = fields.nth(16)?.parse().ok()?;
    Some(Stat { parent, group, state, start })
}

/// When a process began, in clock ticks since boot: with its number it names one process for ever, since numbers are
/// given out again.
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    stat(pid).map(|s| s.start)
}

/// Whether a process runs: it exists and is not a zombie.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|s| !matches!(s.state, 'Z' | 'X'))
}

/// The state letter of a process: `T` is stopped, `Z` a zombie.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    stat(pid).map(|s| s.state)
}

/// The children of this process that have ended and that nobody has waited for.
#[must_use]
pub fn zombies_of(parent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| stat(*pid).is_some_and(|s| s.parent == parent && s.state == 'Z'))
        .collect()
}

/// Lets a zombie of ours go: as long as it is there its number is taken, and a PostgreSQL that finds that number in
/// its lock file believes in another server. Only for adopted ones: whoever started a process waits for it itself.
pub fn reap(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // It may be gone, or not ours: then there is nothing to do.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    }
}

/// All processes below this one, children before grandchildren; not the process itself, and no zombies.
#[must_use]
pub fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok())
            && let Some(stat) = stat(pid)
        {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            if is_running(child) {
                found.push(child);
            }
            next.push(child);
        }
    }
    found
}

/// Sends a signal to one process; one that is gone already is fine.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Gone already, or not ours: either way there is nothing left to end.
        let _ = kill_process(pid, signal);
    }
}

/// SIGSTOPs a process, and gives back control only once none of its threads runs any more.
///
/// A signal is taken by one thread, whenever that is scheduled, and until then the others go on: what a test does next
/// could still be seen by a process that it believes asleep.
pub fn stop(pid: u32) {
    signal(pid, Signal::STOP);
    until_stopped(pid);
}

/// The same for a process and those below it that are in its group.
pub(crate) fn stop_group(root: u32) {
    if let Some(group) = i32::try_from(root).ok().and_then(Pid::from_raw) {
        // Nobody is left in the group: nothing to do.
        let _ = kill_process_group(group, Signal::STOP);
    }
    for pid in descendants(root).into_iter().chain([root]) {
        if stat(pid).is_some_and(|s| s.group == root) {
            until_stopped(pid);
        }
    }
}

/// Waits until no thread of a process that was told to stop runs any more, or it is gone.
fn until_stopped(pid: u32) {
    for _ in 0..TRIES {
        if !is_running(pid) || is_stopped(pid) {
            return;
        }
        std::thread::yield_now();
    }
}

/// How often a process is looked at before it is given up: seconds, and one that hangs in the kernel never stops.
const TRIES: usize = 200_000;

/// Whether all threads of a process are stopped.
fn is_stopped(pid: u32) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.all(|thread| stat_at(&thread.path()).is_none_or(|s| matches!(s.state, 'T' | 't' | 'Z' | 'X')))
}

/// Who of these processes owns the local end of the TCP connection from `local` to `remote`.
///
/// How a proxy tells apart clients that all come from 127.0.0.1: etcd's members dial each other by one address each.
#[must_use]
pub fn owner_of(local: SocketAddr, remote: SocketAddr, candidates: &[u32]) -> Option<u32> {
    let inode = socket::inode(local, remote)?;
    let wanted = format!("socket:[{inode}]");
    candidates.iter().copied().find(|pid| {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
    })
}

/// SIGKILLs these processes and everything below them, looking again until nothing new appears.
pub fn kill_trees(roots: &[u32]) {
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let mut all: BTreeSet<u32> = roots.iter().flat_map(|root| descendants(*root)).collect();
        all.extend(roots.iter().copied().filter(|pid| is_running(*pid)));
        let fresh: Vec<u32> = all.difference(&seen).copied().collect();
        if fresh.is_empty() {
            return;
        }
        for pid in fresh {
            signal(pid, Signal::KILL);
            seen.insert(pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_below_its_parent() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let mut below = Vec::new();
        for _ in 0..2000 {
            below = descendants(child.id());
            if !below.is_empty() {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(below.len(), 1);
        assert!(descendants(std::process::id()).contains(&below[0]));
        kill_trees(&[child.id()]);
        child.wait().unwrap();
        for _ in 0..200_000 {
            if !is_running(below[0]) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("the grandchild survived");
    }

    #[test]
    fn a_stopped_process_stands_still_at_once() {
        for _ in 0..50 {
            // It changes hands all the time, so that the signal finds it anywhere.
            let mut child =
                std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
            stop(child.id());
            let stopped = is_stopped(child.id());
            signal(child.id(), Signal::KILL);
            child.wait().unwrap();
            assert!(stopped);
        }
    }

    #[test]
    fn the_owner_of_a_connection_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let me = std::process::id();
        let (local, remote) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
        assert_eq!(owner_of(local, remote, &[1, me]), Some(me));
        assert_eq!(owner_of(local, remote, &[]), None);
        assert_eq!(
            owner_of(local, local, &[me]),
            None,
            "another connection from the same port is another one"
        );
    }
}
