//! Two servers behind agents: tokens, fences, timelines, and faults that a test asks for.

use std::time::Duration;

use async_trait::async_trait;
use domicile_api::agent::{Consent, Fork, LossReport, LostTransaction, SequenceGuard};
use domicile_model::clock::pause;
use domicile_model::{Cell, Epoch, HandoverToken, MoveId, RegionId, Token};

use super::{A, B, Fault, Sim, World2, lsn, region};
use crate::provider::{
    Databases, EffectError, Job, Observation, PrimarySample, Promoted, Sample, StandbySample,
};

pub(crate) struct FakeDatabases(pub(crate) Sim);

impl FakeDatabases {
    /// The way of every effect: it arrives or not, the token is looked at, it is done once or twice, the answer
    /// arrives or not.
    async fn effect<T>(
        &self,
        name: &str,
        at: &RegionId,
        token: &Token,
        mut apply: impl FnMut(&mut World2) -> Result<T, EffectError>,
    ) -> Result<T, EffectError> {
        pause(Duration::from_millis(5)).await;
        let mut world = self.0.world();
        let fault = world.faults.iter().position(|(n, _)| n == name).map(|i| world.faults.remove(i).1);
        let unanswered = || EffectError::Unknown(format!("{name} in {at} was not answered"));
        match fault {
            Some(Fault::Refused) => return Err(EffectError::Refused(format!("{name} in {at} was refused"))),
            Some(Fault::LostBefore) => return Err(unanswered()),
            _ => {}
        }
        if !world.servers[at].reachable {
            return Err(unanswered());
        }
        let lower = world.servers[at].highest.as_ref().is_some_and(|h| token.rank() < h.rank());
        world.effects.push((name.to_owned(), at.clone(), token.rank(), !lower));
        if lower && !world.ignore_tokens {
            return Err(EffectError::Deposed(format!("{name} in {at}: a higher token was seen")));
        }
        if let Some(server) = world.servers.get_mut(at).filter(|_| !lower) {
            server.highest = Some(token.clone());
        }
        let mut result = apply(&mut world);
        if world.twice {
            result = apply(&mut world);
        }
        if fault == Some(Fault::LostAfter) { Err(unanswered()) } else { result }
    }
}

impl World2 {
    /// Whether a job that was started is not carried out.
    fn stalls(&mut self, job: &str) -> Option<Fault> {
        let at = self.faults.iter().position(|(n, _)| n == job)?;
        Some(self.faults.remove(at).1)
    }
}

/// A list of this many transactions past a fork.
fn report(moving: MoveId, fork: Fork, lost: u64) -> LossReport {
    let transactions = (1..=lost).map(|n| LostTransaction {
        xid: u32::try_from(n).unwrap_or(u32::MAX),
        commit: lsn(fork.at.0 + n * 100),
        at: jiff::Timestamp::UNIX_EPOCH,
        changes: Vec::new(),
        more: 0,
    });
    LossReport {
        moving,
        fork,
        transactions: transactions.collect(),
        more: 0,
        counts: std::collections::BTreeMap::new(),
        own: 0,
        rows_at: String::new(),
        parts: Vec::new(),
        place: None,
        blind_spots: Vec::new(),
    }
}

fn other(at: &RegionId) -> RegionId {
    region(if at.as_str() == A { B } else { A })
}

#[async_trait]
impl Databases for FakeDatabases {
    async fn observe(&self, _: &Cell, at: &RegionId) -> Observation {
        pause(Duration::from_millis(2)).await;
        let world = self.0.world();
        let server = &world.servers[at];
        if !server.reachable {
            return Observation { problems: vec![format!("{at} does not answer")], ..Observation::default() };
        }
        Observation {
            reachable: true,
            writable: Some(server.writable),
            standby: Some(server.standby),
            system_id: Some("7300".to_owned()),
            timeline: Some(server.timeline),
            fork: server.fork,
            flushed: server.writable.then(|| lsn(server.flushed)),
            replayed: server.standby.then(|| lsn(server.flushed)),
            checkpoint: Some(lsn(server.checkpoint)),
            streaming: Some(server.streaming),
            not_streaming: None,
            fence: server.fence.clone(),
            key: Some(super::key_of(at)),
            highest: server.highest.clone(),
            fence_level: server.fence_level,
            follow: server.follow.clone(),
            losses: server.losses.clone(),
            work: None,
            export: server.export.clone(),
            beside: server.beside.clone(),
            retention: server.retention.clone(),
            loss_slot: Some(true),
            prepared_transactions: Some(0),
            can_rewind: Some(true),
            problems: Vec::new(),
        }
    }

