//! The checks before a move: named, each with a verdict and a sentence. Unknown blocks as a failure does. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use domicile_api::moves::{Check, LossPreview, MoveRequest, Verdict};
use domicile_api::views::LagView;
use domicile_model::invariants::may_serve;
use domicile_model::{FenceLevel, MoveId, Phase, Role, TenantId};
use jiff::Timestamp;

use crate::brakes;
use crate::fence_level;
use crate::options::Options;
use crate::provider::Observation;
use crate::room::{RoomSeen, registry_room};
use crate::snapshot::Snapshot;

/// What was looked at.
pub(crate) struct Looked<'a> {
    pub(crate) request: &'a MoveRequest,
    pub(crate) snapshot: &'a Snapshot,
    /// The present primary; none where nobody holds the cell.
    pub(crate) primary: Option<&'a Observation>,
    pub(crate) standby: &'a Observation,
    pub(crate) room: &'a RoomSeen,
    pub(crate) lag: Option<LagView>,
    /// What stops direct writers of the present primary, and how long ago it told; none: nobody told.
    pub(crate) fence_level: Option<(FenceLevel, Duration)>,
    pub(crate) preview: Option<&'a LossPreview>,
    pub(crate) options: &'a Options,
    /// The move that is looked at again, which is no other move.
    pub(crate) own: Option<MoveId>,
    /// By the wall clock, for what people agreed on.
    pub(crate) now: Timestamp,
}

pub(crate) fn check(name: &str, verdict: Verdict, why: impl Into<String>) -> Check {
    Check { name: name.to_owned(), verdict, why: why.into() }
}

fn yes_no(name: &str, seen: Option<bool>, good: &str, bad: String, unknown: String) -> Check {
    match seen {
        Some(true) => check(name, Verdict::Passed, good),
        Some(false) => check(name, Verdict::Failed, bad),
        None => check(name, Verdict::Unknown, unknown),
    }
}

/// All checks of this kind of move.
pub(crate) fn checks(on: &Looked<'_>) -> Vec<Check> {
    let mut all = vec![
        registry(on),
        registry_room(on.room, on.request.force),
        brakes::emergency_stop(on),
        no_other_move(on),
        target(on),
        residency(on),
        tenants(on),
        target_gates(on),
        standby(on),
        fence_level::checked(on),
    ];
    if on.request.force {
        all.push(consent(on));
    } else {
        all.extend([
            primary(on),
            handover_key(on),
            streaming(on),
            lag(on),
            loss_slot(on),
            crate::retention::bounded(on.primary.and_then(|p| p.retention.as_ref())),
            prepared(on),
            rewind(on),
            old_gates(on),
            brakes::freeze(on),
            brakes::interval(on),
        ]);
        all.extend(crate::precheck_losses::checks(on));
    }
    all.push(problems(on));
    all
}

pub(crate) fn registry(on: &Looked<'_>) -> Check {
    match &on.snapshot.world {
        Some(world) if world.reconciled => {
            check("registry", Verdict::Passed, "the registry answers with quorum")
        }
        Some(_) => check(
            "registry",
            Verdict::Failed,
            "the registry was restored and is not reconciled: raise the epochs first",
        ),
        None => check("registry", Verdict::Failed, "the registry has no world record: apply a fleet first"),
    }
}

fn no_other_move(on: &Looked<'_>) -> Check {
    let cell = &on.snapshot.cell.id;
    if on.snapshot.claimed.is_some() && on.snapshot.claimed != on.own {
        let why = format!(
            "cell {cell} is already being moved: `domicile failover show {cell}` tells how it stands"
        );
        check("no-other-move", Verdict::Failed, why)
    } else if on.snapshot.placement.phase != Phase::Serving {
        let why = match &on.snapshot.closed {
            Some(closed) => format!(
                "{} has closed cell {cell} because: {}; `domicile cell open {cell}` opens it",
                closed.by, closed.reason
            ),
            None => format!("cell {cell} is not serving: it waits to be reconciled"),
        };
        check("no-other-move", Verdict::Failed, why)
    } else {
        check("no-other-move", Verdict::Passed, "no other move of the cell is under way")
    }
}

fn target(on: &Looked<'_>) -> Check {
    let (cell, placement, to) = (&on.snapshot.cell, &on.snapshot.placement, &on.request.to);
    if cell.database.is_none() {
        return check(
            "target",
            Verdict::Failed,
            format!("cell {} names no database: add [cells.{}.database] and apply", cell.id, cell.id),
        );
    }
    match &placement.holder {
        Some(holder) if holder == to => {
            check("target", Verdict::Failed, format!("cell {} is served from {to} already", cell.id))
        }
        Some(holder) if cell.other(holder) != Some(to) => check(
            "target",
            Verdict::Failed,
            format!("cell {} can go only to {} or {}", cell.id, cell.primary, cell.dr),
        ),
        Some(_) if placement.standby.as_ref() == Some(to) => {
            check("target", Verdict::Passed, format!("{to} is the standby of cell {}", cell.id))
        }
        Some(_) => check(
            "target",
            Verdict::Failed,
            format!(
                "{to} is no standby of cell {} at present: the cell is unprotected, build one first",
                cell.id
            ),
        ),
        None => check("target", Verdict::Failed, format!("nobody holds cell {}", cell.id)),
    }
}

