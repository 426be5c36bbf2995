//! After each step: what must not have fallen, and which states are alike.

use super::Fleet;
use crate::bounds::Fault;
use crate::state::{Held, Marker, NONE, Request, State, Wrong};

impl Fleet {
    /// *Epochs only rise* in what gates and witnesses know, but where a memory was lost.
    pub(super) fn check_epochs(&self, old: &State, new: &mut State) {
        let fell =
            |from: u8, to: u8| from != to && from != NONE && (to == NONE || !self.rules.rises(from, to));
        let gates = (0..2).any(|r| self.gates(r).any(|g| fell(old.gates[r][g].table, new.gates[r][g].table)));
        let known = |s: &State, w: usize| s.witnesses[w].known;
        let witnesses = (0..self.witnesses()).any(|w| fell(known(old, w), known(new, w)));
        if gates || witnesses {
            new.wrong = Wrong::EpochFell;
        }
    }

    /// Makes states equal that nothing can tell apart.
    pub(super) fn tidy(&self, n: &mut State) {
        let chronicle = &self.rules.chronicle;
        let forgiving = self.fault == Fault::AnswerUnchecked;
        for region in 0..2 {
            for gate in self.gates(region) {
                let g = &mut n.gates[region][gate];
                if g.table == NONE {
                    continue;
                }
                let under = chronicle.epoch(g.table);
                let useful = |held: Option<Held>| held.filter(|h| h.epoch >= under);
                g.registry = useful(g.registry);
                g.witnessed = useful(g.witnessed);
                // Of two proofs for one epoch the older one adds nothing.
                if let (Some(a), Some(b)) = (g.registry, g.witnessed)
                    && a.epoch == b.epoch
                {
                    if a.age <= b.age {
                        g.witnessed = None;
                    } else {
                        g.registry = None;
                    }
                }
                // A single one that covers what the table shows is as good from either. With one gate they are kept
                // apart, so that a sight can name them.
                if self.bounds.gates > 1
                    && g.registry.is_none()
                    && g.witnessed.is_some_and(|h| h.epoch == under)
                {
                    g.registry = g.witnessed.take();
                }
                match g.request {
                    Request::Admitted(e) | Request::Late(e) if e < under && !forgiving => {
                        g.request = Request::Idle;
                    }
                    _ => {}
                }
                // What the last holder lets in can't be wrong, as nobody holds the cell after it.
                if region == 1 && self.bounds.closes == 1 {
                    g.request = Request::Idle;
                }
                // Tables that show the region nothing of its own are alike, up to the one that does.
                if g.request == Request::Idle && g.read.is_none() && g.round.is_none() {
                    while chronicle.holder(g.table) != Some(region)
                        && let Some(before) = chronicle.before(g.table)
                        && chronicle.holder(before) != Some(region)
                    {
                        g.table = before;
                    }
                }
            }
            n.gates[region][..self.bounds.gates].sort_unstable();
        }
        self.tidy_primary(n);
        // Witnesses are alike, but where they are asked one by one or named anew.
        if !self.bounds.slow_rounds && !self.two_sets() {
            n.witnesses[..self.bounds.witnesses].sort_unstable();
        }
    }

    fn tidy_primary(&self, n: &mut State) {
        let p = &mut n.primary;
        // A machine with a closed database that stands still can't be told from one that does nothing.
        if !p.open {
            p.frozen = false;
            p.woken = false;
        }
        if self.bounds.turns_back || self.bounds.named_late || self.fault == Fault::MarkerForgotten {
            return;
        }
        // What the agent knows decides whose proof it borrows: of the first epoch, or of later ones only. A fence that
        // nobody takes away leaves nothing to decide.
        p.known = p.known.min(2);
        if p.marker != Marker::Free {
            p.known = 1;
        }
        if p.marker == Marker::Stopped {
            p.held = None;
        }
    }
}