    async fn settle(&self, _: &Cell, at: &RegionId, token: &Token) -> Result<(), EffectError> {
        self.effect("settle", at, token, |_| Ok(())).await
    }

    async fn fence(
        &self,
        cell: &Cell,
        at: &RegionId,
        token: &Token,
        epoch: Epoch,
        _: Duration,
        _: bool,
    ) -> Result<(HandoverToken, bool), EffectError> {
        self.effect("fence", at, token, |world| {
            let cut = world.link_cut;
            let server = world.servers.get_mut(at).expect("two servers");
            let clean = server.fence.as_ref().map_or(server.writable, |f| f.1);
            if server.fence.is_none() && server.writable {
                server.checkpoint = server.flushed;
                server.flushed += 10;
            }
            let handover = HandoverToken {
                cell: cell.id.clone(),
                epoch,
                system_id: "7300".to_owned(),
                timeline: server.timeline,
                checkpoint: lsn(server.checkpoint),
                token: token.clone(),
                seal: None,
            };
            (server.writable, server.standby, server.streaming) = (false, false, false);
            server.fence = Some((handover.clone(), clean));
            let (flushed, xid) = (server.flushed, server.xid);
            let standby = world.servers.get_mut(&other(at)).expect("two servers");
            if clean && !cut && standby.standby && standby.streaming {
                (standby.flushed, standby.xid) = (flushed, xid);
            }
            Ok((handover, clean))
        })
        .await
    }

    async fn unfence(&self, _: &Cell, at: &RegionId, token: &Token) -> Result<(), EffectError> {
        self.effect("unfence", at, token, |world| {
            if world.servers[&other(at)].writable {
                world.violations.push("the old primary was opened again beside a new one".to_owned());
            }
            let server = world.servers.get_mut(at).expect("two servers");
            server.fence = None;
            (server.writable, server.streaming, server.private) = (true, true, true);
            Ok(())
        })
        .await
    }

    async fn accepts(
        &self,
        _: &Cell,
        at: &RegionId,
        _: &Token,
        _: Epoch,
        _: &HandoverToken,
    ) -> Result<(), EffectError> {
        let world = self.0.world();
        match world.disbelieves {
            true => Err(EffectError::Refused(format!("{at} does not believe this handover"))),
            false => Ok(()),
        }
    }

    async fn promote(
        &self,
        _: &Cell,
        at: &RegionId,
        token: &Token,
        _: Epoch,
        handover: Option<&HandoverToken>,
        consent: Option<&Consent>,
    ) -> Result<Promoted, EffectError> {
        let fence = self.0.registry.constants.fence();
        let now = self.0.clock.now();
        let guard = handover.is_none().then(|| SequenceGuard { values: 1_000, raised: 2, left: Vec::new() });
        self.effect("promote", at, token, |world| {
            let half = world.stalls("promote-slots").is_some();
            let server = world.servers.get_mut(at).expect("two servers");
            if let Some(fork) = server.fork.filter(|_| server.writable) {
                server.slots = true;
                server.open_until = Some(now + fence);
                return Ok(Promoted {
                    system_id: "7300".to_owned(),
                    timeline: server.timeline,
                    fork,
                    sequences: guard.clone(),
                });
            }
            if world.disbelieves
                || (handover.is_none() && consent.is_none())
                || (world.planned && consent.is_some())
            {
                return Err(EffectError::Refused(format!("{at} does not believe this handover")));
            }
            let server = &world.servers[at];
            if !server.standby {
                return Err(EffectError::Refused(format!("the server in {at} is no standby")));
            }
            if handover.is_some_and(|h| lsn(server.flushed) <= h.checkpoint) {
                return Err(EffectError::Refused("not replayed past the handover".to_owned()));
            }
            let old = &world.servers[&other(at)];
            let lost = old.xid.saturating_sub(server.xid);
            let mut found = Vec::new();
            if world.may_still_write(&other(at), now, fence) || (old.reachable && old.writable) {
                found.push("promoted while the old primary may still acknowledge".to_owned());
            }
            if lost > 0 && world.planned {
                found.push(format!("a planned move lost {lost} transactions"));
            }
            let held = world.placements.last().is_some_and(|p| p.holder.is_some());
            if held {
                found.push("promoted while somebody held the cell".to_owned());
            }
            world.violations.extend(found);
            if held {
                return Err(EffectError::Refused("the registry shows a holder".to_owned()));
            }
            let server = world.servers.get_mut(at).expect("two servers");
            let fork = Fork { parent: server.timeline, at: lsn(server.flushed) };
            server.timeline += 1;
            server.promotions += 1;
            server.fork = Some(fork);
            server.lost = lost;
            (server.writable, server.standby, server.streaming) = (true, false, false);
            server.open_until = Some(now + fence);
            if half {
                return Err(EffectError::Unknown(format!("{at}: promoted, and its agent died")));
            }
            server.slots = true;
            Ok(Promoted {
                system_id: "7300".to_owned(),
                timeline: server.timeline,
                fork,
                sequences: guard.clone(),
            })
        })
        .await
    }

