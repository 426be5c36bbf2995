//! The database provider for self-managed PostgreSQL: SQL for looking, the agent for acting.
//!
//! What each call promises stands at [`Databases`]; what goes over the wire to the agent, in [`domicile_api::agent`].

mod agent;
mod beside;
mod connections;
mod look;
mod retention;

use std::time::Duration;

use async_trait::async_trait;
use domicile_api::agent::{
    AgentState, Consent, ExportLosses, Fence, Fenced, Follow, Fork, LossReport, ProgressStatus, Promote,
    Promoted as Answer, Running, Settle, Unfence,
};
use domicile_api::protection::Retention;
use domicile_engine::provider::{Databases, EffectError, Job, Observation, Promoted, Sample};
use domicile_model::clock::Clock;
use domicile_model::links::AddressMap;
use domicile_model::{Cell, DatabaseEndpoint, Epoch, HandoverToken, MoveId, RegionId, SecretRef, Token};

use connections::Connections;

/// How the provider finds and talks to agents and databases.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// This control plane's name, the key of its heartbeat row.
    pub server: String,
    /// The agents' secret.
    pub agent_secret: SecretRef,
    /// From addresses in the registry to addresses to dial.
    pub links: AddressMap,
    /// The physical slot that standbys use.
    pub slot: String,
}

impl PostgresConfig {
    /// With the usual slot and no links.
    #[must_use]
    pub fn new(server: impl Into<String>, agent_secret: SecretRef) -> Self {
        Self {
            server: server.into(),
            agent_secret,
            links: AddressMap::default(),
            slot: "domicile_standby".into(),
        }
    }
}

/// The provider.
pub struct PostgresDatabases {
    config: PostgresConfig,
    http: reqwest::Client,
    connections: Connections,
    clock: Clock,
}

impl PostgresDatabases {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When there can be no HTTP client.
    pub fn new(config: PostgresConfig, clock: Clock) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(700))
            // A proxy between control plane and agent would answer for it.
            .no_proxy()
            .build()?;
        Ok(Self { config, http, connections: Connections::default(), clock })
    }

    fn endpoint<'c>(&self, cell: &'c Cell, region: &RegionId) -> Result<&'c DatabaseEndpoint, EffectError> {
        cell.database.as_ref().and_then(|d| d.endpoints.get(region)).ok_or_else(|| {
            EffectError::Refused(format!(
                "cell {} has no database endpoint in {region}: name it in regions.toml and apply",
                cell.id
            ))
        })
    }
}

#[async_trait]
impl Databases for PostgresDatabases {
    async fn observe(&self, cell: &Cell, region: &RegionId) -> Observation {
        let endpoint = match self.endpoint(cell, region) {
            Ok(endpoint) => endpoint,
            Err(e) => return Observation { problems: vec![e.to_string()], ..Observation::default() },
        };
        let (state, looked) = tokio::join!(
            self.get::<AgentState>(endpoint.agent, "state", Duration::from_millis(1_800)),
            look::look(self, cell, region, Duration::from_millis(1_500)),
        );
        let free_bytes = state.as_ref().ok().and_then(|state| state.wal_free_bytes);
        let mut seen = Observation::default();
        match state {
            Ok(state) if state.cell != cell.id || state.region != *region => seen.problems.push(format!(
                "the agent at {} is for cell {} in {}, not for {} in {region}: check regions.toml",
                endpoint.agent, state.cell, state.region, cell.id
            )),
            Ok(state) => take_state(&mut seen, state, &format!("the database of {} in {region}", cell.id)),
            Err(e) => seen.problems.push(format!("the agent of {} in {region}: {e}", cell.id)),
        }
        match looked {
            Ok(look) => {
                seen.reachable = true;
                look.into(&mut seen);
                seen.retention = seen.retention.map(|seen| Retention { free_bytes, ..seen });
            }
            // A stopped or private server refuses by design; the agent has said so.
            Err(_) if seen.writable == Some(false) && seen.standby == Some(false) => {}
            Err(e) => seen.problems.push(format!("the database of {} in {region}: {e}", cell.id)),
        }
        seen
    }

    async fn settle(&self, cell: &Cell, region: &RegionId, token: &Token) -> Result<(), EffectError> {
        let agent = self.endpoint(cell, region)?.agent;
        self.order(agent, "settle", &Settle { token: token.clone() }, Duration::from_secs(5)).await
    }

    async fn fence(
        &self,
        cell: &Cell,
        region: &RegionId,
        token: &Token,
        epoch: Epoch,
        within: Duration,
        force: bool,
    ) -> Result<(HandoverToken, bool), EffectError> {
        let agent = self.endpoint(cell, region)?.agent;
        // The sampler's connections would be ended by the stop; ended now they do not hold it up.
        self.connections.forget(&cell.id, region).await;
        // The agent must be able to say no before this side stops listening.
        let stop = within.saturating_sub(Duration::from_millis(400)).max(within / 2);
        let order = Fence {
            token: token.clone(),
            epoch,
            within_ms: u64::try_from(stop.as_millis()).unwrap_or(u64::MAX),
            force,
        };
        let fenced: Fenced = self.ask(agent, "fence", &order, within).await?;
        Ok((fenced.handover, fenced.clean))
    }

