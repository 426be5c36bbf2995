//! What a primary keeps of its write-ahead log while its standby is away, and when that ends. Pure: the time is an argument.

use std::time::Duration;

use domicile_api::moves::{Check, Verdict};
use domicile_api::protection::{Retention, RetentionView, Slot, SlotUse};
use domicile_api::views::FindingView;
use domicile_model::clock::BootTime;
use domicile_model::{Cell, RegionId};

use crate::lossmath::millis;
use crate::prechecks::check;
use crate::provider::PrimarySample;

/// The write rate is taken over at most this long…
const RATE: Duration = Duration::from_secs(60);
/// …and over no less than this.
const LEAST: Duration = Duration::from_secs(5);
/// A sample that is older says nothing about now.
const FRESH: Duration = Duration::from_secs(10);
/// A standby that must be back earlier than this is told about.
const SOON: u64 = 30 * 60_000;

/// Write-ahead log written of late, in bytes a second, and over how long that was measured. None: too few samples, or
/// none of late.
#[must_use]
pub fn write_rate(history: &[PrimarySample], now: BootTime) -> Option<(f64, Duration)> {
    let newest = history.last().filter(|s| now.since(s.asked) <= FRESH)?;
    let first = history.iter().find(|s| newest.asked.since(s.asked) <= RATE)?;
    let over = newest.asked.since(first.asked);
    if over < LEAST {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate; 2^53 bytes in a minute are not written")]
    let bytes = newest.flushed.0.saturating_sub(first.flushed.0) as f64;
    Some((bytes / over.as_secs_f64(), over))
}

/// What was seen, and how long the standby may stay away if writing goes on as it did.
#[must_use]
pub fn view(
    seen: &Retention,
    asked: BootTime,
    rate: Option<(f64, Duration)>,
    now: BootTime,
) -> RetentionView {
    let away = seen.slots.iter().find(|slot| slot.used_for == SlotUse::Standby && !slot.active);
    let (left, because) = match away {
        None => (None, String::new()),
        Some(slot) => forecast(slot, seen, rate),
    };
    RetentionView {
        age_ms: millis(now.since(asked)),
        seen: seen.clone(),
        bytes_per_s: rate.map(|(rate, _)| rate),
        standby_may_stay_away_ms: left,
        because,
    }
}

fn forecast(slot: &Slot, seen: &Retention, rate: Option<(f64, Duration)>) -> (Option<u64>, String) {
    if slot.wal_status.as_deref() == Some("lost") {
        return (None, "its slot was given up".into());
    }
    let safe = slot.safe_bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0));
    // Whichever ends first: the slot's bound, or the disk.
    let (room, what) = match (safe, seen.free_bytes) {
        (Some(safe), Some(free)) if free < safe => (free, "until the disk is full"),
        (Some(safe), _) => (safe, "until its slot may be given up"),
        (None, Some(free)) => (free, "until the disk is full, for nothing bounds what slots keep"),
        (None, None) => {
            return (None, "nothing bounds what slots keep, and the free room is not known".into());
        }
    };
    let Some((rate, over)) = rate else {
        return (None, format!("{room} bytes {what}; how fast the primary writes was not measured"));
    };
    if rate < 1.0 {
        return (None, format!("{room} bytes {what}; nothing was written in the last {} s", over.as_secs()));
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, is never negative, and is no more exact than the rate"
    )]
    let left = (room as f64 / rate * 1000.0) as u64;
    (
        Some(left),
        format!("{room} bytes {what}, at {rate:.0} bytes a second over the last {} s", over.as_secs()),
    )
}

/// Whether a slot has used up most of what it may keep, or may be lost at the next checkpoint. `most`: of how many parts,
/// how many.
fn nearly(slot: &Slot, (most, of): (u64, u64)) -> bool {
    let Some(kept) = slot.kept_bytes else { return false };
    let used = slot.safe_bytes.is_some_and(|safe| {
        let bound = kept.saturating_add(u64::try_from(safe).unwrap_or(0));
        kept.saturating_mul(of) >= bound.saturating_mul(most)
    });
    used || slot.wal_status.as_deref() == Some("unreserved")
}

