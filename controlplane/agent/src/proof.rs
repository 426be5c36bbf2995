//! Asking for proofs: the registry first, then the gates of the own region.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::BootTime;
use domicile_model::clock::pause;
use domicile_model::proof::{
    MoveFacts, NoPromotion, NotOurs, may_promote, primary_proves, promotion_keeps, stands,
};
use domicile_model::{Epoch, FenceConstants, LeaderFence, Placement, World};
use domicile_store::Key;
use domicile_store::codec::decode;
use serde::Deserialize;

use crate::agent::{Agent, Held};
use crate::failure::Failure;
use crate::pg::server::Kind;

/// How fast a private server asks for the proof that opens it.
const EAGER: Duration = Duration::from_millis(30);
/// How fast when the last answer was that another region holds the cell, or none came.
const PATIENT: Duration = Duration::from_millis(250);
/// How often an agent that needs no proof looks whether the registry has become another world.
const STRANGER: Duration = Duration::from_secs(1);

/// What the registry said.
enum Said {
    Yes(Held),
    /// It answered, and there is no proof in it: nobody holds the cell yet.
    NotYet,
    /// Another region holds the cell, or the registry is not to be believed.
    No,
}

/// What a gate answers to `POST /v1/proof`.
#[derive(Deserialize)]
struct Lent {
    epoch: Epoch,
    remaining_ms: u64,
}

/// Asks for ever.
pub(crate) async fn prove(agent: Arc<Agent>) {
    loop {
        let mode = agent.mode();
        if mode.kind != Some(Kind::Primary) || agent.disk.fenced() {
            if mode.kind == Some(Kind::Standby) || agent.disk.fenced() {
                // Nobody asks the registry any more, so what it last failed to say is no news, and would stand for ever.
                agent.problem("registry", None);
            }
            pause(EAGER).await;
            continue;
        }
        let said = match ask_registry(&agent).await {
            Ok(said) => {
                agent.problem("registry", None);
                said
            }
            Err(failure) => {
                let lent = ask_gates(&agent).await;
                agent.problem(
                    "registry",
                    Some(without_registry(&agent, &failure, lent.map(|(gate, _)| gate))),
                );
                lent.map_or(Said::No, |(_, held)| Said::Yes(held))
            }
        };
        let wait = match said {
            Said::Yes(held) => {
                agent.hold(held);
                if agent.mode().open { agent.constants().renew() } else { EAGER }
            }
            Said::NotYet if mode.open => Duration::from_millis(100),
            Said::NotYet => EAGER,
            Said::No => PATIENT,
        };
        pause(wait).await;
    }
}

/// Sees to it that an agent that asks for no proof (a standby's, or a fenced one) notices another world, too: a leader of
/// an earlier one must not find an agent that still obeys it.
pub(crate) async fn notice_world(agent: Arc<Agent>) {
    loop {
        pause(STRANGER).await;
        let keys = [Key::World, Key::Placement(agent.config.cell.clone())];
        let read = tokio::time::timeout(Duration::from_secs(3), agent.store.read(&keys)).await;
        // Silence is told by whoever needs a proof.
        let Ok(Ok((_, entries))) = read else { continue };
        let [Some(world), Some(placement)] = entries.as_slice() else { continue };
        let (Ok(world), Ok(placement)) =
            (decode::<World>(&world.value), decode::<Placement>(&placement.value))
        else {
            continue;
        };
        let memory = agent.disk.get();
        if memory.world == Some(world.id) && placement.epoch >= memory.epoch {
            agent.problem("epoch", None);
        }
        if world.reconciled && memory.world != Some(world.id) {
            let standing = stands(&placement, &agent.config.region, placement.epoch);
            let learned = learn(&agent, &world, placement.epoch, standing);
            agent.problem("world", learned.err().map(|f| f.to_string()));
        }
    }
}

