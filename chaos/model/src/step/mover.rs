//! The control plane: the close, the stop of the old primary, the promotion, the switch, and the way back.

use super::{Action, Done, Fleet, when};
use crate::bounds::Fault;
use crate::chronicle::Kind;
use crate::rules::LEADER;
use crate::state::{Marker, NONE, Stage, State, Stop, Wrong};

impl Fleet {
    fn follow(&self, n: &mut State, kind: Kind) -> Done {
        let then = self.rules.chronicle.then(n.registry, kind)?;
        if !self.rules.rises(n.registry, then) {
            n.wrong = Wrong::EpochFell;
        }
        n.registry = then;
        n.mover.seen = NONE;
        Some(())
    }

    /// Where the leader may still, or again, need to know that the old primary has stopped: before the intent, and
    /// after a takeover once more under the new leader.
    fn stop(&self, n: &mut State, lapsed: bool) -> Done {
        let term = n.mover.term;
        n.mover.stage = match n.mover.stage {
            Stage::Closed => Stage::Stopped(Stop { lapsed, term }),
            Stage::Stopped(old) if old.term < term => {
                Stage::Stopped(Stop { lapsed: lapsed || old.lapsed, term })
            }
            Stage::Intended(old) if old.term < term => {
                Stage::Intended(Stop { lapsed: lapsed || old.lapsed, term })
            }
            _ => return None,
        };
        Some(())
    }

    /// Whether the old primary of the move is the one with the agent.
    fn at_agent(&self, n: &State) -> bool {
        let before = self.rules.chronicle.before(n.registry);
        self.bounds.agent && before.and_then(|b| self.rules.chronicle.holder(b)) == Some(0)
    }

    /// Whether the witnesses of the close are silent, as far as the registry shows.
    fn silent(&self, n: &State) -> bool {
        self.rules.silent(n.registry, self.said(n))
    }

    /// For how many closes the leader takes each witness as quiet: what it says, and any number once it is struck out.
    fn said(&self, n: &State) -> [u8; 3] {
        let rate = self.rate(n, LEADER);
        let struck = |age: u8| age != NONE && self.rules.struck_out(age, rate);
        n.witnesses.map(|w| if struck(w.barred) { NONE } else { w.said })
    }

    /// One step of the control plane, or of an agent at its command.
    pub(super) fn mover(&self, n: &mut State, action: Action) -> Done {
        let fencing = match n.mover.stage {
            Stage::Closed => true,
            Stage::Stopped(s) | Stage::Intended(s) => s.term < n.mover.term,
            _ => false,
        };
        let at_agent = self.at_agent(n) && !n.primary.frozen;
        match action {
            Action::Close => {
                when(n.mover.stage == Stage::Idle)?;
                self.follow(n, Kind::Close)?;
                n.mover.stage = Stage::Closed;
            }
            Action::SeeClose => {
                when(fencing && n.mover.seen == NONE)?;
                n.mover.seen = 0;
            }
            Action::Fence => {
                when(fencing && at_agent && n.primary.marker == Marker::Free)?;
                n.primary.marker = Marker::Commanded;
                // The close's epoch is on its disk with the marker.
                n.primary.stands = false;
            }
            Action::FenceDone => {
                when(!n.primary.frozen && n.primary.marker == Marker::Commanded)?;
                n.primary.marker = Marker::Stopped;
                n.primary.open = false;
            }
            Action::HearFenced => {
                when(at_agent && n.primary.marker == Marker::Stopped)?;
                self.stop(n, false)?;
            }
            Action::Lapse => {
                when(n.mover.seen != NONE)?;
                let said = self.said(n);
                when(self.rules.lapses(n.mover.seen, self.rate(n, LEADER), n.registry, &said))?;
                self.stop(n, true)?;
            }
            Action::Intend => {
                let Stage::Stopped(stop) = n.mover.stage else { return None };
                when(stop.term == n.mover.term)?;
                n.mover.stage = Stage::Intended(stop);
            }
            Action::Order(by) => {
                let Stage::Intended(stop) = n.mover.stage else { return None };
                // A leader sends the order only after a stop of its own; an older one's may still be on its way.
                when(by <= stop.term && self.rules.promotes(n.registry, by, n.mover.term))?;
                n.mover.ordered = true;
            }
            Action::Promote => {
                let Stage::Intended(stop) = n.mover.stage else { return None };
                when(n.mover.ordered)?;
                n.promoted = self.rules.chronicle.epoch(n.registry);
                if stop.lapsed {
                    n.lapsed = n.promoted;
                }
                n.mover.ordered = false;
                n.mover.stage = Stage::Promoted;
            }
            Action::Switch | Action::SwitchAnew => {
                when(n.mover.stage == Stage::Promoted)?;
                let kind = if action == Action::SwitchAnew { Kind::SwitchAnew } else { Kind::Switch };
                when(kind == Kind::Switch || self.fault == Fault::RenewedOnWord || self.silent(n))?;
                self.follow(n, kind)?;
                n.mover.stage = Stage::Idle;
            }
            Action::TurnBack => {
                when(matches!(n.mover.stage, Stage::Closed | Stage::Stopped(_)))?;
                self.rules.chronicle.then(n.registry, Kind::Back)?;
                n.mover.stage = Stage::Turning;
            }
            Action::Unfence => {
                when(n.mover.stage == Stage::Turning && at_agent)?;
                n.primary.marker = Marker::Free;
            }
            Action::Back | Action::BackAnew => {
                when(n.mover.stage == Stage::Turning && n.primary.marker == Marker::Free)?;
                let kind = if action == Action::BackAnew { Kind::BackAnew } else { Kind::Back };
                when(kind == Kind::Back || self.fault == Fault::RenewedInRollback || self.silent(n))?;
                self.follow(n, kind)?;
                n.mover.stage = Stage::Idle;
            }
            Action::TakeOver => {
                when(n.mover.term < self.bounds.takeovers && n.mover.stage != Stage::Idle)?;
                n.mover.term += 1;
                // A new leader has only now seen what was declared.
                n.witnesses.iter_mut().filter(|w| w.barred != NONE).for_each(|w| w.barred = 0);
                // Its own clock: it counts from when it sees the close itself.
                n.mover.seen = if self.fault == Fault::TimerTakenOver {
                    self.rules.wait(self.rate(n, LEADER))
                } else {
                    NONE
                };
            }
            Action::Replace => self.follow(n, Kind::Replace)?,
            Action::Choose => self.follow(n, Kind::Choose)?,
            _ => return None,
        }
        Some(())
    }
}
