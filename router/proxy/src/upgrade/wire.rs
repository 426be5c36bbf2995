//! What two processes of one router say to each other: JSON, a line each, and sockets beside a line.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use domicile_model::{RegionId, Revision, Role, RouterId, WorldId};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::merge::Told;

/// The version of the conversation. Another one is refused; `hello` and `refused` stay as they are for ever.
pub(super) const VERSION: u32 = 1;
/// The longest line.
const MOST_BYTES: usize = 8 << 20;
/// Sockets at once.
pub(super) const MOST_SOCKETS: usize = 8;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub(super) enum Line {
    /// New: this is who I am.
    Hello { version: u32, role: Role, id: RouterId, region: RegionId },
    /// Old: you may.
    Welcome,
    /// Old: you may not. The end.
    Refused { why: String },
    /// New: I have prepared what needs nothing of yours.
    Take,
    /// Old: these sockets are yours, and so is what lies on disk; this far you must come.
    Handed { sockets: Vec<Passed>, reached: Reached },
    /// New: this is why I can't. The end.
    Failed { why: String },
    /// New: I could serve.
    Ready,
    /// Old: then do. Until the end of this conversation I answer requests, too.
    Go { told: Option<Told> },
    /// New: I accept connections.
    Serving,
    /// Old: what I would acknowledge now.
    Told { told: Option<Told> },
}

/// A socket, in the order in which they are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Passed {
    /// The option that named it.
    pub(super) name: String,
    /// Where it listens.
    pub(super) address: String,
}

/// How far the old process has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Reached {
    /// The world of its table.
    pub(super) world: Option<WorldId>,
    /// The highest revision of a placement that it has applied.
    pub(super) placements: Revision,
    /// Of how many cells it can prove that it may answer for them.
    pub(super) proven: usize,
}

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    read: Vec<u8>,
    /// How much of it was looked through for an end.
    looked: usize,
    sockets: Vec<OwnedFd>,
}

impl Wire {
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self { stream, read: Vec::new(), looked: 0, sockets: Vec::new() }
    }

    pub(super) const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Says a line.
    pub(super) async fn say(&self, line: &Line) -> io::Result<()> {
        self.pass(line, &[]).await
    }

    /// Says a line, and passes sockets with it.
    pub(super) async fn pass(&self, line: &Line, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if text.len() > MOST_BYTES {
            return Err(io::Error::other("a line that would be too long"));
        }
        let (mut left, mut sockets) = (&text[..], sockets);
        while !left.is_empty() {
            let sent = self.stream.async_io(Interest::WRITABLE, || send(&self.stream, left, sockets)).await?;
            // They go with the first byte.
            sockets = &[];
            left = left.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Hears a line; none at the end. Nothing is lost if this future is dropped.
    pub(super) async fn hear(&mut self) -> io::Result<Option<Line>> {
        loop {
            let new = self.read.get(self.looked..).unwrap_or_default();
            if let Some(end) = new.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=self.looked + end).collect();
                self.looked = 0;
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            self.looked = self.read.len();
            if self.looked > MOST_BYTES {
                (self.read, self.looked) = (Vec::new(), 0);
                return Err(io::Error::other("a line that is too long"));
            }
            let Self { stream, read, sockets, .. } = self;
            if stream.async_io(Interest::READABLE, || receive(stream, read, sockets)).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Hears a line in time. The end is a failure.
    pub(super) async fn hear_within(&mut self, limit: Duration) -> io::Result<Line> {
        match tokio::time::timeout(limit, self.hear()).await {
            Ok(line) => line?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The sockets that have come.
    pub(super) fn take_sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }
}

fn send(stream: &UnixStream, bytes: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("too many sockets"));
    }
    Ok(sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL)?)
}

/// A plain read would throw away the sockets that come beside the bytes.
fn receive(stream: &UnixStream, read: &mut Vec<u8>, sockets: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8 << 10];
    let got =
        recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(all) = message {
            sockets.extend(all);
        }
    }
    read.extend_from_slice(bytes.get(..got.bytes).unwrap_or_default());
    Ok(got.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_of_any_length_and_sockets_come_as_they_were_sent() {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, mut b) = (Wire::new(a), Wire::new(b));
        let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = door.local_addr().unwrap();
        let sending = tokio::spawn(async move {
            a.pass(&Line::Take, &[door.as_fd()]).await.unwrap();
            a.say(&Line::Failed { why: "x".repeat(1 << 20) }).await.unwrap();
        });
        assert!(matches!(b.hear().await.unwrap(), Some(Line::Take)));
        let door = std::net::TcpListener::from(b.take_sockets().pop().unwrap());
        assert_eq!(door.local_addr().unwrap(), address);
        let Some(Line::Failed { why }) = b.hear().await.unwrap() else { panic!("another line") };
        assert_eq!(why.len(), 1 << 20);
        sending.await.unwrap();
        assert!(b.hear().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_has_no_end_is_given_up() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut b = Wire::new(b);
        let sending = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let mut a = a;
            while a.write_all(&[b' '; 1 << 16]).await.is_ok() {}
        });
        assert!(b.hear().await.is_err());
        drop(b);
        sending.await.unwrap();
    }
}
