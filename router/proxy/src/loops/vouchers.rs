//! The witness proof: when the registry is silent for more than two RENEW, p of n witnesses carry each cell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::pause;
use domicile_model::{CellId, Epoch, Placement, RouterId};
use domicile_router_core::headers;

use crate::doors::wire::{Asked, Question, VouchAnswer, VouchRequest};
use crate::state::{Proofs, Shared};

/// How long a witness may take.
const ANSWER: Duration = Duration::from_millis(900);
/// Questions in one request.
const BATCH: usize = 1_000;

/// Asks for as long as the router lives.
pub async fn run(shared: Arc<Shared>, client: reqwest::Client) {
    let Proofs::Book(book) = &shared.proofs else { return };
    let mut carrying = false;
    loop {
        let constants = shared.constants();
        let age = book.load().registry_age(shared.now());
        let silent = age.is_none_or(|age| age > constants.renew() * 2);
        if silent {
            let carried = round(&shared, &client).await;
            if carried != carrying {
                tracing::warn!(carried, "the registry is silent: asking the witnesses");
            }
            carrying = carried;
        } else if std::mem::take(&mut carrying) {
            tracing::info!("the registry answers again: the witnesses are not needed");
        }
        pause(constants.renew() / if silent { 1 } else { 2 }).await;
    }
}

/// Asks all witnesses about all cells of the own region; whether any proof came of it.
async fn round(shared: &Shared, client: &reqwest::Client) -> bool {
    let table = shared.table();
    let Some(world) = table.world() else { return false };
    let (id, constants) = (world.id, world.constants);
    let region = &shared.config.region;
    let ours: Vec<Placement> = table
        .placements()
        .filter(|p| table.provable(p.placement.cell.as_str(), region).is_some())
        .map(|p| p.placement.clone())
        .collect();
    let mut per_witness: HashMap<RouterId, Vec<Question>> = HashMap::new();
    for p in &ours {
        for witness in &p.witnesses.members {
            let question = Question { cell: p.cell.clone(), epoch: p.epoch };
            per_witness.entry(witness.clone()).or_default().push(question);
        }
    }
    let asked = shared.now();
    let answers = futures::future::join_all(per_witness.into_iter().map(|(witness, questions)| {
        let peer = table.witness(&witness).map(|w| w.peer);
        async move {
            let mut all = Vec::new();
            for asks in questions.chunks(BATCH) {
                let request = VouchRequest { world: id, region: region.clone(), asks: asks.to_vec() };
                if witness == shared.config.id {
                    all.extend(shared.vouch(&request).answers);
                } else if let Some(peer) = peer {
                    all.extend(ask(shared, client, shared.config.links.dial(peer), &request).await);
                }
            }
            all
        }
    }))
    .await;
    let mut yes: HashMap<(CellId, Epoch), u32> = HashMap::new();
    for answer in answers.into_iter().flatten().filter(|a| a.yes) {
        *yes.entry((answer.cell, answer.epoch)).or_default() += 1;
    }
    let mut carried = false;
    shared.prove(|book| {
        book.follow_world(id);
        carried = false;
        for p in &ours {
            let count = yes.get(&(p.cell.clone(), p.epoch)).copied().unwrap_or(0);
            carried |= book.on_witnesses(p, asked, count, constants);
        }
        book.tidy(shared.now());
    });
    if carried {
        shared.metrics.witness_proofs.inc();
    }
    carried
}

async fn ask(
    shared: &Shared,
    client: &reqwest::Client,
    peer: std::net::SocketAddr,
    request: &VouchRequest,
) -> Vec<Asked> {
    let Some(secret) = &shared.secret else { return Vec::new() };
    let answer = client
        .post(format!("http://{peer}/v1/witness"))
        .bearer_auth(secret)
        .header(headers::REQUEST_ID, uuid::Uuid::now_v7().to_string())
        .timeout(ANSWER)
        .json(request)
        .send()
        .await;
    let answer = match answer.and_then(reqwest::Response::error_for_status) {
        Ok(answer) => answer.json::<VouchAnswer>().await,
        Err(error) => Err(error),
    };
    match answer {
        // One yes a witness and cell, whatever it sends: a cell that stands there twice counts once.
        Ok(mut answer) => {
            answer.answers.sort_by(|a, b| (&a.cell, a.epoch).cmp(&(&b.cell, b.epoch)));
            answer.answers.dedup_by(|a, b| a.cell == b.cell && a.epoch == b.epoch);
            answer.answers
        }
        Err(error) => {
            tracing::debug!(%peer, error = %error.without_url(), "a witness did not answer");
            Vec::new()
        }
    }
}