/// There is no flag to pass over this one.
pub(crate) fn residency(on: &Looked<'_>) -> Check {
    let fleet = &on.snapshot.fleet;
    let broken: Vec<String> = fleet
        .tenants
        .values()
        .filter_map(|tenant| may_serve(fleet, tenant, &on.request.to).err())
        .map(|broken| broken.detail)
        .collect();
    if broken.is_empty() {
        let why = format!("all {} tenants allow {}", fleet.tenants.len(), on.request.to);
        check("residency", Verdict::Passed, why)
    } else {
        check("residency", Verdict::Failed, broken.join("; "))
    }
}

fn tenants(on: &Looked<'_>) -> Check {
    let named: BTreeSet<&TenantId> = on.request.tenants.iter().collect();
    if named.is_empty() {
        return check("tenants", Verdict::NotApplicable, "the move was asked for by cell");
    }
    let all: BTreeSet<&TenantId> = on.snapshot.fleet.tenants.keys().collect();
    let list = |set: Vec<&&TenantId>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let silent: Vec<_> = all.difference(&named).collect();
    let foreign: Vec<_> = named.difference(&all).collect();
    if !foreign.is_empty() {
        let why = format!("not in cell {}: {}", on.snapshot.cell.id, list(foreign));
        check("tenants", Verdict::Failed, why)
    } else if !silent.is_empty() {
        check("tenants", Verdict::Failed, format!("would move along without being named: {}", list(silent)))
    } else {
        check("tenants", Verdict::Passed, "everybody who moves along was named")
    }
}

fn gates(on: &Looked<'_>, region: &domicile_model::RegionId, name: &str) -> Check {
    let world = on.snapshot.world.as_ref().map(|w| w.id);
    let here: Vec<_> =
        on.snapshot.routers.iter().filter(|r| r.role == Role::Gate && r.region == *region).collect();
    let stale: Vec<String> = here
        .iter()
        .filter(|r| Some(r.world) != world || r.applied < on.snapshot.placed_at)
        .map(|r| r.id.to_string())
        .collect();
    if here.is_empty() {
        check(
            name,
            Verdict::Failed,
            format!("no gate is up in {region}: start one, or mend its way to the registry"),
        )
    } else if !stale.is_empty() {
        let why =
            format!("gates in {region} that have not applied the cell's placement: {}", stale.join(", "));
        check(name, Verdict::Failed, why)
    } else {
        check(name, Verdict::Passed, format!("{} gates are up in {region}", here.len()))
    }
}

pub(crate) fn target_gates(on: &Looked<'_>) -> Check {
    gates(on, &on.request.to, "gates")
}

fn old_gates(on: &Looked<'_>) -> Check {
    match &on.snapshot.placement.holder {
        Some(holder) => gates(on, holder, "old-gates"),
        None => check("old-gates", Verdict::NotApplicable, "nobody holds the cell"),
    }
}

fn standby(on: &Looked<'_>) -> Check {
    let to = &on.request.to;
    yes_no(
        "standby",
        on.standby.standby,
        "the standby runs in recovery",
        format!("the database in {to} is no running standby: look at it there"),
        format!("the database in {to} can't be seen: start its agent, or mend the way to it"),
    )
}

fn primary(on: &Looked<'_>) -> Check {
    let place =
        on.snapshot.placement.holder.as_ref().map_or_else(|| "nowhere".to_owned(), ToString::to_string);
    yes_no(
        "primary",
        on.primary.and_then(|p| p.writable),
        "the primary takes writes",
        format!("the database in {place} takes no writes: a planned move needs it to stop cleanly"),
        format!("the database in {place} can't be seen: mend the way to it, or fail over with --force"),
    )
}

/// The old primary hands over by its agent's word, and the new one's agent believes the key that the registry names:
/// found out here, not when the cell is closed.
fn handover_key(on: &Looked<'_>) -> Check {
    const NAME: &str = "handover-key";
    let (cell, Some(holder)) = (&on.snapshot.cell.id, &on.snapshot.placement.holder) else {
        return check(NAME, Verdict::NotApplicable, "nobody holds the cell");
    };
    let Some(shown) = on.primary.and_then(|p| p.key.as_ref()) else {
        let why = format!(
            "the agent of {cell} in {holder} shows no key to sign the handover with: start its present version, and look at its problems"
        );
        return check(NAME, Verdict::Unknown, why);
    };
    match on.snapshot.agents.iter().find(|agent| agent.region == *holder).map(|agent| &agent.key) {
        Some(trusted) if trusted == shown => {
            check(NAME, Verdict::Passed, format!("the agent in {holder} signs with the key that is trusted"))
        }
        Some(trusted) => check(
            NAME,
            Verdict::Failed,
            format!(
                "the agent of {cell} in {holder} signs with key {}, but key {} is trusted: if it was set up anew, `domicile cell trust-agent {cell} --region {holder} --key {}`; if not, find out what answers there",
                shown.id, trusted.id, shown.id
            ),
        ),
        None => check(
            NAME,
            Verdict::Unknown,
            format!(
                "no key of the agent of {cell} in {holder} is trusted yet: its first one is, within seconds of its first answer; ask again"
            ),
        ),
    }
}

