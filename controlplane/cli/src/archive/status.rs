//! `domicile archive status`

use domicile_api::archive::ArchiveView;

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, or_dash};

/// Runs it.
///
/// # Errors
/// When no control plane answers.
pub async fn run(client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let view: ArchiveView = client.get("/v1/archive").await?;
    if out.json {
        out.data(&view)?;
        return Ok(Exit::Ok);
    }
    out.pairs(&[
        ("answered by", view.server.clone()),
        ("keeps a copy", if view.keeps { "yes" } else { "no: start it with --archive-dir" }.to_owned()),
        ("chain", or_dash(view.chain.as_ref())),
        ("head", or_dash(view.head.as_ref())),
        ("keys archived", view.links.to_string()),
        ("held up", or_dash(view.waiting.as_ref())),
    ])?;
    if !view.copies.is_empty() {
        writeln!(out.stdout)?;
        let state = |complete| if complete { "complete" } else { "BEHIND" }.to_owned();
        let rows =
            view.copies.iter().map(|c| vec![c.server.clone(), c.segment.to_string(), state(c.complete)]);
        out.table(&["COPY", "LAST SEGMENT", "STATE"], rows.collect())?;
    }
    if !view.keys.is_empty() {
        writeln!(out.stdout)?;
        let rows = view.keys.iter().map(|(id, owner)| vec![id.clone(), owner.clone()]);
        out.table(&["SEALED BY KEY", "OF"], rows.collect())?;
    }
    Ok(Exit::Ok)
}
