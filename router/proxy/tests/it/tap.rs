//! Looking for a text where it must not be: on links, in files, in the memory of processes.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use domicile_chaos_kit::ports::free_address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A link that keeps everything that goes over it, both ways.
pub(crate) struct Tap {
    pub(crate) addr: SocketAddr,
    kept: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tap {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(free_address().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        let all = kept.clone();
        let task = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let all = all.clone();
                tokio::spawn(async move {
                    let Ok(to) = TcpStream::connect(to).await else { return };
                    let ((a, b), (c, d)) = (from.into_split(), to.into_split());
                    tokio::join!(keep(a, d, &all), keep(c, b, &all));
                });
            }
        });
        Self { addr, kept, task }
    }

    /// How much has passed.
    pub(crate) fn bytes(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    pub(crate) fn holds(&self, text: &[u8]) -> bool {
        contains(&self.kept.lock().unwrap(), text)
    }
}

async fn keep(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    all: &Mutex<Vec<u8>>,
) {
    let mut piece = vec![0; 16 << 10];
    // A text that is cut by two pieces still stands there in one: only the order of both ways is mixed.
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        all.lock().unwrap().extend_from_slice(&piece[..n]);
        if to.write_all(&piece[..n]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

pub(crate) fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut from = 0;
    while let Some(at) = hay[from..].iter().position(|b| *b == first) {
        let at = from + at;
        if hay[at..].starts_with(needle) {
            return true;
        }
        from = at + 1;
    }
    false
}

/// How often a text stands in the memory of a process, by the kind of mapping, and how many bytes were looked at.
pub(crate) fn in_memory(pid: u32, text: &[u8]) -> (bool, u64) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let (mut found, mut looked) = (false, 0);
    let mut piece = vec![0; 1 << 20];
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (mut at, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        while at < to {
            let want = usize::try_from((to - at).min(piece.len() as u64)).unwrap();
            // A part that is gone again, or can't be read.
            let Ok(n @ 1..) = memory.read_at(&mut piece[..want], at) else { break };
            found |= contains(&piece[..n], text);
            looked += n as u64;
            // The next piece begins so much earlier that no text is cut by two.
            let step = if n > text.len() && at + (n as u64) < to { n - text.len() } else { n };
            at += step as u64;
        }
    }
    (found, looked)
}

/// Whether a text stands in a file, or in one of a folder.
pub(crate) fn in_files(path: &Path, text: &[u8]) -> Option<std::path::PathBuf> {
    if path.is_dir() {
        let inside = std::fs::read_dir(path).unwrap().filter_map(Result::ok);
        return inside.map(|e| e.path()).find_map(|p| in_files(&p, text));
    }
    let bytes = std::fs::read(path).unwrap_or_default();
    contains(&bytes, text).then(|| path.to_owned())
}
