//! The registry's room: every control plane looks how full it is, the leader leaves to forced moves what they need, and
//! forgets the history, which nobody else does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domicile_api::problem::Problem;
use domicile_api::views::RegistryView;
use domicile_engine::Engine;
use domicile_engine::room::RoomSeen;
use domicile_model::Revision;
use domicile_model::clock::{BootTime, Clock, pause};
use domicile_store::{AlarmKind, Key, Op, Room};
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

use crate::app::App;
use crate::http::problem::Refusal;

/// How often each control plane looks.
const LOOK: Duration = Duration::from_secs(5);
/// How old a look may be that an ordinary write rests on.
const FRESH: Duration = Duration::from_secs(1);
/// What an ordinary change other than `apply` writes at most, in bytes.
const CHANGE: u64 = 64 << 10;
/// What the server counts for a write beside key and value.
const OVERHEAD: usize = 256;

/// How the registry's room is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long the registry's history is kept; none: somebody else forgets it.
    pub history: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { history: Some(Duration::from_secs(300)) }
    }
}

/// Why an ordinary write is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// What is left is kept for moves.
    #[error(
        "the registry has {left} bytes left, and {reserve} are kept so that cells can be failed over: nothing was changed"
    )]
    Reserved {
        /// Bytes until it takes nothing.
        left: u64,
        /// Bytes that stay for moves.
        reserve: u64,
    },
    /// Nobody can tell.
    #[error("how much room the registry has is not known ({0}): nothing was changed")]
    Unknown(String),
}

/// Knows how full the registry is.
pub struct Keeper {
    engine: Arc<Engine>,
    clock: Clock,
    state: Mutex<Looked>,
}

#[derive(Default)]
struct Looked {
    last: Option<(Arc<RoomSeen>, BootTime)>,
    /// Bytes that were let through since then, and between the two looks before: the server counts what it has written
    /// a moment later.
    since: u64,
    before: u64,
}

impl Keeper {
    /// One that has not looked yet.
    #[must_use]
    pub fn new(engine: Arc<Engine>, clock: Clock) -> Self {
        Self { engine, clock, state: Mutex::default() }
    }

    /// Looks now.
    pub async fn look(&self) -> Arc<RoomSeen> {
        let at = self.clock.now();
        let seen = Arc::new(self.engine.room().await);
        let mut state = self.lock();
        state.last = Some((Arc::clone(&seen), at));
        state.before = std::mem::take(&mut state.since);
        seen
    }

    /// Whether an ordinary write of so many bytes leaves enough to moves.
    ///
    /// # Errors
    /// When it does not, or that can't be told.
    pub async fn ordinary(&self, bytes: u64) -> Result<(), NoRoom> {
        let now = self.clock.now();
        let fresh = {
            let state = self.lock();
            state.last.as_ref().filter(|(_, at)| now.since(*at) < FRESH).map(|(seen, _)| Arc::clone(seen))
        };
        let seen = match fresh {
            Some(seen) => seen,
            None => self.look().await,
        };
        let room = match &seen.room {
            Ok(Some(room)) => room,
            Ok(None) => return Ok(()),
            Err(why) => return Err(NoRoom::Unknown(why.clone())),
        };
        let Some(left) = room.left() else {
            return Err(NoRoom::Unknown("its quota is not known".to_owned()));
        };
        let mut state = self.lock();
        let left = left.saturating_sub(state.before).saturating_sub(state.since);
        // Nobody's reserve means: up to the last byte, and beyond.
        if seen.reserve > 0 && left < seen.reserve.saturating_add(bytes) {
            return Err(NoRoom::Reserved { left, reserve: seen.reserve });
        }
        state.since = state.since.saturating_add(bytes);
        Ok(())
    }

