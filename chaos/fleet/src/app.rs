//! The clinic application: encounters of patients, one row each; and a worker beside it.
//!
//! It believes the gate in front of it: `Domicile-Tenant` says whose request this is. Every answer names the region,
//! the database's system id and timeline, and the epoch that the gate gave the request, so that an oracle can tell who
//! really answered. A write answers only after its COMMIT; nothing is ever written twice.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use domicile_model::SecretRef;
use domicile_model::clock::pause;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Executor, PgConnection, PgPool, Row, SqlSafeStr};

pub mod worker;

/// The most that an upload may hold.
const UPLOAD: usize = 64 << 20;
/// The longest that a request waits for a connection to the database.
const ACQUIRE: Duration = Duration::from_secs(3);
/// The most connections.
const MOST: u32 = 10;
/// So many are kept open and ready, on a standby too: a session there survives the promotion, so those who waited for
/// a move need not wait for connections as well. Each of those begins with thousands of hashes (SCRAM).
pub const WARM: usize = 8;
/// How often they are looked after.
const LOOK: Duration = Duration::from_secs(1);

const INSERT: &str =
    "INSERT INTO public.encounters (tenant_id, key, patient, content) VALUES ($1, $2, $3, $4)
 ON CONFLICT DO NOTHING
 RETURNING content, (SELECT system_identifier::text FROM pg_control_system()),
 pg_walfile_name(pg_current_wal_insert_lsn())";

const SELECT: &str = "SELECT content, (SELECT system_identifier::text FROM pg_control_system()),
 CASE WHEN pg_is_in_recovery() THEN '00000000' ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END
 FROM public.encounters WHERE tenant_id = $1 AND key = $2";

/// How to start it.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where it listens.
    #[arg(long)]
    pub listen: SocketAddr,
    /// The region that it names in its answers.
    #[arg(long)]
    pub region: String,
    /// Its PostgreSQL.
    #[arg(long)]
    pub database: SocketAddr,
    /// The database's name.
    #[arg(long)]
    pub name: String,
    /// The role.
    #[arg(long)]
    pub user: String,
    /// The role's password: `file:…` or `env:…`.
    #[arg(long)]
    pub password: String,
    /// The worker beside it, if it has one.
    #[command(flatten)]
    pub worker: Option<worker::Options>,
}

/// A new encounter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEncounter {
    /// Made by the client.
    pub key: String,
    /// Who was seen.
    pub patient: String,
    /// What was noted.
    pub content: String,
}

/// What every answer says: the encounter, and who answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The encounter's key.
    pub key: String,
    /// Its content, as the database holds it.
    pub content: String,
    /// The region that answered.
    pub region: String,
    /// The database's `system_identifier`.
    pub system_id: String,
    /// The timeline that it writes.
    pub timeline: u32,
    /// The epoch under which the gate let the request in; zero without a gate.
    pub epoch: u64,
}

#[derive(Debug, Clone)]
struct Clinic {
    pool: PgPool,
    region: String,
}

/// Why a request could not be answered.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the request names no tenant: it must come through a gate")]
    NoTenant,
    #[error("there is no such encounter")]
    Unknown,
    #[error("there is another encounter under this key")]
    Taken,
    #[error("the upload is larger than {UPLOAD} bytes, or ended early")]
    Upload,
    #[error("the database can't answer now: {}", reason(.0))]
    Database(#[from] sqlx::Error),
}

/// Why, for who reads of a failed request later: PostgreSQL's code, or what kind of failure it was. Never its text, which
/// may hold values.
fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => format!("SQLSTATE {}", error.code().unwrap_or_default()),
        sqlx::Error::PoolTimedOut => "no connection in time".to_owned(),
        sqlx::Error::Io(error) => format!("connection: {:?}", error.kind()),
        _ => "no answer".to_owned(),
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NoTenant => StatusCode::BAD_REQUEST,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Taken => StatusCode::CONFLICT,
            Self::Upload => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Database(error) => {
                tracing::warn!(%error, "the database can't answer");
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        (status, self.to_string()).into_response()
    }
}

