//! A gate: its table, its proofs, its requests.

use super::{Action, Done, Fleet, when};
use crate::bounds::Fault;
use crate::state::{Gate, Held, NONE, Read, Request, Round, State, Wrong};

impl Fleet {
    /// Registry proof and table of a gate.
    pub(super) fn reading(&self, n: &mut State, region: usize, gate: usize, action: Action) -> Done {
        let book = self.book(n, &n.gates[region][gate]);
        let registry = n.registry;
        let g = &mut n.gates[region][gate];
        match action {
            Action::Watch(_, _, to) => {
                when(g.table != NONE && to > g.table)?;
                g.table = match self.rules.chronicle.before(g.table) {
                    Some(before) if self.fault == Fault::TableFallsBack => before,
                    _ => to,
                };
            }
            Action::List(..) => {
                when(g.table == NONE)?;
                g.table = registry;
            }
            Action::Renew(..) => {
                when(!self.slow(region, self.bounds.slow_reads) && g.table != NONE)?;
                g.registry = self.rules.renew(region, book, g.table, registry, 0)?;
            }
            Action::Ask(..) => {
                when(self.slow(region, self.bounds.slow_reads) && g.table != NONE && g.read.is_none())?;
                g.read = Some(Read { age: 0, before: g.table, said: NONE });
            }
            Action::Serve(..) => {
                let read = g.read.filter(|r| r.said == NONE)?;
                g.read = Some(Read { said: registry, ..read });
            }
            Action::Take(..) => {
                let read = g.read.take().filter(|r| r.said != NONE)?;
                let age = if self.fault == Fault::CountsFromAnswer { 0 } else { read.age };
                let with = |table| self.rules.renew(region, book, table, read.said, age);
                if let Some(proof) = with(g.table).or_else(|| with(read.before)) {
                    g.registry = proof;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Witness proof of a gate.
    pub(super) fn vouching(&self, n: &mut State, region: usize, gate: usize, action: Action) -> Done {
        let book = self.book(n, &n.gates[region][gate]);
        let table = n.gates[region][gate].table;
        let yes = |table: u8, w: u8| {
            let witness = &n.witnesses[usize::from(w)];
            self.rules.chronicle.at(table).members & (1 << w) != 0
                && self.rules.vouches(witness.known, witness.vouches, region, table)
        };
        match action {
            Action::Vouch(..) => {
                when(!self.slow(region, self.bounds.slow_rounds) && table != NONE)?;
                let count = u8::try_from((0..3).filter(|w| yes(table, *w)).count()).ok()?;
                n.gates[region][gate].witnessed = self.rules.carry(region, book, table, count, 0);
            }
            Action::Begin(..) => {
                let none = n.gates[region][gate].round.is_none();
                when(self.slow(region, self.bounds.slow_rounds) && table != NONE && none)?;
                n.gates[region][gate].round = Some(Round { age: 0, table, yes: 0 });
            }
            Action::Hear(_, _, w) => {
                let round = n.gates[region][gate].round?;
                when(yes(round.table, w))?;
                n.gates[region][gate].round = Some(Round { yes: round.yes | 1 << w, ..round });
            }
            Action::Count(..) => {
                let round = n.gates[region][gate].round.take()?;
                let count = u8::try_from(round.yes.count_ones()).ok()?;
                n.gates[region][gate].witnessed =
                    self.rules.carry(region, book, round.table, count, round.age);
            }
            _ => return None,
        }
        Some(())
    }

    /// Requests of a gate, and its life.
    pub(super) fn serving(&self, n: &mut State, region: usize, gate: usize, action: Action) -> Done {
        let book = self.book(n, &n.gates[region][gate]);
        let asked = matches!(action, Action::Answer(..)) && n.promoted > 0;
        let passes = asked && (self.fault == Fault::AnswerUnchecked || self.answers(n, region, gate));
        let (promoted, lapsed) = (n.promoted, n.lapsed);
        let g = &mut n.gates[region][gate];
        match action {
            Action::Admit(..) => {
                when(g.table != NONE)?;
                let under = self.rules.lets_in(region, g.table, book)?;
                // A newer one in place of one that nothing can let out any more.
                when(g.request != Request::Late(under))?;
                g.request = Request::Admitted(under);
            }
            Action::Commit(_) => {
                let Request::Admitted(under) = g.request else { return None };
                when(under < promoted && n.primary.open && !n.primary.frozen)?;
                g.request = Request::Late(under);
            }
            Action::Answer(..) => {
                when(g.request != Request::Idle && passes)?;
                when(!self.rules.one_writer(g.request, promoted, lapsed))?;
                n.wrong = Wrong::TwoWriters;
            }
            Action::RestartGate(..) | Action::LoseGate(..) => {
                let lost = matches!(action, Action::LoseGate(..));
                *g = Gate {
                    table: if lost { NONE } else { 0 },
                    registry: None,
                    witnessed: None,
                    request: Request::Idle,
                    read: None,
                    round: None,
                };
            }
            Action::SetBack(..) => {
                let young = |held: Option<Held>| held.map(|h| Held { age: 0, ..h });
                g.registry = young(g.registry);
                g.witnessed = young(g.witnessed);
            }
            _ => return None,
        }
        Some(())
    }
}
