//! The product's own answers, each asked for once per question and remembered: the functions are pure, and a search asks
//! the same few thousand questions millions of times.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash};
use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::BootTime;
use domicile_model::invariants::{Acknowledged, epoch_rises, one_writer};
use domicile_model::proof::{
    self, MoveFacts, Proof, RegistryAnswer, Verdict, lapsed, may_promote, primary_proves,
};
use domicile_model::witness::struck_out;
use domicile_model::{
    BootId, CellId, Epoch, LeaderFence, MoveClaim, Placement, Revision, Role, RouterId, Token, WitnessState,
};
use domicile_router_core::admit::{Ask, Outcome, decide};
use domicile_router_core::proofs::{Holdings, ProofBook, stands};
use domicile_router_core::witness::WitnessBook;

use crate::bounds::{Bounds, Fault};
use crate::chronicle::{Chronicle, Kind, MOVE, NOW};
use crate::search::Mixer;
use crate::state::{Held, NONE, Request};

/// Who reads a clock, as an index into its rates.
pub(crate) const HOLDER: usize = 0;
pub(crate) const LEADER: usize = 1;
pub(crate) const WITNESS: usize = 2;

struct Memo<K, V>(RefCell<HashMap<K, V, BuildHasherDefault<Mixer>>>);

impl<K: Hash + Eq + Copy, V: Copy> Memo<K, V> {
    fn new() -> Self {
        Self(RefCell::new(HashMap::default()))
    }

    fn get(&self, key: K, ask: impl FnOnce() -> V) -> V {
        let known = self.0.borrow().get(&key).copied();
        known.unwrap_or_else(|| {
            let answer = ask();
            self.0.borrow_mut().insert(key, answer);
            answer
        })
    }
}

/// A proof as the books have it: of the registry, and of witnesses; and the clock that it is read on.
pub(crate) type Book = (Option<Held>, Option<Held>, u8);

type Renewal = (usize, Book, u8, u8, u8);

/// The rules.
pub(crate) struct Rules {
    pub(crate) chronicle: Chronicle,
    bounds: Bounds,
    fault: Fault,
    alive: Memo<(Held, u8), (bool, bool)>,
    renew: Memo<Renewal, Option<Option<Held>>>,
    carry: Memo<(usize, Book, u8, u8, u8), Option<Held>>,
    lets_in: Memo<(usize, u8, Book), Option<u8>>,
    answers: Memo<(usize, Book, u8, u8), bool>,
    lends: Memo<(usize, u8, Book), Option<Held>>,
    vouches: Memo<(u8, bool, u8, u8), bool>,
    quiet: Memo<(u8, [u8; 2], u8, u8), u8>,
    lapses: Memo<(u8, u8, u8, [u8; 3]), bool>,
    silent: Memo<(u8, [u8; 3]), bool>,
    promotes: Memo<(u8, u8, u8), bool>,
    rises: Memo<(u8, u8), bool>,
    one: Memo<(Request, u8, u8), bool>,
}

fn back(age: u8, rate: u8) -> BootTime {
    NOW - Duration::from_millis(u64::from(age) * u64::from(rate))
}

fn epoch(number: u8) -> Epoch {
    Epoch(u64::from(number))
}

impl Rules {
    pub(crate) fn new(bounds: &Bounds, fault: Fault) -> Self {
        Self {
            chronicle: Chronicle::new(bounds, fault),
            bounds: *bounds,
            fault,
            alive: Memo::new(),
            renew: Memo::new(),
            carry: Memo::new(),
            lets_in: Memo::new(),
            answers: Memo::new(),
            lends: Memo::new(),
            vouches: Memo::new(),
            quiet: Memo::new(),
            lapses: Memo::new(),
            silent: Memo::new(),
            promotes: Memo::new(),
            rises: Memo::new(),
            one: Memo::new(),
        }
    }

    pub(crate) fn rate(&self, rates: u8, whose: usize) -> u8 {
        self.bounds.rates[usize::from(rates)][whose]
    }

    /// The ticks after which WAIT is over on a clock.
    pub(crate) fn wait(&self, rate: u8) -> u8 {
        let wait = self.bounds.constants.wait().as_micros();
        u8::try_from(wait.div_ceil(u128::from(rate) * 1_000)).unwrap_or(NONE - 1)
    }

