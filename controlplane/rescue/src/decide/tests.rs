use domicile_model::{Database, DatabaseEndpoint, SecretRef};
use proptest::prelude::*;

use super::*;

fn region(name: &str) -> RegionId {
    RegionId::new(name).unwrap()
}

fn cell(database: bool) -> Cell {
    let end =
        || DatabaseEndpoint { address: "10.0.0.1:1".parse().unwrap(), agent: "10.0.0.1:2".parse().unwrap() };
    Cell {
        id: CellId::new("c").unwrap(),
        primary: region("a"),
        dr: region("b"),
        availability_first: false,
        rpo_ms: 1,
        ingress: BTreeMap::new(),
        application: BTreeMap::new(),
        mllp: BTreeMap::new(),
        database: database.then(|| Database {
            name: "d".into(),
            user: "u".into(),
            password: SecretRef::Env("P".into()),
            endpoints: [(region("a"), end()), (region("b"), end())].into(),
        }),
    }
}

fn placement(epoch: u64, holder: Option<&str>) -> Placement {
    Placement {
        cell: CellId::new("c").unwrap(),
        epoch: Epoch(epoch),
        holder: holder.map(region),
        standby: holder.map(|h| region(if h == "a" { "b" } else { "a" })),
        phase: Phase::Serving,
        moving: None,
        availability_first: false,
        witnesses: WitnessSet::of([RouterId::new("w").unwrap()].into()),
    }
}

fn agent(running: Running, epoch: u64) -> Seen {
    Seen {
        running,
        primary: running != Running::Standby,
        fenced: false,
        world: None,
        epoch: Epoch(epoch),
        system_id: Some("7".into()),
        timeline: Some(1),
    }
}

fn said(seen: Seen) -> Said {
    Said::Agent(Box::new(seen))
}

fn silent() -> Said {
    Said::Silent { why: "no answer".into() }
}

fn known(placement: Placement) -> Known {
    Known { router: RouterId::new("w").unwrap(), placement }
}

/// The holder of the verdict, or its reason.
fn verdict(
    backup: impl Into<Option<Placement>>,
    routers: &[Known],
    a: Said,
    b: Said,
) -> Result<String, String> {
    let backup = backup.into();
    let databases = [(region("a"), a), (region("b"), b)].into();
    let facts = Facts { cell: &cell(true), backup: backup.as_ref(), routers, databases: &databases };
    match decide(&facts).unwrap().verdict {
        Verdict::Holds { region, .. } => Ok(region.to_string()),
        Verdict::Closed { why } => Err(why),
    }
}

#[test]
fn a_cell_that_nothing_contradicts_comes_back_where_it_was() {
    let backup = || Some(placement(5, Some("a")));
    let standby = || said(agent(Running::Standby, 5));
    assert_eq!(verdict(backup(), &[], said(agent(Running::Open, 5)), standby()), Ok("a".into()));
    assert_eq!(verdict(backup(), &[], said(agent(Running::Private, 5)), standby()), Ok("a".into()));
    // It lives on a proof: nobody else can have one.
    assert_eq!(verdict(backup(), &[], said(agent(Running::Open, 5)), silent()), Ok("a".into()));
}

#[test]
fn what_moved_since_the_backup_is_never_given_back() {
    let backup = || Some(placement(5, Some("a")));
    let gone = || said(Seen { fenced: true, ..agent(Running::Stopped, 6) });
    let there = || said(Seen { timeline: Some(2), ..agent(Running::Open, 7) });
    assert!(verdict(backup(), &[], gone(), there()).unwrap_err().contains("has seen epoch"));
    assert!(verdict(backup(), &[], silent(), there()).is_err());
    assert!(verdict(backup(), &[], silent(), silent()).unwrap_err().contains("could not be asked"));
    // A router that knows the placement after the move settles it.
    let told = [known(placement(7, Some("b")))];
    assert_eq!(verdict(backup(), &told, gone(), there()), Ok("b".into()));
    assert_eq!(verdict(None, &told, gone(), there()), Ok("b".into()));
}

