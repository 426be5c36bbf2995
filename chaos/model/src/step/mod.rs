//! Who may do what, and what comes of it.

mod beside;
mod gate;
mod mover;
mod tidy;

use crate::bounds::{Bounds, Fault};
use crate::chronicle::Kind;
use crate::rules::{Book, HOLDER, LEADER, Rules, WITNESS};
use crate::search::Space;
use crate::state::{Gate, Held, NONE, Read, Request, Round, State};

/// A step. Gates are named by region and number, witnesses by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Time goes on by a tick, for everybody.
    Tick,
    /// The same, but a gate's clock stands still.
    TickAsleep(usize, usize),
    /// The close is committed. Its answer is on its way.
    Close,
    /// The leader sees the close: by the answer, or by reading it.
    SeeClose,
    /// The old primary's agent puts the commanded fence on its disk.
    Fence,
    /// The fenced server has stopped.
    FenceDone,
    /// The leader hears of that.
    HearFenced,
    /// The leader takes every proof as ended.
    Lapse,
    /// The intent to promote is recorded: the point of no return.
    Intend,
    /// The standby's agent finds an order to promote in order, sent by the leader of this term.
    Order(u8),
    /// It promotes.
    Promote,
    /// The new region holds the cell.
    Switch,
    /// The move turns back.
    TurnBack,
    /// The old primary's agent takes the commanded fence away.
    Unfence,
    /// The old region holds the cell again.
    Back,
    /// The new region holds the cell, and other witnesses are named with that.
    SwitchAnew,
    /// The old region holds it again, with other witnesses.
    BackAnew,
    /// A witness is destroyed, and a person says so.
    Destroy(usize),
    /// Another leader takes over.
    TakeOver,
    /// Other witnesses are named.
    Replace,
    /// Another choice of what comes first.
    Choose,
    /// A gate's table follows the registry up to this moment.
    Watch(usize, usize, u8),
    /// A gate with nothing on disk lists the registry.
    List(usize, usize),
    /// A gate asks the registry, and has the answer.
    Renew(usize, usize),
    /// A gate asks the registry.
    Ask(usize, usize),
    /// The registry reads for it.
    Serve(usize, usize),
    /// The answer arrives.
    Take(usize, usize),
    /// A gate asks all witnesses, and has their answers.
    Vouch(usize, usize),
    /// A gate begins to ask the witnesses.
    Begin(usize, usize),
    /// One of them answers.
    Hear(usize, usize, u8),
    /// It counts.
    Count(usize, usize),
    /// A request is let in.
    Admit(usize, usize),
    /// A write that a gate of the first region let in is committed there.
    Commit(usize),
    /// An answer comes to the check on the way out.
    Answer(usize, usize),
    /// A gate starts anew with the oldest last-good file that it can have: watching brings it any later one.
    RestartGate(usize, usize),
    /// A gate starts anew with nothing on disk.
    LoseGate(usize, usize),
    /// A gate's clock is set back.
    SetBack(usize, usize),
    /// A witness learns of this moment by its watch; it is on its disk.
    Learn(usize, u8),
    /// A witness reads the registry for what it lost.
    ReadAll(usize),
    /// The registry shows how far a witness is quiet.
    Say(usize),
    /// A witness starts anew, with its file or without.
    RestartWitness(usize, bool),
    /// The agent reads the registry.
    Prove,
    /// The agent borrows a gate's proof.
    Borrow(usize),
    /// The agent lets everybody in.
    Open,
    /// Agent or supervisor kill the server.
    Kill,
    /// The agent starts anew; the supervisor has killed the server.
    RestartAgent,
    /// The machine of the old primary stands still.
    Freeze,
    /// It goes on.
    Thaw,
}

/// The space: a fleet within bounds, with a rule left out or with all of them.
pub struct Fleet {
    bounds: Bounds,
    fault: Fault,
    rules: Rules,
}

/// Whether an action can be taken.
type Done = Option<()>;

const fn when(can: bool) -> Done {
    if can { Some(()) } else { None }
}

impl Fleet {
    /// A fleet.
    #[must_use]
    pub fn new(bounds: Bounds, fault: Fault) -> Self {
        Self { bounds, fault, rules: Rules::new(&bounds, fault) }
    }

    /// Its bounds.
    #[must_use]
    pub const fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    pub(crate) fn kind(&self, registry: u8) -> Kind {
        self.rules.chronicle.at(registry).kind
    }