    /// Whether a proof still lets answers out, and whether it still keeps a database open.
    pub(crate) fn alive(&self, held: Held, rate: u8) -> (bool, bool) {
        self.alive.get((held, rate), || {
            let asked = back(held.age, rate);
            let proof = Proof { epoch: epoch(held.epoch), asked, constants: self.bounds.constants };
            (proof.answers(proof.epoch, NOW), proof.keeps_open(NOW))
        })
    }

    /// The product's book with these proofs in it.
    fn book(&self, (registry, witnessed, rate): Book) -> ProofBook {
        let mut book = ProofBook::new();
        let world = &self.chronicle.world;
        book.follow_world(world.id);
        if let Some(held) = registry {
            let cells = Arc::new([(self.chronicle.cell.clone(), epoch(held.epoch))].into());
            let holdings = Holdings { world: world.id, applied: Revision(1), cells };
            let answer =
                RegistryAnswer { world: Some(world.clone()), header: Revision(1), fence: Revision::ZERO };
            book.on_registry(&answer, back(held.age, rate), &holdings).expect("nothing stands against it");
        }
        if let Some(held) = witnessed {
            let placement = Placement { epoch: epoch(held.epoch), ..self.chronicle.at(0).placement.clone() };
            let enough = placement.witnesses.p;
            let kept = book.on_witnesses(&placement, back(held.age, rate), enough, world.constants);
            assert!(kept, "enough witnesses");
        }
        book
    }

    /// The proof that a book with proofs of one kind has in hand.
    fn found(&self, book: &ProofBook, rate: u8) -> Option<Held> {
        let fence = self.bounds.constants.fence();
        self.chronicle.moments.iter().find_map(|m| {
            let left = book.remaining(&self.chronicle.cell, m.placement.epoch, NOW)?;
            let age = fence.saturating_sub(left).as_millis() / u128::from(rate);
            let epoch = u8::try_from(m.placement.epoch.0).ok()?;
            Some(Held { epoch, age: u8::try_from(age).ok()? })
        })
    }

    /// What an answer of the registry, which shows it at `said` and was asked for `age` ticks ago, makes of a gate's
    /// registry proof; none where it proves nothing.
    pub(crate) fn renew(
        &self,
        region: usize,
        book: Book,
        table: u8,
        said: u8,
        age: u8,
    ) -> Option<Option<Held>> {
        self.renew.get((region, book, table, said, age), || {
            let (table, said) = (&self.chronicle.at(table).table, self.chronicle.at(said));
            let holdings = Holdings::of_table(table, &self.chronicle.regions[region])?;
            let world = Some(self.chronicle.world.clone());
            let answer = if self.fault == Fault::SessionAsProof {
                // The session lives: the world is there, and nothing was said of a fence.
                RegistryAnswer { world, header: table.applied(), fence: Revision::ZERO }
            } else {
                RegistryAnswer { world, header: said.modified, fence: said.fences[region] }
            };
            let mut with = self.book((book.0, None, book.2));
            with.on_registry(&answer, back(age, book.2), &holdings).ok()?;
            Some(self.found(&with, book.2))
        })
    }

    /// A gate's witness proof after a round that began `age` ticks ago with this table and found `yes` who vouch.
    pub(crate) fn carry(&self, region: usize, book: Book, table: u8, yes: u8, age: u8) -> Option<Held> {
        self.carry.get((region, book, table, yes, age), || {
            let cell = self.chronicle.cell.as_str();
            let mut with = self.book((None, book.1, book.2));
            if let Some(placed) =
                self.chronicle.at(table).table.provable(cell, &self.chronicle.regions[region])
            {
                let constants = self.bounds.constants;
                with.on_witnesses(&placed.placement, back(age, book.2), u32::from(yes), constants);
            }
            with.tidy(NOW);
            self.found(&with, book.2)
        })
    }

    /// The epoch under which a gate lets a request into its own application, if it does.
    pub(crate) fn lets_in(&self, region: usize, table: u8, book: Book) -> Option<u8> {
        self.lets_in.get((region, table, book), || {
            let (table, proofs) = (&self.chronicle.at(table).table, self.book(book));
            let ask = Ask {
                tenant: table.tenant("mercy").expect("the table has its tenant"),
                role: Role::Gate,
                own: &self.chronicle.regions[region],
                sent: None,
                pass: false,
                carry: false,
                now: NOW,
            };
            let may =
                |cell: &CellId, epoch| proofs.admits(cell, epoch, NOW) || stands(table, cell, ask.own, epoch);
            match decide(table, &ask, may) {
                Outcome::Forward(route) if route.local => u8::try_from(route.epoch.0).ok(),
                _ => None,
            }
        })
    }