/// One linearizable read, counted from before it was asked.
async fn ask_registry(agent: &Agent) -> Result<Said, Failure> {
    let asked = agent.clock.now();
    // Long enough for a second member after a first that hangs; short enough to ask a gate and still be in time.
    let patience = (agent.constants().fence() / 3).clamp(Duration::from_millis(200), Duration::from_secs(3));
    let keys = [Key::World, Key::Placement(agent.config.cell.clone())];
    let (_, entries) = tokio::time::timeout(patience, agent.store.read(&keys))
        .await
        .map_err(|_| {
            Failure::registry(format!(
                "the registry {} did not answer within {} ms",
                agent.config.registry,
                patience.as_millis()
            ))
        })?
        .map_err(|e| Failure::registry(e.to_string()))?;
    let mut entries = entries.into_iter();
    let (world, placement) = (entries.next().flatten(), entries.next().flatten());
    let (Some(world), Some(placement)) = (world, placement) else { return Ok(Said::No) };
    let unreadable = |e: domicile_store::CodecError| Failure::registry(e.to_string());
    let world: World = decode(&world.value).map_err(unreadable)?;
    let placement: Placement = decode(&placement.value).map_err(unreadable)?;
    let memory = agent.disk.get();
    // Another world than the one that orders come from: believed only once it is reconciled.
    let known = if memory.world == Some(world.id) { memory.epoch } else { Epoch::default() };
    let proof = primary_proves(&world, &placement, &agent.config.region, known, asked);
    match proof {
        Err(NotOurs::NotReconciled) => return Ok(Said::No),
        Err(why @ NotOurs::EpochFell { .. }) => {
            agent.problem("epoch", Some(why.to_string()));
            return Ok(Said::No);
        }
        Ok(_) | Err(NotOurs::HeldByNobody | NotOurs::HeldElsewhere) => {}
    }
    let standing = stands(&placement, &agent.config.region, placement.epoch);
    learn(agent, &world, placement.epoch, standing)?;
    Ok(match proof {
        Ok(proof) => Said::Yes(Held { epoch: proof.epoch, until: proof.ends() - proof.constants.stop() }),
        Err(NotOurs::HeldByNobody) => {
            keep_promoted(agent, &world, &placement, asked);
            Said::NotYet
        }
        Err(_) => Said::No,
    })
}

/// What was promoted and is open stays so until the switch, however long that takes. It is not opened by this: what belongs
/// to a promotion may be missing until its order is repeated.
fn keep_promoted(agent: &Agent, world: &World, placement: &Placement, asked: BootTime) {
    let memory = agent.disk.get();
    let Some(promotion) = memory.promotion.filter(|p| p.done.is_some() && agent.mode().open) else { return };
    let proof = promotion_keeps(world, placement, memory.world, promotion.moving, promotion.epoch, asked);
    if let Some(proof) = proof.filter(|_| !agent.config.sabotage.command_only) {
        agent.hold(Held { epoch: proof.epoch, until: proof.ends() - proof.constants.stop() });
    }
}

/// `standing`: whether the registry says at this epoch that this region holds the cell and that availability comes first.
fn learn(agent: &Agent, world: &World, epoch: Epoch, standing: bool) -> Result<(), Failure> {
    agent.disk.change(|m| {
        if m.world != Some(world.id) {
            m.world = Some(world.id);
            // Ranks of another world mean nothing in this one.
            m.highest = m.highest.take().filter(|t| t.world == world.id);
            m.epoch = epoch;
        }
        m.epoch = m.epoch.max(epoch);
        m.standing = standing.then_some(epoch);
        m.constants = Some(world.constants);
    })?;
    agent.bind();
    Ok(())
}

/// The proof that a local gate lends: it says how long its own still lasts, counted here from before it was asked.
/// Returns the gate too.
async fn ask_gates(agent: &Agent) -> Option<(SocketAddr, Held)> {
    let secret = agent.config.peer_secret.as_ref()?.read().ok()?;
    let memory = agent.disk.get();
    let constants: FenceConstants = agent.constants();
    for gate in &agent.config.gates {
        let asked = agent.clock.now();
        let request = agent
            .http
            .post(format!("http://{}/v1/proof", agent.links.dial(*gate)))
            .bearer_auth(&secret)
            .timeout(Duration::from_millis(500))
            .json(&serde_json::json!({"cell": agent.config.cell, "region": agent.config.region}));
        let Ok(answer) = request.send().await else { continue };
        if !answer.status().is_success() {
            continue;
        }
        let Ok(lent) = answer.json::<Lent>().await else { continue };
        if lent.epoch < memory.epoch {
            continue;
        }
        if agent.disk.change(|m| m.epoch = m.epoch.max(lent.epoch)).is_err() {
            continue;
        }
        agent.bind();
        // No proof lasts longer than FENCE, whatever a gate says.
        let mut left = Duration::from_millis(lent.remaining_ms).min(constants.fence());
        if agent.config.sabotage.keeps_lent_proofs {
            left = Duration::from_secs(3_600);
        }
        return Some((*gate, Held { epoch: lent.epoch, until: asked + left - constants.stop() }));
    }
    None
}

