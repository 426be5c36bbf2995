//! What the agent does on command. Every effect passes [`Agent::accept`] first.

mod fence;
mod follow;
pub(crate) mod losses;
mod promote;
mod warrant;
pub(crate) mod work;

use domicile_model::Token;

use crate::agent::Agent;
use crate::failure::Failure;
use crate::proof;

impl Agent {
    /// Takes an order, or refuses it as late: the highest rank is on disk before anything is done under it.
    ///
    /// Ranks order the effects of one move. Between two moves of one leader the registry decides which is the one
    /// under way; a later leader's move is the later one.
    pub(crate) async fn accept(&self, token: &Token) -> Result<(), Failure> {
        if token.cell != self.config.cell {
            return Err(Failure::refused(
                "other-cell",
                format!("this agent keeps cell {}, the order is for {}", self.config.cell, token.cell),
            )
            .hint("check the agent's address in regions.toml"));
        }
        if self.config.sabotage.ignores_rank {
            return self.disk.change(|m| m.highest = Some(token.clone()));
        }
        let memory = self.disk.get();
        let strange = memory.world.is_some_and(|w| w != token.world);
        let other_move = memory
            .highest
            .as_ref()
            .is_some_and(|h| h.moving != token.moving && h.leader == token.leader && !strange);
        if (strange || other_move) && !proof::claims(self, token).await? {
            return Err(if strange {
                Failure::refused(
                    "other-world",
                    "the order comes from another world than this agent's registry",
                )
            } else {
                Failure::deposed("the registry names another move of this cell than the order's")
            });
        }
        self.disk.change(|m| {
            if m.world.is_some_and(|w| w != token.world) {
                return Err(Failure::refused("other-world", "the order comes from another world"));
            }
            if let Some(seen) = &m.highest {
                let late = if seen.moving == token.moving {
                    token.rank() < seen.rank()
                } else {
                    token.leader < seen.leader
                };
                if late {
                    return Err(Failure::deposed(format!(
                        "an order of leader {:?}, attempt {} was seen; this one is of leader {:?}, attempt {}",
                        seen.leader.0, seen.attempt, token.leader.0, token.attempt
                    )));
                }
            }
            m.world = Some(token.world);
            m.highest = Some(token.clone());
            Ok(())
        })?
    }
}
