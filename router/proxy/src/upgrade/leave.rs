//! The process that is left: it hears at its socket who wants its place.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domicile_model::clock::pause;
use domicile_model::{Revision, RouterId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::duties::Duties;
use super::merge::{Before, Told};
use super::sockets::Sockets;
use super::wire::{Line, Reached, VERSION, Wire};
use crate::loops::acks;
use crate::state::{Proofs, Shared};

/// How long a new process may take to say who it is.
const HELLO: Duration = Duration::from_secs(5);
/// How long it may take for what needs nothing of this one's. Nothing is let go of until then.
const PREPARED: Duration = Duration::from_secs(60);
/// How long it may take until it could serve.
const READY: Duration = Duration::from_secs(30);
/// And then, until it accepts connections.
const SERVING: Duration = Duration::from_secs(10);
/// How long a line may take to get away.
const SAID: Duration = Duration::from_secs(5);
/// How long one that fails may take to say why and end.
const LAST_WORDS: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// How often what would be acknowledged is looked at when nothing rings.
const TICK: Duration = Duration::from_secs(1);

/// Hears for as long as this process serves.
pub async fn run(shared: Arc<Shared>, duties: Arc<Duties>, sockets: Sockets, listener: UnixListener) {
    let place = Arc::new(Place { shared, duties, sockets: Mutex::new(Some(Arc::new(sockets))) });
    let one = Arc::new(Semaphore::new(1));
    loop {
        let stream = tokio::select! {
            biased;
            () = place.shared.upgrade.leaves() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "an upgrade can't be heard");
                    pause(TICK).await;
                    continue;
                }
            },
        };
        let busy = *place.shared.upgrade.before.borrow() != Before::Gone;
        match one.clone().try_acquire_owned() {
            Ok(turn) if !busy => {
                let place = place.clone();
                tokio::spawn(async move { place.attend(stream, turn).await });
            }
            _ => {
                let why = if busy {
                    "the process before the running one still answers requests: try again in a moment"
                } else {
                    "another upgrade is under way"
                };
                let said = async move { Wire::new(stream).say(&Line::Refused { why: why.into() }).await };
                let _ = tokio::time::timeout(SAID, said).await;
            }
        }
    }
}

struct Place {
    shared: Arc<Shared>,
    duties: Arc<Duties>,
    /// Until another process has them.
    sockets: Mutex<Option<Arc<Sockets>>>,
}

/// A process that can be ended for certain: not by its number, which may be another's by then.
struct Other(OwnedFd);

impl Other {
    fn of(stream: &UnixStream) -> io::Result<Self> {
        let who = stream.peer_cred()?;
        let own = rustix::process::geteuid().as_raw();
        if who.uid() != own && who.uid() != 0 {
            return Err(io::Error::other("it is another user's"));
        }
        let pid = who.pid().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("it can't be seen from here"))?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Returns when it is dead: by itself in a moment, or killed.
    async fn end(self) {
        let dead = tokio::task::spawn_blocking(move || {
            let mut dead = [PollFd::new(&self.0, PollFlags::IN)];
            if poll(&mut dead, Some(&LAST_WORDS)).is_ok_and(|ended| ended > 0) {
                return;
            }
            let _ = pidfd_send_signal(&self.0, Signal::KILL);
            while poll(&mut dead, None).is_err() {}
        });
        let _ = dead.await;
    }
}

impl Place {
    async fn attend(&self, stream: UnixStream, turn: OwnedSemaphorePermit) {
        let mut wire = Wire::new(stream);
        let other = match self.welcome(&mut wire).await {
            Ok(other) => other,
            Err(why) => {
                tracing::warn!(%why, "an upgrade came to nothing");
                let _ = tokio::time::timeout(SAID, wire.say(&Line::Refused { why })).await;
                return;
            }
        };
        tracing::info!("another process is about to take this one's place");
        self.duties.let_go().await;
        if let Err(why) = self.hand_over(&mut wire).await {
            tracing::error!(%why, "the upgrade has failed: this process goes on");
            // It may hold journal and table, and hang: nothing is taken back from a process that lives.
            other.end().await;
            self.duties.take_back().await;
            tracing::info!("this process goes on as before");
            drop(turn);
            return;
        }
        self.duties.end().await;
        // The other one takes the end of this conversation for the end of this process, and so it must be: the system
        // closes this when no thread is left.
        match rustix::io::fcntl_dupfd_cloexec(wire.stream(), 0) {
            Ok(end) => std::mem::forget(end),
            Err(error) => tracing::error!(%error, "the end of this process may be seen too early"),
        }
        // Only this process's descriptors of them: the sockets go on listening.
        self.sockets().take();
        self.shared.upgrade.left.send_replace(true);
        tracing::info!("another process serves: this one ends");
        self.tell(&wire).await;
    }

