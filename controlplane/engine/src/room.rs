//! The room in the registry that moves need, and that everything else must leave them.
//!
//! A move that runs out of room in the middle leaves its cell closed. So ordinary writes end while there is still room
//! for every cell to be moved by force ([`reserve`]), and a move does not begin where there is none for itself.
//!
//! The arithmetic. Nothing that is written is given back before the history is compacted, so each version of a record
//! counts. One forced move, from its claim to its new standby, writes its record again at each edge as it grows, its log,
//! and the placements: 56 writes and 106 KB as the server counts them. [`MOVE_BYTES`] leaves room for a person's retries,
//! a turn back and records that grow; a test keeps the number honest. Each router says once a second how far it has
//! come, 700 bytes a time; [`ROUTER_BYTES`] is 25 minutes of that, and the history is compacted each minute up to some
//! minutes ago. [`BASE_BYTES`] is for leadership, emergency stops, what people say to moves, and what pages waste.

use std::time::Duration;

use domicile_api::moves::{Check, Verdict};
use domicile_store::{Room, Store};

use crate::engine::Engine;
use crate::prechecks::check;

/// Bytes that one move may write, at most, in all its versions.
pub const MOVE_BYTES: u64 = 512 << 10;

/// Bytes that one router may write before its history is forgotten.
pub const ROUTER_BYTES: u64 = 1 << 20;

/// Bytes for what no cell and no router accounts for.
pub const BASE_BYTES: u64 = 16 << 20;

/// How long the registry may take to say how full it is.
const LOOK: Duration = Duration::from_secs(3);

/// The check's name.
const NAME: &str = "registry-room";

/// Bytes that ordinary writes leave: enough to move every cell by force once, at most half of the quota.
#[must_use]
pub fn reserve(quota: Option<u64>, cells: usize, routers: usize) -> u64 {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let needed = BASE_BYTES
        .saturating_add(count(cells).saturating_mul(MOVE_BYTES))
        .saturating_add(count(routers).saturating_mul(ROUTER_BYTES));
    quota.map_or(needed, |quota| needed.min(quota / 2))
}

/// What was seen of the registry's room.
#[derive(Debug, Clone)]
pub struct RoomSeen {
    /// How full it is; none: nothing limits it. Or why that is not known.
    pub room: Result<Option<Room>, String>,
    /// What ordinary writes leave.
    pub reserve: u64,
}

impl Engine {
    /// How full the registry is now, and what ordinary writes must leave.
    pub async fn room(&self) -> RoomSeen {
        let routers = tokio::time::timeout(LOOK, self.shared.store.list("routers/")).await;
        let routers = routers.ok().and_then(Result::ok).map_or(0, |listing| listing.entries.len());
        look(&*self.shared.store, self.shared.options.reserve, routers).await
    }
}

/// Looks. `fixed`: the reserve that somebody has set.
pub(crate) async fn look(store: &dyn Store, fixed: Option<u64>, routers: usize) -> RoomSeen {
    let asked = async { futures::try_join!(store.room(), store.list("cells/")) };
    let (room, cells) = match tokio::time::timeout(LOOK, asked).await {
        Ok(Ok((room, cells))) => (Ok(room), cells.entries.len()),
        Ok(Err(error)) => (Err(error.to_string()), 0),
        Err(_) => (Err("it did not answer in time".to_owned()), 0),
    };
    let quota = room.as_ref().ok().and_then(Option::as_ref).and_then(|room| room.quota);
    RoomSeen { reserve: fixed.unwrap_or_else(|| reserve(quota, cells, routers)), room }
}

/// Whether there is room for the move. A planned one leaves the reserve alone, a forced one is what the reserve is for.
pub(crate) fn registry_room(seen: &RoomSeen, forced: bool) -> Check {
    const MEND: &str = "compact its history, defragment each member, and disarm its alarms (`domicile status` shows \
                        the numbers, README how)";
    let room = match &seen.room {
        Ok(Some(room)) => room,
        Ok(None) => return check(NAME, Verdict::NotApplicable, "nothing limits this registry"),
        Err(why) => return unknown(forced, why),
    };
    if room.is_full() {
        let why = format!("the registry is full and takes no writes: {MEND}");
        return check(NAME, Verdict::Failed, why);
    }
    let Some(left) = room.left() else { return unknown(forced, "its quota is not known") };
    let needed = if forced { MOVE_BYTES.min(seen.reserve) } else { seen.reserve };
    if left < needed {
        let what = if forced { "a move may write" } else { "are kept for forced moves" };
        let why = format!("the registry has {left} bytes left, and {needed} {what}: {MEND}");
        return check(NAME, Verdict::Failed, why);
    }
    check(NAME, Verdict::Passed, "the registry has room for the move")
}

/// Not knowing holds a planned move up. A forced one is not made to wait for it, but is told.
fn unknown(forced: bool, why: &str) -> Check {
    let verdict = if forced { Verdict::NotApplicable } else { Verdict::Unknown };
    check(NAME, verdict, format!("how much room the registry has is not known: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_store::{Alarm, AlarmKind};

    fn seen(left: u64, reserve: u64) -> RoomSeen {
        let room = Room { size: 1_000, in_use: 1, quota: Some(1_000 + left), alarms: vec![], silent: vec![] };
        RoomSeen { room: Ok(Some(room)), reserve }
    }

    fn verdict(seen: &RoomSeen, forced: bool) -> Verdict {
        registry_room(seen, forced).verdict
    }

    #[test]
    fn a_planned_move_leaves_the_reserve_to_forced_ones() {
        let reserve = 4 * MOVE_BYTES;
        assert_eq!(verdict(&seen(reserve, reserve), false), Verdict::Passed);
        assert_eq!(verdict(&seen(reserve - 1, reserve), false), Verdict::Failed);
        assert_eq!(verdict(&seen(reserve - 1, reserve), true), Verdict::Passed);
        assert_eq!(verdict(&seen(MOVE_BYTES - 1, reserve), true), Verdict::Failed);
    }

    #[test]
    fn what_is_not_known_is_said_and_stops_planned_moves_only() {
        let mut unknown = seen(1, 1);
        unknown.room = Err("no answer".to_owned());
        assert_eq!(verdict(&unknown, false), Verdict::Unknown);
        assert!(!verdict(&unknown, true).blocks());
        assert!(registry_room(&unknown, true).why.contains("not known"));
        unknown.room = Ok(None);
        assert_eq!(verdict(&unknown, false), Verdict::NotApplicable);
    }

    #[test]
    fn an_alarm_stops_every_move_before_it_begins() {
        let mut full = seen(u64::MAX / 2, 1);
        if let Ok(Some(room)) = &mut full.room {
            room.alarms.push(Alarm { kind: AlarmKind::NoSpace, member: 1 });
        }
        assert_eq!((verdict(&full, false), verdict(&full, true)), (Verdict::Failed, Verdict::Failed));
    }

    #[test]
    fn the_reserve_grows_with_the_fleet_and_leaves_half_of_the_quota() {
        assert_eq!(reserve(None, 0, 0), BASE_BYTES);
        assert_eq!(reserve(Some(2 << 30), 10, 8), BASE_BYTES + 10 * MOVE_BYTES + 8 * ROUTER_BYTES);
        assert_eq!(reserve(Some(2 << 30), 1_000_000, 8), 1 << 30);
        assert_eq!(reserve(Some(8 << 20), 0, 0), 4 << 20);
        assert_eq!(reserve(None, usize::MAX, usize::MAX), u64::MAX);
    }
}