    /// As the API shows it; none where nothing limits the registry, or nobody has looked yet.
    #[must_use]
    pub fn view(&self) -> Option<RegistryView> {
        let (seen, at) = self.lock().last.clone()?;
        let age_ms = u64::try_from(self.clock.now().since(at).as_millis()).unwrap_or(u64::MAX);
        match &seen.room {
            Ok(None) => None,
            Ok(Some(room)) => Some(RegistryView {
                size_bytes: Some(room.size),
                in_use_bytes: Some(room.in_use),
                quota_bytes: room.quota,
                left_bytes: room.left(),
                reserve_bytes: seen.reserve,
                alarms: room.alarms.iter().map(|a| format!("{} ({:x})", a.kind.name(), a.member)).collect(),
                silent: room.silent.clone(),
                problem: None,
                age_ms,
            }),
            Err(why) => Some(RegistryView {
                size_bytes: None,
                in_use_bytes: None,
                quota_bytes: None,
                left_bytes: None,
                reserve_bytes: seen.reserve,
                alarms: Vec::new(),
                silent: Vec::new(),
                problem: Some(why.clone()),
                age_ms,
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Looked> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that the server counts for these writes; twice that is what a transaction can make its database grow by.
#[must_use]
pub fn bytes_of(ops: &[Op]) -> u64 {
    let one = |op: &Op| match op {
        Op::Put(key, value, _) => OVERHEAD + key.to_string().len() + value.len(),
        Op::Delete(key) => OVERHEAD + key.to_string().len(),
    };
    u64::try_from(ops.iter().map(one).sum::<usize>()).unwrap_or(u64::MAX)
}

/// In front of changes that can wait: on the leader, before anything is done.
pub(crate) async fn leave_room(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match app.room.ordinary(CHANGE).await {
        Ok(()) => next.run(request).await,
        Err(why) => {
            app.metrics.room.refused.inc();
            Refusal::from(why).into_response()
        }
    }
}

impl From<NoRoom> for Refusal {
    fn from(why: NoRoom) -> Self {
        let text = why.to_string();
        match why {
            NoRoom::Reserved { .. } => Problem::new("registry-full", "Registry nearly full", 507, text).hint(
                "make room: see that old moves reach the archive (`domicile archive status`), then `etcdctl compact` and \
                 `etcdctl defrag` on one member after the other, or raise --quota-backend-bytes and --registry-quota-bytes",
            ),
            NoRoom::Unknown(_) => Problem::new("registry-room-unknown", "Registry's room unknown", 503, text)
                .hint("does every etcd member answer `etcdctl endpoint status`? forced moves go on meanwhile"),
        }
        .into()
    }
}

/// Looks again and again, on every control plane.
pub(crate) async fn run(app: &App) {
    let mut said = None;
    loop {
        let seen = app.room.look().await;
        app.metrics.room.show(&seen);
        let trouble = trouble(&seen);
        if trouble != said {
            match &trouble {
                Some(why) => tracing::warn!(why, "the registry's room"),
                None => tracing::info!("the registry has room again"),
            }
            said = trouble;
        }
        pause(LOOK).await;
    }
}

/// What an operator should know; the same text while it is the same trouble.
fn trouble(seen: &RoomSeen) -> Option<String> {
    match &seen.room {
        Err(why) => Some(format!("how full the registry is can't be told: {why}")),
        Ok(None) => None,
        Ok(Some(room)) if room.is_full() => Some("the registry is full and takes no writes".to_owned()),
        Ok(Some(room)) if room.alarms.iter().any(|a| a.kind == AlarmKind::Corrupt) => {
            Some("a member's database is damaged (alarm CORRUPT)".to_owned())
        }
        Ok(Some(room)) => room
            .left()
            .is_some_and(|left| left < seen.reserve)
            .then(|| "what is left is kept for forced moves, other changes are refused".to_owned()),
    }
}

/// Forgets the registry's history as it gets old. On the leader; any number of them do no harm.
pub(crate) async fn forget(app: &App) {
    let Some(keep) = app.history else { return std::future::pending().await };
    let every = (keep / 5).clamp(Duration::from_secs(1), Duration::from_secs(60));
    // What the revision was, and when: only this process's own clock counts, and a new leader begins anew.
    let mut marks: VecDeque<(BootTime, Revision)> = VecDeque::new();
    loop {
        let now = app.clock.now();
        match app.store.read(&[Key::World]).await {
            Ok((header, _)) => marks.push_back((now, header.revision)),
            Err(error) => tracing::debug!(%error, "the registry's revision is not known"),
        }
        let mut old = None;
        while marks.front().is_some_and(|(at, _)| now.since(*at) >= keep) {
            old = marks.pop_front().map(|(_, revision)| revision).or(old);
        }
        if let Some(revision) = old {
            match app.store.forget_before(revision).await {
                Ok(()) => app.metrics.room.forgotten.set(revision.0),
                Err(error) => {
                    app.metrics.room.not_forgotten.inc();
                    tracing::warn!(%error, "the registry's history was not compacted; tried again");
                }
            }
        }
        pause(every).await;
    }
}

/// What Prometheus sees of it.
#[derive(Debug, Clone)]
pub struct RoomMetrics {
    size: IntGauge,
    in_use: IntGauge,
    quota: IntGauge,
    left: IntGauge,
    reserve: IntGauge,
    known: IntGauge,
    alarms: IntGaugeVec,
    /// Changes that were refused for want of room.
    pub refused: IntCounter,
    forgotten: IntGauge,
    not_forgotten: IntCounter,
}

impl RoomMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(format!("domicile_registry_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(format!("domicile_registry_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let alarms = IntGaugeVec::new(
            Opts::new("domicile_registry_alarms", "alarms that etcd members have raised"),
            &["alarm"],
        )?;
        registry.register(Box::new(alarms.clone()))?;
        Ok(Self {
            size: gauge("size_bytes", "bytes of the fullest member's database, free pages included")?,
            in_use: gauge("in_use_bytes", "bytes in use of that database")?,
            quota: gauge("quota_bytes", "bytes that a member's database may have")?,
            left: gauge("left_bytes", "bytes until the registry takes nothing more")?,
            reserve: gauge("reserve_bytes", "bytes that ordinary changes leave to forced moves")?,
            known: gauge("room_known", "1 while the registry tells how full it is")?,
            alarms,
            refused: counter("room_refused_total", "changes that were refused for want of room")?,
            forgotten: gauge("compacted_revision", "the revision before which this leader has compacted")?,
            not_forgotten: counter("compactions_failed_total", "compactions of the history that failed")?,
        })
    }

    fn show(&self, seen: &RoomSeen) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.reserve.set(signed(seen.reserve));
        let Ok(room) = &seen.room else { return self.known.set(0) };
        self.known.set(1);
        let Some(Room { size, in_use, quota, alarms, .. }) = room else { return };
        self.size.set(signed(*size));
        self.in_use.set(signed(*in_use));
        self.quota.set(signed(quota.unwrap_or(0)));
        self.left.set(signed(room.as_ref().and_then(Room::left).unwrap_or(0)));
        for kind in [AlarmKind::NoSpace, AlarmKind::Corrupt, AlarmKind::Other] {
            let raised = alarms.iter().filter(|a| a.kind == kind).count();
            self.alarms.with_label_values(&[kind.name()]).set(i64::try_from(raised).unwrap_or(i64::MAX));
        }
    }
}
