//! Recovery times and service levels: tables of examples, and a second look at the same requests.

use std::collections::BTreeMap;

use domicile_api::reports::Rto;
use domicile_facts::{ClockBound, Fact, MINUTE_MS, Minute, Outcome, Seen, Tally};
use domicile_model::{RegionId, Role, RouterId};
use proptest::prelude::*;

use super::copies::tenant;
use crate::rto;
use crate::sla;
use crate::{Coverage, Row};

const NOON: u64 = 29_000_000 * MINUTE_MS;

#[derive(Debug, Clone, Copy)]
struct Ask {
    came: u64,
    ended: u64,
    outcome: Outcome,
    write: bool,
    held: bool,
}

fn ask(came: u64, ended: u64, outcome: Outcome, write: bool) -> Ask {
    Ask { came, ended, outcome, write, held: false }
}

/// What a router tells of these.
fn told(router: &str, clock: Option<ClockBound>, asks: &[Ask]) -> Vec<Row> {
    let mut minutes: BTreeMap<Minute, Tally> = BTreeMap::new();
    let mut asks = asks.to_vec();
    asks.sort_by_key(|a| a.ended);
    for a in asks {
        let held = a.held.then_some(std::time::Duration::from_millis(1));
        let seen =
            Seen { outcome: a.outcome, write: a.write, held, decrypted: true, bytes_up: 0, bytes_down: 0 };
        let minute = Minute::of(NOON + a.ended);
        minutes.entry(minute).or_default().count(
            &seen,
            minute.offset(NOON + a.came),
            minute.offset(NOON + a.ended),
        );
    }
    let row = |(minute, tally)| Row {
        router: RouterId::new(router).unwrap(),
        role: Role::Edge,
        at: RegionId::new("us-east-1").unwrap(),
        minute,
        clock,
        fact: Fact { tenant: Some(tenant("a")), region: None, tally },
    };
    minutes.into_iter().map(row).collect()
}

fn exact() -> Option<ClockBound> {
    Some(ClockBound { ahead_ms: 0, within_ms: 3 })
}

#[test]
fn an_outage_over_three_minutes_is_as_long_as_clients_saw_it() {
    let asks = [
        ask(0, 10, Outcome::Good, true),
        // It hangs into the next minute, and that began before.
        ask(50_000, 80_000, Outcome::Unknown, true),
        ask(90_000, 90_010, Outcome::Failed, false),
        ask(130_000, 130_020, Outcome::Good, false),
        ask(131_000, 131_050, Outcome::Good, true),
        ask(170_000, 170_010, Outcome::Good, true),
    ];
    let rows = told("edge-1", exact(), &asks);
    let observed = Rto::Observed {
        first_ms: NOON + 50_000,
        last_ms: NOON + 90_000,
        good_ms: NOON + 131_050,
        length_ms: 81_050,
        within_ms: Some(3),
    };
    assert_eq!(rto::observed(&rows, NOON + 60_000, NOON + 120_000), observed);
    // Another router's clock was never compared: the length stands, its bound does not.
    let both = [rows, told("edge-2", None, &asks[4..])].concat();
    let Rto::Observed { within_ms: None, length_ms: 81_050, .. } = rto::observed(&both, NOON, NOON + 120_000)
    else {
        panic!()
    };
}

#[test]
fn nobody_came_is_not_nothing_lost() {
    assert_eq!(rto::observed(&[], NOON, NOON + 1), Rto::NotObserved);
    // Somebody came, but an hour before.
    let rows = told("edge-1", exact(), &[ask(0, 10, Outcome::Good, true)]);
    assert_eq!(rto::observed(&rows, NOON + 3_600_000, NOON + 3_700_000), Rto::NotObserved);
    assert_eq!(rto::observed(&rows, NOON, NOON + 100), Rto::Unharmed { requests: 1 });
    let rows =
        told("edge-1", exact(), &[ask(0, 10, Outcome::Failed, true), ask(20, 30, Outcome::Good, false)]);
    let out = Rto::StillOut { first_ms: NOON, last_ms: NOON };
    assert_eq!(rto::observed(&rows, NOON, NOON + 100), out, "a read shows no write");
}

#[test]
fn what_was_over_before_is_another_one_and_a_hold_is_trouble_as_well() {
    let held = Ask { held: true, ..ask(300_000, 300_900, Outcome::Good, true) };
    let asks = [ask(0, 10, Outcome::Failed, false), ask(20, 30, Outcome::Good, true), held];
    let rows = told("edge-1", exact(), &asks);
    let Rto::Observed { first_ms, good_ms, length_ms, .. } =
        rto::observed(&rows, NOON + 299_000, NOON + 301_000)
    else {
        panic!()
    };
    assert_eq!((first_ms - NOON, good_ms - NOON, length_ms), (300_000, 300_900, 900));
    // Also in the same minute, and whoever comes late with what was over before.
    let asks = [
        ask(301_000, 301_010, Outcome::Failed, false),
        ask(301_020, 301_030, Outcome::Good, true),
        Ask { held: true, ..ask(350_000, 350_700, Outcome::Good, true) },
    ];
    let late = told("edge-1", exact(), &asks);
    let Rto::Observed { first_ms, length_ms, .. } = rto::observed(&late, NOON + 349_900, NOON + 351_000)
    else {
        panic!()
    };
    assert_eq!((first_ms - NOON, length_ms), (350_000, 700));
    let Rto::Observed { first_ms, .. } = rto::observed(&rows, NOON, NOON + 15) else { panic!() };
    assert_eq!(first_ms, NOON);
}

