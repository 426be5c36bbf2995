//! One pass of the leader over what may leave the registry.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use domicile_api::archive::ArchiveReport;
use domicile_archive::{Item, items, seal};
use domicile_model::Revision;
use domicile_model::clock::pause;
use domicile_seal::chain::{Head, Segment};
use domicile_seal::keys::Keyring;
use domicile_store::{Commit, Entry, Key, Op, Precondition, StoreError, Txn};

use super::choose::{Chosen, choose};
use super::records::ArchiveHead;
use super::{Archive, Problem, Sabotage, copies, head};
use crate::app::{App, Led};
use crate::causes::chain;

/// Most keys of a segment: each is a precondition and a removal of one transaction.
const MOST_KEYS: usize = 120;
/// Most bytes of a segment's values; a single larger one has a segment of its own.
const MOST_BYTES: usize = 8 << 20;
/// Most segments of one pass.
const MOST_SEGMENTS: u64 = 50;
/// How often it looks whether they have.
const LOOK: Duration = Duration::from_millis(200);

/// Passes on a timer while this control plane leads; whoever asks for one at once makes it himself.
pub(crate) async fn run(app: &App, led: &Led) {
    let Some(archive) = &app.archive else { return std::future::pending().await };
    loop {
        pause(archive.settings.every).await;
        let report = pass(app, archive, led).await;
        let waiting = match report {
            Ok(report) => report.waiting,
            Err(Problem::Deposed) => None,
            Err(error) => {
                app.metrics.archive.failures.inc();
                Some(chain(&error))
            }
        };
        if let Some(why) = &waiting
            && archive.waiting().as_ref() != Some(why)
        {
            tracing::warn!(why, "nothing more leaves the registry for the archive at present");
        }
        app.metrics.archive.waiting.set(i64::from(waiting.is_some()));
        archive.wait_for(waiting);
    }
}

/// What would leave now. Changes nothing.
pub(crate) async fn would(app: &App, archive: &Archive) -> Result<ArchiveReport, Problem> {
    let (head, _) = head(app, Some(archive)).await?;
    let left = chosen(app, archive, &head).await?.entries.len();
    Ok(ArchiveReport { left: u64::try_from(left).unwrap_or(u64::MAX), ..ArchiveReport::default() })
}

/// A segment that lies beyond the head, and what is needed to count it.
struct Pending {
    segment: Segment,
    items: Vec<Item>,
    end: Head,
    through: i64,
}

/// Seals and removes what may leave, one segment after the other, until nothing is left or something must be waited for.
pub(crate) async fn pass(app: &App, archive: &Arc<Archive>, led: &Led) -> Result<ArchiveReport, Problem> {
    let _turn = archive.turn.lock().await;
    let ring = copies::introduce(app, archive, &led.world).await?;
    let mut report = ArchiveReport::default();
    let mut queue: Option<(VecDeque<Entry>, i64)> = None;
    while report.segments < MOST_SEGMENTS {
        let (head, seen) = head(app, Some(archive)).await?;
        // What is missing here is no reason not to go on: the head says what the next one follows.
        if seen.is_some()
            && let Err(error) = copies::catch_up(app, archive, &head, &ring).await
        {
            tracing::warn!(error = chain(&error), "this copy of the archive is not complete");
        }
        let pending = match left_over(app, archive, &head, &ring).await? {
            Some(pending) => {
                queue = None;
                pending
            }
            None => {
                if queue.is_none() {
                    let Chosen { entries, through } = chosen(app, archive, &head).await?;
                    queue = Some((entries.into(), through));
                }
                let Some((entries, through)) = &mut queue else { continue };
                report.left = u64::try_from(entries.len()).unwrap_or(u64::MAX);
                let items = batch(entries);
                if items.is_empty() {
                    return Ok(report);
                }
                seal_next(archive, &head, items, *through).await?
            }
        };
        copies::acknowledge(app, archive, &led.world).await?;
        if let Some(why) = until_copied(app, archive, head.segment + 1, pending.end).await? {
            report.waiting = Some(why);
            return Ok(report);
        }
        if count(app, archive, led, (&head, seen), &pending).await? {
            let keys = u64::try_from(pending.items.len()).unwrap_or(u64::MAX);
            tracing::info!(segment = head.segment + 1, keys, "keys have left the registry for the archive");
            app.metrics.archive.keys.inc_by(keys);
            report.segments += 1;
            report.keys += keys;
            report.left = report.left.saturating_sub(keys);
        } else {
            // Something was changed under it: it is looked at again, and set aside.
            queue = None;
        }
    }
    Ok(report)
}

async fn chosen(app: &App, archive: &Archive, head: &ArchiveHead) -> Result<Chosen, StoreError> {
    let store = &app.store;
    let (workflows, audit, history) =
        futures::try_join!(store.list("workflows/"), store.list("audit/"), store.list("history/"))?;
    let all = (&*workflows.entries, &*audit.entries, &*history.entries);
    Ok(choose(all, head.through, jiff::Timestamp::now(), archive.settings.keep))
}

/// The next items of the queue, as many as one transaction removes.
fn batch(queue: &mut VecDeque<Entry>) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut bytes = 0;
    while let Some(entry) = queue.front() {
        bytes += entry.value.len();
        if items.len() == MOST_KEYS || (bytes > MOST_BYTES && !items.is_empty()) {
            break;
        }
        items.extend(queue.pop_front().map(|entry| Item {
            key: entry.key.to_string(),
            created: entry.created.0,
            modified: entry.modified.0,
            value: entry.value,
        }));
    }
    items
}