#[test]
fn contradictions_are_closed() {
    let backup = || Some(placement(5, Some("a")));
    let open = |epoch| said(agent(Running::Open, epoch));
    let standby = || said(agent(Running::Standby, 5));
    assert!(verdict(backup(), &[], open(5), open(5)).is_err(), "both can be written");
    assert!(verdict(backup(), &[], standby(), open(5)).unwrap_err().contains("can be written"));
    assert!(verdict(backup(), &[], standby(), standby()).unwrap_err().contains("follows"));
    let private = || said(agent(Running::Private, 5));
    assert!(verdict(backup(), &[], private(), silent()).unwrap_err().contains("may have taken over"));
    assert!(verdict(backup(), &[], private(), private()).unwrap_err().contains("both primaries"));
    let writable = Said::Database { writable: true, why: "no agent".into() };
    assert!(verdict(backup(), &[], open(5), writable).is_err());
    let other = said(Seen { system_id: Some("8".into()), ..agent(Running::Standby, 5) });
    assert!(verdict(backup(), &[], open(5), other).unwrap_err().contains("not one and its copy"));
    let later = said(Seen { timeline: Some(2), ..agent(Running::Standby, 5) });
    assert!(verdict(backup(), &[], open(5), later).unwrap_err().contains("later timeline"));
    let twice = [known(placement(5, Some("b")))];
    assert!(verdict(backup(), &twice, open(5), standby()).unwrap_err().contains("is known with"));
    assert!(
        verdict(Some(placement(5, None)), &[], open(5), standby()).unwrap_err().contains("nobody held it")
    );
    assert!(verdict(None, &[], open(5), standby()).unwrap_err().contains("knows a placement"));
}

#[test]
fn a_cell_without_a_database_needs_a_router_that_knows_it() {
    let (cell, databases, backup) = (cell(false), BTreeMap::new(), placement(5, Some("a")));
    let told = [known(placement(5, Some("a")))];
    let of = |routers| Facts { cell: &cell, backup: Some(&backup), routers, databases: &databases };
    assert!(matches!(decide(&of(&[])).unwrap().verdict, Verdict::Closed { .. }));
    assert!(matches!(decide(&of(&told)).unwrap().verdict, Verdict::Holds { .. }));
}

#[test]
fn an_epoch_without_room_above_it_stops_everything() {
    let (cell, databases, backup) = (cell(true), BTreeMap::new(), placement(u64::MAX - RAISE, Some("a")));
    let facts = Facts { cell: &cell, backup: Some(&backup), routers: &[], databases: &databases };
    assert_eq!(decide(&facts).unwrap_err().epoch, Epoch(u64::MAX - RAISE));
}

fn any_placement() -> impl Strategy<Value = Placement> {
    (1..9_u64, prop::option::of(prop::sample::select(vec!["a", "b", "elsewhere"])))
        .prop_map(|(epoch, holder)| placement(epoch, holder))
}

fn any_said() -> impl Strategy<Value = Said> {
    let running =
        prop::sample::select(vec![Running::Open, Running::Private, Running::Stopped, Running::Standby]);
    prop_oneof![
        4 => (running, any::<bool>(), any::<bool>(), 0..9_u64, prop::option::of(1..3_u32)).prop_map(
            |(running, primary, fenced, epoch, timeline)| said(Seen {
                primary: match running {
                    Running::Open | Running::Private => true,
                    Running::Standby => false,
                    Running::Stopped => primary,
                },
                fenced,
                timeline,
                ..agent(running, epoch)
            })
        ),
        1 => any::<bool>().prop_map(|writable| Said::Database { writable, why: "w".into() }),
        1 => Just(silent()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn never_lower_never_two_and_no_contradiction(
        backup in prop::option::of(any_placement()),
        routers in prop::collection::vec(any_placement().prop_map(known), 0..4),
        a in any_said(),
        b in any_said(),
    ) {
        let cell = cell(true);
        let databases: BTreeMap<_, _> = [(region("a"), a), (region("b"), b)].into();
        let facts = Facts { cell: &cell, backup: backup.as_ref(), routers: &routers, databases: &databases };
        let decision = decide(&facts).unwrap();
        for known in backup.iter().chain(routers.iter().map(|k| &k.placement)) {
            prop_assert!(decision.epoch.0 >= known.epoch.0 + RAISE);
        }
        for said in databases.values() {
            if let Said::Agent(seen) = said {
                prop_assert!(decision.epoch.0 >= seen.epoch.0 + RAISE);
            }
        }
        let placement = decision.placement();
        prop_assert!(placement.witnesses.is_sound());
        prop_assert_eq!(placement.holder.is_some(), placement.phase == Phase::Serving);
        let Some(holder) = placement.holder else { return Ok(()) };
        prop_assert!(cell.other(&holder).is_some());
        // Nobody else can be written, and nobody knows of somebody else later on.
        for (region, said) in databases.iter().filter(|(r, _)| **r != holder) {
            prop_assert!(!said.writable(), "{} can be written", region);
        }
        for known in backup.iter().chain(routers.iter().map(|k| &k.placement)) {
            let newest = backup.iter().chain(routers.iter().map(|k| &k.placement)).map(|p| p.epoch).max();
            prop_assert!(Some(known.epoch) < newest || known.holder.as_ref() == Some(&holder));
        }
        // And its own database is a primary that may be.
        let Said::Agent(own) = &databases[&holder] else { return Err(TestCaseError::fail("nobody was asked")) };
        prop_assert!(own.primary && !own.fenced && own.running != Running::Standby);
        prop_assert!(own.running == Running::Open || databases.iter().all(|(r, s)| *r == holder || s.harmless()));
    }
}
