//! What must hold in every state, and what must be seen in some, so that nothing holds only because nothing happens.

use crate::bounds::Bounds;
use crate::chronicle::Kind;
use crate::search::Named;
use crate::state::{Marker, NONE, Request, Wrong};
use crate::step::Fleet;

/// What must hold in every state.
pub const LAWS: [Named<Fleet>; 3] = [
    Named { name: "one-writer", holds: |_, s| s.wrong != Wrong::TwoWriters },
    Named { name: "epochs-only-rise", holds: |_, s| s.wrong != Wrong::EpochFell },
    // A machine that stood still may commit in the moment before its agent or supervisor looks; its gates let no answer
    // of that out.
    Named {
        name: "the-old-database-is-stopped",
        holds: |f, s| {
            let p = &s.primary;
            // Once the cell has come back it is the new one, and opens under a proof like any other.
            s.promoted == 0 || !p.open || p.frozen || p.woken || f.there_and_back(s.registry)
        },
    },
];

/// What must be seen in some state of a model with these bounds.
#[must_use]
pub fn sights(fleet: &Fleet) -> Vec<Named<Fleet>> {
    let bounds = fleet.bounds();
    if bounds.first {
        return first_sights(bounds);
    }
    let mut sights: Vec<Named<Fleet>> = vec![
        Named::<Fleet> {
            name: "a forced move is done while the old region hears nothing",
            holds: |f, s| {
                let deaf = f.gates(0).all(|g| s.gates[0][g].table == 0);
                f.kind(s.registry).switches() && s.lapsed > 0 && deaf && s.primary.marker == Marker::Free
            },
        },
        Named::<Fleet> {
            name: "the new region answers under the new epoch",
            holds: |f, s| {
                f.kind(s.registry).switches()
                    && f.gates(1).any(|g| f.lets_in(s, 1, g).is_some_and(|e| e > s.promoted))
            },
        },
        Named::<Fleet> {
            name: "a gate wakes after the move with a request in hand, and nothing leaves",
            holds: |f, s| {
                s.lapsed > 0
                    && f.gates(0).any(|g| {
                        let gate = &s.gates[0][g];
                        gate.table == 0 && gate.request == Request::Admitted(1) && !f.answers(s, 0, g)
                    })
            },
        },
    ];
    if bounds.gates == 1 && bounds.witnesses > 0 {
        sights.push(Named::<Fleet> {
            name: "witnesses alone carry a gate",
            holds: |f, s| {
                f.gates(0).any(|g| {
                    let gate = &s.gates[0][g];
                    gate.registry.is_none()
                        && gate.witnessed.is_some()
                        && matches!(gate.request, Request::Admitted(_))
                })
            },
        });
    }
    if bounds.agent {
        sights.extend([
            Named::<Fleet> {
                name: "a planned move is done by the agent's word",
                holds: |f, s| f.kind(s.registry).switches() && s.promoted > 0 && s.lapsed == 0,
            },
            Named::<Fleet> {
                name: "the database is stopped for want of a proof",
                holds: |_, s| !s.primary.open && s.primary.marker == Marker::Free && s.lapsed > 0,
            },
            Named::<Fleet> {
                name: "the old machine wakes after the move with its database open",
                holds: |_, s| s.primary.woken && s.primary.open && s.promoted > 0,
            },
        ]);
    }
    if bounds.turns_back {
        sights.push(Named::<Fleet> {
            name: "a move turns back and the old region answers under a new epoch",
            holds: |f, s| {
                f.kind(s.registry).goes_back()
                    && f.gates(0).any(|g| matches!(s.gates[0][g].request, Request::Admitted(e) if e > 1))
            },
        });
    }
    if bounds.named_late {
        sights.push(Named::<Fleet> {
            name: "a forced move is done with witnesses named while the cell served",
            holds: |f, s| f.was_replaced(s.registry) && s.lapsed > 0 && f.kind(s.registry).switches(),
        });
    }
    if bounds.renews {
        sights.push(Named::<Fleet> {
            name: "a forced move is done by the silence of witnesses that a move before it has named",
            holds: |f, s| f.was_renewed(s.registry) && f.there_and_back(s.registry) && s.lapsed > 3,
        });
    }
    if bounds.destroyed > 0 {
        sights.push(Named::<Fleet> {
            name: "a forced move is done although a witness is destroyed",
            holds: |f, s| {
                f.kind(s.registry).switches() && s.lapsed > 0 && s.witnesses.iter().any(|w| w.barred != NONE)
            },
        });
    }
    if bounds.takeovers > 0 {
        sights.push(Named::<Fleet> {
            name: "another leader ends the move",
            holds: |f, s| f.kind(s.registry).switches() && s.mover.term > 0,
        });
    }
    if bounds.closes > 1 && !bounds.agent {
        sights.push(Named::<Fleet> {
            name: "there and back again",
            holds: |f, s| f.there_and_back(s.registry),
        });
    }
    sights
}

/// The same where availability comes first: nobody stops for want of a proof, and nothing is done by waiting.
fn first_sights(bounds: &Bounds) -> Vec<Named<Fleet>> {
    let mut sights: Vec<Named<Fleet>> = vec![
        Named::<Fleet> {
            name: "a gate that hears nothing goes on while nobody holds the cell, and so does its database",
            holds: |f, s| {
                let deaf = |g: usize| {
                    let gate = &s.gates[0][g];
                    gate.registry.is_none() && gate.witnessed.is_none() && f.lets_in(s, 0, g).is_some()
                };
                f.kind(s.registry) == Kind::Close
                    && f.gates(0).any(deaf)
                    && s.primary.open
                    && s.primary.held.is_none()
            },
        },
        Named::<Fleet> {
            name: "a move is done by the agent's word while every gate of the old region goes on",
            holds: |f, s| {
                f.kind(s.registry) == Kind::Switch
                    && s.lapsed == 0
                    && f.gates(0).all(|g| f.lets_in(s, 0, g) == Some(1))
            },
        },
        Named::<Fleet> {
            name: "what was written before the fence is answered after the move",
            holds: |f, s| {
                s.promoted > 0
                    && f.gates(0).any(|g| s.gates[0][g].request == Request::Admitted(1) && f.answers(s, 0, g))
            },
        },
        Named::<Fleet> {
            name: "the agent starts anew and opens by its disk alone",
            holds: |_, s| s.primary.open && s.primary.held.is_none() && s.primary.stands && !s.primary.frozen,
        },
        Named::<Fleet> {
            name: "the new region answers under the new epoch",
            holds: |f, s| {
                f.kind(s.registry) == Kind::Switch
                    && f.gates(1).any(|g| f.lets_in(s, 1, g).is_some_and(|e| e > s.promoted))
            },
        },
    ];
    if bounds.turns_back {
        sights.push(Named::<Fleet> {
            name: "a move turns back while its database never heard of it",
            holds: |f, s| f.kind(s.registry) == Kind::Back && s.primary.open && s.primary.known == 1,
        });
    }
    sights
}
