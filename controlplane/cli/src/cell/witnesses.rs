//! `domicile cell witnesses CELL`: who vouches for a cell's holder, and the wish for others.

use std::collections::BTreeSet;

use domicile_api::witnesses::{RenewRequest, WitnessView, WitnessesView};
use domicile_model::{CellId, RouterId};

use crate::args::WitnessArgs;
use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::{Out, or_dash};

/// Runs it.
///
/// # Errors
/// When the cell does not exist, no reason is given, the answer is no, or no control plane answers.
pub async fn run(cell: &CellId, args: &WitnessArgs, client: &Client, out: &mut Out) -> Result<Exit, Failure> {
    let path = format!("/v1/cells/{cell}/witnesses");
    let view: WitnessesView = if args.keep {
        client.delete(&path).await?
    } else if args.replace {
        let mut wanted = RenewRequest {
            without: args.without.iter().cloned().collect(),
            wait: args.wait,
            reason: args.reason.clone().unwrap_or_default(),
            dry_run: true,
        };
        let shown: WitnessesView = client.post(&path, &wanted).await?;
        if args.dry_run {
            shown
        } else {
            let pause = if args.wait { " Writes of the next planned move wait for WAIT longer." } else { "" };
            let whom = shown
                .instead
                .as_ref()
                .map_or_else(|| "others, of which there are none yet,".to_owned(), names);
            out.confirm(
                &format!("Name {whom} as witnesses of {cell} as soon as that is safe?{pause}"),
                args.yes,
            )?;
            wanted.dry_run = false;
            client.post(&path, &wanted).await?
        }
    } else {
        client.get(&path).await?
    };
    if out.json {
        out.data(&view)?;
    } else {
        table(&view, out)?;
    }
    Ok(Exit::Ok)
}

fn names(of: &BTreeSet<RouterId>) -> String {
    of.iter().map(RouterId::as_str).collect::<Vec<_>>().join(", ")
}

/// The witnesses, and what is pending.
pub(crate) fn table(view: &WitnessesView, out: &mut Out) -> Result<(), Failure> {
    let rows = view.members.iter().map(row).collect();
    out.table(&["WITNESS", "REGION", "ALIVE", "QUIET", "DESTROYED"], rows)?;
    if let Some(wish) = &view.pending {
        let whom = view.instead.as_ref().map_or_else(
            || "nobody else is there to be named yet".to_owned(),
            |instead| format!("now {} would be named", names(instead)),
        );
        let when = if wish.wait { "the next move" } else { "the next forced move by waiting" };
        writeln!(
            out.stdout,
            "others are wanted, by {} because: {}. {whom}, with {when} or when the cell is opened after a close",
            wish.by, wish.reason
        )?;
    }
    Ok(())
}

fn row(witness: &WitnessView) -> Vec<String> {
    let quiet = match witness.quiet {
        None => "-",
        Some(true) => "yes",
        Some(false) => "no",
    };
    vec![
        witness.id.to_string(),
        or_dash(witness.region.as_ref()),
        if witness.alive { "yes" } else { "no" }.to_owned(),
        quiet.to_owned(),
        or_dash(witness.destroyed.as_ref()),
    ]
}
