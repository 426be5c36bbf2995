//! Calls to the agent.

use std::net::SocketAddr;
use std::time::Duration;

use domicile_api::problem::Problem;
use domicile_engine::provider::EffectError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::PostgresDatabases;

/// More than the longest answer but a list of losses, which is long.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// Why a call to an agent gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The own secret can't be read.
    #[error("the agents' secret: {0}")]
    Secret(#[from] domicile_model::SecretError),
    /// Never sent.
    #[error(
        "nobody answers at {at} ({why}): start `domicile agent` there, or check the address and the network"
    )]
    Unsent {
        /// The address dialled.
        at: SocketAddr,
        /// What the transport said.
        why: String,
    },
    /// Sent, and no answer came.
    #[error("{at} did not answer within {within:?} ({why})")]
    Silent {
        /// The address dialled.
        at: SocketAddr,
        /// The deadline.
        within: Duration,
        /// What the transport said.
        why: String,
    },
    /// It said no.
    #[error("{at}: {problem}{}", problem.hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
    Said {
        /// The address dialled.
        at: SocketAddr,
        /// What it said.
        problem: Box<Problem>,
    },
    /// It answered something else than it should.
    #[error("{at} answered something that is no agent's answer ({why}): is another program there?")]
    Strange {
        /// The address dialled.
        at: SocketAddr,
        /// What is strange.
        why: String,
    },
}

impl CallError {
    /// Whether the agent said that the thing asked for does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Said { problem, .. } if problem.kind.ends_with("/no-report"))
    }
}

impl From<CallError> for EffectError {
    fn from(error: CallError) -> Self {
        let text = error.to_string();
        match error {
            CallError::Secret(_) | CallError::Unsent { .. } => Self::Refused(text),
            CallError::Silent { .. } | CallError::Strange { .. } => Self::Unknown(text),
            CallError::Said { problem, .. } if problem.kind.ends_with("/deposed") => Self::Deposed(text),
            CallError::Said { problem, .. } if problem.status < 500 => Self::Refused(text),
            CallError::Said { .. } => Self::Unknown(text),
        }
    }
}

impl PostgresDatabases {
    async fn call(
        &self,
        agent: SocketAddr,
        path: &str,
        body: Option<Vec<u8>>,
        within: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let at = self.config.links.dial(agent);
        let url = format!("http://{at}/v1/{path}");
        let request = match body {
            None => self.http.get(url),
            Some(body) => self.http.post(url).header("content-type", "application/json").body(body),
        };
        let request = request.bearer_auth(self.config.agent_secret.read()?).timeout(within);
        let failed = |e: reqwest::Error| {
            // Without the address and without the request: both are said already.
            let why = innermost(&e);
            if e.is_connect() { CallError::Unsent { at, why } } else { CallError::Silent { at, within, why } }
        };
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if bytes.len() + piece.len() > MOST_BYTES {
                return Err(CallError::Strange { at, why: "the answer is too long".into() });
            }
            bytes.extend_from_slice(&piece);
        }
        if status.is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Err(CallError::Said { at, problem: Box::new(problem) }),
            Err(_) => Err(CallError::Strange { at, why: format!("status {status}") }),
        }
    }

    pub(crate) async fn get<R: DeserializeOwned>(
        &self,
        agent: SocketAddr,
        path: &str,
        within: Duration,
    ) -> Result<R, CallError> {
        let bytes = self.call(agent, path, None, within).await?;
        read(self.config.links.dial(agent), &bytes)
    }

    /// An order with an answer.
    pub(crate) async fn ask<T: Serialize + Sync, R: DeserializeOwned>(
        &self,
        agent: SocketAddr,
        path: &str,
        order: &T,
        within: Duration,
    ) -> Result<R, EffectError> {
        let bytes = self.call(agent, path, Some(written(order)?), within).await?;
        Ok(read(self.config.links.dial(agent), &bytes)?)
    }

    /// An order whose answer says nothing more.
    pub(crate) async fn order<T: Serialize + Sync>(
        &self,
        agent: SocketAddr,
        path: &str,
        order: &T,
        within: Duration,
    ) -> Result<(), EffectError> {
        self.call(agent, path, Some(written(order)?), within).await?;
        Ok(())
    }
}

fn written<T: Serialize>(order: &T) -> Result<Vec<u8>, EffectError> {
    serde_json::to_vec(order).map_err(|e| EffectError::Refused(format!("the order can't be written: {e}")))
}

fn read<R: DeserializeOwned>(at: SocketAddr, bytes: &[u8]) -> Result<R, CallError> {
    serde_json::from_slice(bytes).map_err(|e| CallError::Strange { at, why: e.to_string() })
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
