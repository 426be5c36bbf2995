//! The rules hold in every state within the bounds, and the states are worth visiting.

use domicile_chaos_model::search::{Path, search};
use domicile_chaos_model::{Bounds, Fault, Fleet, LAWS, sights};

/// More states than any of these models has, and no more than fit. A search that comes here fails: it was not whole.
const MOST: usize = 3_000_000;

fn told(path: &Path<Fleet>) -> String {
    let steps: Vec<String> = path.1.iter().map(|(action, _)| format!("{action:?}")).collect();
    steps.join(", ")
}

fn holds(name: &str, bounds: Bounds) {
    let fleet = Fleet::new(bounds, Fault::None);
    let sights = sights(&fleet);
    let found = search(&fleet, &LAWS, &sights, MOST);
    println!("{name}: {} states, {} steps, depth {}: {bounds}", found.states, found.steps, found.depth);
    if let Some((law, path)) = &found.broken {
        panic!("{name}: {law} is broken: {}", told(path));
    }
    assert!(found.whole, "{name}: more than {MOST} states");
    for sight in &sights {
        let way = found.seen.iter().find(|(seen, _)| *seen == sight.name);
        let (_, path) = way.unwrap_or_else(|| panic!("{name}: never seen: {}", sight.name));
        println!("  seen: {} ({} steps)", sight.name, path.1.len());
    }
}

#[test]
fn no_witness() {
    holds("no witness", Bounds { takeovers: 1, ..Bounds::full(0) });
    holds("no witness, there and back", Bounds { witnesses: 0, gates: 2, closes: 2, ..Bounds::LEAST });
}

#[test]
fn one_witness() {
    holds("one witness", Bounds { takeovers: 1, ..Bounds::full(1) });
}

#[test]
fn two_witnesses() {
    holds("two witnesses", Bounds::full(2));
}

#[test]
fn three_witnesses() {
    holds("three witnesses", Bounds::full(3));
}

#[test]
fn witnesses_named_late() {
    let late = Bounds { named_late: true, ..Bounds::LEAST };
    holds("named late", Bounds { gates: 2, witnesses: 3, ..late });
    holds("named late, and a restart", Bounds { witness_restarts: 1, turns_back: true, ..late });
}

#[test]
fn witnesses_renewed() {
    let renews = Bounds { renews: true, closes: 2, ..Bounds::LEAST };
    holds("renewed", renews);
    holds("renewed, turning back", Bounds { turns_back: true, ..renews });
}

#[test]
fn witnesses_destroyed() {
    let one = Bounds { destroyed: 1, ..Bounds::LEAST };
    holds("one of one destroyed", one);
    holds("one of two destroyed", Bounds { witnesses: 2, closes: 2, ..one });
    holds("one of three destroyed", Bounds { witnesses: 3, ..one });
    holds("one destroyed, and a takeover", Bounds { takeovers: 1, ..one });
}

#[test]
fn witness_restarts() {
    let one = Bounds { witness_restarts: 2, closes: 2, ..Bounds::LEAST };
    holds("restarts of one witness", one);
    holds(
        "a restart of two witnesses",
        Bounds { gates: 2, witnesses: 2, witness_restarts: 1, ..Bounds::LEAST },
    );
    holds("a restart of three witnesses", Bounds { witnesses: 3, witness_restarts: 1, ..Bounds::LEAST });
    let all = Bounds { agent: true, witness_restarts: 1, takeovers: 1, ..Bounds::LEAST };
    holds("a restart and a takeover", all);
}

#[test]
fn there_and_back() {
    holds("there and back", Bounds { gates: 2, closes: 2, ..Bounds::LEAST });
    holds(
        "there and back, two witnesses",
        Bounds { closes: 2, witnesses: 2, turns_back: true, ..Bounds::LEAST },
    );
}

#[test]
fn turning_back() {
    holds("turning back", Bounds { agent: true, turns_back: true, closes: 2, ..Bounds::LEAST });
}

#[test]
fn availability_first() {
    let first = Bounds { agent: true, first: true, ..Bounds::LEAST };
    holds("availability first", Bounds { gates: 2, takeovers: 1, ..first });
    // Without witnesses: nothing rests on their time here, and their restarts and questions multiply the states by a hundred.
    holds("availability first, turning back", Bounds { witnesses: 0, turns_back: true, closes: 2, ..first });
}

#[test]
fn slow_answers() {
    let reads = Bounds { slow_reads: true, turns_back: true, ..Bounds::LEAST };
    holds("slow reads", reads);
    holds("slow rounds of two witnesses", Bounds { slow_rounds: true, witnesses: 2, ..Bounds::LEAST });
    holds("slow rounds of three witnesses", Bounds { slow_rounds: true, witnesses: 3, ..Bounds::LEAST });
    holds(
        "slow rounds and a restart",
        Bounds { slow_rounds: true, witnesses: 2, witness_restarts: 1, ..Bounds::LEAST },
    );
}

#[test]
fn clocks_within_the_bound() {
    holds("fine time, one witness", Bounds::DRIFT);
    holds("fine time, no witness", Bounds { witnesses: 0, ..Bounds::DRIFT });
}
