//! Waiting for routers: for gates to have finished what they admitted, and for the fleet to have followed a switch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domicile_model::clock::{BootTime, pause};
use domicile_model::witness::{quiet_among, struck_out};
use domicile_model::{CellId, RegionId, Revision, Role, RouterId, RouterState, WitnessState, World};
use domicile_store::Key;
use domicile_store::codec::decode;

use crate::error::Halt;
use crate::run::Run;

/// Why a gate is still waited for; none if it is through.
fn unfinished(state: &RouterState, cell: &CellId, revision: Revision, world: &World) -> Option<String> {
    if state.world != world.id || state.applied < revision {
        return Some(format!("gate {} has not applied revision {revision} yet", state.id));
    }
    let busy = state.busy.iter().find(|b| b.cell == *cell && b.in_flight > 0)?;
    Some(format!("gate {} still has {} requests in flight", state.id, busy.in_flight))
}

impl Run {
    async fn routers(&self) -> Result<Vec<RouterState>, Halt> {
        let listing = self.list("routers/").await?;
        let routers = listing.entries.iter().filter(|e| matches!(e.key, Key::Router(_)));
        // One that a newer program wrote can't be judged, so nobody may go on without it.
        routers.map(|e| decode(&e.value).map_err(|e| Halt::Stuck(e.to_string()))).collect()
    }

    /// Waits until no gate of `region` has a request of the cell in flight that it admitted before `revision`.
    ///
    /// A gate that was there when the move began, or was seen since, and lost its lease is not forgotten: it may be
    /// alive and cut off. WAIT after it was found gone no proof of it is left.
    pub(crate) async fn drained(
        &self,
        region: &RegionId,
        revision: Revision,
        within: Duration,
    ) -> Result<(), Halt> {
        let deadline = self.now() + within;
        let mut known: BTreeSet<RouterId> = self.flow.outputs.gates.clone();
        if *region != self.flow.from {
            known.clear();
        }
        let mut gone: BTreeMap<RouterId, BootTime> = BTreeMap::new();
        loop {
            let now = self.now();
            let here: BTreeMap<RouterId, RouterState> = self
                .routers()
                .await?
                .into_iter()
                .filter(|r| r.role == Role::Gate && r.region == *region)
                .map(|r| (r.id.clone(), r))
                .collect();
            known.extend(here.keys().cloned());
            let mut waiting = Vec::new();
            for id in &known {
                match here.get(id) {
                    Some(state) => {
                        gone.remove(id);
                        waiting.extend(unfinished(state, &self.cell.id, revision, &self.world));
                    }
                    None => {
                        let since = *gone.entry(id.clone()).or_insert(now);
                        if now.since(since) < self.world.constants.wait() {
                            waiting.push(format!("gate {id} is gone, its proofs may not have ended yet"));
                        }
                    }
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if now >= deadline {
                return Err(Halt::Turn(format!("after {within:?}: {}", waiting.join(", "))));
            }
            pause(self.options().poll).await;
        }
    }

    /// Waits until every edge and the gates of the new region have applied `revision`, at most `within`. Returns who
    /// had not: they are named and left behind, because the new region serves already.
    pub(crate) async fn followed(&self, revision: Revision, within: Duration) -> Result<Vec<String>, Halt> {
        let deadline = self.now() + within;
        loop {
            let behind: Vec<String> = self
                .routers()
                .await?
                .iter()
                .filter(|r| r.role == Role::Edge || r.region == self.flow.to)
                .filter(|r| r.world != self.world.id || r.applied < revision)
                .map(|r| r.id.to_string())
                .collect();
            if behind.is_empty() || self.now() >= deadline {
                return Ok(behind);
            }
            pause(self.options().poll).await;
        }
    }

    /// What witnesses say of themselves, and which of them are struck out. One that a newer program wrote has said
    /// nothing. Notes which were declared destroyed: what they may have granted last is waited for from now.
    pub(crate) async fn witnesses(&mut self) -> Result<(Vec<WitnessState>, BTreeSet<RouterId>), Halt> {
        let (said, gone) = (self.list("witnesses/").await?, self.list("barred/").await?);
        let states = said.entries.iter().filter_map(|e| decode(&e.value).ok()).collect();
        let now = self.now();
        for entry in gone.entries {
            if let Key::Barred(id) = entry.key {
                self.barred.entry(id).or_insert(now);
            }
        }
        Ok((states, struck_out(&self.barred, now, &self.world.constants)))
    }

    /// Who is there now: registered under a lease.
    pub(crate) async fn present(&self) -> Result<BTreeSet<RouterId>, Halt> {
        let listing = self.list("routers/").await?;
        let ids = listing.entries.iter().filter_map(|e| match &e.key {
            Key::Router(id) => Some(id.clone()),
            _ => None,
        });
        Ok(ids.collect())
    }

    /// How many of the cell's witnesses have refused everything up to `revision` for WAIT, or are struck out.
    pub(crate) async fn quiet(
        &mut self,
        members: &BTreeSet<RouterId>,
        revision: Revision,
    ) -> Result<u32, Halt> {
        let (states, struck) = self.witnesses().await?;
        Ok(quiet_among(members, revision, &states, &struck))
    }
}
