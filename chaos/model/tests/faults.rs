//! A rule left out is found: each switch that breaks the product's rules leads to a state that breaks a law. What holds
//! in `holds.rs` holds because of the rules, not because nobody looks.

use domicile_chaos_model::search::search;
use domicile_chaos_model::{Action, Bounds, Fault, Fleet, LAWS};

const MOST: usize = 4_000_000;

/// The law that is broken first, and the way there.
fn broken(bounds: Bounds, fault: Fault) -> Option<(&'static str, Vec<Action>)> {
    let found = search(&Fleet::new(bounds, fault), &LAWS, &[], MOST);
    println!("{fault:?}: {} states: {bounds}", found.states);
    assert!(found.broken.is_some() || found.whole, "{fault:?}: more than {MOST} states");
    let (law, (_, path)) = found.broken?;
    let path: Vec<Action> = path.into_iter().map(|(action, _)| action).collect();
    println!("  {law} is broken after {} steps: {path:?}", path.len());
    Some((law, path))
}

fn two_writers(bounds: Bounds, fault: Fault) -> Vec<Action> {
    assert!(broken(bounds, Fault::None).is_none(), "{fault:?}: the rules hold within the same bounds");
    let (law, path) = broken(bounds, fault).unwrap_or_else(|| panic!("{fault:?} was not found"));
    assert_eq!(law, "one-writer", "{fault:?}");
    assert!(path.contains(&Action::Promote), "{fault:?}: without a promotion nothing can be wrong");
    path
}

#[test]
fn no_wait() {
    two_writers(Bounds::LEAST, Fault::NoWait);
}

#[test]
fn a_session_taken_for_a_proof() {
    two_writers(Bounds::LEAST, Fault::SessionAsProof);
}

#[test]
fn a_wall_clock_for_a_monotonic_one() {
    let path = two_writers(Bounds::LEAST, Fault::WallClock);
    assert!(path.iter().any(|a| matches!(a, Action::SetBack(..))));
}

#[test]
fn a_clock_that_sleeps_with_its_machine() {
    let path = two_writers(Bounds::LEAST, Fault::ClockSleeps);
    assert!(path.iter().any(|a| matches!(a, Action::TickAsleep(..))));
}

#[test]
fn a_promise_forgotten_at_a_restart() {
    for witnesses in [1, 2] {
        let bounds = Bounds { witnesses, witness_restarts: 1, ..Bounds::LEAST };
        let path = two_writers(bounds, Fault::PromiseForgotten);
        assert!(path.iter().any(|a| matches!(a, Action::RestartWitness(_, false))));
    }
}

#[test]
fn an_answer_not_checked_again() {
    two_writers(Bounds::LEAST, Fault::AnswerUnchecked);
}

#[test]
fn an_epoch_raised_outside_the_transaction() {
    two_writers(Bounds::LEAST, Fault::FenceApart);
}

#[test]
fn thresholds_that_do_not_meet() {
    for witnesses in [1, 2, 3] {
        two_writers(Bounds { witnesses, ..Bounds::LEAST }, Fault::ThresholdsMiss);
    }
}

#[test]
fn clocks_that_drift_more_than_the_bound() {
    // Without witnesses it is the leader's clock that counts, with them theirs.
    for witnesses in [0, 1] {
        for within in [Bounds::DRIFT, Bounds::DRIFT_TWICE] {
            assert!(broken(Bounds { witnesses, ..within }, Fault::None).is_none());
        }
        let above = Bounds { witnesses, ..Bounds::DRIFT_ABOVE };
        let (law, _) = broken(above, Fault::None).expect("found");
        assert_eq!(law, "one-writer");
    }
}

#[test]
fn a_witness_that_is_quiet_at_once() {
    two_writers(Bounds::LEAST, Fault::QuietAtOnce);
}

#[test]
fn a_proof_that_counts_from_its_answer() {
    two_writers(Bounds { slow_reads: true, ..Bounds::LEAST }, Fault::CountsFromAnswer);
}

#[test]
fn witnesses_replaced_while_the_cell_is_held() {
    let path = two_writers(Bounds::LEAST, Fault::WitnessesReplaced);
    assert!(path.contains(&Action::Replace));
}