/// Runs until it is killed.
///
/// # Errors
/// When the address can't be bound or the password can't be read.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let password = SecretRef::new(&options.password)?.read()?;
    let connect = PgConnectOptions::new()
        .host(&options.database.ip().to_string())
        .port(options.database.port())
        .database(&options.name)
        .username(&options.user)
        .password(&password);
    // A connection is tried before BEGIN, so that one that died with the old primary costs a reconnect and no answer.
    // Few of them: where none is warm, all begin at once. 24 kept two cores of an unoptimized build busy for longer than
    // anyone waits for a connection.
    let pool = PgPoolOptions::new()
        .max_connections(MOST)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(true)
        .after_connect(|connection, _| Box::pin(prime(connection)))
        .connect_lazy_with(connect);
    tokio::spawn(keep_warm(pool.clone()));
    let clinic = Clinic { pool, region: options.region };
    let work = options.worker.map(|options| tokio::spawn(worker::work(clinic.clone(), options)));
    let routes = Router::new()
        .route("/encounters", post(write))
        .route("/encounters/{key}", get(read))
        .route("/uploads/{key}", post(upload))
        .route("/healthz", get(|| async { "ok" }))
        .with_state(clinic);
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("can't listen at {}", options.listen))?;
    let serve = async { axum::serve(listener, routes).await.context("the application has ended") };
    match work {
        // A worker that can't keep its journal would do what nobody knows of.
        Some(work) => tokio::select! { served = serve => served, worked = work => worked? },
        None => serve.await,
    }
}

/// Looks after the warm connections, for ever. The pool's own minimum is looked at every ten minutes only, and gives up
/// on a database that is away.
async fn keep_warm(pool: PgPool) {
    loop {
        if let Err(error) = warm(&pool).await {
            tracing::debug!(%error, "no warm connections now");
        }
        pause(LOOK).await;
    }
}

/// Takes so many at once that each is another one, which opens what is missing and replaces what has died.
async fn warm(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut taken = Vec::with_capacity(WARM);
    for _ in 0..WARM {
        taken.push(pool.acquire().await?);
    }
    Ok(())
}

/// What the first request of a connection would otherwise wait for: both statements, and the server's caches for them.
/// A standby allows it all.
async fn prime(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.prepare(INSERT.into_sql_str()).await?;
    sqlx::query(SELECT).bind("").bind("").fetch_optional(connection).await.map(drop)
}

async fn write(
    State(clinic): State<Clinic>,
    headers: HeaderMap,
    Json(new): Json<NewEncounter>,
) -> Result<Response, Failure> {
    let answer = insert(&clinic, tenant(&headers)?, epoch(&headers), new).await?;
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

async fn upload(
    State(clinic): State<Clinic>,
    headers: HeaderMap,
    Path(key): Path<String>,
    body: Body,
) -> Result<Response, Failure> {
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| Failure::Upload)?;
        length += piece.len();
        if length > UPLOAD {
            return Err(Failure::Upload);
        }
        hash.update(&piece);
    }
    let content = upload_content(&hex::encode(hash.finalize()), length);
    let new = NewEncounter { key, patient: "upload".to_owned(), content };
    let answer = insert(&clinic, tenant(&headers)?, epoch(&headers), new).await?;
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// What is kept of an upload.
#[must_use]
pub fn upload_content(sha256: &str, length: usize) -> String {
    format!("upload of {length} bytes, sha256 {sha256}")
}

async fn insert(clinic: &Clinic, tenant: &str, epoch: u64, new: NewEncounter) -> Result<Answer, Failure> {
    let mut transaction = clinic.pool.begin().await?;
    let row = sqlx::query(INSERT)
        .bind(tenant)
        .bind(&new.key)
        .bind(&new.patient)
        .bind(&new.content)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or(Failure::Taken)?;
    let answer = answer(clinic, epoch, new.key, &row)?;
    transaction.commit().await?;
    Ok(answer)
}

async fn read(
    State(clinic): State<Clinic>,
    headers: HeaderMap,
    Path(key): Path<String>,
) -> Result<Response, Failure> {
    let tenant = tenant(&headers)?;
    let row = sqlx::query(SELECT)
        .bind(tenant)
        .bind(&key)
        .fetch_optional(&clinic.pool)
        .await?
        .ok_or(Failure::Unknown)?;
    Ok(Json(answer(&clinic, epoch(&headers), key, &row)?).into_response())
}

fn answer(clinic: &Clinic, epoch: u64, key: String, row: &sqlx::postgres::PgRow) -> Result<Answer, Failure> {
    let segment: String = row.try_get(2)?;
    // The name of a write-ahead segment begins with its timeline, in eight hexadecimal digits.
    let timeline = segment.get(..8).and_then(|t| u32::from_str_radix(t, 16).ok()).unwrap_or(0);
    Ok(Answer {
        key,
        content: row.try_get(0)?,
        region: clinic.region.clone(),
        system_id: row.try_get(1)?,
        timeline,
        epoch,
    })
}

/// The epoch under which the gate let the request in; zero without a gate.
fn epoch(headers: &HeaderMap) -> u64 {
    headers.get("domicile-epoch").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0)
}

fn tenant(headers: &HeaderMap) -> Result<&str, Failure> {
    headers.get("domicile-tenant").and_then(|v| v.to_str().ok()).ok_or(Failure::NoTenant)
}