    /// Whether a piece of an answer under this epoch may leave a gate with this table.
    pub(crate) fn answers(&self, region: usize, book: Book, under: u8, table: u8) -> bool {
        self.answers.get((region, book, under, table), || {
            let cell = &self.chronicle.cell;
            let known = (table != NONE).then(|| self.chronicle.at(table).placement.epoch);
            let own = &self.chronicle.regions[region];
            let stands = || table != NONE && stands(&self.chronicle.at(table).table, cell, own, epoch(under));
            self.book(book).answers(cell, epoch(under), known, NOW) || stands()
        })
    }

    /// What a gate lends to the agent of its region, as a proof of that age.
    pub(crate) fn lends(&self, region: usize, table: u8, book: Book) -> Option<Held> {
        self.lends.get((region, table, book), || {
            let cell = &self.chronicle.cell;
            let table = &self.chronicle.at(table).table;
            let placed = table.provable(cell.as_str(), &self.chronicle.regions[region])?;
            let under = placed.placement.epoch;
            let left = self.book(book).remaining(cell, under, NOW)?;
            let gone = self.bounds.constants.fence().saturating_sub(left).as_millis();
            let age = u8::try_from(gone / u128::from(book.2)).ok()?;
            Some(Held { epoch: u8::try_from(under.0).ok()?, age })
        })
    }

    /// Whether a witness that knows this says yes to what a gate with this table asks.
    pub(crate) fn vouches(&self, known: u8, verified: bool, region: usize, table: u8) -> bool {
        let number = u8::from(region == 1);
        self.vouches.get((known, verified, number, table), || {
            let world = self.chronicle.world.id;
            let mut book = WitnessBook::forgetful(NOW);
            let placement = (known != NONE).then(|| &self.chronicle.at(known).placement);
            book.learn(world, placement.into_iter(), Revision::ZERO, || NOW).expect("no disk");
            if verified {
                book.verified();
            }
            let asked = &self.chronicle.at(table).placement;
            let (verdict, _) =
                book.verdict(world, &self.chronicle.cell, asked.epoch, &self.chronicle.regions[region]);
            verdict == Verdict::Yes
        })
    }

    /// For how many closes of the way to this moment of the registry a witness is quiet.
    pub(crate) fn quiet(&self, started: u8, learned: [u8; 2], registry: u8, rate: u8) -> u8 {
        self.quiet.get((started, learned, registry, rate), || {
            let way = &self.chronicle.at(registry).way;
            let closes: Vec<_> =
                way.iter().map(|m| self.chronicle.at(*m)).filter(|m| m.kind == Kind::Close).collect();
            let mut book = WitnessBook::forgetful(back(started, rate));
            for (close, age) in closes.iter().zip(learned).filter(|(_, age)| *age != NONE) {
                let world = self.chronicle.world.id;
                let ago = if self.fault == Fault::QuietAtOnce { NONE - 1 } else { age };
                let placement = std::iter::once(&close.placement);
                book.learn(world, placement, close.modified, || back(ago, rate)).expect("no disk");
            }
            let reached = book.quiet(NOW, &self.bounds.constants);
            u8::try_from(closes.iter().filter(|m| m.modified <= reached).count()).unwrap_or(0)
        })
    }

    /// Whether the leader may take every proof as ended: `seen` ticks after it saw the close at this moment, with this
    /// many closes that each witness was last seen quiet for.
    pub(crate) fn lapses(&self, seen: u8, rate: u8, registry: u8, said: &[u8; 3]) -> bool {
        if self.fault == Fault::NoWait {
            return true;
        }
        self.lapses.get((seen, rate, registry, *said), || {
            let moment = self.chronicle.at(registry);
            let quiet = (0..3_u8).zip(said).filter(|(n, said)| {
                let shown = WitnessState {
                    id: RouterId::new("w").expect("a short name"),
                    region: self.chronicle.regions[0].clone(),
                    role: Role::Gate,
                    boot: BootId::from_u128(1),
                    quiet: if **said >= moment.closes { moment.modified } else { Revision::ZERO },
                    peer: ([127, 0, 0, 1], 1).into(),
                };
                moment.members & (1 << n) != 0 && shown.is_quiet_at(moment.modified)
            });
            let quiet = u32::try_from(quiet.count()).unwrap_or(0);
            let needed = moment.placement.witnesses.r;
            let needed = if self.fault == Fault::ThresholdsMiss { needed - 1 } else { needed };
            let first = moment.placement.availability_first && self.fault != Fault::EndsByTime;
            lapsed(first, back(seen, rate), NOW, &self.bounds.constants, quiet, needed)
        })
    }

