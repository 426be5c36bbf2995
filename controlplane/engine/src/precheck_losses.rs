//! The checks of what a move leaves behind, and of what could not be accounted for if the next one had to be forced.

use domicile_api::moves::{Check, Verdict};

use crate::prechecks::{Looked, check};
use crate::provider::{Beside, named};

pub(crate) fn checks(on: &Looked<'_>) -> Vec<Check> {
    let mut all = vec![export(on)];
    let beside = on.primary.and_then(|p| p.beside.as_ref());
    all.push(told("unlisted-changes", beside.map(|b| b.unlisted().join("; ")), |what| {
        format!("if this primary is lost, its list of losses can't show: {what}")
    }));
    type Names = fn(&Beside) -> &Vec<String>;
    let lists: [(&str, Names, &str); 3] = [
        (
            "logical-slots",
            |b| &b.slots,
            "the new primary does not have them: stop their readers before the move, make them anew after it, and let their readers take up from there",
        ),
        (
            "subscriptions",
            |b| &b.subscriptions,
            "they go on from the new primary once the network there lets them: check that it does",
        ),
        (
            "publications",
            |b| &b.publications,
            "they move along, their subscribers' slots do not: point subscribers to the new primary with new slots",
        ),
    ];
    for (name, names, advice) in lists {
        let seen = beside.map(|b| named(names(b)));
        all.push(told(name, seen, |what| format!("{what}: {advice}")));
    }
    all.push(match beside {
        Some(Beside { jobs: None, .. }) => check(
            "scheduled-jobs",
            Verdict::Unknown,
            "pg_cron is there and its jobs can't be read: give the role that looks `BYPASSRLS` and SELECT on cron.job",
        ),
        _ => told("scheduled-jobs", beside.and_then(|b| b.jobs.as_deref().map(named)), |what| {
            format!(
                "pg_cron runs {what}: they move along and run wherever pg_cron is loaded; check shared_preload_libraries and cron.database_name of the new primary"
            )
        }),
    });
    all
}

/// Nothing is fine; something is told and blocks nobody; unknown blocks.
fn told(name: &str, seen: Option<String>, say: impl FnOnce(&str) -> String) -> Check {
    match seen {
        Some(what) if what.is_empty() => check(name, Verdict::Passed, "none"),
        Some(what) => check(name, Verdict::Noted, say(&what)),
        None => check(
            name,
            Verdict::Unknown,
            "can't be seen at the primary: look at its agent and at the role that looks",
        ),
    }
}

/// Whether lost rows could be exported: there is a place, and every tenant's policy allows its country.
fn export(on: &Looked<'_>) -> Check {
    const NAME: &str = "loss-export";
    let Some(primary) = on.primary else {
        return check(
            NAME,
            Verdict::Unknown,
            "nobody holds the cell, so nobody says where lost rows would go",
        );
    };
    let Some(place) = &primary.export else {
        let why = "the primary's agent names no place to export lost rows to, so that after a forced move nothing could be rewound: add [losses] to its file";
        return check(NAME, Verdict::Failed, why);
    };
    if let Some(problem) = &place.problem {
        return check(NAME, Verdict::Failed, problem);
    }
    let fleet = &on.snapshot.fleet;
    let outside: Vec<String> = fleet
        .tenants
        .values()
        .filter(|tenant| !tenant.residency.allows_at_rest(place.country, &fleet.jurisdictions))
        .map(|tenant| tenant.id.to_string())
        .collect();
    if outside.is_empty() {
        let why =
            format!("lost rows would go to {}, where all tenants allow it, for one recipient", place.country);
        check(NAME, Verdict::Passed, why)
    } else {
        let why = format!(
            "lost rows would go to {}, outside the policy of {}: name another directory in [losses] of the agent's file",
            place.country,
            named(&outside)
        );
        check(NAME, Verdict::Failed, why)
    }
}