/// On what the database lives, or why it does not, while the registry can't be asked.
fn without_registry(agent: &Agent, failure: &Failure, lender: Option<SocketAddr>) -> String {
    let region = &agent.config.region;
    let lives = match lender {
        _ if agent.disk.stands() => {
            "the database goes on without a proof, because availability comes first in its cell; mend the way to the registry".to_owned()
        }
        Some(gate) => {
            format!("the database lives on proofs lent by the gate at {gate}; mend the way to the registry")
        }
        None if agent.config.gates.is_empty() => {
            format!(
                "no gate of {region} is named in `gates`, so nothing else can prove that it holds the cell; mend the way to the registry"
            )
        }
        None => format!(
            "no gate of {region} lends a proof either; start a gate there, or mend the way to the registry"
        ),
    };
    format!("{}: {lives}", failure.0.detail)
}

/// What the registry says of a promotion: leader, move and the close must stand there.
pub(crate) async fn registry_allows(
    agent: &Agent,
    token: &domicile_model::Token,
    epoch: Epoch,
) -> Result<(), Failure> {
    let cell = agent.config.cell.clone();
    let keys = [Key::World, Key::Leader, Key::Move(cell.clone()), Key::Placement(cell)];
    let (_, entries) = tokio::time::timeout(Duration::from_secs(2), agent.store.read(&keys))
        .await
        .map_err(|_| Failure::registry("the registry did not answer within 2 s"))?
        .map_err(|e| Failure::registry(e.to_string()))?;
    let [world, leader, claim, placement] = entries.as_slice() else {
        return Err(Failure::registry("the registry answered with another number of keys than asked"));
    };
    let unreadable = |e: domicile_store::CodecError| Failure::registry(e.to_string());
    let world: Option<World> = world.as_ref().map(|e| decode(&e.value)).transpose().map_err(unreadable)?;
    let claim: Option<domicile_model::MoveClaim> =
        claim.as_ref().map(|e| decode(&e.value)).transpose().map_err(unreadable)?;
    let placement: Option<Placement> =
        placement.as_ref().map(|e| decode(&e.value)).transpose().map_err(unreadable)?;
    let facts = MoveFacts {
        world: world.as_ref(),
        leader: leader.as_ref().map(|e| LeaderFence(e.created)),
        claim: claim.as_ref(),
        placement: placement.as_ref(),
    };
    may_promote(&facts, token, epoch).map_err(|why| match (why, &placement) {
        (NoPromotion::OtherLeader, _) => Failure::deposed(why.to_string()),
        (NoPromotion::OtherWorld, _) => Failure::refused("other-world", why.to_string()),
        (NoPromotion::OtherMove, _) => Failure::refused("other-move", why.to_string()),
        (NoPromotion::NotClosed, Some(placement)) => Failure::refused(
            "not-closed",
            format!(
                "the registry shows epoch {} held by {}, not epoch {epoch} held by nobody",
                placement.epoch,
                placement.holder.as_ref().map_or("nobody", |r| r.as_str())
            ),
        ),
        (NoPromotion::NoPlacement | NoPromotion::NotClosed, _) => {
            Failure::refused("no-placement", why.to_string())
        }
    })?;
    if let Some(world) = world {
        // Nobody holds the cell at this epoch.
        learn(agent, &world, epoch, false)?;
    }
    Ok(())
}

/// Whether the registry names this move as the one under way.
pub(crate) async fn claims(agent: &Agent, token: &domicile_model::Token) -> Result<bool, Failure> {
    let keys = [Key::World, Key::Move(agent.config.cell.clone())];
    let (_, entries) = tokio::time::timeout(Duration::from_secs(2), agent.store.read(&keys))
        .await
        .map_err(|_| Failure::registry("the registry did not answer within 2 s"))?
        .map_err(|e| Failure::registry(e.to_string()))?;
    let unreadable = |e: domicile_store::CodecError| Failure::registry(e.to_string());
    let mut entries = entries.into_iter();
    let world: Option<World> =
        entries.next().flatten().map(|e| decode(&e.value)).transpose().map_err(unreadable)?;
    let claim: Option<domicile_model::MoveClaim> =
        entries.next().flatten().map(|e| decode(&e.value)).transpose().map_err(unreadable)?;
    if let Some(world) = &world
        && world.reconciled
        && world.id == token.world
        && agent.disk.get().world != Some(world.id)
    {
        // The registry was restored into a new world: from here on only its orders count.
        agent.disk.change(|m| {
            m.world = Some(world.id);
            m.highest = None;
            m.epoch = Epoch::default();
            m.standing = None;
        })?;
    }
    Ok(world.is_some_and(|w| w.id == token.world) && claim.map(|c| c.moving) == Some(token.moving))
}