    /// Whether a witness counts as quiet that was declared destroyed so many ticks ago.
    pub(crate) fn struck_out(&self, age: u8, rate: u8) -> bool {
        if self.fault == Fault::StruckAtOnce {
            return true;
        }
        let id = RouterId::new("w").expect("a short name");
        !struck_out(&[(id, back(age, rate))].into(), NOW, &self.bounds.constants).is_empty()
    }

    /// Whether the witnesses of this close are silent, where each was last seen quiet for so many closes.
    pub(crate) fn silent(&self, registry: u8, said: [u8; 3]) -> bool {
        self.silent.get((registry, said), || {
            let closed = self.chronicle.at(registry);
            self.chronicle.silence(closed, &said).is_some()
        })
    }

    /// Whether the standby's agent follows an order to promote that the leader of term `by` sent for the close at
    /// `closed`, while the registry stands at `registry` with the leader of term `leads`.
    pub(crate) fn promotes(&self, registry: u8, by: u8, leads: u8) -> bool {
        self.promotes.get((registry, by, leads), || {
            let moment = self.chronicle.at(registry);
            let fence = |term: u8| LeaderFence(Revision(i64::from(term) + 1));
            let token = Token {
                world: self.chronicle.world.id,
                leader: fence(by),
                attempt: 1,
                moving: MOVE,
                step: "promote".to_owned(),
                cell: self.chronicle.cell.clone(),
            };
            let claim = moment.placement.moving.map(|moving| MoveClaim { moving });
            let facts = MoveFacts {
                world: Some(&self.chronicle.world),
                leader: Some(fence(leads)),
                claim: claim.as_ref(),
                placement: Some(&moment.placement),
            };
            may_promote(&facts, &token, moment.placement.epoch).is_ok()
        })
    }

    /// What the agent's own read of the registry gives its database; the agent knows at least the epoch that it shows.
    pub(crate) fn primary(&self, registry: u8, known: u8) -> Option<Held> {
        let (world, moment) = (&self.chronicle.world, self.chronicle.at(registry));
        let region = &self.chronicle.regions[0];
        let proof = primary_proves(world, &moment.placement, region, epoch(known), NOW).ok()?;
        Some(Held { epoch: u8::try_from(proof.epoch.0).ok()?, age: 0 })
    }

    /// Whether the registry, at this moment, lets the first region's database go on without a proof.
    pub(crate) fn stands(&self, registry: u8) -> bool {
        let shown = &self.chronicle.at(registry).placement;
        proof::stands(shown, &self.chronicle.regions[0], shown.epoch)
    }

    /// *Epochs only rise*, from one moment to another.
    pub(crate) fn rises(&self, from: u8, to: u8) -> bool {
        self.rises.get((from, to), || {
            epoch_rises(&self.chronicle.at(from).placement, &self.chronicle.at(to).placement).is_ok()
        })
    }

    /// *One writer*, when an answer passes the check on the way out. A promotion counts as an acknowledged write of its
    /// epoch. Where the old primary had stopped by waiting, a write that is acknowledged now counts as sent now, which
    /// is more than the invariant asks for; by its agent's word, as sent when it was committed.
    pub(crate) fn one_writer(&self, request: Request, promoted: u8, after_waiting: u8) -> bool {
        self.one.get((request, promoted, after_waiting), || {
            let (under, late) = match request {
                Request::Idle => return true,
                Request::Admitted(under) => (under, false),
                Request::Late(under) => (under, true),
            };
            let ack = |number, sent, answered| Acknowledged {
                cell: self.chronicle.cell.clone(),
                epoch: epoch(number),
                sent,
                answered,
            };
            let (before, at, now) = (1, 2, 3);
            let by_wait = ack(after_waiting, at, at);
            let by_word = ack(promoted, at, at);
            one_writer(&[by_wait, ack(under, now, now)]).is_ok()
                && one_writer(&[by_word, ack(under, if late { now } else { before }, now)]).is_ok()
        })
    }
}