    pub(crate) fn gates(&self, _region: usize) -> std::ops::Range<usize> {
        0..self.bounds.gates
    }

    /// Whether the cell went to the other region and came back.
    pub(crate) fn there_and_back(&self, registry: u8) -> bool {
        let way = &self.rules.chronicle.at(registry).way;
        way.iter().filter(|m| self.kind(**m).switches()).count() == 2
    }

    /// Whether witnesses were named since the beginning.
    pub(crate) fn was_replaced(&self, registry: u8) -> bool {
        self.rules.chronicle.at(registry).way.iter().any(|m| self.kind(*m) == Kind::Replace)
    }

    /// Whether other witnesses were named with a switch.
    pub(crate) fn was_renewed(&self, registry: u8) -> bool {
        self.rules.chronicle.at(registry).way.iter().any(|m| self.kind(*m) == Kind::SwitchAnew)
    }

    pub(crate) fn answers(&self, s: &State, region: usize, gate: usize) -> bool {
        let g = &s.gates[region][gate];
        match g.request {
            Request::Idle => false,
            Request::Admitted(e) | Request::Late(e) => {
                self.rules.answers(region, self.book(s, g), e, g.table)
            }
        }
    }

    /// The epoch under which a gate would let a request in, if it would.
    pub(crate) fn lets_in(&self, s: &State, region: usize, gate: usize) -> Option<u8> {
        let g = &s.gates[region][gate];
        if g.table == NONE { None } else { self.rules.lets_in(region, g.table, self.book(s, g)) }
    }

    /// Whether questions of this region's gates and their answers are apart. Where the right is taken away once only,
    /// that can make no difference in the region that gets it.
    fn slow(&self, region: usize, apart: bool) -> bool {
        apart && (region == 0 || self.bounds.closes > 1)
    }

    fn book(&self, s: &State, gate: &Gate) -> Book {
        (gate.registry, gate.witnessed, self.rate(s, HOLDER))
    }

    fn rate(&self, s: &State, whose: usize) -> u8 {
        self.rules.rate(s.rates, whose)
    }

    fn witnesses(&self) -> usize {
        (self.bounds.witnesses * if self.two_sets() { 2 } else { 1 }).min(3)
    }

    /// Whether there are witnesses that are named later.
    fn two_sets(&self) -> bool {
        let anew =
            matches!(self.fault, Fault::WitnessesReplaced | Fault::RenewedInRollback | Fault::RenewedOnWord);
        anew || self.bounds.renews
    }

    /// Everything that counts time counts on.
    fn tick(&self, n: &mut State, asleep: Option<(usize, usize)>) {
        let (holder, leader, witness) = (self.rate(n, HOLDER), self.rate(n, LEADER), self.rate(n, WITNESS));
        let older = |held: Option<Held>| {
            held.map(|h| Held { age: h.age + 1, ..h }).filter(|h| self.rules.alive(*h, holder).0)
        };
        let young = |age: u8| self.rules.alive(Held { epoch: 1, age }, holder).0;
        for region in 0..2 {
            for gate in self.gates(region) {
                if asleep == Some((region, gate)) {
                    continue;
                }
                let g = &mut n.gates[region][gate];
                g.registry = older(g.registry);
                g.witnessed = older(g.witnessed);
                g.read = g.read.map(|r| Read { age: r.age + 1, ..r }).filter(|r| young(r.age));
                g.round = g.round.map(|r| Round { age: r.age + 1, ..r }).filter(|r| young(r.age));
            }
        }
        let wait = self.rules.wait(witness);
        for w in n.witnesses.iter_mut().take(self.witnesses()) {
            w.started = (w.started + 1).min(wait);
            for age in w.learned.iter_mut().filter(|age| **age != NONE) {
                *age = (*age + 1).min(wait);
            }
        }
        for w in n.witnesses.iter_mut().filter(|w| w.barred != NONE) {
            w.barred = (w.barred + 1).min(self.rules.wait(leader));
        }
        if n.mover.seen != NONE {
            n.mover.seen = (n.mover.seen + 1).min(self.rules.wait(leader));
        }
        let p = &mut n.primary;
        p.held = older(p.held);
        p.woken = false;
        // STOP is over with the proof: by now one of the two has killed it.
        if p.held.is_none() && !p.stands && !p.frozen && self.fault != Fault::TrustsItself {
            p.open = false;
        }
    }
}

impl Space for Fleet {
    type State = State;
    type Action = Action;

