//! The named invariants: the same functions judge in tests, in the chaos oracle and in production.

use std::collections::BTreeMap;

use crate::epoch::Epoch;
use crate::fleet::{Fleet, Tenant};
use crate::ids::{CellId, RegionId};
use crate::placement::Placement;
use crate::witness::Silence;

/// A write that was acknowledged: when it was sent, when its answer came, and under which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// The cell.
    pub cell: CellId,
    /// The epoch in the answer.
    pub epoch: Epoch,
    /// Any clock, the same one for all entries, in nanoseconds: when the request was sent.
    pub sent: u64,
    /// When its answer had come.
    pub answered: u64,
}

/// An invariant that does not hold, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invariant {invariant} is broken: {detail}")]
pub struct Broken {
    /// Its name.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

/// *One writer*: once a write of one epoch has been acknowledged, no write sent after that is acknowledged under a
/// lower one.
///
/// # Errors
/// The first pair that breaks it.
pub fn one_writer(log: &[Acknowledged]) -> Result<(), Broken> {
    let mut by_answer: BTreeMap<&CellId, Vec<&Acknowledged>> = BTreeMap::new();
    for ack in log {
        by_answer.entry(&ack.cell).or_default().push(ack);
    }
    for (cell, mut acks) in by_answer {
        let mut answered = acks.clone();
        answered.sort_by_key(|a| a.answered);
        acks.sort_by_key(|a| a.sent);
        let mut highest: Option<&Acknowledged> = None;
        let mut next = 0;
        for ack in acks {
            while let Some(done) = answered.get(next).filter(|d| d.answered < ack.sent) {
                if highest.is_none_or(|h| h.epoch < done.epoch) {
                    highest = Some(done);
                }
                next += 1;
            }
            if let Some(before) = highest.filter(|h| h.epoch > ack.epoch) {
                return Err(Broken {
                    invariant: "one-writer",
                    detail: format!(
                        "cell {cell}: a write of epoch {} was acknowledged at {}, one sent at {} was acknowledged under epoch {}",
                        before.epoch, before.answered, ack.sent, ack.epoch
                    ),
                });
            }
        }
    }
    Ok(())
}

/// *Epochs only rise*: whether `new` may follow `old` as the placement of a cell. Holder, standby, witnesses and what
/// comes first change only with the epoch.
///
/// # Errors
/// What changed without the epoch, or that it fell.
pub fn epoch_rises(old: &Placement, new: &Placement) -> Result<(), Broken> {
    let broken = |detail: String| Err(Broken { invariant: "epochs-only-rise", detail });
    if new.cell != old.cell {
        return broken(format!("cell {} became {}", old.cell, new.cell));
    }
    if new.epoch < old.epoch {
        return broken(format!("cell {}: epoch fell from {} to {}", old.cell, old.epoch, new.epoch));
    }
    let same_right = old.same_right(new);
    if new.epoch == old.epoch && !same_right {
        return broken(format!(
            "cell {}: holder, standby, witnesses or what comes first changed within epoch {}",
            old.cell, old.epoch
        ));
    }
    if !new.witnesses.is_sound() {
        return broken(format!("cell {}: witness thresholds do not meet", new.cell));
    }
    Ok(())
}

/// *Witnesses stay* until they are silent: whether the witnesses of `new` may follow those of `old`. Once a cell has
/// witnesses, neither they nor their thresholds change but by the [`Silence`] of the old ones: a gate that is cut off
/// together with `p` of them would go on answering under their proofs, now or once its region holds the cell again, and
/// the forced move that asks whether enough witnesses are quiet would ask the new ones.
///
/// # Errors
/// That they would change.
pub fn witnesses_stay(old: &Placement, new: &Placement, silence: Option<&Silence>) -> Result<(), Broken> {
    let unchanged = old.witnesses == new.witnesses || old.witnesses.members.is_empty();
    if unchanged || silence.is_some_and(|s| s.is_of(old)) {
        return Ok(());
    }
    Err(Broken {
        invariant: "witnesses-stay",
        detail: format!(
            "cell {}: its witnesses would change under epoch {}, but what the present ones granted may never end",
            old.cell, old.epoch
        ),
    })
}

/// *The choice stays*: whether what comes first under `new` may differ from what did under `old`. Only where nobody holds
/// the cell, and so only where the right is given anew: a gate or an agent that has not heard of it would go on without a
/// proof under the old epoch, and whoever takes the cell away would wait for its proofs to end.
///
/// # Errors
/// That it would change while somebody holds the cell, or in being taken away.
pub fn choice_stays(old: &Placement, new: &Placement) -> Result<(), Broken> {
    let given = old.holder.is_none() && new.holder.is_some();
    if old.availability_first == new.availability_first || given {
        return Ok(());
    }
    Err(Broken {
        invariant: "choice-stays",
        detail: format!(
            "cell {}: whether availability comes first would change with epoch {}, but only giving the cell to a region anew may",
            old.cell, old.epoch
        ),
    })
}

/// *Residency is a hard precondition*: whether this tenant may be served from this region.
///
/// # Errors
/// That it may not, or that the region is unknown.
pub fn may_serve(fleet: &Fleet, tenant: &Tenant, region: &RegionId) -> Result<(), Broken> {
    let invariant = "residency";
    let Some(found) = fleet.regions.get(region) else {
        return Err(Broken { invariant, detail: format!("region {region} is unknown") });
    };
    if tenant.residency.allows_serving(found.country, &fleet.jurisdictions) {
        Ok(())
    } else {
        Err(Broken {
            invariant,
            detail: format!(
                "tenant {} must not be served from {region}: {} is outside its policy",
                tenant.id, found.country
            ),
        })
    }
}

/// *No surprise loss*: whether what a forced move lost stays within what was accepted.
///
/// # Errors
/// When more was lost.
pub fn loss_within(accepted: u64, lost: u64) -> Result<(), Broken> {
    if lost <= accepted {
        Ok(())
    } else {
        Err(Broken {
            invariant: "no-surprise-loss",
            detail: format!("{lost} transactions were lost, {accepted} were accepted"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{Phase, WitnessSet};

    fn ack(epoch: u64, sent: u64, answered: u64) -> Acknowledged {
        Acknowledged { cell: CellId::new("c").unwrap(), epoch: Epoch(epoch), sent, answered }
    }

    #[test]
    fn acknowledgements_in_order_are_fine_and_overlap_is_allowed() {
        assert!(one_writer(&[ack(1, 0, 10), ack(1, 5, 30), ack(2, 20, 25), ack(2, 31, 32)]).is_ok());
    }

    #[test]
    fn an_older_epoch_after_a_newer_acknowledgement_is_found() {
        let broken = one_writer(&[ack(2, 0, 10), ack(1, 11, 12)]).unwrap_err();
        assert_eq!(broken.invariant, "one-writer");
    }

    #[test]
    fn another_cell_is_another_story() {
        let other = Acknowledged { cell: CellId::new("d").unwrap(), ..ack(1, 11, 12) };
        assert!(one_writer(&[ack(2, 0, 10), other]).is_ok());
    }

    #[test]
    fn the_right_changes_only_with_the_epoch() {
        let old = Placement {
            cell: CellId::new("c").unwrap(),
            epoch: Epoch(4),
            holder: Some(RegionId::new("a").unwrap()),
            standby: None,
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of([].into()),
        };
        let holding = Placement { phase: Phase::Holding { for_ms: 1 }, ..old.clone() };
        assert!(epoch_rises(&old, &holding).is_ok());
        let stolen = Placement { holder: None, ..old.clone() };
        assert!(epoch_rises(&old, &stolen).is_err());
        assert!(epoch_rises(&old, &Placement { epoch: Epoch(5), ..stolen }).is_ok());
        assert!(epoch_rises(&old, &Placement { epoch: Epoch(3), ..old.clone() }).is_err());
    }

    #[test]
    fn witnesses_come_once() {
        let set = |names: &[&str]| {
            WitnessSet::of(names.iter().map(|n| crate::ids::RouterId::new(n).unwrap()).collect())
        };
        let with = |witnesses| Placement {
            cell: CellId::new("c").unwrap(),
            epoch: Epoch(4),
            holder: None,
            standby: None,
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses,
        };
        assert!(witnesses_stay(&with(set(&[])), &with(set(&["a", "b", "c"])), None).is_ok());
        assert!(witnesses_stay(&with(set(&["a", "b"])), &with(set(&["a", "b"])), None).is_ok());
        let gone = set(&["a", "b"]).members;
        let old = with(set(&["a", "b"]));
        let silence = Silence::of(&old, crate::Revision(1), &[], &gone).unwrap();
        for other in [set(&["a", "c"]), set(&[]), WitnessSet { p: 1, r: 2, ..set(&["a", "b"]) }] {
            assert!(witnesses_stay(&old, &with(other.clone()), None).is_err());
            assert!(witnesses_stay(&old, &with(other.clone()), Some(&silence)).is_ok());
            let later = Placement { epoch: Epoch(6), ..old.clone() };
            assert!(witnesses_stay(&later, &with(other), Some(&silence)).is_err(), "of another close");
        }
    }

    #[test]
    fn a_loss_above_what_was_accepted_is_found() {
        assert!(loss_within(3, 3).is_ok());
        assert!(loss_within(3, 4).is_err());
    }
}
