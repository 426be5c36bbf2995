//! Other witnesses for a cell: taken up where the right passes on anyway, and only once the present ones are silent.

use std::collections::BTreeSet;

use domicile_model::clock::pause;
use domicile_model::{
    Cell, Placement, RegionId, Revision, RouterId, Silence, WitnessRenewal, WitnessSet, WitnessState,
};
use domicile_store::codec::decode;
use domicile_store::{Key, Op};

use crate::error::Halt;
use crate::run::Run;
use crate::witnesses::choose;

/// What a new placement names, and what makes that safe.
pub(crate) struct Named {
    /// The witnesses.
    pub(crate) witnesses: WitnessSet,
    /// Where they are other ones: the silence of those before.
    pub(crate) silence: Option<Silence>,
    /// The wish that is fulfilled goes.
    pub(crate) also: Option<Op>,
    /// For the log; empty where nothing changes.
    pub(crate) note: String,
}

/// The witnesses that a cell shall have instead of `present`; none where they stay.
///
/// Somebody's wish takes any set that is as large, up to three. Without one it takes a member that is not there any more,
/// and a set that stands in as many regions: while a region is lost its witness is better awaited than replaced by a
/// neighbour of the others.
#[must_use]
pub fn instead(
    cell: &Cell,
    present: &WitnessSet,
    states: &[WitnessState],
    alive: &BTreeSet<RouterId>,
    barred: &BTreeSet<RouterId>,
    wish: Option<&WitnessRenewal>,
) -> Option<BTreeSet<RouterId>> {
    if present.members.is_empty() {
        return None;
    }
    let unwanted = |id: &RouterId| barred.contains(id) || wish.is_some_and(|w| w.without.contains(id));
    let fit: Vec<WitnessState> =
        states.iter().filter(|w| alive.contains(&w.id) && !unwanted(&w.id)).cloned().collect();
    let chosen = choose(cell, &fit);
    let regions = |of: &BTreeSet<RouterId>| -> BTreeSet<RegionId> {
        states.iter().filter(|w| of.contains(&w.id)).map(|w| w.region.clone()).collect()
    };
    let large = chosen.len() >= present.members.len().min(3) && chosen != present.members;
    let missing = present.members.iter().any(|id| unwanted(id) || !alive.contains(id));
    let wide = regions(&chosen).len() >= regions(&present.members).len();
    (large && (wish.is_some() || (missing && wide))).then_some(chosen)
}

/// What somebody wants.
pub(crate) async fn wish(run: &Run) -> Result<Option<WitnessRenewal>, Halt> {
    let entry = run.read_one(Key::Renewal(run.flow.cell.clone())).await?;
    entry.map(|e| decode(&e.value)).transpose().map_err(|e| Halt::Stuck(e.to_string()))
}

/// The witnesses that the next holder of a closed cell gets. With a wish and `patient` it waits for the present ones to
/// be silent, for as long as that can take at most; else it takes what is there. A wish that can't be fulfilled yet stands.
pub(crate) async fn named(
    run: &mut Run,
    old: &Placement,
    seen: Revision,
    patient: bool,
) -> Result<Named, Halt> {
    let stays = |also| Named { witnesses: old.witnesses.clone(), silence: None, also, note: String::new() };
    let wish = wish(run).await?;
    let (states, _) = run.witnesses().await?;
    let barred = run.barred.keys().cloned().collect();
    let alive = run.present().await?;
    let Some(members) = instead(&run.cell, &old.witnesses, &states, &alive, &barred, wish.as_ref()) else {
        return Ok(stays(None));
    };
    let Some(silence) = silent(run, old, seen, patient && wish.is_some()).await? else {
        return Ok(stays(None));
    };
    let names = |of: &BTreeSet<RouterId>| of.iter().map(RouterId::as_str).collect::<Vec<_>>().join(", ");
    let note = format!("witnesses {} instead of {}", names(&members), names(&old.witnesses.members));
    let also = wish.map(|w| Op::Delete(Key::Renewal(w.cell)));
    Ok(Named { witnesses: WitnessSet::of(members), silence: Some(silence), also, note })
}

