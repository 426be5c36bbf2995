//! Kept connections to the databases, one for each server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use domicile_model::clock::BootTime;
use domicile_model::{Cell, CellId, RegionId};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::PostgresDatabases;

/// A kept connection. A question that does not end in time takes it along: it is put back only after an answer.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) connection: Option<PgConnection>,
    /// When the last heartbeat was written.
    pub(crate) heartbeat: Option<BootTime>,
}

type Place = Arc<tokio::sync::Mutex<Kept>>;

/// All of them.
#[derive(Default)]
pub(crate) struct Connections(Mutex<HashMap<(CellId, RegionId), Place>>);

impl Connections {
    pub(crate) fn of(&self, cell: &CellId, region: &RegionId) -> Place {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry((cell.clone(), region.clone())).or_default())
    }

    /// Ends the connection to a server, unless a question is under way on it.
    pub(crate) async fn forget(&self, cell: &CellId, region: &RegionId) {
        let place = self.of(cell, region);
        let connection = place.try_lock().ok().and_then(|mut kept| kept.connection.take());
        if let Some(connection) = connection {
            tokio::time::timeout(std::time::Duration::from_millis(100), connection.close()).await.ok();
        }
    }
}

/// Why a database could not be looked at, in a sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// Not named.
    #[error("regions.toml names no database there")]
    Unnamed,
    /// The password.
    #[error("the password: {0}")]
    Secret(#[from] domicile_model::SecretError),
    /// No answer in time.
    #[error("{at} did not answer within {ms} ms: check the network and the server's load")]
    Slow {
        /// The address dialled.
        at: std::net::SocketAddr,
        /// The deadline.
        ms: u128,
    },
    /// The server or the connection said no.
    #[error("{at}: {why}")]
    Sql {
        /// The address dialled.
        at: std::net::SocketAddr,
        /// What it said, and what to do.
        why: String,
        /// Whether the server itself said so, so that nothing was done.
        refused: bool,
    },
}

impl LookError {
    pub(crate) fn sql(at: std::net::SocketAddr, error: &sqlx::Error) -> Self {
        let (why, refused) = match error {
            sqlx::Error::Database(e) => {
                let hint = match e.code().as_deref() {
                    Some("28P01") => ": the password is wrong; correct the reference in regions.toml",
                    Some("28000") => {
                        ": it lets nobody in; without a proof that is right, else check its agent"
                    }
                    Some("53100") => ": the disk is full; free space on its volume",
                    Some("53300") => ": all connections are taken; raise max_connections or end some",
                    Some("42P01" | "42501" | "3F000") => {
                        ": the product's schema is missing or closed; its agent makes it when it opens the primary"
                    }
                    _ => "",
                };
                (format!("{}{hint}", e.message()), true)
            }
            sqlx::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                ("connection refused: PostgreSQL does not run there or is not listening".to_owned(), true)
            }
            other => (other.to_string(), false),
        };
        Self::Sql { at, why, refused }
    }
}

/// Connects to a server of the cell as the role that looks.
pub(crate) async fn connect(
    provider: &PostgresDatabases,
    cell: &Cell,
    region: &RegionId,
) -> Result<PgConnection, LookError> {
    let database = cell.database.as_ref().ok_or(LookError::Unnamed)?;
    let endpoint = database.endpoints.get(region).ok_or(LookError::Unnamed)?;
    let at = provider.config.links.dial(endpoint.address);
    let options = PgConnectOptions::new_without_pgpass()
        .host(&at.ip().to_string())
        .port(at.port())
        .username(&database.user)
        .password(&database.password.read()?)
        .database(&database.name)
        .ssl_mode(PgSslMode::Disable)
        .application_name("domicile")
        .disable_statement_logging();
    PgConnection::connect_with(&options).await.map_err(|e| LookError::sql(at, &e))
}
