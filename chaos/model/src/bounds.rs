//! How much of the world is modelled, and which rule is left out.

use std::fmt;

use domicile_model::FenceConstants;

/// The size of a model. Two regions, one cell, one registry; the rest stands here.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Gates in each region, one or two.
    pub gates: usize,
    /// Witnesses of the cell, none to three. Each learns, forgets and answers apart from any gate.
    pub witnesses: usize,
    /// Whether the cell begins without witnesses and is given them while it serves.
    pub named_late: bool,
    /// Whether a switch, and a way back, may name other witnesses, once the present ones are silent.
    pub renews: bool,
    /// Whether the other region may lose the right too where the first has an agent. It has none: by waiting only.
    pub returns: bool,
    /// How many witnesses are destroyed for good, and declared so.
    pub destroyed: u8,
    /// How often the right is taken away, one or two.
    pub closes: u8,
    /// Whether a move may turn back before the intent to promote.
    pub turns_back: bool,
    /// Whether the primary in the first region has a database with agent and supervisor. Without, its gates are all
    /// that stops it.
    pub agent: bool,
    /// Whether availability comes first in the cell. Needs the agent: only its word stops anybody then.
    pub first: bool,
    /// How many times another leader takes over in the middle of a move.
    pub takeovers: u8,
    /// How many times a witness starts anew, with or without its file.
    pub witness_restarts: u8,
    /// Whether a gate's question to the registry and its answer are apart, with any length of time between them. Taken
    /// as one otherwise, which only makes proofs longer.
    pub slow_reads: bool,
    /// Whether the witnesses of one round answer at different moments.
    pub slow_rounds: bool,
    /// The fence constants, in milliseconds on each clock.
    pub constants: FenceConstants,
    /// What each clock counts in one tick, in milliseconds: of gates and agent, of the leader, of witnesses. Each entry
    /// is one start of the search.
    pub rates: &'static [[u8; 3]],
}

/// All clocks that differ by the bound at most: slow or fast, each in its own way.
const WITHIN: &[[u8; 3]] = &[
    [10, 11, 11],
    [10, 10, 10],
    [11, 10, 10],
    [11, 11, 11],
    [10, 10, 11],
    [10, 11, 10],
    [11, 10, 11],
    [11, 11, 10],
];
/// The worst within the bound: holders are slow, whoever waits for them is fast.
const WORST: &[[u8; 3]] = &[[10, 11, 11]];
/// Whoever waits is fast by twice the bound, which WAIT still covers.
const TWICE: &[[u8; 3]] = &[[10, 12, 12]];
/// Whoever waits is fast by three times the bound.
const ABOVE: &[[u8; 3]] = &[[10, 13, 13]];

/// FENCE is three ticks of the slowest clock and WAIT four of the fastest: the least that keeps every inequality.
const COARSE: FenceConstants =
    FenceConstants { fence_ms: 30, renew_ms: 10, drain_ms: 10, stop_ms: 10, drift_ppm: 100_000 };
/// Twenty ticks, so that one tick is less than the drift.
const FINE: FenceConstants =
    FenceConstants { fence_ms: 200, renew_ms: 10, drain_ms: 40, stop_ms: 20, drift_ppm: 100_000 };

impl Bounds {
    /// One gate in each region, one witness, one move, nothing else.
    pub const LEAST: Self = Self {
        gates: 1,
        witnesses: 1,
        named_late: false,
        renews: false,
        returns: false,
        destroyed: 0,
        closes: 1,
        turns_back: false,
        agent: false,
        first: false,
        takeovers: 0,
        witness_restarts: 0,
        slow_reads: false,
        slow_rounds: false,
        constants: COARSE,
        rates: WORST,
    };

    /// Two regions, two gates each, the old primary's database, and this many witnesses.
    #[must_use]
    pub const fn full(witnesses: usize) -> Self {
        Self { gates: 2, witnesses, agent: true, ..Self::LEAST }
    }

    /// Fine time: every combination of slow and fast clocks within the bound.
    pub const DRIFT: Self = Self { constants: FINE, rates: WITHIN, ..Self::LEAST };

    /// Fine time with clocks that differ by all that WAIT allows for.
    pub const DRIFT_TWICE: Self = Self { rates: TWICE, ..Self::DRIFT };

    /// Fine time with clocks that differ by more than the bound.
    pub const DRIFT_ABOVE: Self = Self { rates: ABOVE, ..Self::DRIFT };
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gates, witnesses, closes, takeovers, witness_restarts, .. } = self;
        write!(f, "2 regions x {gates} gates, {witnesses} witnesses, {closes} closes")?;
        for (on, what) in [
            (self.agent, "an agent with its database"),
            (self.first, "availability first"),
            (self.named_late, "named while it serves"),
            (self.renews, "renewed when silent"),
            (self.returns, "and back by waiting"),
            (self.destroyed > 0, "a witness destroyed"),
            (self.turns_back, "turning back"),
            (self.slow_reads, "slow reads"),
            (self.slow_rounds, "slow rounds"),
        ] {
            if on {
                write!(f, ", {what}")?;
            }
        }
        write!(
            f,
            ", {takeovers} takeovers, {witness_restarts} witness restarts, any number of gate and agent restarts"
        )?;
        write!(f, ", FENCE {} ms, clocks {:?} ms a tick", self.constants.fence_ms, self.rates)
    }
}

/// A rule that is left out, to see that its absence is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// None: the product as it is.
    None,
    /// The leader promotes without letting proofs run out.
    NoWait,
    /// A gate takes its living session with the registry for a proof.
    SessionAsProof,
    /// A gate reads a wall clock, which is set back.
    WallClock,
    /// A gate reads a clock that stands still while its machine sleeps.
    ClockSleeps,
    /// A witness that starts without its file vouches at once.
    PromiseForgotten,
    /// A gate does not check again when the answer leaves.
    AnswerUnchecked,
    /// The epoch is raised in one transaction and the fence put in another.
    FenceApart,
    /// One quiet witness less than needed is enough: p + r = n.
    ThresholdsMiss,
    /// A witness says that it is quiet as soon as it refuses.
    QuietAtOnce,
    /// A proof counts from when the answer came.
    CountsFromAnswer,
    /// The agent forgets a commanded fence when it starts anew.
    MarkerForgotten,
    /// Witnesses are replaced while the cell is held.
    WitnessesReplaced,
    /// Witnesses are replaced by a move that turns back.
    RenewedInRollback,
    /// Witnesses are replaced by a switch that rests on the word of the old primary's agent.
    RenewedOnWord,
    /// A witness is declared destroyed and still lives.
    DeclaredAlive,
    /// A witness that is declared destroyed counts as quiet at once.
    StruckAtOnce,
    /// A new leader counts WAIT from a moment that another leader noted on another machine's clock.
    TimerTakenOver,
    /// Neither agent nor supervisor stops a database whose proof has ended.
    TrustsItself,
    /// The agent counts a proof that a gate lends as if it were asked for now.
    LentAnew,
    /// Waiting counts as a stop where availability comes first.
    EndsByTime,
    /// What comes first changes while the cell is held, under a new epoch and with its fence.
    ChoiceOnHeld,
    /// What comes first changes where a move turns back, without the old primary's word.
    ChoiceOnTurningBack,
    /// A gate's table follows a member of the registry that lags behind what it has applied.
    TableFallsBack,
}
