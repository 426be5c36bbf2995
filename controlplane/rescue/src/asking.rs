//! Asking everybody who may know more than the backup. Whoever does not answer is named, with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use domicile_api::agent::AgentState;
use domicile_engine::provider::Databases as _;
use domicile_model::clock::Clock;
use domicile_model::links::AddressMap;
use domicile_model::{Cell, CellId, Placement, RegionId, RouterId, SecretRef, World, WorldId};
use domicile_provider_postgres::{PostgresConfig, PostgresDatabases};
use futures::StreamExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::decide::{Known, Said, Seen};

/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// How many are asked at once.
const AT_ONCE: usize = 32;
/// Longest answer that is read, in bytes.
const LONGEST: usize = 256 << 20;

/// What a router answers to `GET /v1/placements`.
#[derive(Debug, Clone, Deserialize)]
pub struct Told {
    /// The router.
    pub id: RouterId,
    /// Where it runs.
    pub region: RegionId,
    /// The world that its table came from.
    pub world: Option<World>,
    /// The world that it vouches in.
    pub vouches_in: Option<WorldId>,
    /// The highest placements that it knows.
    pub placements: Vec<Placement>,
}

/// What everybody said.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    /// Routers that answered.
    pub routers: Vec<Told>,
    /// Routers that did not: the address, and why.
    pub silent: Vec<(SocketAddr, String)>,
    /// Databases, by cell and region.
    pub databases: BTreeMap<CellId, BTreeMap<RegionId, Said>>,
}

impl Reports {
    /// What routers know of one cell.
    #[must_use]
    pub fn known(&self, cell: &CellId) -> Vec<Known> {
        let of = |told: &Told| {
            let found = told.placements.iter().filter(|p| p.cell == *cell).max_by_key(|p| p.epoch);
            found.map(|p| Known { router: told.id.clone(), placement: p.clone() })
        };
        self.routers.iter().filter_map(of).collect()
    }

    /// Cells that routers know and the fleet does not.
    #[must_use]
    pub fn strangers(&self, cells: &BTreeMap<CellId, Cell>) -> BTreeMap<CellId, Placement> {
        let mut found: BTreeMap<CellId, Placement> = BTreeMap::new();
        for p in self.routers.iter().flat_map(|t| &t.placements).filter(|p| !cells.contains_key(&p.cell)) {
            if found.get(&p.cell).is_none_or(|known| known.epoch < p.epoch) {
                found.insert(p.cell.clone(), p.clone());
            }
        }
        found
    }
}

/// Whom to ask, and with which secrets.
pub struct Asker {
    http: reqwest::Client,
    agent_secret: SecretRef,
    peer_secret: Option<SecretRef>,
    links: AddressMap,
    databases: PostgresDatabases,
}

impl Asker {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(
        agent_secret: SecretRef,
        peer_secret: Option<SecretRef>,
        links: AddressMap,
    ) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(1)).build()?;
        let mut postgres = PostgresConfig::new("registry-rescue", agent_secret.clone());
        postgres.links = links.clone();
        let databases = PostgresDatabases::new(postgres, Clock::Machine)?;
        Ok(Self { http, agent_secret, peer_secret, links, databases })
    }

    /// Asks these routers and the databases of these cells.
    pub async fn all(&self, routers: &BTreeSet<SocketAddr>, cells: &BTreeMap<CellId, Cell>) -> Reports {
        let mut reports = Reports::default();
        let routers = async {
            let asked = routers.iter().map(|at| async { (*at, self.router(*at).await) });
            futures::stream::iter(asked).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await
        };
        let pairs: Vec<(&Cell, &RegionId)> = cells
            .values()
            .flat_map(|c| c.database.iter().flat_map(move |d| d.endpoints.keys().map(move |r| (c, r))))
            .collect();
        let databases = async {
            let asked = pairs.into_iter().map(|(cell, region)| async move {
                (cell.id.clone(), region.clone(), self.database(cell, region).await)
            });
            futures::stream::iter(asked).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await
        };
        let (routers, databases) = futures::join!(routers, databases);
        for (at, told) in routers {
            match told {
                Ok(told) => reports.routers.push(told),
                Err(why) => reports.silent.push((at, why)),
            }
        }
        // One router under two addresses is one.
        reports.routers.sort_by(|a, b| a.id.cmp(&b.id));
        reports.routers.dedup_by(|a, b| a.id == b.id);
        reports.silent.sort();
        for (cell, region, said) in databases {
            reports.databases.entry(cell).or_default().insert(region, said);
        }
        reports
    }

    async fn router(&self, at: SocketAddr) -> Result<Told, String> {
        let Some(secret) = &self.peer_secret else {
            return Err("no --peer-secret to ask it with".into());
        };
        let secret = secret.read().map_err(|e| e.to_string())?;
        let url = format!("http://{}/v1/placements", self.links.dial(at));
        self.get(self.http.get(url).bearer_auth(secret)).await
    }

    /// What the agent beside a database says; where it says nothing, whether the database itself lets others write.
    pub async fn database(&self, cell: &Cell, region: &RegionId) -> Said {
        let Some(endpoint) = cell.database.as_ref().and_then(|d| d.endpoints.get(region)) else {
            return Said::Silent { why: "it has no database there".into() };
        };
        let asked = async {
            let secret = self.agent_secret.read().map_err(|e| e.to_string())?;
            let url = format!("http://{}/v1/state", self.links.dial(endpoint.agent));
            let state: AgentState = self.get(self.http.get(url).bearer_auth(secret)).await?;
            if state.cell != cell.id || state.region != *region {
                return Err(format!(
                    "at {} is the agent of {} in {}",
                    endpoint.agent, state.cell, state.region
                ));
            }
            Ok(Seen::of(&state))
        };
        let why = match asked.await {
            Ok(seen) => return Said::Agent(Box::new(seen)),
            Err(why) => why,
        };
        let seen = tokio::time::timeout(PATIENCE, self.databases.observe(cell, region)).await;
        match seen.ok().and_then(|o| o.writable) {
            Some(writable) => Said::Database { writable, why },
            None => Said::Silent { why },
        }
    }

    async fn get<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, String> {
        let said = |e: reqwest::Error| {
            let e = e.without_url();
            let mut last: &dyn std::error::Error = &e;
            while let Some(source) = last.source() {
                last = source;
            }
            last.to_string()
        };
        let mut answer = request.timeout(PATIENCE).send().await.map_err(said)?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(said)? {
            if bytes.len() + piece.len() > LONGEST {
                return Err("its answer is too long".into());
            }
            bytes.extend_from_slice(&piece);
        }
        serde_json::from_slice(&bytes).map_err(|e| format!("its answer can't be read: {e}"))
    }

    /// Lifts a fence there.
    ///
    /// # Errors
    /// Why not.
    pub async fn unfence(
        &self,
        cell: &Cell,
        region: &RegionId,
        token: &domicile_model::Token,
    ) -> Result<(), String> {
        self.databases.unfence(cell, region, token).await.map_err(|e| e.to_string())
    }
}
