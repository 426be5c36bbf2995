//! Routers that acknowledge, witnesses that fall quiet, and users who write.

use std::time::Duration;

use domicile_model::clock::pause;
use domicile_model::invariants::epoch_rises;
use domicile_model::proof::held_by;
use domicile_model::{
    BootId, BusyCell, FenceLevel, Phase, Placement, RegionId, Revision, Role, RouterState, WitnessState,
};
use domicile_store::codec::decode;
use domicile_store::{Key, Store, Txn};

use super::{A, B, Sim, region, router};

impl Sim {
    pub(crate) async fn announce(&self, role: Role, id: &str, at: &str) {
        let revision =
            self.get(Key::Placement(self.cell.id.clone())).await.map_or(Revision(0), |e| e.modified);
        let state = self.state(role, id, &region(at), revision);
        let witness = WitnessState {
            id: router(id),
            region: region(at),
            role,
            boot: BootId::new(),
            quiet: Revision(0),
            peer: "127.0.0.1:1".parse().unwrap(),
        };
        let txn = Txn::bare().put(Key::Router(router(id)), &state).put(Key::Witness(router(id)), &witness);
        self.store.commit(txn).await.unwrap();
    }

    fn state(&self, role: Role, id: &str, at: &RegionId, applied: Revision) -> RouterState {
        let busy = self.world().busy;
        let in_flight =
            (busy > 0 && id == "gate-a").then(|| BusyCell { cell: self.cell.id.clone(), in_flight: busy });
        RouterState {
            id: router(id),
            role,
            region: at.clone(),
            boot: BootId::new(),
            world: self.registry.id,
            applied,
            busy: in_flight.into_iter().collect(),
            listen: "127.0.0.1:1".parse().unwrap(),
        }
    }

    /// Sees every placement, acknowledges it 5 ms later, and lets witnesses go quiet WAIT after a close.
    pub(super) async fn run_fleet(self) {
        let mut applied = Revision(0);
        let mut was_busy = false;
        let mut quiet: Vec<(Revision, domicile_model::clock::BootTime)> = Vec::new();
        loop {
            pause(Duration::from_millis(5)).await;
            let entry = self.get(Key::Placement(self.cell.id.clone())).await.unwrap();
            let placement: Placement = decode(&entry.value).unwrap();
            let (down, busy) = {
                let world = self.world();
                (world.routers_down.clone(), world.busy)
            };
            for id in &down {
                self.store.commit(Txn::bare().delete(Key::Router(id.clone()))).await.unwrap();
            }
            let changed = entry.modified != applied || was_busy != (busy > 0);
            was_busy = busy > 0;
            if changed || was_busy || !down.is_empty() {
                for (role, id, at) in [
                    (Role::Gate, "gate-a", A),
                    (Role::Gate, "gate-b", B),
                    (Role::Edge, "edge-e", "eu-west-1"),
                ] {
                    if !down.contains(&router(id)) {
                        let state = self.state(role, id, &region(at), entry.modified);
                        self.store.commit(Txn::bare().put(Key::Router(router(id)), &state)).await.unwrap();
                    }
                }
            }
            if entry.modified != applied {
                applied = entry.modified;
                let mut world = self.world();
                let last = world.placements.last().unwrap().clone();
                if let Err(broken) = epoch_rises(&last, &placement) {
                    world.violations.push(broken.to_string());
                }
                if placement.holder.is_none() && last.holder.is_some() {
                    world.closed_at = Some(self.clock.now());
                    quiet.push((entry.modified, self.clock.now()));
                }
                world.placements.push(placement);
            }
            let wait = self.registry.constants.wait();
            for (revision, _) in quiet.extract_if(.., |(_, at)| self.clock.now().since(*at) >= wait) {
                self.fall_quiet(revision).await;
            }
        }
    }

    async fn fall_quiet(&self, revision: Revision) {
        for id in ["gate-a", "gate-b", "edge-e"] {
            if self.world().witnesses_down.contains(&router(id)) {
                continue;
            }
            let entry = self.get(Key::Witness(router(id))).await.unwrap();
            let mut witness: WitnessState = decode(&entry.value).unwrap();
            witness.quiet = witness.quiet.max(revision);
            self.store.commit(Txn::bare().put(Key::Witness(router(id)), &witness)).await.unwrap();
        }
    }

