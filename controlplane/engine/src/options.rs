//! What a deployment may choose, with values that fit the budgets of a switchover.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::failpoint::{Failpoints, NoFailpoints};

/// Choices of the engine. Nothing in here can shorten WAIT, skip the close, the fence or the check of losses.
#[derive(Clone)]
pub struct Options {
    /// The control plane's name, for the log.
    pub name: String,
    /// Longest time for one call of a provider. Must lie below the leader's lease, so that an effect has ended
    /// before another leader can act.
    pub call: Duration,
    /// How long a clean stop of the old primary may take.
    pub clean_stop: Duration,
    /// How long a step tries an effect before the move turns back (or stops, after the point of no return).
    pub step: Duration,
    /// How long gates of the old region get to finish what they admitted.
    pub drain: Duration,
    /// How long routers keep requests waiting in a planned move, from when they applied the placement.
    pub hold: Duration,
    /// The same in a forced move, which takes WAIT and more.
    pub hold_forced: Duration,
    /// How long edges are awaited after the switch before they are left behind and named.
    pub edges: Duration,
    /// How long the standby of a planned move gets to replay up to the handover position.
    pub catch_up: Duration,
    /// How long a standby of a forced move must stand still to count as having replayed all that it received.
    pub settled: Duration,
    /// How long a forced move waits beyond WAIT for witnesses to be quiet before it asks a person.
    pub quiet: Duration,
    /// Pace of looking while requests wait.
    pub poll: Duration,
    /// Pace of looking while nobody waits: for a lost server to return, for a standby to be built.
    pub slow_poll: Duration,
    /// How often an order for a long job is repeated under its own token while the job has not ended: an agent that
    /// was restarted in the middle has forgotten it, every other one takes the repeat for what it is.
    pub nudge: Duration,
    /// First and longest pause between two tries of an effect.
    pub backoff: (Duration, Duration),
    /// Most bytes that a standby may be behind when a planned move starts: more could not be caught up within the
    /// write pause.
    pub max_lag_bytes: u64,
    /// Oldest sample that still says something about lag.
    pub max_sample_age: Duration,
    /// Shortest time between two planned moves of a cell: one that goes back and forth helps nobody. Zero: none.
    pub min_interval: Duration,
    /// The wall clock, for what people agreed on: how long an approval is waited for. No decision about who may write
    /// rests on it.
    pub wall: fn() -> jiff::Timestamp,
    /// Bytes of the registry that ordinary writes and planned moves leave to forced ones. None: by the size of the fleet,
    /// see [`crate::room`].
    pub reserve: Option<u64>,
    /// Points at which tests and chaos stop the engine.
    pub failpoints: Arc<dyn Failpoints>,
    pub(crate) sabotage: Sabotage,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "control-plane".to_owned(),
            call: Duration::from_secs(5),
            clean_stop: Duration::from_secs(3),
            step: Duration::from_secs(8),
            drain: Duration::from_secs(5),
            hold: Duration::from_secs(9),
            hold_forced: Duration::from_secs(15),
            edges: Duration::from_secs(2),
            catch_up: Duration::from_secs(5),
            settled: Duration::from_millis(300),
            quiet: Duration::from_secs(20),
            poll: Duration::from_millis(10),
            slow_poll: Duration::from_millis(500),
            nudge: Duration::from_secs(10),
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
            max_lag_bytes: 64 << 20,
            max_sample_age: Duration::from_secs(5),
            min_interval: Duration::ZERO,
            reserve: None,
            wall: jiff::Timestamp::now,
            failpoints: Arc::new(NoFailpoints),
            sabotage: Sabotage::default(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("name", &self.name).field("call", &self.call).finish_non_exhaustive()
    }
}

/// Switches that break the engine on purpose, so that its safety tests can be seen to fail. Nothing outside tests
/// can set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sabotage {
    /// Promote without waiting for the old primary's proofs to lapse.
    pub(crate) skip_wait: bool,
    /// Promote without comparing the loss with the consent.
    pub(crate) skip_loss_check: bool,
    /// Take the time that was waited for as the end of all writes, whatever stops those who write directly.
    pub(crate) any_fence_level: bool,
    /// Take the time that was waited for as a stop where availability comes first.
    pub(crate) ends_by_time: bool,
    /// Act before the intent is written.
    pub(crate) forget_intent: bool,
    /// Commit without comparing the leader.
    pub(crate) unfenced: bool,
    /// Promote on another leader's fence.
    pub(crate) trust_old_fence: bool,
    /// Record the intent to promote without asking whether the handover will be believed.
    pub(crate) skip_acceptance: bool,
    /// Take a server that is seen to write for promoted, without its agent's answer.
    pub(crate) trust_sight: bool,
    /// Ask a promoted server that was shut meanwhile for a write, and do not open it again.
    pub(crate) leave_shut: bool,
    /// Go on with the approvals as they are, without looking whether what was approved still holds.
    pub(crate) trust_approvals: bool,
    /// Believe that a witness is destroyed that is registered under a lease.
    pub(crate) strike_the_living: bool,
    /// Open a cell without looking whether its database has the newest data.
    pub(crate) open_anyway: bool,
}
