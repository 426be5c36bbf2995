//! What the agent must remember across its own death: one small file, replaced in one step.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use domicile_api::agent::{Fenced, Fork, Progress, Promoted};
use domicile_model::{Epoch, FenceConstants, MoveId, Token, WorldId};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::os::Owner;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// The world that tokens must come from.
    pub(crate) world: Option<WorldId>,
    /// The highest token seen.
    pub(crate) highest: Option<Token>,
    /// The highest epoch of the cell seen.
    pub(crate) epoch: Epoch,
    /// The epoch at which the registry said that availability comes first and that this region holds the cell. It counts as
    /// long as nothing newer was heard of.
    pub(crate) standing: Option<Epoch>,
    /// The constants last read, for proofs that gates lend.
    pub(crate) constants: Option<FenceConstants>,
    /// The commanded fence in force.
    pub(crate) fence: Option<Marker>,
    /// The newest promotion that was begun here.
    pub(crate) promotion: Option<Promotion>,
    /// Whom to stream from.
    pub(crate) upstream: Option<Upstream>,
    /// A rewind was begun and did not end: the directory is of no use any more.
    pub(crate) rewinding: bool,
    /// Attaching was tried and the server could not follow from where it stood.
    pub(crate) unattachable: bool,
    /// Neither attaching nor a rewind made this standby stream: only a rebuild is left.
    pub(crate) unrewindable: bool,
    /// The newest `follow`.
    pub(crate) follow: Option<Progress>,
    /// The newest export.
    pub(crate) losses: Option<Progress>,
    /// Physical slots that this agent made on its primary, by the names that its file has given them.
    pub(crate) slots: Vec<String>,
    /// The slot for losses was made anew on this primary, and the standby has not replayed all from before that since. The
    /// slots' positions do not always tell: the standby's own may have been made later still.
    pub(crate) unlisted: bool,
    /// Forks whose losses were exported.
    pub(crate) exported: Vec<Fork>,
}

impl Memory {
    fn stands(&self) -> bool {
        self.fence.is_none() && self.standing == Some(self.epoch)
    }
}

/// A commanded fence: in force from the moment it is on disk, whatever becomes of the stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Marker {
    pub(crate) token: Token,
    pub(crate) epoch: Epoch,
    /// The acknowledgement, once the server has certainly stopped.
    pub(crate) fenced: Option<Fenced>,
}

/// A promotion, from before it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Promotion {
    #[serde(rename = "move")]
    pub(crate) moving: MoveId,
    /// The epoch of the close that it was ordered under.
    #[serde(default)]
    pub(crate) epoch: Epoch,
    /// The timeline before it.
    pub(crate) from: u32,
    /// Its result.
    pub(crate) done: Option<Promoted>,
    /// Whether what comes with it, the guard of sequences, was done as well.
    #[serde(default)]
    pub(crate) guarded: bool,
}

/// The server that a standby follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Upstream {
    /// The address to dial, links applied.
    pub(crate) dial: SocketAddr,
    pub(crate) slot: String,
}

/// The file and what it holds.
pub(crate) struct Disk {
    path: PathBuf,
    owner: Owner,
    memory: Mutex<Memory>,
    stands: AtomicBool,
}

impl Disk {
    pub(crate) fn open(path: PathBuf, owner: Owner) -> Result<Self, Failure> {
        let memory = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Failure::machine(format!("{} is damaged ({e})", path.display())).hint(
                    "it holds the fence in force: restore it, or remove it only when no other region holds the cell",
                )
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Memory::default(),
            Err(e) => return Err(Failure::machine(format!("{} can't be read: {e}", path.display()))),
        };
        Ok(Self { path, owner, stands: AtomicBool::new(memory.stands()), memory: Mutex::new(memory) })
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy.
    pub(crate) fn get(&self) -> Memory {
        self.lock().clone()
    }

    /// Whether a commanded fence is in force.
    pub(crate) fn fenced(&self) -> bool {
        self.lock().fence.is_some()
    }

    /// Whether the server may be open without a proof: availability comes first at the highest epoch known, this region
    /// holds the cell under it, and no fence was ordered. Waits for no disk: whoever kills asks this.
    pub(crate) fn stands(&self) -> bool {
        self.stands.load(Ordering::SeqCst)
    }

    /// Changes it; the change is on disk before anyone sees it, or it did not happen.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Memory) -> R) -> Result<R, Failure> {
        let mut memory = self.lock();
        let mut new = memory.clone();
        let result = change(&mut new);
        if new != *memory {
            let bytes = serde_json::to_vec_pretty(&new)
                .map_err(|e| Failure::machine(format!("the agent's memory can't be written: {e}")))?;
            self.owner.write(&self.path, &bytes)?;
            self.stands.store(new.stands(), Ordering::SeqCst);
            *memory = new;
        }
        Ok(result)
    }
}