fn streaming(on: &Looked<'_>) -> Check {
    let to = &on.request.to;
    yes_no(
        "standby-streaming",
        on.standby.streaming,
        "the standby streams",
        on.standby.not_streaming.clone().unwrap_or_else(|| {
            format!("the standby in {to} does not stream: look at its walreceiver and the replication slot")
        }),
        format!("whether the standby in {to} streams is unknown: start its agent, or mend the way to it"),
    )
}

fn lag(on: &Looked<'_>) -> Check {
    let most_age = crate::lossmath::millis(on.options.max_sample_age);
    let unknown = |why: &str| {
        check(
            "lag",
            Verdict::Unknown,
            format!(
                "the lag is unknown: {why}; it is sampled four times a second, wait or mend the way to the databases"
            ),
        )
    };
    let Some(lag) = &on.lag else { return unknown("no sample yet") };
    let (Some(p), Some(s)) = (lag.primary_sample_age_ms, lag.standby_sample_age_ms) else {
        return unknown("one side never answered");
    };
    if p > most_age || s > most_age {
        return unknown(&format!("the newest samples are {p} ms and {s} ms old"));
    }
    let (Some(bytes), Some(age)) = (lag.bytes, lag.data_age_ms) else {
        return unknown("the standby has no heartbeat row");
    };
    let rpo = on.snapshot.cell.rpo_ms;
    if age > rpo {
        check(
            "lag",
            Verdict::Failed,
            format!("the standby's data is {age} ms old, the cell's RPO is {rpo} ms: wait for it"),
        )
    } else if bytes > on.options.max_lag_bytes {
        let most = on.options.max_lag_bytes;
        check(
            "lag",
            Verdict::Failed,
            format!("the standby is {bytes} bytes behind, a planned move starts below {most}: wait for it"),
        )
    } else {
        check("lag", Verdict::Passed, format!("{bytes} bytes, data {age} ms old"))
    }
}

fn loss_slot(on: &Looked<'_>) -> Check {
    yes_no(
        "loss-slot",
        on.primary.and_then(|p| p.loss_slot),
        "the slot for listing lost transactions is there",
        "the slot for listing lost transactions is missing on the primary or begins after what the standby has: its agent makes it; wait until the standby has streamed past it"
            .into(),
        "whether the slot for listing lost transactions exists is unknown: look at the primary's agent"
            .into(),
    )
}

fn prepared(on: &Looked<'_>) -> Check {
    match on.primary.and_then(|p| p.prepared_transactions) {
        Some(0) => check("prepared-transactions", Verdict::Passed, "none"),
        Some(n) => check(
            "prepared-transactions",
            Verdict::Failed,
            format!("{n} prepared transactions would outlive the stop: commit them or roll them back"),
        ),
        None => {
            check("prepared-transactions", Verdict::Unknown, "can't be seen: look at the primary's agent")
        }
    }
}

fn rewind(on: &Looked<'_>) -> Check {
    yes_no(
        "can-rewind",
        on.primary.and_then(|p| p.can_rewind),
        "data checksums or wal_log_hints are on",
        "neither data checksums nor wal_log_hints are on at the primary: switch wal_log_hints on".into(),
        "whether the primary can be rewound is unknown: look at its agent".into(),
    )
}

fn problems(on: &Looked<'_>) -> Check {
    let of = |seen: Option<&Observation>| seen.map(|s| s.problems.clone()).unwrap_or_default();
    let mut all = of(Some(on.standby));
    if !on.request.force {
        all.extend(of(on.primary));
    }
    if all.is_empty() {
        check("problems", Verdict::Passed, "the databases report none")
    } else {
        check("problems", Verdict::Failed, all.join("; "))
    }
}

/// Consent is compared with the preview, now and again right before promotion.
fn consent(on: &Looked<'_>) -> Check {
    let accepted = on.request.accept_loss;
    match (on.preview.and_then(LossPreview::total), accepted) {
        (Some(total), Some(accepted)) if total <= accepted => check(
            "consent",
            Verdict::Passed,
            format!("up to {total} transactions may be lost, {accepted} are accepted"),
        ),
        (Some(total), Some(accepted)) => check(
            "consent",
            Verdict::Failed,
            format!(
                "up to {total} transactions may be lost, only {accepted} are accepted: --accept-loss {total}"
            ),
        ),
        (Some(total), None) => check(
            "consent",
            Verdict::Failed,
            format!("up to {total} transactions may be lost: accept that with --accept-loss {total}"),
        ),
        (None, _) if on.request.accept_unknown => {
            check("consent", Verdict::Passed, "an unknown loss is accepted")
        }
        (None, _) => check(
            "consent",
            Verdict::Unknown,
            format!(
                "how much would be lost is unknown ({}): accept that with --accept-unknown",
                on.preview.map(|p| p.because.join("; ")).unwrap_or_default()
            ),
        ),
    }
}
