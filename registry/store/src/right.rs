//! The right to write: the only place that builds a transaction which changes who holds a cell.

use domicile_model::invariants::{Broken, choice_stays, epoch_rises, witnesses_stay};
use domicile_model::{Placement, RegionFence, Revision, Silence};

use crate::codec::encode;
use crate::key::Key;
use crate::txn::{Op, Precondition, Txn};

/// Adds to `base` the change of a placement from what was read to what shall be, with its history.
///
/// Raises the epoch by one if holder, standby, witnesses or what comes first change, whatever `new.epoch` says, and puts
/// `fences/<region>` of the region that loses the right. `seen` is the modification revision of the placement that
/// was read; the transaction is refused if it has changed since. Returns the transaction and the placement as it
/// will stand.
///
/// # Errors
/// When the new placement breaks a named invariant (thresholds of witnesses that do not meet, other witnesses than
/// those that may have vouched, another choice of what comes first while somebody holds the cell, another cell).
pub fn take_right(
    base: Txn,
    old: &Placement,
    seen: Revision,
    new: Placement,
) -> Result<(Txn, Placement), Broken> {
    take_right_on(base, old, seen, new, None)
}

/// The same, where the old witnesses may be known to be silent: by that evidence, and by no other, `new` may name others.
///
/// # Errors
/// As [`take_right`].
pub fn take_right_on(
    base: Txn,
    old: &Placement,
    seen: Revision,
    new: Placement,
    silence: Option<&Silence>,
) -> Result<(Txn, Placement), Broken> {
    let same_right = old.same_right(&new);
    let epoch = if same_right { old.epoch } else { old.epoch.next() };
    let new = Placement { epoch, ..new };
    epoch_rises(old, &new)?;
    witnesses_stay(old, &new, silence)?;
    choice_stays(old, &new)?;
    let mut txn = base
        .when(Precondition::ModifiedAt(Key::Placement(old.cell.clone()), seen))
        .put(Key::Placement(new.cell.clone()), &new);
    if !same_right {
        txn = txn.op(history(&new));
    }
    // Also when the region keeps the cell under a new epoch: its old proofs must end, and the new ones start from a
    // table that has seen the change.
    if let Some(region) = old.holder.clone().filter(|_| !same_right) {
        let fence = RegionFence { region: region.clone(), cell: new.cell.clone(), epoch };
        txn = txn.put(Key::Fence(region), &fence);
    }
    Ok((txn, new))
}

/// Adds to `base` the first placement of a new cell.
///
/// # Errors
/// When the thresholds of its witnesses do not meet.
pub fn first_right(base: Txn, placement: &Placement) -> Result<Txn, Broken> {
    epoch_rises(placement, placement)?;
    let key = Key::Placement(placement.cell.clone());
    Ok(base.when(Precondition::Absent(key.clone())).put(key, placement).op(history(placement)))
}

fn history(placement: &Placement) -> Op {
    let key = Key::History("placement", placement.cell.to_string(), placement.epoch.0);
    Op::Put(key, encode(placement), None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use domicile_model::{CellId, Epoch, Phase, RegionId, WitnessSet};

    fn serving() -> Placement {
        Placement {
            cell: CellId::new("c").unwrap(),
            epoch: Epoch(4),
            holder: Some(RegionId::new("us-east-1").unwrap()),
            standby: Some(RegionId::new("us-west-2").unwrap()),
            phase: Phase::Serving,
            moving: None,
            availability_first: false,
            witnesses: WitnessSet::of(BTreeSet::new()),
        }
    }

    fn puts(txn: &Txn, key: &Key) -> bool {
        txn.then.iter().any(|op| matches!(op, Op::Put(k, ..) if k == key))
    }

    #[test]
    fn whoever_loses_the_right_is_fenced_and_the_epoch_rises() {
        let old = serving();
        let (txn, new) =
            take_right(Txn::bare(), &old, Revision(9), Placement { holder: None, ..old.clone() }).unwrap();
        assert_eq!(new.epoch, Epoch(5));
        assert!(puts(&txn, &Key::Fence(RegionId::new("us-east-1").unwrap())));
        assert!(puts(&txn, &Key::History("placement", "c".into(), 5)));
        assert!(txn.when.contains(&Precondition::ModifiedAt(Key::Placement(old.cell), Revision(9))));
    }

    #[test]
    fn holding_changes_no_right() {
        let old = serving();
        let holding = Placement { phase: Phase::Holding { for_ms: 10 }, epoch: Epoch(99), ..old.clone() };
        let (txn, new) = take_right(Txn::bare(), &old, Revision(9), holding).unwrap();
        assert_eq!(new.epoch, Epoch(4));
        assert!(!puts(&txn, &Key::Fence(RegionId::new("us-east-1").unwrap())));
    }

    #[test]
    fn witnesses_that_may_have_vouched_are_not_replaced() {
        let set = |name: &str| WitnessSet::of([domicile_model::RouterId::new(name).unwrap()].into());
        let old = Placement { witnesses: set("w1"), ..serving() };
        let replaced = Placement { witnesses: set("w2"), ..old.clone() };
        assert_eq!(
            take_right(Txn::bare(), &old, Revision(9), replaced).unwrap_err().invariant,
            "witnesses-stay"
        );
        let closed = Placement { holder: None, ..old.clone() };
        let silence = Silence::of(&closed, Revision(9), &[], &set("w1").members).unwrap();
        let new = |old: &Placement| Placement { witnesses: set("w2"), ..old.clone() };
        let with = |old: &Placement| take_right_on(Txn::bare(), old, Revision(9), new(old), Some(&silence));
        assert_eq!(with(&closed).unwrap().1.epoch, Epoch(5));
        assert!(with(&old).is_err(), "somebody holds it");
        let first = Placement { witnesses: set("w1"), ..serving() };
        assert_eq!(take_right(Txn::bare(), &serving(), Revision(9), first).unwrap().1.epoch, Epoch(5));
    }

    #[test]
    fn what_comes_first_changes_only_where_the_right_is_given_anew() {
        let old = serving();
        let right = |old: &Placement, new| take_right(Txn::bare(), old, Revision(9), new);
        let chosen = Placement { availability_first: true, ..old.clone() };
        let broken = |result: Result<(Txn, Placement), Broken>| result.unwrap_err().invariant;
        for (from, to) in [(&old, &chosen), (&chosen, &old)] {
            assert_eq!(broken(right(from, to.clone())), "choice-stays", "not while somebody holds it");
            let taken = Placement { holder: None, ..to.clone() };
            assert_eq!(broken(right(from, taken.clone())), "choice-stays", "nor in taking it away");
            let (_, closed) = right(from, Placement { holder: None, ..from.clone() }).unwrap();
            assert_eq!(closed.availability_first, from.availability_first, "what was taken away is known");
            assert_eq!(broken(right(&closed, taken)), "choice-stays", "nor while nobody holds it");
            let (_, given) = right(&closed, to.clone()).unwrap();
            assert_eq!((given.epoch, given.availability_first), (Epoch(6), to.availability_first));
        }
    }

    #[test]
    fn unsound_witnesses_are_refused() {
        let old = serving();
        let witnesses = WitnessSet { members: BTreeSet::new(), p: 0, r: 0 };
        assert!(take_right(Txn::bare(), &old, Revision(9), Placement { witnesses, ..old.clone() }).is_err());
    }
}
