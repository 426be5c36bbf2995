//! What a move leaves behind, and what could not be accounted for after a forced one, is told before anybody consents.

use domicile_api::agent::ExportPlace;
use domicile_api::moves::{MoveKind, Verdict};
use domicile_model::Country;

use super::happy::{ask, begin, lead, warm_up};
use super::simulate;
use crate::provider::Beside;
use crate::testkit::{A, Ended, Sim, end_of, region};
use crate::{MoveError, Options};

#[test]
fn what_stands_beside_replication_is_named_and_what_can_not_be_seen_blocks() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        warm_up(MoveKind::Switchover).await;
        let request = ask(&sim, MoveKind::Switchover);
        let verdicts = async |name: &str| {
            let plan = engine.plan(&request).await.unwrap();
            let found = plan.checks.into_iter().find(|c| c.name == name).unwrap();
            (found.verdict, found.why)
        };
        let names = ["unlisted-changes", "logical-slots", "subscriptions", "publications", "scheduled-jobs"];
        for name in names {
            assert_eq!(verdicts(name).await, (Verdict::Passed, "none".to_owned()), "{name}");
        }
        let one = |name: &str| vec![name.to_owned()];
        let beside = Beside {
            keyless: one("public.audit"),
            unlogged: one("public.scratch"),
            large_objects: 3,
            slots: one("warehouse"),
            subscriptions: one("upstream"),
            publications: one("reports"),
            jobs: Some(one("nightly")),
            ..Beside::default()
        };
        let set = |beside| sim.world().servers.get_mut(&region(A)).unwrap().beside = beside;
        set(Some(beside.clone()));
        let said = ["public.scratch", "warehouse", "upstream", "reports", "nightly"];
        for (name, word) in names.into_iter().zip(said) {
            let (verdict, why) = verdicts(name).await;
            assert!(verdict == Verdict::Noted && !verdict.blocks() && why.contains(word), "{name}: {why}");
        }
        let unlisted = verdicts("unlisted-changes").await.1;
        assert!(unlisted.contains("public.audit") && unlisted.contains("large objects (3"), "{unlisted}");

        set(Some(Beside { jobs: None, ..beside }));
        assert_eq!(verdicts("scheduled-jobs").await.0, Verdict::Unknown);
        set(None);
        for name in names {
            assert_eq!(verdicts(name).await.0, Verdict::Unknown, "{name}");
        }
        let blocked = engine.request(&request, "ann", &leadership, &sim.registry).await;
        assert!(matches!(blocked, Err(MoveError::Blocked(_))), "{blocked:?}");
    });
}

#[test]
fn no_planned_move_starts_from_a_primary_whose_losses_could_not_be_exported_where_tenants_allow() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        warm_up(MoveKind::Switchover).await;
        let request = ask(&sim, MoveKind::Switchover);
        let verdict = async || {
            let plan = engine.plan(&request).await.unwrap();
            let found = plan.checks.into_iter().find(|c| c.name == "loss-export").unwrap();
            (found.verdict, found.why)
        };
        assert_eq!(verdict().await.0, Verdict::Passed);
        let set = |export| sim.world().servers.get_mut(&region(A)).unwrap().export = export;
        let place = |country, problem: Option<&str>| ExportPlace {
            country: Country::new(country).unwrap(),
            recipient: "age1".into(),
            problem: problem.map(str::to_owned),
        };
        set(Some(place("CN", None)));
        let (found, why) = verdict().await;
        assert!(found == Verdict::Failed && why.contains("CN") && why.contains("mercy-health"), "{why}");
        set(Some(place("US", Some("the directory is not there"))));
        assert_eq!(verdict().await, (Verdict::Failed, "the directory is not there".to_owned()));
        set(None);
        let (found, why) = verdict().await;
        assert!(found == Verdict::Failed && why.contains("[losses]"), "{why}");
    });
}

#[test]
fn a_forced_move_says_what_its_list_can_not_show_and_keeps_what_became_of_the_sequences() {
    simulate(async {
        let sim = Sim::start().await;
        let engine = sim.engine(Options::default());
        let leadership = sim.take_over("one").await;
        let _leading = lead(&engine, &leadership, &sim);
        let beside =
            Beside { unlogged: vec!["public.scratch".into()], jobs: Some(vec![]), ..Beside::default() };
        {
            let mut world = sim.world();
            let server = world.servers.get_mut(&region(A)).unwrap();
            (server.beside, server.export) = (Some(beside), None);
        }
        warm_up(MoveKind::Failover).await;
        engine.sampler().tick(&[(sim.cell.clone(), region(A))]);
        domicile_model::clock::pause(std::time::Duration::from_millis(100)).await;
        let plan = engine.plan(&ask(&sim, MoveKind::Failover)).await.unwrap();
        let because = plan.preview.unwrap().because.join("; ");
        assert!(because.contains("public.scratch") && because.contains("no place to export"), "{because}");
        // Without the old primary's word numbers may be lost as well; with it nothing is, and nothing is raised.
        sim.world().servers.get_mut(&region(A)).unwrap().reachable = false;
        let id = begin(&sim, &engine, MoveKind::Failover, &leadership).await;
        while engine.view(id).await.unwrap().unwrap().facts.serving_epoch.is_none() {
            domicile_model::clock::pause(std::time::Duration::from_millis(100)).await;
        }
        sim.world().servers.get_mut(&region(A)).unwrap().reachable = true;
        let (ended, view) = end_of(&engine, id).await;
        assert_eq!(ended, Ended::Done);
        assert_eq!(view.facts.sequences.map(|guard| (guard.values, guard.raised)), Some((1_000, 2)));
    });
}