#[test]
fn routers_are_put_on_one_clock() {
    let ahead = Some(ClockBound { ahead_ms: 5_000, within_ms: 7 });
    let rows = [
        told("edge-1", exact(), &[ask(10_000, 10_010, Outcome::Failed, false)]),
        told("edge-2", ahead, &[ask(6_000, 6_100, Outcome::Good, true)]),
    ]
    .concat();
    let Rto::Observed { good_ms, within_ms, .. } = rto::observed(&rows, NOON, NOON + 20_000) else {
        panic!()
    };
    assert_eq!(
        (good_ms - NOON, within_ms),
        (11_100, Some(7)),
        "by its own clock the write came before the failure"
    );
}

fn coverage(minutes: std::ops::Range<u64>) -> Coverage {
    let minutes = minutes.map(|m| Minute(Minute::of(NOON).0 + m)).collect();
    Coverage { routers: [(RouterId::new("edge-1").unwrap(), minutes)].into() }
}

#[test]
fn a_minute_without_data_is_not_an_available_one() {
    let minute = |n: u64, good: u64, failed: u64| {
        let at = move |k: u64| n * MINUTE_MS + k;
        let all = (0..good).map(move |k| ask(at(k), at(k), Outcome::Good, true));
        all.chain((0..failed).map(move |k| ask(at(k), at(k), Outcome::Failed, true))).collect::<Vec<_>>()
    };
    let asks = [minute(0, 95, 5), minute(1, 94, 6), minute(2, 1, 0), minute(3, 0, 1)].concat();
    let rows = told("edge-1", exact(), &asks);
    let start = Minute::of(NOON);
    let period = (start, Minute(start.0 + 10));
    let sla = sla::of(&rows, &coverage(0..6), period, 43_200, 999_000);
    let counts = (sla.minutes, sla.available, sla.bad, sla.idle, sla.unknown);
    assert_eq!(counts, (10, 2, 2, 2, 4), "five of a hundred is as much as may be; six are too many");
    assert_eq!((sla.requests, sla.bad_requests), (202, 12));
    assert_eq!((sla.least_ppm, sla.most_ppm), (Some(250_000), Some(750_000)));
    assert_eq!((sla.budget, sla.budget_left), (43, 37));
    let nothing = sla::of(&[], &Coverage::default(), period, 43_200, 999_900);
    assert_eq!(
        (nothing.unknown, nothing.least_ppm, nothing.most_ppm, nothing.budget_left),
        (10, None, None, -6)
    );
    // Refused ones and clients that left say nothing about the service.
    let refused =
        (0..50).map(|k| ask(k, k, if k % 2 == 0 { Outcome::Refused } else { Outcome::Gone }, false));
    let sla = sla::of(&told("edge-1", None, &refused.collect::<Vec<_>>()), &coverage(0..1), period, 10, 0);
    assert_eq!((sla.available, sla.bad, sla.idle, sla.requests), (0, 0, 1, 50));
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let one = (0..400_000_u64, 0..90_000_u64, 0..6_usize, any::<bool>(), 0..8_u8);
    let one = one.prop_map(|(came, took, n, write, held)| Ask {
        came,
        ended: came + took,
        outcome: Outcome::ALL[n],
        write,
        held: held == 0,
    });
    prop::collection::vec(one, 0..60)
}

proptest! {
    /// When it began and when the last one came is exact. A good write may not be known, that a later one makes up for: never
    /// too short, and never without an end if there was one.
    #[test]
    fn a_second_look_at_the_requests_finds_the_same(one in asks(), two in asks()) {
        let look = |all: &[Ask]| {
            let bad = |a: &&Ask| a.outcome.is_bad();
            let held = |a: &&Ask| a.held;
            let first = all.iter().filter(|a| bad(a) || held(a)).map(|a| a.came).min()?;
            let last = all.iter().filter(|a| bad(a) || held(a)).map(|a| a.came).max()?;
            let writes = all.iter().filter(|a| a.write && a.outcome == Outcome::Good && a.ended >= last);
            Some((first, last, writes.map(|a| a.ended).min()))
        };
        let (from, to) = (NOON, NOON + 1_000_000);
        let shown = |rows: &[Row]| match rto::observed(rows, from, to) {
            Rto::NotObserved | Rto::Unharmed { .. } => None,
            Rto::StillOut { first_ms, last_ms } => Some((first_ms - NOON, last_ms - NOON, None)),
            Rto::Observed { first_ms, last_ms, good_ms, .. } => Some((first_ms - NOON, last_ms - NOON, Some(good_ms - NOON))),
        };
        let (rows_one, rows_two) = (told("edge-1", exact(), &one), told("edge-2", exact(), &two));
        let both = shown(&[rows_one.clone(), rows_two].concat());
        for (found, wanted) in [(shown(&rows_one), look(&one)), (both, look(&[one, two].concat()))] {
            prop_assert_eq!(found.map(|f| (f.0, f.1)), wanted.map(|w| (w.0, w.1)));
            let (found, wanted) = (found.and_then(|f| f.2), wanted.and_then(|w| w.2));
            prop_assert_eq!(found.is_some(), wanted.is_some());
            prop_assert!(found >= wanted, "{:?} is too short: {:?}", found, wanted);
        }
    }
}