    async fn verify(&self, _: &Cell, at: &RegionId, token: &Token) -> Result<(), EffectError> {
        let now = self.0.clock.now();
        self.effect("verify", at, token, |world| {
            let holds = world.placements.last().is_some_and(|p| p.holder.as_ref() == Some(at));
            if !holds && world.servers[at].open_until.is_some_and(|until| now >= until) {
                return Err(EffectError::Refused("it lets nobody in without a proof".to_owned()));
            }
            if !world.servers[at].writable {
                return Err(EffectError::Refused("not writable".to_owned()));
            }
            world.kept(at);
            Ok(())
        })
        .await
    }

    async fn follow(
        &self,
        _: &Cell,
        at: &RegionId,
        upstream: &RegionId,
        _: Option<Fork>,
        token: &Token,
    ) -> Result<(), EffectError> {
        self.effect("follow", at, token, |world| {
            let lost = world.servers[upstream].lost;
            let mut found = Vec::new();
            let unread = lost > 0 && world.servers[at].losses.as_ref().is_none_or(|j| j.outcome.is_none());
            if unread {
                found.push("rewound before the lost transactions were exported".to_owned());
            }
            world.violations.extend(found);
            if unread {
                return Err(EffectError::Refused("the losses were not exported".to_owned()));
            }
            let up = world.servers[upstream].clone();
            let stopped = world.stalls("follow-job");
            let server = world.servers.get_mut(at).expect("two servers");
            server.follow = Some(Job { token: token.clone(), how: "attach".to_owned(), outcome: None });
            match stopped {
                Some(Fault::Refused) => {
                    let outcome = Some(Err("the rewind failed".to_owned()));
                    server.follow = Some(Job { token: token.clone(), how: "rewind".to_owned(), outcome });
                    return Ok(());
                }
                // The agent is restarted in the middle and has forgotten the job.
                Some(_) => return Ok(()),
                None => {}
            }
            server.fence = None;
            (server.writable, server.standby, server.streaming) = (false, true, true);
            (server.timeline, server.fork) = (up.timeline, up.fork);
            (server.flushed, server.xid) = (up.flushed, up.xid);
            server.follow =
                Some(Job { token: token.clone(), how: "attach".to_owned(), outcome: Some(Ok(())) });
            Ok(())
        })
        .await
    }

    async fn export_losses(
        &self,
        _: &Cell,
        at: &RegionId,
        fork: Fork,
        token: &Token,
    ) -> Result<(), EffectError> {
        self.effect("export", at, token, |world| {
            let forgotten = world.stalls("export-job").is_some();
            let lost = world.servers[&other(at)].lost;
            let server = world.servers.get_mut(at).expect("two servers");
            if forgotten {
                server.losses = Some(Job { token: token.clone(), how: "export".to_owned(), outcome: None });
                return Ok(());
            }
            server.losses =
                Some(Job { token: token.clone(), how: "export".to_owned(), outcome: Some(Ok(())) });
            server.report = Some(report(token.moving, fork, lost));
            Ok(())
        })
        .await
    }

    async fn losses(
        &self,
        _: &Cell,
        at: &RegionId,
        moving: MoveId,
    ) -> Result<Option<LossReport>, EffectError> {
        let world = self.0.world();
        Ok(world.servers[at].report.clone().filter(|report| report.moving == moving))
    }

    async fn sample(&self, _: &Cell, holder: &RegionId) -> Sample {
        let asked = self.0.clock.now();
        let world = self.0.world();
        let (primary, standby) = (&world.servers[holder], &world.servers[&other(holder)]);
        Sample {
            primary: (primary.reachable && primary.writable).then(|| PrimarySample {
                asked,
                flushed: lsn(primary.flushed),
                next_xid: primary.xid,
                oldest_xid: primary.xid,
                streaming: true,
            }),
            standby: (standby.reachable && standby.standby).then(|| StandbySample {
                asked,
                replayed: lsn(standby.flushed),
                ended_below: Some(standby.xid),
                data_age_ms: Some(100),
                streaming: standby.streaming,
            }),
        }
    }
}
