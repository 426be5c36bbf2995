//! Who stands beside the gates: witnesses, and the agent with its database.

use super::{Action, Done, Fleet, when};
use crate::bounds::Fault;
use crate::rules::{HOLDER, WITNESS};
use crate::state::{Held, Marker, NONE, Primary, State};

impl Fleet {
    /// One step of a witness.
    pub(super) fn witness(&self, n: &mut State, number: usize, action: Action) -> Done {
        let (registry, rate) = (n.registry, self.rate(n, WITNESS));
        let barred = n.witnesses.iter().filter(|w| w.barred != NONE).count();
        let w = &mut n.witnesses[number];
        // A machine that is destroyed does nothing any more; one that only is said to be goes on.
        when(w.barred == NONE || self.fault == Fault::DeclaredAlive)?;
        match action {
            Action::Destroy(_) => {
                when(barred < usize::from(self.bounds.destroyed) && w.barred == NONE)?;
                w.barred = 0;
                if self.fault != Fault::DeclaredAlive {
                    (w.known, w.vouches, w.learned) = (NONE, false, [NONE; 2]);
                }
            }
            Action::Learn(_, moment) => {
                let way = &self.rules.chronicle.at(registry).way;
                when(way.contains(&moment))?;
                if w.known == NONE || self.rules.chronicle.epoch(w.known) < self.rules.chronicle.epoch(moment)
                {
                    w.known = moment;
                }
                let closes = usize::from(self.rules.chronicle.at(moment).closes);
                for age in w.learned.iter_mut().take(closes).filter(|age| **age == NONE) {
                    *age = 0;
                }
            }
            Action::ReadAll(_) => {
                when(!w.vouches)?;
                w.known = registry;
                w.vouches = true;
            }
            Action::Say(_) => w.said = self.rules.quiet(w.started, w.learned, registry, rate),
            Action::RestartWitness(_, with_file) => {
                when(n.restarts < self.bounds.witness_restarts)?;
                n.restarts += 1;
                w.started = 0;
                w.learned = [NONE; 2];
                if !with_file {
                    w.known = NONE;
                    w.vouches = self.fault == Fault::PromiseForgotten;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// One step of the machine of the old primary.
    pub(super) fn agent(&self, n: &mut State, action: Action) -> Done {
        when(self.bounds.agent)?;
        let rate = self.rate(n, HOLDER);
        let lent = match action {
            Action::Borrow(gate) if n.gates[0][gate].table != NONE => {
                let g = &n.gates[0][gate];
                self.rules.lends(0, g.table, self.book(n, g))
            }
            _ => None,
        };
        let registry = n.registry;
        let p = &mut n.primary;
        if action == Action::Thaw {
            when(p.frozen)?;
            p.frozen = false;
            p.woken = p.open && p.held.is_none();
            return Some(());
        }
        when(!p.frozen)?;
        let hold = |p: &mut Primary, new: Held| {
            let better = p.held.is_none_or(|old| (new.epoch, old.age) > (old.epoch, new.age));
            if better {
                p.held = Some(new);
            }
        };
        match action {
            Action::Prove => {
                when(p.marker == Marker::Free)?;
                let proof = self.rules.primary(registry, p.known);
                if self.rules.chronicle.epoch(registry) >= p.known {
                    p.stands = self.rules.stands(registry);
                }
                p.known = p.known.max(self.rules.chronicle.epoch(registry));
                if let Some(proof) = proof {
                    hold(p, proof);
                }
            }
            Action::Borrow(_) => {
                when(p.marker == Marker::Free)?;
                let mut lent = lent.filter(|l| l.epoch >= p.known)?;
                if self.fault == Fault::LentAnew {
                    lent.age = 0;
                }
                p.stands &= lent.epoch == p.known;
                p.known = lent.epoch;
                hold(p, lent);
            }
            Action::Open => {
                let held = p.held.filter(|h| self.rules.alive(*h, rate).1);
                when(!p.open && p.marker == Marker::Free && (held.is_some() || p.stands))?;
                p.open = true;
            }
            Action::Kill => {
                when(p.open && !p.stands && p.held.is_none_or(|h| !self.rules.alive(h, rate).1))?;
                p.open = false;
                p.woken = false;
            }
            Action::RestartAgent => {
                p.open = false;
                p.held = None;
                p.woken = false;
                if self.fault == Fault::MarkerForgotten {
                    p.marker = Marker::Free;
                    p.known = 1;
                    p.stands = self.bounds.first;
                }
            }
            // Before its proof ends, a machine that stands still can't be told from one that does nothing.
            Action::Freeze => {
                when(p.open)?;
                when(p.held.is_none_or(|h| !self.rules.alive(Held { age: h.age + 1, ..h }, rate).0))?;
                p.frozen = true;
            }
            _ => return None,
        }
        Some(())
    }
}