/// What a person should know about what this cell's primary keeps, before a slot is lost.
#[must_use]
pub fn findings(cell: &Cell, holder: &RegionId, view: &RetentionView) -> Vec<FindingView> {
    let id = &cell.id;
    let finding = |kind: &str, what: String| FindingView {
        kind: kind.to_owned(),
        cell: Some(id.clone()),
        region: Some(holder.clone()),
        what,
    };
    let mut found = Vec::new();
    let seen = &view.seen;
    if seen.limit_bytes.is_none() {
        found.push(finding(
            "wal-unbounded",
            format!("nothing bounds what slots keep on the primary of {id} in {holder} (max_slot_wal_keep_size is -1): a standby that stays away fills its disk; let its agent start it, or set a bound"),
        ));
    }
    for slot in &seen.slots {
        let (name, kept) = (&slot.name, slot.kept_bytes.unwrap_or(0));
        let status = slot.wal_status.as_deref().unwrap_or("unknown");
        let soon = view.standby_may_stay_away_ms.is_some_and(|ms| ms <= SOON);
        match slot.used_for {
            SlotUse::Standby if !slot.active && status != "lost" && (soon || nearly(slot, (1, 2))) => {
                let within = match view.standby_may_stay_away_ms {
                    Some(ms) => format!("within about {}", length(ms)),
                    None => "soon (when is not known)".to_owned(),
                };
                found.push(finding(
                    "wal-near-limit",
                    format!(
                        "the standby of {id} is away and the primary in {holder} keeps {} for it ({status}): it must be back {within}, or it will have to be built anew with `domicile cell reprotect {id}`; {}",
                        size(kept), view.because
                    ),
                ));
            }
            SlotUse::Standby if slot.active && nearly(slot, (4, 5)) => found.push(finding(
                "wal-near-limit",
                format!("the standby of {id} streams and falls behind: the primary in {holder} keeps {} for it ({status}), most of what its slot may; look at the way between them and at the standby's disk", size(kept)),
            )),
            SlotUse::Losses if nearly(slot, (4, 5)) => found.push(finding(
                "wal-near-limit",
                format!("the slot {name} of {id} in {holder} keeps {} ({status}), most of what it may: past that a forced move could not list what it loses; let the standby catch up, and end transactions that have been open for long", size(kept)),
            )),
            SlotUse::Other if !slot.active && nearly(slot, (1, 2)) => found.push(finding(
                "slot-unread",
                format!("nobody reads the slot {name} on the primary of {id} in {holder}, and it keeps {}: start its reader, or drop it with pg_drop_replication_slot", size(kept)),
            )),
            _ => {}
        }
    }
    found
}

/// The check before a planned move: what slots keep is bounded, and the disk has that much.
pub(crate) fn bounded(seen: Option<&Retention>) -> Check {
    const NAME: &str = "wal-retention";
    let Some(seen) = seen else {
        return check(
            NAME,
            Verdict::Unknown,
            "what the primary's slots keep can't be seen: look at its agent and at the role that looks",
        );
    };
    let Some(limit) = seen.limit_bytes else {
        return check(
            NAME,
            Verdict::Failed,
            "nothing bounds what the primary's slots keep (max_slot_wal_keep_size is -1), and a full disk would stop it: let its agent start it, or set a bound",
        );
    };
    let ours = |slot: &&Slot| slot.used_for != SlotUse::Other;
    let kept = seen.slots.iter().filter(ours).filter_map(|slot| slot.kept_bytes).max().unwrap_or(0);
    match seen.free_bytes {
        Some(free) if free < limit.saturating_sub(kept) => check(
            NAME,
            Verdict::Noted,
            "the primary's slots may keep more than its disk has free: with the standby away, the disk fills first; lower slot_keep_mib in the agent's file, or make the disk larger",
        ),
        _ => check(NAME, Verdict::Passed, format!("slots may keep at most {}", size(limit))),
    }
}

