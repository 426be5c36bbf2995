//! Promotion, at most once per move.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domicile_api::agent::{Promote, Promoted};
use domicile_model::HandoverToken;
use domicile_model::clock::pause;

use crate::agent::{Agent, Held, Mode};
use crate::disk::Promotion;
use crate::failure::Failure;
use crate::pg::control::{Control, fork_of};
use crate::pg::server::Kind;
use crate::pg::{furniture, local, sequences};

const SQL: Duration = Duration::from_secs(1);
/// How long a promotion may take before its caller is told that it did not end.
const PROMOTION: Duration = Duration::from_secs(4);
/// How often it is looked whether it ended.
const LOOK: Duration = Duration::from_millis(2);

/// An order to promote that waits for the server: a job that only looks gives way to it.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn of(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Agent {
    /// Makes the standby the primary. Checks registry, move, token and what the order rests on itself, so that a leader that was deposed while
    /// its order was under way promotes nothing.
    pub(crate) async fn promote(self: &Arc<Self>, order: &Promote) -> Result<Promoted, Failure> {
        let commanded = self.clock.now();
        if order.slot.is_empty()
            || order.slot.len() > 63
            || !order.slot.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            return Err(Failure::new(
                "bad-slot",
                "Not a slot's name",
                422,
                "`slot` must match [a-z0-9_]{1,63}",
            ));
        }
        self.accept(&order.token).await?;
        let waits = Waits::of(&self.promoting);
        let Ok(_guard) = tokio::time::timeout(Duration::from_secs(2), self.ops.lock()).await else {
            return Err(Failure::busy("another job holds the server"));
        };
        drop(waits);
        self.may_promote(order).await?;
        if self.disk.fenced() {
            return Err(Failure::refused("fenced", "a commanded fence is in force on this server")
                .hint("unfence it first; a fenced server is the old primary of a move"));
        }
        let memory = self.disk.get();
        let begun = memory.promotion.filter(|p| p.moving == order.token.moving);
        if let Some(done) = begun.as_ref().and_then(|p| p.done.clone()) {
            return self.serve_after(order, commanded, done).await;
        }
        let from = match begun {
            // Begun and not ended: it may have happened.
            Some(begun) if !self.is_standby_directory() => begun.from,
            _ => self.do_promote(order, commanded).await?,
        };
        let promoted = self.evidence(from, order.handover.as_ref()).await?;
        self.disk.change(|m| {
            let done = Some(promoted.clone());
            let (moving, epoch) = (order.token.moving, order.epoch);
            m.promotion = Some(Promotion { moving, epoch, from, done, guarded: false });
            m.upstream = None;
            m.unlisted = false;
        })?;
        self.serve_after(order, commanded, promoted).await
    }

    async fn do_promote(
        self: &Arc<Self>,
        order: &Promote,
        commanded: domicile_model::clock::BootTime,
    ) -> Result<u32, Failure> {
        let mode = self.mode();
        if mode.kind != Some(Kind::Standby) || !mode.ready || !self.is_standby_directory() {
            return Err(Failure::refused(
                "not-a-standby",
                format!("PostgreSQL runs as {:?} (ready: {}), not as a standby", mode.kind, mode.ready),
            ));
        }
        let mut connection = local::connect(&self.config, SQL).await?;
        let live = local::live(&mut connection, SQL).await?;
        if !live.in_recovery {
            return Err(Failure::refused(
                "not-a-standby",
                "PostgreSQL is out of recovery already, not by this move",
            ));
        }
        let control = Control::read(&self.owner, &self.config.data_dir).await?;
        // A lower bound without a handover: once the upstream has stopped nothing says what was received, and the
        // control file still names the timeline of the last restartpoint.
        let from = match &order.handover {
            Some(handover) => handover.timeline,
            None => live.timeline.unwrap_or(0).max(control.timeline),
        };
        if let Some(handover) = &order.handover {
            if handover.system_id != control.system_id {
                return Err(Failure::refused(
                    "other-system",
                    format!(
                        "the handover is of system {}, this is {}",
                        handover.system_id, control.system_id
                    ),
                ));
            }
            // The position after the last replayed record: past the checkpoint's start means the checkpoint is in.
            if live.replayed.is_none_or(|replayed| replayed <= handover.checkpoint) {
                return Err(Failure::refused(
                    "not-caught-up",
                    format!(
                        "replayed {} but the old primary ended with {}",
                        live.replayed.map_or_else(|| "nothing".into(), |l| l.to_string()),
                        handover.checkpoint
                    ),
                )
                .hint("wait for replication to catch up; a cut link needs a forced move"));
            }
        }
        self.disk.change(|m| {
            m.epoch = m.epoch.max(order.epoch);
            let (moving, epoch) = (order.token.moving, order.epoch);
            m.promotion = Some(Promotion { moving, epoch, from, done: None, guarded: false });
        })?;
        // From here on it may be a primary that is open: the supervisor must know when that ends.
        let constants = self.constants();
        self.hold(Held { epoch: order.epoch, until: commanded + constants.fence() - constants.stop() });
        self.set_mode(Mode { kind: Some(Kind::Primary), ready: true, open: false });
        if !self.mark_open() {
            return Err(Failure::unfinished("the time of the command ran out before the promotion"));
        }
        match self.promoted(&mut connection).await {
            Ok(()) => Ok(from),
            Err(why) => {
                // It may still happen: then the next try finds it, and until then the proof's end watches over it.
                if self.is_standby_directory() {
                    self.set_mode(Mode { kind: Some(Kind::Standby), ready: true, open: false });
                    self.server.until(None);
                }
                Err(Failure::unfinished(format!("the promotion did not end: {why}")))
            }
        }
    }

    /// Has the server promoted and waits for the end of recovery. Asked here rather than by `pg_promote`, which looks
    /// ten times a second: everybody who writes waits for this.
    async fn promoted(&self, connection: &mut sqlx::PgConnection) -> Result<(), Failure> {
        let give_up = self.clock.now() + PROMOTION;
        local::execute(connection, "SELECT pg_promote(false)", PROMOTION).await?;
        loop {
            let left = give_up.since(self.clock.now());
            if left.is_zero() {
                return Err(Failure::unfinished(format!("it took longer than {} ms", PROMOTION.as_millis())));
            }
            let recovers = local::value(connection, "SELECT pg_is_in_recovery()::text", left).await?;
            if recovers.as_deref() == Some("false") {
                return Ok(());
            }
            pause(LOOK).await;
        }
    }

    /// What the promotion made, read from the server and from the new timeline's history.
    async fn evidence(
        self: &Arc<Self>,
        from: u32,
        handover: Option<&HandoverToken>,
    ) -> Result<Promoted, Failure> {
        if !self.mode().ready || !self.server.alive() {
            self.ready(Kind::Primary, Duration::from_secs(4)).await?;
        }
        let mut connection = local::connect(&self.config, SQL).await?;
        let live = local::live(&mut connection, SQL).await?;
        let timeline = live.timeline.unwrap_or(0);
        let fork = fork_of(&self.config.data_dir, timeline)
            .ok_or_else(|| Failure::machine(format!("timeline {timeline} has no history")))?;
        let continues = handover.map_or(fork.parent >= from, |h| fork.parent == h.timeline);
        if live.in_recovery || !continues || timeline != fork.parent + 1 {
            return Err(Failure::machine(format!(
                "after the promotion the server writes timeline {timeline}, which left timeline {} at {}; timeline {from} should have been continued by one",
                fork.parent, fork.at
            )));
        }
        let control = Control::read(&self.owner, &self.config.data_dir).await?;
        Ok(Promoted { system_id: control.system_id, timeline, fork, sequences: None })
    }

    /// Slots before the answer, so that nothing is written that they do not keep; sequences raised, so that no number
    /// is given out twice; then open under the command until the first proof.
    async fn serve_after(
        self: &Arc<Self>,
        order: &Promote,
        commanded: domicile_model::clock::BootTime,
        mut promoted: Promoted,
    ) -> Result<Promoted, Failure> {
        if !self.mode().ready || !self.server.alive() {
            self.ready(Kind::Primary, Duration::from_secs(4)).await?;
        }
        let mut connection = local::connect(&self.config, SQL).await?;
        furniture::slots(&mut connection, &order.slot).await?;
        if order.slot != self.config.slot {
            furniture::slots(&mut connection, &self.config.slot).await?;
        }
        let guarded = self.disk.get().promotion.is_some_and(|p| p.guarded);
        // With a handover nothing is lost: what the old primary gave out, this server has.
        if order.handover.is_none() && !guarded {
            let guard = sequences::raise(&mut connection, self.config.sequence_guard).await?;
            tracing::warn!(values = guard.values, raised = guard.raised, left = ?guard.left, "sequences were raised");
            promoted.sequences = Some(guard);
            self.disk.change(|m| {
                if let Some(promotion) = &mut m.promotion {
                    promotion.done = Some(promoted.clone());
                    promotion.guarded = true;
                }
            })?;
        }
        let constants = self.constants();
        self.hold(Held { epoch: order.epoch, until: commanded + constants.fence() - constants.stop() });
        if !self.mode().open {
            self.open()?;
        }
        Ok(promoted)
    }
}
