//! What a promotion rests on: the word of the old primary's agent, or explicit consent to loss. Nothing else.

use std::time::Duration;

use domicile_api::agent::{Consent, Promote};
use domicile_api::moves::{MoveKind, MoveRequest};
use domicile_model::{AgentKey, HandoverToken, RevokedKey};
use domicile_seal::handover::{self, Expected};
use domicile_store::codec::decode;
use domicile_store::{Key, Record};
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::failure::Failure;
use crate::proof::registry_allows;

/// How long the registry may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Of the record of a move: what was asked for and accepted. The engine's record holds more.
#[derive(Serialize, Deserialize)]
struct Asked {
    definition: MoveKind,
    request: MoveRequest,
    #[serde(default)]
    outputs: Outputs,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Outputs {
    consented: Option<u64>,
}

impl Record for Asked {
    const NAME: &'static str = "workflow";
}

impl Agent {
    /// Whether the registry and what the order rests on let this server be promoted. Changes nothing; asked by itself
    /// before the intent to promote is recorded, because after that no move turns back.
    pub(crate) async fn may_promote(&self, order: &Promote) -> Result<(), Failure> {
        let (allowed, warranted) =
            tokio::join!(registry_allows(self, &order.token, order.epoch), self.warrant(order));
        allowed.and(warranted)
    }

    async fn warrant(&self, order: &Promote) -> Result<(), Failure> {
        if self.config.sabotage.takes_any_handover {
            return Ok(());
        }
        match (&order.consent, &order.handover) {
            (Some(consent), _) => self.consented(order, consent).await,
            (None, Some(handover)) => self.handed_over(order, handover).await,
            (None, None) => Err(Failure::refused(
                "no-handover",
                format!(
                    "the order to promote the standby of cell {} carries neither the old primary's handover nor consent to loss",
                    self.config.cell
                ),
            )
            .hint("a planned move needs the handover; without one only `domicile failover start --force` with consent promotes")),
        }
    }

    /// A planned move: the old primary's agent says, by the key that the registry trusts, that its server has stopped.
    async fn handed_over(&self, order: &Promote, token: &HandoverToken) -> Result<(), Failure> {
        let cell = &self.config.cell;
        let trusted: Option<AgentKey> = match &token.seal {
            Some(seal) => self.registered(Key::Agent(cell.clone(), seal.region.clone())).await?,
            None => None,
        };
        if let Some(seal) = token.seal.as_ref().filter(|s| is_fingerprint(&s.key)) {
            let revoked: Option<RevokedKey> = self.registered(Key::RevokedKey(seal.key.clone())).await?;
            if let Some(revoked) = revoked {
                return Err(Failure::refused(
                    "handover-refused",
                    format!(
                        "the handover of cell {cell} is signed with key {}, which {} has revoked: {}",
                        revoked.id, revoked.by, revoked.reason
                    ),
                )
                .hint("give that agent a new key and trust it with `domicile cell trust-agent`, then move again; runbooks/leaked-key.md"));
            }
        }
        let expected = Expected {
            cell,
            own: &self.config.region,
            epoch: order.epoch,
            order: &order.token,
            trusted: trusted.as_ref(),
        };
        handover::check(token, &expected).map_err(|e| Failure::refused("handover-refused", e.to_string()))
    }

    /// A forced move: the registry's record of this very move holds the same consent.
    async fn consented(&self, order: &Promote, consent: &Consent) -> Result<(), Failure> {
        let asked: Option<Asked> = self.registered(Key::Workflow(order.token.moving)).await?;
        let refused = |why: &str| {
            Failure::refused(
                "no-consent",
                format!("the order to promote rests on consent to loss, but {why} in the record of move {}", order.token.moving),
            )
            .hint("look at the move with `domicile failover show`; a planned move needs the old primary's handover instead")
        };
        let Some(asked) = asked.filter(|asked| asked.request.cell == self.config.cell) else {
            return Err(refused("nothing of the kind stands"));
        };
        if asked.definition != MoveKind::Failover || !asked.request.force {
            return Err(refused("no forced move stands"));
        }
        let accepted = asked.outputs.consented.or(asked.request.accept_loss);
        if consent.accept_loss != accepted || consent.accept_unknown != asked.request.accept_unknown {
            return Err(refused("another consent stands"));
        }
        tracing::warn!(
            by = consent.by,
            accept_loss = consent.accept_loss,
            accept_unknown = consent.accept_unknown,
            "a promotion on consent to loss"
        );
        Ok(())
    }

    async fn registered<R: Record>(&self, key: Key) -> Result<Option<R>, Failure> {
        let (_, entries) = tokio::time::timeout(PATIENCE, self.store.read(&[key]))
            .await
            .map_err(|_| Failure::registry("the registry did not answer within 2 s"))?
            .map_err(|e| Failure::registry(e.to_string()))?;
        let entry = entries.into_iter().next().flatten();
        entry
            .map(|e| decode(&e.value))
            .transpose()
            .map_err(|e: domicile_store::CodecError| Failure::registry(e.to_string()))
    }
}

/// Whether this text can name a key of the registry; one that can't fits no key that is trusted either.
fn is_fingerprint(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
