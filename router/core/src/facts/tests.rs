use std::time::Duration;

use domicile_facts::{MINUTE_MS, Moments};
use proptest::prelude::*;

use super::*;
use crate::errors::Cause;

const NOON: u64 = 29_000_000 * MINUTE_MS;

fn tenant(n: usize) -> TenantId {
    TenantId::new(&format!("t{n}")).unwrap()
}

fn region(n: usize) -> RegionId {
    RegionId::new(["us-east-1", "us-west-2"][n % 2]).unwrap()
}

fn seen(outcome: Outcome, write: bool) -> Seen {
    Seen { outcome, write, held: None, decrypted: true, bytes_up: 3, bytes_down: 5 }
}

fn only(ledger: &Ledger) -> Tally {
    let closed = ledger.close(Minute(u64::MAX));
    assert_eq!((closed.len(), closed[0].facts.len()), (1, 1), "{closed:?}");
    closed[0].facts[0].tally
}

#[test]
fn an_outage_is_seen_from_its_first_failure_to_the_first_good_write() {
    let ledger = Ledger::new(100);
    let (t, r) = (tenant(1), region(0));
    let count = |outcome, write, came, ended| {
        ledger.count(&t, Some(&r), &seen(outcome, write), NOON + came, NOON + ended)
    };
    count(Outcome::Good, true, 900, 1_000);
    count(Outcome::Failed, false, 2_000, 2_500);
    count(Outcome::Good, true, 2_600, 3_000);
    count(Outcome::Unknown, true, 3_100, 9_000);
    count(Outcome::Good, false, 9_100, 9_200);
    count(Outcome::Good, true, 9_300, 9_900);
    let held = Seen { held: Some(Duration::from_millis(700)), ..seen(Outcome::Good, true) };
    ledger.count(&t, Some(&r), &held, NOON + 10_000, NOON + 10_800);
    let tally = only(&ledger);
    let wanted = Moments {
        first_bad: Some(2_000),
        last_bad: Some(9_000),
        first_held: Some(10_000),
        first_good_write: Some(1_000),
        last_good_write: Some(10_800),
    };
    assert_eq!(tally.at, wanted);
    let episodes: Vec<(i32, i32, Option<i32>)> =
        tally.episodes.as_slice().iter().map(|e| (e.first, e.last, e.good)).collect();
    let wanted = [(2_000, 2_000, Some(3_000)), (3_100, 3_100, Some(9_900)), (10_000, 10_000, Some(10_800))];
    assert_eq!(episodes, wanted);
    assert_eq!((tally.good, tally.failed, tally.unknown, tally.requests()), (5, 1, 1, 7));
    assert_eq!((tally.writes, tally.held, tally.held_ms, tally.held_most_ms), (5, 1, 700, 700));
    assert_eq!((tally.decrypted, tally.bytes_up, tally.bytes_down), (7, 21, 35));
}

/// A request belongs to the minute in which it ends, whenever it came.
#[test]
fn minutes_are_closed_once_and_late_ends_are_counted_anew() {
    let ledger = Ledger::new(100);
    let (t, r) = (tenant(1), region(0));
    let noon = Minute::of(NOON);
    ledger.count(&t, Some(&r), &seen(Outcome::Good, false), NOON - 5_000, NOON + 10);
    ledger.count(&t, Some(&r), &seen(Outcome::Failed, false), NOON - 5_000, NOON + 20);
    ledger.count(&t, Some(&r), &seen(Outcome::Good, false), NOON + 59_000, NOON + MINUTE_MS);
    let closed = ledger.close(Minute(noon.0 + 1));
    assert_eq!(closed.iter().map(|c| c.minute).collect::<Vec<_>>(), [noon]);
    assert_eq!(
        (closed[0].facts[0].tally.requests(), closed[0].facts[0].tally.at.first_bad),
        (2, Some(-5_000))
    );
    assert!(ledger.close(Minute(noon.0 + 1)).is_empty());
    ledger.count(&t, Some(&r), &seen(Outcome::Good, false), NOON, NOON + 30);
    let closed = ledger.close(Minute(noon.0 + 2));
    assert_eq!(
        closed.iter().map(|c| (c.minute.0 - noon.0, c.facts.len())).collect::<Vec<_>>(),
        [(0, 1), (1, 1)]
    );
}

#[test]
fn a_clock_that_is_set_back_loses_nothing_and_grows_nothing() {
    let ledger = Ledger::new(100);
    let t = tenant(1);
    for back in 0..1_000 {
        ledger.count(&t, None, &seen(Outcome::Good, false), 0, NOON - back * MINUTE_MS);
    }
    let closed = ledger.close(Minute(u64::MAX));
    assert!(closed.len() <= OPEN, "{}", closed.len());
    assert_eq!(closed.iter().flat_map(|c| &c.facts).map(|f| f.tally.requests()).sum::<u64>(), 1_000);
}

#[test]
fn every_cause_is_an_outcome_and_only_what_costs_service_is_bad() {
    assert_eq!(outcome(200, None), Outcome::Good);
    assert_eq!(outcome(404, None), Outcome::Good, "the application says so");
    assert_eq!(outcome(503, None), Outcome::ApplicationError);
    for cause in Cause::ALL {
        let (ends, status) = (outcome(cause.entry().status, Some(cause)), cause.entry().status);
        match ends {
            Outcome::Good | Outcome::ApplicationError => panic!("{cause:?} is the router's"),
            Outcome::Refused => assert!(status < 500 && !ends.is_bad(), "{cause:?}"),
            Outcome::Failed | Outcome::Unknown => assert!(status >= 500 && ends.is_bad(), "{cause:?}"),
            Outcome::Gone => assert_eq!(cause, Cause::Client),
        }
    }
}