#[test]
fn witnesses_renewed_by_a_move_that_turns_back() {
    let bounds = Bounds { turns_back: true, closes: 2, ..Bounds::LEAST };
    let path = two_writers(bounds, Fault::RenewedInRollback);
    assert!(path.contains(&Action::BackAnew));
}

/// Its word stops a database, not those who vouch for its gates: they must not be forgotten.
#[test]
fn witnesses_renewed_on_the_word_of_an_agent() {
    let bounds = Bounds { agent: true, returns: true, closes: 2, ..Bounds::LEAST };
    let path = two_writers(bounds, Fault::RenewedOnWord);
    assert!(path.contains(&Action::HearFenced) && path.contains(&Action::SwitchAnew));
}

#[test]
fn a_witness_declared_destroyed_that_lives() {
    for witnesses in [1, 2] {
        let bounds = Bounds { witnesses, destroyed: 1, ..Bounds::LEAST };
        let path = two_writers(bounds, Fault::DeclaredAlive);
        assert!(path.iter().any(|a| matches!(a, Action::Destroy(_))));
    }
}

#[test]
fn a_witness_that_counts_as_quiet_as_soon_as_it_is_destroyed() {
    two_writers(Bounds { destroyed: 1, ..Bounds::LEAST }, Fault::StruckAtOnce);
}

#[test]
fn a_timer_taken_over() {
    // With witnesses their WAIT would do: none of them is quiet before its own is over.
    let path = two_writers(Bounds { witnesses: 0, takeovers: 1, ..Bounds::LEAST }, Fault::TimerTakenOver);
    assert!(path.contains(&Action::TakeOver));
}

/// The way to an old database that takes writes beside the new one.
fn open_database(fault: Fault) -> Vec<Action> {
    let bounds = Bounds { agent: true, ..Bounds::LEAST };
    assert!(broken(bounds, Fault::None).is_none(), "{fault:?}: the rules hold within the same bounds");
    let (law, path) = broken(bounds, fault).unwrap_or_else(|| panic!("{fault:?} was not found"));
    assert_eq!(law, "the-old-database-is-stopped", "{fault:?}");
    path
}

#[test]
fn a_commanded_fence_forgotten_at_a_restart() {
    let path = open_database(Fault::MarkerForgotten);
    assert!(path.contains(&Action::RestartAgent) && path.iter().any(|a| matches!(a, Action::Borrow(_))));
}

#[test]
fn a_database_that_nobody_stops() {
    open_database(Fault::TrustsItself);
}

#[test]
fn a_lent_proof_that_counts_anew() {
    let path = open_database(Fault::LentAnew);
    assert!(path.iter().any(|a| matches!(a, Action::Borrow(_))));
}

/// The way to an old database that goes on without a proof beside the new one.
fn standing_database(bounds: Bounds, fault: Fault) -> Vec<Action> {
    assert!(broken(bounds, Fault::None).is_none(), "{fault:?}: the rules hold within the same bounds");
    let (law, path) = broken(bounds, fault).unwrap_or_else(|| panic!("{fault:?} was not found"));
    assert_eq!(law, "the-old-database-is-stopped", "{fault:?}");
    assert!(path.contains(&Action::Lapse) && path.contains(&Action::Promote), "{fault:?}: {path:?}");
    path
}

const FIRST: Bounds = Bounds { agent: true, first: true, ..Bounds::LEAST };

#[test]
fn elapsed_time_accepted_where_availability_comes_first() {
    standing_database(FIRST, Fault::EndsByTime);
}

#[test]
fn what_comes_first_changed_while_the_cell_is_held() {
    let path = standing_database(FIRST, Fault::ChoiceOnHeld);
    assert!(path.contains(&Action::Choose));
}

#[test]
fn what_comes_first_changed_where_a_move_turns_back() {
    let bounds = Bounds { witnesses: 0, turns_back: true, closes: 2, ..FIRST };
    let path = standing_database(bounds, Fault::ChoiceOnTurningBack);
    assert!(path.contains(&Action::Back));
}

#[test]
fn a_table_that_falls_back() {
    let (law, _) =
        broken(Bounds { turns_back: true, ..Bounds::LEAST }, Fault::TableFallsBack).expect("found");
    assert_eq!(law, "epochs-only-rise");
}