    /// A write every 10 ms, acknowledged where the holder's server takes it. A server that is cut off goes on for as
    /// long as a proof of its can live.
    pub(super) async fn run_load(self) {
        loop {
            pause(Duration::from_millis(10)).await;
            let mut world = self.world();
            let Some(placement) = world.placements.last().cloned() else { continue };
            for at in [region(A), region(B)] {
                world.keep(&at, self.clock.now(), self.registry.constants.fence());
                let serves = placement.phase == Phase::Serving && held_by(&placement, &at);
                let stale = world.may_still_write(&at, self.clock.now(), self.registry.constants.fence());
                if (serves || stale || world.writes_directly(&at))
                    && world.servers[&at].writable
                    && world.servers[&at].fence.is_none()
                {
                    world.write(&at);
                }
            }
        }
    }
}

impl Sim {
    /// Waits until the fleet has seen this epoch.
    pub(crate) async fn noticed(&self, epoch: domicile_model::Epoch) {
        while self.world().placements.last().is_none_or(|seen| seen.epoch < epoch) {
            pause(Duration::from_millis(5)).await;
        }
    }

    /// One write there, as a user's; whether it was acknowledged.
    pub(crate) fn write(&self, at: &RegionId) -> bool {
        let mut world = self.world();
        let serves = world.placements.last().is_some_and(|p| p.phase == Phase::Serving && held_by(p, at));
        let takes = serves && world.servers[at].writable && world.servers[at].fence.is_none();
        if takes {
            world.write(at);
        }
        takes
    }
}

impl super::World2 {
    /// Whether a server that lost the cell may still acknowledge under a proof asked for just before the close.
    pub(super) fn may_still_write(
        &self,
        at: &RegionId,
        now: domicile_model::clock::BootTime,
        fence: Duration,
    ) -> bool {
        let server = &self.servers[at];
        let held = self.placements.iter().rev().find_map(|p| p.holder.as_ref());
        let closed = self.placements.last().is_some_and(|p| p.holder.is_none());
        closed
            && held == Some(at)
            && !server.reachable
            && server.writable
            && server.fence.is_none()
            && (self.goes_on(at) || self.closed_at.is_none_or(|closed| now.since(closed) < fence))
    }

    /// Whether gates and agent there have not heard of the newest placement, and go on because availability comes first.
    fn goes_on(&self, at: &RegionId) -> bool {
        let last = self.placements.iter().rev().find(|p| p.holder.as_ref() == Some(at));
        !self.servers[at].reachable && last.is_some_and(|p| p.availability_first)
    }

    /// Whether somebody writes past the gates to a server that is cut off, and nothing stops that.
    fn writes_directly(&self, at: &RegionId) -> bool {
        let server = &self.servers[at];
        !server.reachable && server.fence_level == Some(FenceLevel::GateOnly)
    }

    /// What a server's own agent does: stops it when its proof of a cell that it has lost ends, whatever orders it takes
    /// or not, and opens it again once its region holds the cell.
    fn keep(&mut self, at: &RegionId, now: domicile_model::clock::BootTime, fence: Duration) {
        let holder = self.placements.last().and_then(|p| p.holder.clone());
        let held = self.placements.iter().rev().find_map(|p| p.holder.clone());
        let ended = self.closed_at.is_some_and(|closed| now.since(closed) >= fence) && !self.goes_on(at);
        let Some(server) = self.servers.get_mut(at) else { return };
        if holder.as_ref() == Some(at) {
            server.private = false;
            if server.lapsed && server.fence.is_none() {
                (server.lapsed, server.writable) = (false, true);
            }
        } else if server.fence_level == Some(FenceLevel::GateOnly) {
            // Nothing stops it.
        } else if holder.is_none() && held.as_ref() == Some(at) && ended && server.writable && !server.private
        {
            (server.lapsed, server.writable, server.streaming) = (true, false, false);
        }
    }

    /// Something is written here: what it needs must have been made before.
    pub(super) fn kept(&mut self, at: &RegionId) {
        if !self.servers[at].slots {
            self.violations.push("written before the slots were made".to_owned());
        }
    }

    fn write(&mut self, at: &RegionId) {
        let cut = self.link_cut;
        self.kept(at);
        let (mut xid, mut flushed, mut timeline) = (0, 0, 0);
        if let Some(server) = self.servers.get_mut(at) {
            server.xid += 1;
            server.flushed += 100;
            (xid, flushed, timeline) = (server.xid, server.flushed, server.timeline);
        }
        for (other, server) in &mut self.servers {
            if other != at && server.standby && server.streaming && !cut && server.timeline == timeline {
                (server.xid, server.flushed) = (xid, flushed);
            }
        }
    }
}