#[test]
fn a_splice_counts_where_it_goes() {
    let ledger = Ledger::new(100);
    ledger.splice(&tenant(1), &region(0), true, (10, 20), NOON);
    ledger.splice(&tenant(1), &region(0), false, (1, 2), NOON + 1);
    let tally = only(&ledger);
    assert_eq!((tally.spliced, tally.bytes_up, tally.bytes_down, tally.requests()), (1, 11, 22, 0));
}

#[derive(Debug, Clone)]
struct Step {
    tenant: usize,
    region: usize,
    outcome: Outcome,
    write: bool,
    came: u64,
    took: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..60_usize, 0..2_usize, 0..6_usize, any::<bool>(), 0..180_000_u64, 0..90_000_u64);
    let step = step.prop_map(|(tenant, region, n, write, came, took)| Step {
        tenant,
        region,
        outcome: Outcome::ALL[n],
        write,
        came,
        took,
    });
    prop::collection::vec(step, 0..200)
}

/// Counts them in the order in which they end, as it happens.
fn fill(ledger: &Ledger, steps: &[Step]) {
    let mut steps: Vec<&Step> = steps.iter().collect();
    steps.sort_by_key(|s| s.came + s.took);
    for s in steps {
        let ended = NOON + s.came + s.took;
        ledger.count(
            &tenant(s.tenant),
            Some(&region(s.region)),
            &seen(s.outcome, s.write),
            NOON + s.came,
            ended,
        );
    }
}

proptest! {
    /// However little room there is, each request is counted once, and no page has more rows than it may.
    #[test]
    fn sums_are_complete_and_room_is_bounded(steps in steps(), room in 0..100_usize) {
        let ledger = Ledger::new(room);
        fill(&ledger, &steps);
        let closed = ledger.close(Minute(u64::MAX));
        let facts = || closed.iter().flat_map(|c| &c.facts);
        prop_assert_eq!(facts().map(|f| f.tally.requests()).sum::<u64>(), steps.len() as u64);
        prop_assert_eq!(facts().map(|f| f.tally.writes).sum::<u64>(), steps.iter().filter(|s| s.write).count() as u64);
        for page in &closed {
            let own = page.facts.iter().filter(|f| f.tenant.is_some()).count();
            prop_assert!(own <= room.div_ceil(SHARDS) * SHARDS);
            prop_assert!(page.facts.is_sorted_by(|a, b| (&a.tenant, &a.region) < (&b.tenant, &b.region)));
        }
    }

    /// With room for all, each tenant's moments are those that a second look at the same requests finds.
    #[test]
    fn moments_are_what_a_second_look_finds(steps in steps()) {
        let ledger = Ledger::new(10_000);
        fill(&ledger, &steps);
        for page in ledger.close(Minute(u64::MAX)) {
            for fact in page.facts {
                let of = |s: &&Step| {
                    Some(tenant(s.tenant)) == fact.tenant
                        && Some(region(s.region)) == fact.region
                        && Minute::of(NOON + s.came + s.took) == page.minute
                };
                let came = |s: &Step| page.minute.offset(NOON + s.came);
                let ended = |s: &Step| page.minute.offset(NOON + s.came + s.took);
                let mine: Vec<&Step> = steps.iter().filter(of).collect();
                let bad = || mine.iter().filter(|s| s.outcome.is_bad());
                let wrote = || mine.iter().filter(|s| s.write && s.outcome == Outcome::Good).map(|s| ended(s));
                prop_assert_eq!(fact.tally.at.first_bad, bad().map(|s| came(s)).min());
                prop_assert_eq!(fact.tally.at.last_bad, bad().map(|s| ended(s)).max());
                prop_assert_eq!(fact.tally.at.first_good_write, wrote().min());
                let text = serde_json::to_string(&fact).unwrap();
                prop_assert_eq!(serde_json::from_str::<Fact>(&text).unwrap(), fact);
            }
        }
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// What a router may take more than an idle one, when a million tenants come within one minute: the ledger with the rooms that
/// routers give it, what is closed, and what is written of it.
#[test]
fn a_million_tenants_in_one_minute_are_counted_in_bounded_memory() {
    const MOST: u64 = 256 << 20;
    let before = resident();
    let ledger = Ledger::new(100_000);
    let mut own = 0;
    for n in 0..1_000_000_u64 {
        let tenant = TenantId::new(&format!("clinic-of-a-long-name-{n:07}")).unwrap();
        own += u64::from(ledger.count(
            &tenant,
            Some(&region(0)),
            &seen(Outcome::Good, n % 7 == 0),
            NOON,
            NOON + 1,
        ));
    }
    let counted = resident();
    let closed = ledger.close(Minute(u64::MAX));
    let text: usize = closed[0].facts.iter().map(|fact| serde_json::to_vec(fact).unwrap().len()).sum();
    let after = resident();
    println!(
        "a million tenants: {own} with a row of their own; resident {} MiB more when counted, {} MiB when closed; {} MiB of text",
        (counted - before) >> 20,
        (after - before) >> 20,
        text >> 20
    );
    assert!((99_000..=100_016).contains(&own), "{own}");
    assert_eq!(
        closed[0].facts.iter().map(|f| f.tally.requests()).sum::<u64>(),
        1_000_000,
        "none is forgotten"
    );
    assert_eq!(closed[0].facts[0].tally.requests(), 1_000_000 - own, "`other` stands first");
    assert!(counted - before < MOST && after - before < MOST, "{} {}", counted - before, after - before);
}
