//! `domicile cell show CELL`

use domicile_api::protection::{BuildingView, RetentionView, Slot};
use domicile_api::views::{AgentView, CellView, FenceLevelView};
use domicile_api::witnesses::WitnessesView;
use domicile_model::CellId;

use crate::cell::list::{closed, lag, problems};
use crate::cell::witnesses;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, bytes, joined, millis, or_dash, phase};

/// Runs it.
///
/// # Errors
/// When the cell does not exist, or no control plane answers.
pub async fn run(id: &CellId, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let cell: CellView = client.get(&format!("/v1/cells/{id}")).await?;
    let vouching: Option<WitnessesView> = if out.json { None } else { vouching(id, client).await? };
    if out.json {
        out.data(&cell)?;
        return Ok(Exit::Ok);
    }
    let mut pairs = vec![
        ("cell", cell.id.to_string()),
        ("primary", cell.primary.to_string()),
        ("dr", cell.dr.to_string()),
        ("served from", or_dash(cell.holder.as_ref())),
        ("standby", or_dash(cell.standby.as_ref())),
        ("phase", phase(cell.phase)),
        ("epoch", cell.epoch.to_string()),
        ("move", or_dash(cell.moving.as_ref())),
        ("comes first", if cell.availability_first { "availability" } else { "consistency" }.to_owned()),
        ("witnesses", joined(&cell.witnesses)),
        ("tenants", joined(&cell.tenants)),
    ];
    if let Some(l) = &cell.lag {
        pairs.push(("standby behind", lag(l)));
        pairs.push(("bytes behind", or_dash(l.bytes)));
        pairs.push(("transactions behind", or_dash(l.transactions)));
        if let Some(kept) = l.loss_slot_kept_bytes {
            let limit =
                l.loss_slot_limit_bytes.map_or("no limit".to_owned(), |most| format!("given up past {most}"));
            pairs.push(("slot for losses", format!("keeps {kept} bytes, {limit}")));
        }
        pairs.push((
            "primary sampled",
            l.primary_sample_age_ms.map_or("never".into(), |a| format!("{} ago", millis(a))),
        ));
        pairs.push((
            "standby sampled",
            l.standby_sample_age_ms.map_or("never".into(), |a| format!("{} ago", millis(a))),
        ));
    }
    let levels: Vec<String> = cell.fence_levels.iter().map(level).collect();
    if !levels.is_empty() {
        pairs.push(("fence level", levels.join("\n")));
    }
    if let Some(unprotected) = &cell.unprotected {
        let length =
            unprotected.for_ms.map_or("for an unknown time".to_owned(), |ms| format!("for {}", millis(ms)));
        pairs.push(("unprotected", format!("{length}: {}", unprotected.because)));
    }
    if let Some(building) = &cell.building {
        pairs.push(("new standby", progress(building)));
    }
    if let Some(kept) = &cell.retention {
        pairs.extend(retention(kept));
    }
    let agents: Vec<String> = cell.agents.iter().map(agent).collect();
    if !agents.is_empty() {
        pairs.push(("agents", agents.join("\n")));
    }
    out.pairs(&pairs)?;
    if let Some(view) = vouching.filter(|v| !v.members.is_empty()) {
        writeln!(out.stdout)?;
        witnesses::table(&view, out)?;
    }
    closed(std::slice::from_ref(&cell), out)?;
    problems(std::slice::from_ref(&cell), out)?;
    Ok(Exit::Ok)
}

/// Its witnesses; none where the control plane is one that does not tell.
async fn vouching(id: &CellId, client: &Client) -> Result<Option<WitnessesView>, Failure> {
    match client.get(&format!("/v1/cells/{id}/witnesses")).await {
        Ok(view) => Ok(Some(view)),
        Err(failure) if failure.exit == Exit::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// What stops direct writers of a database when its region's proof ends.
fn level(told: &FenceLevelView) -> String {
    let FenceLevelView { region, level, age_ms } = told;
    format!("{region} {level}: {} (told {} ago)", level.means(), millis(*age_ms))
}

/// How far a new standby is, and how long it will take.
pub(crate) fn progress(building: &BuildingView) -> String {
    let BuildingView { region, doing, for_ms, age_ms, because, .. } = building;
    let copied = building.done_bytes.zip(building.total_bytes);
    let copied =
        copied.map_or_else(String::new, |(done, total)| format!(", {} of {}", bytes(done), bytes(total)));
    let left = building.left_ms.map_or("unknown".to_owned(), |ms| format!("about {}", millis(ms)));
    format!(
        "{region}, {} for {}{copied}; time left: {left} ({because}; seen {} ago)",
        doing.name(),
        millis(*for_ms),
        millis(*age_ms)
    )
}

/// What the primary keeps for its standby and others, and how long that can go on.
fn retention(kept: &RetentionView) -> Vec<(&'static str, String)> {
    let slots: Vec<String> = kept.seen.slots.iter().map(slot).collect();
    let limit =
        kept.seen.limit_bytes.map_or("no limit".to_owned(), |most| format!("at most {}", bytes(most)));
    let free = kept.seen.free_bytes.map_or("unknown".to_owned(), bytes);
    let mut pairs = vec![("slots may keep", format!("{limit}; free on that disk: {free}"))];
    if !slots.is_empty() {
        pairs.push(("slots", slots.join("\n")));
    }
    if !kept.because.is_empty() {
        let left = kept.standby_may_stay_away_ms.map_or("unknown".to_owned(), millis);
        pairs.push(("standby may stay away", format!("{left}: {}", kept.because)));
    }
    pairs
}

fn slot(slot: &Slot) -> String {
    let used = if slot.active { "in use" } else { "not in use" };
    let kept = slot.kept_bytes.map_or("nothing".to_owned(), bytes);
    let status = slot.wal_status.as_deref().unwrap_or("unknown");
    let safe = slot.safe_bytes.map_or_else(String::new, |safe| {
        format!(", {} more before it may be given up", bytes(u64::try_from(safe).unwrap_or(0)))
    });
    format!("{} ({}): {used}, keeps {kept} ({status}){safe}", slot.name, slot.used_for.name())
}

/// By which key an agent's word is believed, and whether it is the one that it shows.
fn agent(agent: &AgentView) -> String {
    let region = &agent.region;
    match (&agent.trusted, &agent.shown) {
        (Some(trusted), Some(shown)) if trusted == shown => format!("{region} signs with {trusted}"),
        (Some(trusted), Some(shown)) => format!("{region} signs with {shown}, but {trusted} is trusted"),
        (Some(trusted), None) => format!("{region} not seen yet; {trusted} is trusted"),
        (None, Some(shown)) => format!("{region} signs with {shown}, not trusted yet"),
        (None, None) => format!("{region} no key seen yet"),
    }
}
