//! The audit log as one: what the registry still holds, and what has left it.

use std::collections::BTreeMap;

use domicile_api::archive::{AuditLine, AuditQuery, AuditView, MOST_AUDITED};
use domicile_archive::{items, verify};
use domicile_store::{Key, codec};
use uuid::Uuid;

use super::{Problem, head, ring};
use crate::app::App;
use crate::audit::AuditEntry;

/// Entries by id, each with the segment that it lies in; none: in the registry.
type Found = BTreeMap<Uuid, (Vec<u8>, Option<u64>)>;

/// The audit log, newest first. Every byte of the archive is checked for each answer: what can't be shown to be whole is
/// said not to be.
pub(crate) async fn read(app: &App, query: &AuditQuery) -> Result<AuditView, Problem> {
    // First the registry: what leaves it in between is in the archive by then.
    let live = app.store.list("audit/").await?.entries;
    let mut found: Found = live
        .into_iter()
        .filter_map(|entry| match entry.key {
            Key::Audit(id) => Some((id, (entry.value, None))),
            _ => None,
        })
        .collect();
    let (reached, problem) = match archived(app).await? {
        Ok((reached, old)) => {
            for (id, entry) in old {
                // A segment that does not count yet repeats what the registry still holds.
                found.entry(id).or_insert(entry);
            }
            (reached, None)
        }
        Err(problem) => (None, Some(problem)),
    };
    Ok(AuditView { head: reached, whole: problem.is_none(), problem, ..shown(&app.name, found, query) })
}

/// What has left the registry, with the head up to which it was checked; or why that can't be told.
async fn archived(app: &App) -> Result<Result<(Option<String>, Found), String>, Problem> {
    let (head, Some(_)) = head(app, None).await? else { return Ok(Ok((None, Found::new()))) };
    let Some(archive) = &app.archive else {
        return Ok(Err("entries have left the registry, and this control plane keeps no copy of them: start it with --archive-dir, or ask another one (`domicile archive status` names the copies)".to_owned()));
    };
    let keys = ring(app).await?;
    let end = domicile_archive::End { segment: head.segment, head: head.head };
    archive
        .on_disk(move |own| {
            if let Err(finding) = verify(&own.dir, &keys, Some(end)) {
                return Ok(Err(format!("this control plane's copy of the archive is not whole: {finding}")));
            }
            let mut found = Found::new();
            for n in 1..=end.segment {
                let Some((segment, _)) = own.load(n)? else { continue };
                for item in items(&segment) {
                    if let Ok(Key::Audit(id)) = item.key.parse() {
                        found.insert(id, (item.value, Some(n)));
                    }
                }
            }
            Ok(Ok((Some(format!("{}:{}:{}", end.segment, end.head.n, end.head.digest)), found)))
        })
        .await
}

/// What of it is asked for.
fn shown(server: &str, found: Found, query: &AuditQuery) -> AuditView {
    let most = query.limit.unwrap_or(100).clamp(1, MOST_AUDITED);
    let before = query.before.as_deref().and_then(|id| id.parse::<Uuid>().ok());
    let mut view = AuditView {
        server: server.to_owned(),
        entries: Vec::new(),
        more: false,
        whole: true,
        head: None,
        unreadable: 0,
        problem: None,
    };
    let older = found.into_iter().rev().filter(|(id, _)| before.is_none_or(|before| *id < before));
    for (id, (value, segment)) in older {
        let Ok(entry) = codec::decode::<AuditEntry>(&value) else {
            view.unreadable += 1;
            continue;
        };
        let wanted = |asked: &Option<String>, is: &str| asked.as_deref().is_none_or(|asked| asked == is);
        if !wanted(&query.by, &entry.by) || !wanted(&query.action, &entry.action) {
            continue;
        }
        if view.entries.len() == most {
            view.more = true;
            break;
        }
        let AuditEntry { at, by, server, action, changed } = entry;
        view.entries.push(AuditLine { id: id.to_string(), at, by, server, action, changed, segment });
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(by: &str, action: &str) -> Vec<u8> {
        codec::encode(&AuditEntry::now(by, "cp", action, Vec::new()))
    }

    #[test]
    fn pages_follow_each_other_newest_first_and_what_can_not_be_read_is_counted() {
        let id = |n: u128| Uuid::from_u128(n);
        let mut all: Found = (1..=5).map(|n| (id(n), (entry("ann", "apply"), None))).collect();
        all.insert(id(3), (entry("bob", "freeze"), Some(7)));
        all.insert(id(4), (b"{}".to_vec(), Some(7)));
        let ask = |query: AuditQuery| {
            let view = shown("cp", all.clone(), &query);
            let ids: Vec<u128> =
                view.entries.iter().map(|e| e.id.parse::<Uuid>().unwrap().as_u128()).collect();
            (ids, view.more, view.unreadable)
        };
        let some = |limit| AuditQuery { limit: Some(limit), ..AuditQuery::default() };
        assert_eq!(ask(AuditQuery::default()), (vec![5, 3, 2, 1], false, 1));
        assert_eq!(ask(some(2)), (vec![5, 3], true, 1));
        assert_eq!(ask(AuditQuery { before: Some(id(3).to_string()), ..some(2) }), (vec![2, 1], false, 0));
        assert_eq!(ask(some(0)).0, [5], "at least one");
        assert_eq!(ask(AuditQuery { by: Some("bob".into()), ..some(9) }).0, [3]);
        assert_eq!(ask(AuditQuery { action: Some("apply".into()), ..some(9) }).0, [5, 2, 1]);
    }
}