async fn seal_next(
    archive: &Arc<Archive>,
    head: &ArchiveHead,
    items: Vec<Item>,
    through: i64,
) -> Result<Pending, Problem> {
    let (n, chain, start) = (head.segment + 1, head.chain.clone(), head.head);
    archive
        .on_disk(move |own| {
            let (segment, end) = seal(&chain, start, &items, &own.key).map_err(|e| Problem::Segment(n, e))?;
            own.store(n, &segment)?;
            Ok(Pending { segment, items, end, through })
        })
        .await
}

/// What a crash, or a leader before this one, has left beyond the head: taken up if the registry still holds exactly what
/// it says, else set aside. Whatever lies further beyond can't count either.
async fn left_over(
    app: &App,
    archive: &Arc<Archive>,
    head: &ArchiveHead,
    ring: &Keyring,
) -> Result<Option<Pending>, Problem> {
    let n = head.segment + 1;
    let further: Vec<u64> = archive.held().ends.keys().copied().filter(|held| *held > n).collect();
    for beyond in further {
        archive.on_disk(move |own| own.set_aside(beyond)).await?;
    }
    let found = match archive.on_disk(move |own| own.load(n)).await {
        Ok(found) => found.map(|(segment, _)| segment),
        Err(error) => {
            tracing::warn!(error = chain(&error), "a segment beyond the head can't be read");
            archive.on_disk(move |own| own.set_aside(n)).await?;
            None
        }
    };
    let Some(segment) = found else { return Ok(None) };
    if let Ok(end) = segment.verify(&head.chain, head.head, ring) {
        let items = items(&segment);
        if items.len() == segment.links.len() && still_so(app, &items).await? {
            return Ok(Some(Pending { segment, items, end, through: head.through }));
        }
    }
    archive.on_disk(move |own| own.set_aside(n)).await?;
    Ok(None)
}

/// Whether the registry holds every one of these keys, unchanged.
async fn still_so(app: &App, items: &[Item]) -> Result<bool, Problem> {
    let keys: Option<Vec<Key>> = items.iter().map(|item| item.key.parse().ok()).collect();
    let Some(keys) = keys else { return Ok(false) };
    let (_, found) = app.store.read(&keys).await?;
    Ok(found
        .iter()
        .zip(items)
        .all(|(entry, item)| entry.as_ref().is_some_and(|e| e.modified.0 == item.modified)))
}

/// Waits until enough control planes hold these bytes; says why not if they do not.
async fn until_copied(app: &App, archive: &Archive, n: u64, end: Head) -> Result<Option<String>, Problem> {
    let began = app.clock.now();
    loop {
        let all = copies::all(app).await?;
        let others: Vec<_> = all.iter().filter(|copy| copy.server != app.name).collect();
        let wanted = archive.settings.copies.unwrap_or(if others.is_empty() { 1 } else { 2 });
        let have = 1 + others.iter().filter(|c| c.segment == n && c.digest == Some(end.digest)).count();
        if have >= wanted || archive.settings.sabotage == Sabotage::Uncopied {
            return Ok(None);
        }
        if app.clock.now().since(began) >= archive.settings.patience {
            return Ok(Some(format!(
                "segment {n} lies on {have} of {wanted} control planes: start another one with --archive-dir, or set \
                 --archive-copies"
            )));
        }
        pause(LOOK).await;
    }
}

/// Removes from the registry what the segment holds, and moves the head, or neither. False: something was changed under it.
async fn count(
    app: &App,
    archive: &Archive,
    led: &Led,
    (head, seen): (&ArchiveHead, Option<Revision>),
    pending: &Pending,
) -> Result<bool, Problem> {
    let unchanged = match seen {
        Some(at) => Precondition::ModifiedAt(Key::ArchiveHead, at),
        None => Precondition::Absent(Key::ArchiveHead),
    };
    let mut txn = Txn::fenced(&led.world, &led.leadership);
    let fences = txn.when.len();
    txn = txn.when(unchanged);
    for item in &pending.items {
        let key: Key = item.key.parse().map_err(|_| Problem::Other(format!("{} is no key", item.key)))?;
        txn = txn.when(Precondition::ModifiedAt(key.clone(), Revision(item.modified))).op(Op::Delete(key));
    }
    let next = ArchiveHead {
        chain: pending.segment.seal.body.chain.clone(),
        segment: head.segment + 1,
        head: pending.end,
        through: pending.through.max(head.through),
    };
    let copy = copies::own_copy(app, archive);
    txn = txn.put(Key::ArchiveHead, &next).put(Key::ArchiveCopy(app.name.clone()), &copy);
    match app.store.commit(txn.clone()).await {
        Ok(Commit::Done(_)) => Ok(true),
        Ok(Commit::Refused { current, .. }) => {
            let leads = txn.when.iter().zip(&current).take(fences).all(|(when, entry)| match when {
                Precondition::Holds(_, value) => entry.as_ref().is_some_and(|e| e.value == *value),
                Precondition::CreatedAt(_, at) => entry.as_ref().is_some_and(|e| e.created == *at),
                _ => true,
            });
            if leads { Ok(false) } else { Err(Problem::Deposed) }
        }
        // Found out by reading the head: if it did not move, the file is taken up again by the next pass.
        Err(StoreError::UnknownOutcome { .. }) => {
            let (now, _) = super::head(app, None).await?;
            Ok(now == next)
        }
        Err(error) => Err(error.into()),
    }
}