    async fn unfence(&self, cell: &Cell, region: &RegionId, token: &Token) -> Result<(), EffectError> {
        let agent = self.endpoint(cell, region)?.agent;
        let order = Unfence { token: token.clone() };
        self.ask::<_, AgentState>(agent, "unfence", &order, Duration::from_secs(5)).await.map(drop)
    }

    async fn accepts(
        &self,
        cell: &Cell,
        region: &RegionId,
        token: &Token,
        epoch: Epoch,
        handover: &HandoverToken,
    ) -> Result<(), EffectError> {
        let agent = self.endpoint(cell, region)?.agent;
        let order = Promote {
            token: token.clone(),
            epoch,
            handover: Some(handover.clone()),
            consent: None,
            slot: self.config.slot.clone(),
        };
        self.order(agent, "promote/check", &order, Duration::from_secs(3)).await
    }

    async fn promote(
        &self,
        cell: &Cell,
        region: &RegionId,
        token: &Token,
        epoch: Epoch,
        handover: Option<&HandoverToken>,
        consent: Option<&Consent>,
    ) -> Result<Promoted, EffectError> {
        let agent = self.endpoint(cell, region)?.agent;
        let order = Promote {
            token: token.clone(),
            epoch,
            handover: handover.cloned(),
            consent: consent.cloned(),
            slot: self.config.slot.clone(),
        };
        let done: Answer = self.ask(agent, "promote", &order, Duration::from_secs(5)).await?;
        Ok(Promoted {
            system_id: done.system_id,
            timeline: done.timeline,
            fork: done.fork,
            sequences: done.sequences,
        })
    }

    async fn verify(&self, cell: &Cell, region: &RegionId, token: &Token) -> Result<(), EffectError> {
        self.endpoint(cell, region)?;
        look::canary(self, cell, region, token, Duration::from_secs(2)).await
    }

    async fn follow(
        &self,
        cell: &Cell,
        region: &RegionId,
        upstream: &RegionId,
        fork: Option<Fork>,
        token: &Token,
    ) -> Result<(), EffectError> {
        let agent = self.endpoint(cell, region)?.agent;
        let order = Follow {
            token: token.clone(),
            region: upstream.clone(),
            upstream: self.endpoint(cell, upstream)?.address,
            fork,
            slot: self.config.slot.clone(),
        };
        self.order(agent, "follow", &order, Duration::from_secs(2)).await
    }

    async fn export_losses(
        &self,
        cell: &Cell,
        region: &RegionId,
        fork: Fork,
        token: &Token,
    ) -> Result<(), EffectError> {
        let agent = self.endpoint(cell, region)?.agent;
        let order = ExportLosses { token: token.clone(), fork };
        self.order(agent, "losses", &order, Duration::from_secs(2)).await
    }

    async fn losses(
        &self,
        cell: &Cell,
        region: &RegionId,
        moving: MoveId,
    ) -> Result<Option<LossReport>, EffectError> {
        let agent = self.endpoint(cell, region)?.agent;
        match self.get(agent, &format!("losses/{moving}"), Duration::from_secs(2)).await {
            Ok(report) => Ok(Some(report)),
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn sample(&self, cell: &Cell, holder: &RegionId) -> Sample {
        let other = cell.other(holder);
        let standby = async {
            match other {
                Some(other) => look::standby(self, cell, other).await,
                None => None,
            }
        };
        let (primary, standby) = tokio::join!(look::primary(self, cell, holder), standby);
        Sample { primary, standby }
    }
}

/// `place`: what its problems are about.
fn take_state(seen: &mut Observation, state: AgentState, place: &str) {
    seen.reachable = true;
    seen.writable = Some(matches!(state.running, Running::Open | Running::Private));
    seen.standby = Some(state.running == Running::Standby);
    seen.system_id = state.system_id;
    seen.timeline = state.timeline;
    seen.fork = state.fork;
    seen.flushed = state.flushed;
    seen.replayed = state.replayed;
    seen.checkpoint = state.checkpoint;
    seen.streaming = state.streaming;
    seen.not_streaming = state.not_streaming.map(|why| format!("{place}: {why}"));
    seen.fence = state.fence.map(|f| (f.handover, f.clean));
    seen.key = state.key;
    seen.highest = state.highest;
    seen.fence_level = state.fence_level;
    seen.loss_slot = state.unlisted.then_some(false);
    let job = |p: domicile_api::agent::Progress| Job {
        token: p.token,
        how: p.how,
        outcome: match p.status {
            ProgressStatus::Running => None,
            ProgressStatus::Done => Some(Ok(())),
            ProgressStatus::Failed { why } => Some(Err(why)),
        },
    };
    seen.follow = state.follow.map(job);
    seen.losses = state.losses.map(job);
    seen.work = state.work;
    seen.export = state.export;
    seen.problems = state.problems.iter().map(|problem| format!("{place}: {problem}")).collect();
}