/// Whether the present witnesses are silent, by now or, if `patient`, once their WAIT can have passed.
async fn silent(
    run: &mut Run,
    old: &Placement,
    seen: Revision,
    patient: bool,
) -> Result<Option<Silence>, Halt> {
    // Theirs begins when they learn of the close, which may be a moment after it.
    let deadline = run.now() + run.world.constants.wait() + run.options().quiet / 4;
    loop {
        let (states, struck) = run.witnesses().await?;
        let silence = Silence::of(old, seen, &states, &struck);
        if silence.is_some() || !patient || run.now() >= deadline {
            return Ok(silence);
        }
        pause(run.options().poll).await;
    }
}

/// Before a planned move promotes: lets the present witnesses fall silent where somebody wants other ones and said that
/// writes may wait for it. Until now a failure turns back; the switch itself does not wait.
pub(crate) async fn await_silence(run: &mut Run) -> Result<(), Halt> {
    if !wish(run).await?.is_some_and(|w| w.wait) {
        return Ok(());
    }
    let (old, seen) = run.placement().await?;
    silent(run, &old, seen, true).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_model::{BootId, Role};

    fn state(id: &str, region: &str, role: Role) -> WitnessState {
        WitnessState {
            id: RouterId::new(id).unwrap(),
            region: RegionId::new(region).unwrap(),
            role,
            boot: BootId::new(),
            quiet: Revision(0),
            peer: "127.0.0.1:1".parse().unwrap(),
        }
    }

    fn names(of: &[&str]) -> BTreeSet<RouterId> {
        of.iter().map(|n| RouterId::new(n).unwrap()).collect()
    }

    fn cell() -> Cell {
        Cell {
            id: "c".parse().unwrap(),
            primary: RegionId::new("a").unwrap(),
            dr: RegionId::new("b").unwrap(),
            availability_first: false,
            rpo_ms: 1,
            ingress: Default::default(),
            application: Default::default(),
            mllp: Default::default(),
            database: None,
        }
    }

    fn states() -> Vec<WitnessState> {
        vec![
            state("a1", "a", Role::Gate),
            state("a2", "a", Role::Gate),
            state("b1", "b", Role::Gate),
            state("b2", "b", Role::Gate),
            state("b3", "b", Role::Gate),
            state("e", "e", Role::Edge),
        ]
    }

    fn wish(without: &[&str]) -> WitnessRenewal {
        WitnessRenewal {
            cell: "c".parse().unwrap(),
            without: names(without),
            wait: false,
            by: "ann".into(),
            reason: "new machines".into(),
            at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn who_is_gone_is_replaced_in_its_region_and_a_lost_region_is_awaited() {
        let present = WitnessSet::of(names(&["a1", "b1", "e"]));
        let by = |alive: &[&str], barred: &[&str], wish: Option<&WitnessRenewal>| {
            instead(&cell(), &present, &states(), &names(alive), &names(barred), wish)
        };
        let all = ["a1", "a2", "b1", "b2", "b3", "e"];
        assert_eq!(by(&all, &[], None), None);
        assert_eq!(by(&all[1..], &[], None), Some(names(&["a2", "b1", "e"])));
        assert_eq!(by(&all, &["a1"], None), Some(names(&["a2", "b1", "e"])), "its identity is barred");
        assert_eq!(by(&["b1", "b2", "b3", "e"], &[], None), None, "one region would have all of them");
        let asked = wish(&[]);
        assert_eq!(
            by(&["b1", "b2", "b3", "e"], &[], Some(&asked)),
            Some(names(&["b1", "b2", "b3"])),
            "as somebody asked"
        );
        assert_eq!(by(&["b1", "b2", "e"], &[], Some(&asked)), None, "too few");
        assert_eq!(by(&all, &[], Some(&asked)), None, "they are the best ones");
        assert_eq!(by(&all, &[], Some(&wish(&["b1"]))), Some(names(&["a1", "b2", "e"])));
    }

    #[test]
    fn the_first_ones_are_not_named_here() {
        let none = WitnessSet::of(BTreeSet::new());
        let alive = names(&["a1", "b1", "e"]);
        assert_eq!(instead(&cell(), &none, &states(), &alive, &BTreeSet::new(), Some(&wish(&[]))), None);
    }
}
