//! Settle, fence and unfence.

use std::sync::Arc;
use std::time::Duration;

use domicile_api::agent::{AgentState, Fence, Fenced, Settle, Unfence};
use domicile_model::HandoverToken;

use crate::agent::{Agent, Held};
use crate::disk::Marker;
use crate::failure::Failure;
use crate::os::server_processes;
use crate::pg::control::Control;
use crate::pg::server::Kind;
use crate::pg::{furniture, local};

impl Agent {
    /// CHECKPOINT, so that the stop that follows is short.
    pub(crate) async fn settle(&self, order: &Settle) -> Result<(), Failure> {
        self.accept(&order.token).await?;
        let mut connection = local::connect(&self.config, Duration::from_secs(1)).await?;
        local::execute(&mut connection, "CHECKPOINT", Duration::from_secs(4)).await
    }

    /// Stops the server for certain.
    ///
    /// The marker is on disk before the stop begins: from then on nothing opens the server, whatever becomes of the
    /// stop or of the agent.
    pub(crate) async fn fence(self: &Arc<Self>, order: &Fence) -> Result<Fenced, Failure> {
        let within = Duration::from_millis(order.within_ms.clamp(50, 60_000));
        self.accept(&order.token).await?;
        let deadline = self.clock.now() + within;
        if self.disk.stands() {
            // Open without a proof it would be killed as soon as the marker stands, and a clean stop hands over more.
            self.hold(Held { epoch: order.epoch, until: deadline });
        }
        let known = self.disk.change(|m| {
            m.epoch = m.epoch.max(order.epoch);
            // The same stop acknowledged before stays acknowledged, under the newer token.
            let fenced =
                m.fence.take().and_then(|marker| marker.fenced).filter(|f| f.handover.epoch == order.epoch);
            let fenced = fenced.map(|mut f| {
                f.handover.token = order.token.clone();
                f.handover = self.signed(f.handover, f.clean);
                f
            });
            m.fence = Some(Marker { token: order.token.clone(), epoch: order.epoch, fenced: fenced.clone() });
            fenced
        })?;
        if let Some(fenced) = known
            && server_processes(&self.config.data_dir).is_empty()
        {
            return Ok(fenced);
        }
        let guard = tokio::time::timeout(within, self.ops.lock()).await;
        let Ok(_guard) = guard else {
            return Err(Failure::unfinished("the fence is in force, but another job holds the server")
                .hint("wait for it to end and repeat the fence"));
        };
        if self.is_standby_directory() {
            // It takes no writes and must not become a primary: refuse by the marker, keep it streaming is no fence.
            self.kill().await;
            return self.acknowledge(order).await;
        }
        let recovering = !self.server.alive() || !self.mode().ready;
        if recovering && !order.force {
            // Stopped now it would not end cleanly: let it recover, for ourselves alone, then stop.
            self.ready(Kind::Sealed, within).await?;
        }
        let left = deadline.since(self.clock.now()).max(Duration::from_millis(50));
        let stopped = !self.server.alive() || self.server.stop_cleanly(left).await;
        if stopped {
            self.kill().await;
        } else if order.force {
            let left = self.kill().await;
            if left > 0 {
                return Err(Failure::unfinished(format!("{left} processes of PostgreSQL do not die")));
            }
        } else {
            let left = server_processes(&self.config.data_dir);
            return Err(Failure::unfinished(format!(
                "the clean stop did not end within {} ms; processes left: {left:?}; the fence stays in force",
                within.as_millis()
            ))
            .hint("unfence to turn back, or, in a forced move, repeat the fence with `force`"));
        }
        self.acknowledge(order).await
    }

    /// The evidence of a stop, from the control file.
    async fn acknowledge(&self, order: &Fence) -> Result<Fenced, Failure> {
        let control = Control::read(&self.owner, &self.config.data_dir).await?;
        let left = server_processes(&self.config.data_dir);
        if !left.is_empty() {
            return Err(Failure::unfinished(format!("processes of PostgreSQL are left: {left:?}")));
        }
        let clean = control.is_clean_primary();
        let handover = HandoverToken {
            cell: self.config.cell.clone(),
            epoch: order.epoch,
            system_id: control.system_id.clone(),
            timeline: control.timeline,
            checkpoint: control.checkpoint,
            token: order.token.clone(),
            seal: None,
        };
        let fenced = Fenced { handover: self.signed(handover, clean), clean };
        self.disk.change(|m| {
            if let Some(marker) = m.fence.as_mut().filter(|f| f.token == order.token) {
                marker.fenced = Some(fenced.clone());
            }
        })?;
        Ok(fenced)
    }

    /// The agent's word that its server has stopped there. Only a clean stop can be handed over, so nothing else is signed.
    fn signed(&self, handover: HandoverToken, clean: bool) -> HandoverToken {
        let bare = HandoverToken { seal: None, ..handover };
        let Some(key) = self.key.as_ref().filter(|_| clean) else { return bare };
        domicile_seal::handover::sign(key, &self.config.region, bare.clone()).unwrap_or_else(|error| {
            tracing::error!(%error, "the handover can't be signed, so no planned move will promote on it");
            bare
        })
    }

    /// Turns a fence back: what hangs is killed, the server starts for itself alone, a write is seen to succeed. It
    /// opens for others when the next proof comes.
    pub(crate) async fn unfence(self: &Arc<Self>, order: &Unfence) -> Result<AgentState, Failure> {
        self.accept(&order.token).await?;
        let guard = tokio::time::timeout(Duration::from_secs(3), self.ops.lock()).await;
        let Ok(guard) = guard else {
            return Err(Failure::busy("another job holds the server"));
        };
        let was_fenced = self.disk.get().fence.is_some();
        let mode = self.mode();
        if was_fenced || mode.kind == Some(Kind::Sealed) {
            // A proof from before the fence is none after it.
            self.kill().await;
            self.forget_proof();
            self.disk.change(|m| m.fence = None)?;
        }
        if !self.is_standby_directory() {
            self.ready(Kind::Primary, Duration::from_secs(4)).await?;
            let mut connection = local::connect(&self.config, Duration::from_secs(1)).await?;
            furniture::furnish(&mut connection, &self.config).await?;
            let sql = format!(
                "INSERT INTO domicile.canary (move, at, step) VALUES ('{}', now(), 'unfence')
 ON CONFLICT (move) DO UPDATE SET at = excluded.at, step = excluded.step",
                order.token.moving
            );
            local::execute(&mut connection, sql, Duration::from_secs(2)).await?;
        }
        drop(guard);
        Ok(self.state().await)
    }
}
