//! One moment of the model: small numbers only. Moments in time stand as ticks since then, on the owner's clock.

/// No such thing: no table, no time, nothing known.
pub(crate) const NONE: u8 = u8::MAX;

/// A proof: its epoch, and how many ticks ago it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Held {
    pub(crate) epoch: u8,
    pub(crate) age: u8,
}

/// A request in a gate: at most one, which never ends by itself, so that its answer may come at any later time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Request {
    /// None.
    Idle,
    /// Let in under this epoch. Its write may be committed.
    Admitted(u8),
    /// Let in under this epoch; its write was committed after a later epoch was promoted elsewhere.
    Late(u8),
}

/// A question to the registry that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Read {
    /// Ticks since it was asked.
    pub(crate) age: u8,
    /// The gate's table when it asked.
    pub(crate) before: u8,
    /// The moment of the registry that the answer shows; none until the registry has read.
    pub(crate) said: u8,
}

/// A round of questions to the witnesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Round {
    /// Ticks since it began.
    pub(crate) age: u8,
    /// The gate's table when it began.
    pub(crate) table: u8,
    /// Who said yes, one bit each.
    pub(crate) yes: u8,
}

/// A gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Gate {
    /// What its table has applied; none after a start with nothing on disk.
    pub(crate) table: u8,
    pub(crate) registry: Option<Held>,
    pub(crate) witnessed: Option<Held>,
    pub(crate) request: Request,
    pub(crate) read: Option<Read>,
    pub(crate) round: Option<Round>,
}

/// A witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Witness {
    /// The newest placement that it knows.
    pub(crate) known: u8,
    /// Its file is whole, or it has read the registry since it lost it.
    pub(crate) vouches: bool,
    /// Ticks since it started, up to WAIT.
    pub(crate) started: u8,
    /// For each close: ticks since it has known of it in this life, up to WAIT.
    pub(crate) learned: [u8; 2],
    /// How many closes the registry shows it quiet for.
    pub(crate) said: u8,
    /// Ticks since this leader has known that a person declared it destroyed, up to WAIT.
    pub(crate) barred: u8,
}

/// The commanded fence on the old primary's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Marker {
    /// None.
    Free,
    /// In force; the stop has not ended.
    Commanded,
    /// In force, and the server has stopped.
    Stopped,
}

/// The old primary: database, agent and supervisor on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Primary {
    pub(crate) held: Option<Held>,
    /// The highest epoch on the agent's disk.
    pub(crate) known: u8,
    /// Its disk says that availability comes first at that epoch and that its region holds the cell under it.
    pub(crate) stands: bool,
    /// The database takes writes.
    pub(crate) open: bool,
    pub(crate) marker: Marker,
    /// The whole machine stands still, while time goes on.
    pub(crate) frozen: bool,
    /// It has just gone on, and neither agent nor supervisor has looked yet.
    pub(crate) woken: bool,
}

/// How the old primary was found to have stopped, in which leader's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stop {
    /// By waiting, rather than by its agent's word.
    pub(crate) lapsed: bool,
    pub(crate) term: u8,
}

/// What the record of the move says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    /// No move.
    Idle,
    /// Nobody holds the cell.
    Closed,
    /// The old primary has stopped.
    Stopped(Stop),
    /// The intent to promote stands.
    Intended(Stop),
    /// The new primary is one.
    Promoted,
    /// The move turns back.
    Turning,
}

/// The control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mover {
    /// Counts leaders.
    pub(crate) term: u8,
    /// Ticks since *this* leader saw the close committed, up to WAIT.
    pub(crate) seen: u8,
    pub(crate) stage: Stage,
    /// The standby's agent has found an order to promote in order, and not promoted yet.
    pub(crate) ordered: bool,
}

/// What went wrong, for the laws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Wrong {
    /// Nothing.
    Nothing,
    /// [`domicile_model::invariants::one_writer`] is broken.
    TwoWriters,
    /// [`domicile_model::invariants::epoch_rises`] is broken.
    EpochFell,
}

/// One moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// The moment of the registry, in the chronicle.
    pub(crate) registry: u8,
    /// Which of the bounds' rates the clocks have.
    pub(crate) rates: u8,
    /// By region.
    pub(crate) gates: [[Gate; 2]; 2],
    pub(crate) witnesses: [Witness; 3],
    pub(crate) primary: Primary,
    pub(crate) mover: Mover,
    /// The epoch of the newest close after which another database was promoted; zero before.
    pub(crate) promoted: u8,
    /// The same, where the old primary had stopped by waiting.
    pub(crate) lapsed: u8,
    /// Witness restarts so far.
    pub(crate) restarts: u8,
    pub(crate) wrong: Wrong,
}

impl State {
    /// Everything serves, in the first region, at the first epoch; nobody has a proof but the database that is open.
    pub(crate) const fn start(rates: u8, agent: bool, first: bool, old: u8) -> Self {
        let gate = Gate {
            table: 0,
            registry: None,
            witnessed: None,
            request: Request::Idle,
            read: None,
            round: None,
        };
        let witness =
            Witness { known: 0, vouches: true, started: old, learned: [NONE; 2], said: 0, barred: NONE };
        Self {
            registry: 0,
            rates,
            gates: [[gate; 2]; 2],
            witnesses: [witness; 3],
            primary: Primary {
                held: if agent { Some(Held { epoch: 1, age: 0 }) } else { None },
                known: 1,
                stands: first,
                open: agent,
                marker: Marker::Free,
                frozen: false,
                woken: false,
            },
            mover: Mover { term: 0, seen: NONE, stage: Stage::Idle, ordered: false },
            promoted: 0,
            lapsed: 0,
            restarts: 0,
            wrong: Wrong::Nothing,
        }
    }
}