    /// Hears who it is, and waits until it has prepared. Nothing of this process has changed after a refusal.
    async fn welcome(&self, wire: &mut Wire) -> Result<Other, String> {
        let text = |e: io::Error| e.to_string();
        let config = &self.shared.config;
        match wire.hear_within(HELLO).await.map_err(text)? {
            Line::Hello { version, .. } if version != VERSION => {
                Err(format!("this process speaks version {VERSION} of it, not {version}: restart it"))
            }
            Line::Hello { role, id, region, .. }
                if role != config.role || id != config.id || region != config.region =>
            {
                let own: &RouterId = &config.id;
                Err(format!(
                    "{:?} {own} in {} runs here, not {role:?} {id} in {region}",
                    config.role, config.region
                ))
            }
            Line::Hello { .. } => Ok(()),
            _ => Err("that is no beginning".to_owned()),
        }?;
        let other = Other::of(wire.stream()).map_err(|e| format!("the new process can't be watched: {e}"))?;
        tokio::time::timeout(SAID, wire.say(&Line::Welcome))
            .await
            .map_err(|e| e.to_string())?
            .map_err(text)?;
        match wire.hear_within(PREPARED).await.map_err(text)? {
            Line::Take => Ok(other),
            Line::Failed { why } => Err(format!("the new process can't: {why}")),
            _ => Err("that is not what comes next".to_owned()),
        }
    }

    fn sockets(&self) -> MutexGuard<'_, Option<Arc<Sockets>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hand_over(&self, wire: &mut Wire) -> io::Result<()> {
        let own = self.sockets().clone().ok_or_else(|| io::Error::other("there are no sockets any more"))?;
        let (names, sockets) = own.all()?;
        let handed = Line::Handed { sockets: names, reached: self.reached() };
        tokio::time::timeout(SAID, wire.pass(&handed, &sockets)).await??;
        expect(wire.hear_within(READY).await?, |line| matches!(line, Line::Ready))?;
        // From here on it acknowledges for both.
        let go = Line::Go { told: self.told() };
        tokio::time::timeout(SAID, wire.say(&go)).await??;
        expect(wire.hear_within(SERVING).await?, |line| matches!(line, Line::Serving))
    }

    /// How far the new one must come before it may serve.
    fn reached(&self) -> Reached {
        let told = self.told();
        Reached {
            world: told.as_ref().map(|t| t.world),
            placements: told.map_or(Revision::ZERO, |t| t.placements),
            proven: proven(&self.shared).0,
        }
    }

    fn told(&self) -> Option<Told> {
        acks::own(&self.shared, &self.shared.table()).map(|(_, told)| told)
    }

    /// Says what it would acknowledge, whenever that changes.
    async fn tell(&self, wire: &Wire) {
        let mut tables = self.shared.mirror.subscribe();
        let mut last = None;
        loop {
            tables.mark_unchanged();
            let told = self.told();
            if last.as_ref() != Some(&told) {
                // Whoever does not hear it has ended, or believes the last word, which keeps moves waiting.
                if wire.say(&Line::Told { told: told.clone() }).await.is_err() {
                    return;
                }
                last = Some(told);
            }
            tokio::select! {
                changed = tables.changed() => if changed.is_err() { return },
                () = self.shared.idle.notified() => {}
                () = pause(TICK) => {}
            }
        }
    }
}

fn expect(line: Line, wanted: impl FnOnce(&Line) -> bool) -> io::Result<()> {
    match line {
        Line::Failed { why } => Err(io::Error::other(why)),
        line if wanted(&line) => Ok(()),
        _ => Err(io::Error::other("that is not what comes next")),
    }
}

/// For how many cells of its own region this gate can prove that it may answer, and how many there are.
pub(super) fn proven(shared: &Shared) -> (usize, usize) {
    if matches!(shared.proofs, Proofs::NotNeeded) || !shared.is_gate() {
        return (0, 0);
    }
    let (table, region) = (shared.table(), &shared.config.region);
    let ours = table.placements().filter(|p| table.provable(p.placement.cell.as_str(), region).is_some());
    ours.fold((0, 0), |(proven, all), p| {
        (proven + usize::from(shared.admits(&p.placement.cell, p.placement.epoch)), all + 1)
    })
}