    fn starts(&self) -> Vec<State> {
        (0..u8::try_from(self.bounds.rates.len()).unwrap_or(u8::MAX))
            .map(|rates| {
                let wait = self.rules.wait(self.rules.rate(rates, WITNESS));
                State::start(rates, self.bounds.agent, self.bounds.first, wait)
            })
            .collect()
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        use Action as A;
        actions.extend([A::Tick, A::Close, A::SeeClose, A::Fence, A::FenceDone, A::HearFenced, A::Lapse]);
        actions.extend([
            A::Intend,
            A::Promote,
            A::Switch,
            A::TurnBack,
            A::Unfence,
            A::Back,
            A::TakeOver,
            A::Replace,
            A::SwitchAnew,
            A::BackAnew,
            A::Choose,
        ]);
        actions.extend((0..=self.bounds.takeovers).map(A::Order));
        let way = &self.rules.chronicle.at(s.registry).way;
        for region in 0..2 {
            for g in self.gates(region) {
                actions.extend([A::List(region, g), A::Admit(region, g), A::Answer(region, g)]);
                actions.extend(way.iter().map(|m| A::Watch(region, g, *m)));
                if self.slow(region, self.bounds.slow_reads) {
                    actions.extend([A::Ask(region, g), A::Serve(region, g), A::Take(region, g)]);
                } else {
                    actions.push(A::Renew(region, g));
                }
                if self.slow(region, self.bounds.slow_rounds) {
                    actions.extend([A::Begin(region, g), A::Count(region, g)]);
                    actions.extend((0..3).map(|w| A::Hear(region, g, w)));
                } else {
                    actions.push(A::Vouch(region, g));
                }
                actions.push(A::RestartGate(region, g));
                // With two gates left out for their number: a gate without a table does nothing, and listing brings it
                // no farther than watching.
                if self.bounds.gates == 1 {
                    actions.push(A::LoseGate(region, g));
                }
                match self.fault {
                    Fault::WallClock => actions.push(A::SetBack(region, g)),
                    Fault::ClockSleeps => actions.push(A::TickAsleep(region, g)),
                    _ => {}
                }
            }
        }
        for w in 0..self.witnesses() {
            actions.extend([
                A::ReadAll(w),
                A::Say(w),
                A::RestartWitness(w, true),
                A::RestartWitness(w, false),
                A::Destroy(w),
            ]);
            actions.extend(way.iter().map(|m| A::Learn(w, *m)));
        }
        if self.bounds.agent {
            actions.extend([A::Prove, A::Open, A::Kill, A::RestartAgent, A::Freeze, A::Thaw]);
            actions.extend(self.gates(0).flat_map(|g| [A::Borrow(g), A::Commit(g)]));
        }
    }

    fn next(&self, state: &State, action: Action) -> Option<State> {
        let mut n = *state;
        match action {
            Action::Tick => self.tick(&mut n, None),
            Action::TickAsleep(r, g) => self.tick(&mut n, Some((r, g))),
            Action::Watch(r, g, _)
            | Action::List(r, g)
            | Action::Renew(r, g)
            | Action::Ask(r, g)
            | Action::Serve(r, g)
            | Action::Take(r, g) => self.reading(&mut n, r, g, action)?,
            Action::Vouch(r, g) | Action::Begin(r, g) | Action::Hear(r, g, _) | Action::Count(r, g) => {
                self.vouching(&mut n, r, g, action)?;
            }
            Action::Admit(r, g)
            | Action::Answer(r, g)
            | Action::RestartGate(r, g)
            | Action::LoseGate(r, g)
            | Action::SetBack(r, g) => self.serving(&mut n, r, g, action)?,
            Action::Commit(g) => self.serving(&mut n, 0, g, action)?,
            Action::Learn(w, _)
            | Action::ReadAll(w)
            | Action::Say(w)
            | Action::Destroy(w)
            | Action::RestartWitness(w, _) => {
                self.witness(&mut n, w, action)?;
            }
            Action::Prove
            | Action::Borrow(_)
            | Action::Open
            | Action::Kill
            | Action::RestartAgent
            | Action::Freeze
            | Action::Thaw => self.agent(&mut n, action)?,
            _ => self.mover(&mut n, action)?,
        }
        if matches!(
            action,
            Action::Watch(..)
                | Action::List(..)
                | Action::Learn(..)
                | Action::ReadAll(_)
                | Action::RestartWitness(_, true)
        ) {
            self.check_epochs(state, &mut n);
        }
        self.tidy(&mut n);
        (n != *state).then_some(n)
    }
}