/// A length of time that is only known roughly.
fn length(ms: u64) -> String {
    match ms {
        0..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{bytes} bytes"),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_model::token::Lsn;

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_nanos(seconds * 1_000_000_000)
    }

    fn sample(seconds: u64, flushed: u64) -> PrimarySample {
        PrimarySample {
            asked: at(seconds),
            flushed: Lsn(flushed),
            next_xid: 1,
            oldest_xid: 1,
            streaming: false,
        }
    }

    fn slot(used_for: SlotUse, active: bool, kept: u64, safe: i64) -> Slot {
        Slot {
            name: used_for.name().into(),
            used_for,
            active,
            kept_bytes: Some(kept),
            wal_status: Some("extended".into()),
            safe_bytes: Some(safe),
        }
    }

    fn kept(slots: Vec<Slot>) -> Retention {
        Retention { slots, limit_bytes: Some(100 * MIB), free_bytes: Some(1 << 40) }
    }

    fn told(seen: &Retention, rate: Option<(f64, Duration)>) -> Vec<(String, String)> {
        let cell: Cell = crate::drift::tests::cell();
        let view = view(seen, at(0), rate, at(1));
        findings(&cell, &cell.primary, &view).into_iter().map(|f| (f.kind, f.what)).collect()
    }

    #[test]
    fn a_rate_is_measured_over_some_time_and_of_late_or_unknown() {
        let steady: Vec<_> = (0..100).map(|n| sample(n, n * MIB)).collect();
        let (rate, over) = write_rate(&steady, at(100)).unwrap();
        assert!((rate - MIB as f64).abs() < 1.0 && over.as_secs() == 60, "{rate} {over:?}");
        assert_eq!(write_rate(&steady, at(110)), None, "old samples say nothing about now");
        assert_eq!(write_rate(&steady[..4], at(4)), None, "too short to tell");
        assert_eq!(write_rate(&[], at(4)), None);
    }

    #[test]
    fn the_time_left_is_by_the_slot_or_the_disk_and_unknown_where_nothing_was_measured() {
        let rate = Some((MIB as f64, Duration::from_secs(60)));
        let away = kept(vec![slot(SlotUse::Standby, false, 40 * MIB, 60 * MIB as i64)]);
        let seen = view(&away, at(0), rate, at(1));
        assert_eq!((seen.standby_may_stay_away_ms, seen.age_ms), (Some(60_000), 1_000));
        assert!(seen.because.contains("slot") && seen.because.contains("60 s"), "{}", seen.because);
        let disk = Retention { free_bytes: Some(10 * MIB), ..away.clone() };
        let seen = view(&disk, at(0), rate, at(1));
        assert_eq!(seen.standby_may_stay_away_ms, Some(10_000));
        assert!(seen.because.contains("disk"), "{}", seen.because);
        for (rate, word) in
            [(None, "not measured"), (Some((0.0, Duration::from_secs(60))), "nothing was written")]
        {
            let seen = view(&away, at(0), rate, at(1));
            assert!(seen.standby_may_stay_away_ms.is_none() && seen.because.contains(word), "{seen:?}");
        }
        let there = kept(vec![slot(SlotUse::Standby, true, 0, 100 * MIB as i64)]);
        assert_eq!(view(&there, at(0), rate, at(1)).standby_may_stay_away_ms, None);
    }

    #[test]
    fn a_standby_that_is_away_is_told_about_before_its_slot_is_lost() {
        let slow = Some((1024.0, Duration::from_secs(60)));
        let away = |kept_now, safe| kept(vec![slot(SlotUse::Standby, false, kept_now, safe)]);
        assert_eq!(told(&away(10 * MIB, 90 * MIB as i64), slow), [], "half of it and hours are left");
        let found = told(&away(60 * MIB, 40 * MIB as i64), slow);
        assert!(found[0].0 == "wal-near-limit" && found[0].1.contains("within about 11 h"), "{found:?}");
        assert!(found[0].1.contains("`domicile cell reprotect c`"), "{found:?}");
        // Little is kept yet, but at this rate it takes minutes.
        let found = told(&away(10 * MIB, 90 * MIB as i64), Some((MIB as f64, Duration::from_secs(60))));
        assert!(found[0].1.contains("within about 90 s"), "{found:?}");
        let found = told(&away(60 * MIB, 40 * MIB as i64), None);
        assert!(found[0].1.contains("when is not known"), "{found:?}");
        let mut next = away(60 * MIB, -1);
        next.slots[0].wal_status = Some("unreserved".into());
        assert_eq!(told(&next, None).len(), 1);
        // Lost already: its agent says that, and makes it anew.
        next.slots[0].wal_status = Some("lost".into());
        assert_eq!(told(&next, None), []);
    }

    #[test]
    fn other_slots_and_a_missing_bound_are_told_about() {
        let kinds = |seen: &Retention| told(seen, None).into_iter().map(|f| f.0).collect::<Vec<_>>();
        let busy = kept(vec![slot(SlotUse::Standby, true, 70 * MIB, 30 * MIB as i64)]);
        assert_eq!(kinds(&busy), Vec::<String>::new());
        let slow = kept(vec![slot(SlotUse::Standby, true, 90 * MIB, 10 * MIB as i64)]);
        assert_eq!(kinds(&slow), ["wal-near-limit"]);
        let losses = kept(vec![slot(SlotUse::Losses, false, 90 * MIB, 10 * MIB as i64)]);
        assert_eq!(kinds(&losses), ["wal-near-limit"]);
        let other = kept(vec![slot(SlotUse::Other, false, 60 * MIB, 40 * MIB as i64)]);
        assert_eq!(kinds(&other), ["slot-unread"]);
        assert_eq!(kinds(&Retention { limit_bytes: None, ..Retention::default() }), ["wal-unbounded"]);
    }

    #[test]
    fn a_move_needs_a_bound_that_can_be_seen() {
        let verdict = |seen: Option<&Retention>| bounded(seen).verdict;
        assert_eq!(verdict(None), Verdict::Unknown);
        assert_eq!(verdict(Some(&Retention::default())), Verdict::Failed);
        let fine = kept(Vec::new());
        assert_eq!(verdict(Some(&fine)), Verdict::Passed);
        assert_eq!(verdict(Some(&Retention { free_bytes: Some(MIB), ..fine })), Verdict::Noted);
    }
}
