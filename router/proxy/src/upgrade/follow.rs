//! The process that takes a running one's place.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::pause;
use tokio::net::UnixStream;

use super::leave::proven;
use super::merge::Before;
use super::sockets::Sockets;
use super::wire::{Line, Reached, VERSION, Wire};
use crate::app::BuildError;
use crate::config::{Config, Registry};
use crate::loops::acks;
use crate::state::Shared;

/// How long the running process may take for a word.
const WORD: Duration = Duration::from_secs(5);
/// How long it may take to write what it has on its hands to disk.
const HANDED: Duration = Duration::from_secs(30);
/// How long this process may take to be ready; less than the running one waits.
const READY: Duration = Duration::from_secs(25);
/// Between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(10);

/// The running process, after it has said that it may be followed.
#[derive(Debug)]
pub struct Running {
    wire: Wire,
    reached: Reached,
}

fn failed(why: impl std::fmt::Display) -> BuildError {
    BuildError::Upgrade(why.to_string())
}

/// Asks whether this process may take the running one's place. Nothing has changed by that.
///
/// # Errors
/// When nobody runs there, or it says no.
pub async fn greet(config: &Config) -> Result<Running, BuildError> {
    let Some(path) = &config.upgrade_socket else { return Err(failed("say where: --upgrade-socket")) };
    let stream = UnixStream::connect(path).await.map_err(|e| {
        failed(format!("no running router answers at {} ({e}): start without --upgrade", path.display()))
    })?;
    let mut wire = Wire::new(stream);
    let (role, id, region) = (config.role, config.id.clone(), config.region.clone());
    // A refusal may have come before this is read: it counts.
    let _ = wire.say(&Line::Hello { version: VERSION, role, id, region }).await;
    match wire.hear_within(WORD).await {
        Ok(Line::Welcome) => {
            let reached = Reached { world: None, placements: domicile_model::Revision::ZERO, proven: 0 };
            Ok(Running { wire, reached })
        }
        Ok(Line::Refused { why }) => Err(failed(format!("the running router refuses: {why}"))),
        Ok(_) => Err(failed("the running router says something else than it should")),
        Err(error) => Err(failed(format!("the running router says nothing: {error}"))),
    }
}

impl Running {
    /// Asks for all that the running process has. It goes on if this process ends.
    ///
    /// # Errors
    /// When it does not come, or is not what the configuration names.
    pub async fn take(&mut self, config: &Config) -> Result<Sockets, BuildError> {
        self.wire.say(&Line::Take).await.map_err(failed)?;
        match self.wire.hear_within(HANDED).await.map_err(failed)? {
            Line::Handed { sockets, reached } => {
                self.reached = reached;
                let came = self.wire.take_sockets();
                let taken = Sockets::taken(config, &sockets, came);
                if let Err(why) = &taken {
                    let _ = self.wire.say(&Line::Failed { why: why.clone() }).await;
                }
                taken.map_err(failed)
            }
            Line::Refused { why } => Err(failed(format!("the running router refuses: {why}"))),
            _ => Err(failed("the running router says something else than it should")),
        }
    }

    /// Waits until this process could serve at least what the running one can, and for its word.
    ///
    /// # Errors
    /// When it can't in time.
    pub async fn ready(&mut self, shared: &Shared) -> Result<(), BuildError> {
        let mut lacks = "nothing";
        let ready = async {
            loop {
                match lacking(shared, &self.reached) {
                    None => return,
                    Some(what) => lacks = what,
                }
                pause(LOOK).await;
            }
        };
        let late = tokio::time::timeout(READY, ready).await.is_err();
        if late {
            let why = format!("not ready after {} s: {lacks}", READY.as_secs());
            let _ = self.wire.say(&Line::Failed { why: why.clone() }).await;
            return Err(failed(why));
        }
        self.wire.say(&Line::Ready).await.map_err(failed)?;
        match self.wire.hear_within(WORD).await {
            Ok(Line::Go { told }) => {
                shared.upgrade.before.send_replace(Before::Says(told));
                Ok(())
            }
            // It has ended by itself, or was told to: its place is empty.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Ok(_) => Err(failed("the running router says something else than it should")),
            Err(error) => Err(failed(format!("the running router says nothing: {error}"))),
        }
    }

    /// Says that this process accepts connections, and hears what the one before acknowledges, until that is gone.
    pub async fn follow(mut self, shared: Arc<Shared>) {
        let _ = self.wire.say(&Line::Serving).await;
        loop {
            let before = match self.wire.hear().await {
                Ok(Some(Line::Told { told })) => Before::Says(told),
                Ok(Some(_)) => continue,
                Ok(None) => Before::Gone,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Before::Gone,
                Err(error) => {
                    // Not what it says, and not that it has ended: nothing is acknowledged before that is known.
                    tracing::error!(%error, "the process before this one can't be understood");
                    shared.upgrade.before.send_replace(Before::Says(None));
                    pause(WORD).await;
                    continue;
                }
            };
            let gone = before == Before::Gone;
            shared.upgrade.before.send_replace(before);
            // Somebody may wait for what is to be acknowledged now.
            shared.idle.notify_one();
            if gone {
                tracing::info!("the process before this one has ended");
                return;
            }
        }
    }
}

/// What this process still lacks.
fn lacking(shared: &Shared, reached: &Reached) -> Option<&'static str> {
    if let Some(why) = shared.not_ready() {
        return Some(why);
    }
    // A file counts its own revisions in every process.
    if matches!(shared.config.registry, Registry::Etcd(_)) {
        let own = acks::own(shared, &shared.table()).map(|(_, told)| told);
        let come = own.is_some_and(|o| Some(o.world) == reached.world && o.placements >= reached.placements);
        if !come && reached.world.is_some() {
            return Some("its table has not come as far as the running router's");
        }
    }
    let (proven, all) = proven(shared);
    (proven < reached.proven.min(all)).then_some("it can't prove what the running router can")
}
