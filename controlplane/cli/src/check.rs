//! `domicile check FILE`: every mistake of a regions.toml at once, without a server.

use std::io::Read;
use std::path::Path;

use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::Out;

/// Largest file that is read, in bytes.
const LARGEST: u64 = domicile_config::MAX_BYTES as u64;

/// Reads a regions.toml as text.
///
/// # Errors
/// When it can't be read, is too large, or is not UTF-8.
pub(crate) fn read(file: &Path) -> Result<String, Failure> {
    let name = file.display();
    let wrong = |what: String, hint: &str| Failure::new(Exit::Usage, format!("{name} {what}")).hint(hint);
    let mut text = String::new();
    // Bounded by what is read, not by what the file says of its size: it may be a device.
    std::fs::File::open(file).and_then(|f| f.take(LARGEST + 1).read_to_string(&mut text)).map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => "name the regions.toml that describes the fleet",
            std::io::ErrorKind::PermissionDenied => "make it readable for who runs this command",
            _ => "a regions.toml is a text file in UTF-8",
        };
        wrong(format!("can't be read: {e}"), hint)
    })?;
    if text.len() as u64 > LARGEST {
        return Err(wrong(format!("is larger than {} MiB", LARGEST >> 20), "is it the right file?"));
    }
    Ok(text)
}

/// Runs it.
///
/// # Errors
/// With all mistakes, when there are any.
pub fn run(file: &Path, out: &mut Out) -> Result<Exit, Failure> {
    let text = read(file)?;
    let name = file.display().to_string();
    let fleet = domicile_config::parse(&name, &text).map_err(|mistakes| mistaken(&name, &mistakes))?;
    if out.json {
        out.data(&serde_json::json!({
            "file": name,
            "regions": fleet.regions.len(),
            "jurisdictions": fleet.jurisdictions.len(),
            "cells": fleet.cells.len(),
            "tenants": fleet.tenants.len(),
        }))?;
    } else {
        out.pairs(&[
            ("regions", fleet.regions.len().to_string()),
            ("jurisdictions", fleet.jurisdictions.len().to_string()),
            ("cells", fleet.cells.len().to_string()),
            ("tenants", fleet.tenants.len().to_string()),
        ])?;
        out.say(&format!("{name}: no mistakes"))?;
    }
    Ok(Exit::Ok)
}

/// The failure that a report of mistakes stands for.
fn mistaken(name: &str, mistakes: &domicile_config::Mistakes) -> Failure {
    let n = mistakes.list.len();
    let mut failure =
        Failure::new(Exit::Usage, format!("{name} has {n} mistake{}", if n == 1 { "" } else { "s" }))
            .hint("mend them all, then run the same command again; nothing was changed");
    failure.mistakes = vec![mistakes.to_string().trim_end().to_owned()];
    failure
}
