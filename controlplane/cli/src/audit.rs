//! `domicile audit`

use domicile_api::archive::{AuditLine, AuditView, MOST_AUDITED};

use crate::args::AuditArgs;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::Out;

/// Runs it. Shows what there is also where that is not the whole log, and ends with "not done" then.
///
/// # Errors
/// When no control plane answers, or what it shows can't be told to be whole.
pub async fn run(args: &AuditArgs, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let mut left = if args.all { usize::MAX } else { usize::try_from(args.limit).unwrap_or(usize::MAX) };
    let mut whole: Option<AuditView> = None;
    while left > 0 {
        let before = whole.as_ref().and_then(|view| view.entries.last()).map(|last| last.id.clone());
        let page: AuditView = client.get(&path(args, left.min(MOST_AUDITED), before.as_deref())).await?;
        left = left.saturating_sub(page.entries.len());
        let more = page.more && !page.entries.is_empty();
        whole = Some(match whole {
            None => page,
            Some(mut view) => {
                view.entries.extend(page.entries);
                view.unreadable += page.unreadable;
                view.whole &= page.whole;
                view.problem = view.problem.or(page.problem);
                (view.more, view.head) = (page.more, page.head);
                view
            }
        });
        if !more {
            break;
        }
    }
    let Some(view) = whole else { return Ok(Exit::Ok) };
    if out.json {
        out.data(&view)?;
    } else {
        out.table(
            &["AT", "BY", "ACTION", "THROUGH", "LIES IN", "WHAT"],
            view.entries.iter().map(row).collect(),
        )?;
    }
    if view.unreadable > 0 {
        out.say(&format!(
            "{} entries can't be read: a newer version wrote them, or they are damaged",
            view.unreadable
        ))?;
    }
    if let Some(problem) = view.problem.filter(|_| !view.whole) {
        return Err(Failure::new(Exit::NotDone, format!("this is not the whole log: {problem}")).hint(
            "`domicile archive status` names the copies; `domicile archive verify` checks one offline",
        ));
    }
    out.say(&match &view.head {
        Some(head) => format!("checked up to {head}"),
        None => "nothing has left the registry yet".to_owned(),
    })?;
    if view.more {
        out.say("there are older ones: --all shows them")?;
    }
    Ok(Exit::Ok)
}

fn path(args: &AuditArgs, limit: usize, before: Option<&str>) -> String {
    let path = "/v1/audit?";
    let mut query = form_urlencoded::Serializer::for_suffix(path.to_owned(), path.len());
    query.append_pair("limit", &limit.to_string());
    for (name, value) in [("before", before), ("by", args.by.as_deref()), ("action", args.action.as_deref())]
    {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

fn row(line: &AuditLine) -> Vec<String> {
    let place = line.segment.map_or_else(|| "registry".to_owned(), |n| format!("segment {n}"));
    vec![
        format!("{:.0}", line.at),
        line.by.clone(),
        line.action.clone(),
        line.server.clone(),
        place,
        line.changed.join("; "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_escaped() {
        let args = AuditArgs { limit: 5, all: false, by: Some("ann & bob".into()), action: None };
        assert_eq!(path(&args, 5, None), "/v1/audit?limit=5&by=ann+%26+bob");
        assert_eq!(path(&args, 5, Some("x")), "/v1/audit?limit=5&before=x&by=ann+%26+bob");
    }
}
