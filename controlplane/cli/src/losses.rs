//! `domicile losses locate|decrypt|keygen`

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use domicile_api::views::{LocateRequest, LocatedLosses};
use domicile_losses::{KeyFile, LossFileError, Reader};
use domicile_model::{MoveId, TenantId};

use crate::client::Client;
use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::Out;

/// Tells where the lost rows of a tenant lie.
///
/// # Errors
/// When the move lost none, the role is missing, or no leader answers.
pub async fn locate(
    id: MoveId,
    tenant: Option<&TenantId>,
    reason: &str,
    client: &Client,
    out: &mut Out,
) -> Result<Exit, Failure> {
    let request = LocateRequest { tenant: tenant.cloned(), reason: reason.to_owned() };
    let found: LocatedLosses = client.verb(&format!("/v1/moves/{id}/losses/locate"), &request).await?;
    if out.json {
        out.data(&found)?;
        return Ok(Exit::Ok);
    }
    let mut pairs = vec![
        ("region", found.region.clone()),
        ("file", found.path.clone()),
        ("rows", found.rows.to_string()),
        ("bytes", found.bytes.to_string()),
        ("SHA-256", found.sha256.clone()),
    ];
    if let Some(place) = &found.place {
        pairs.push(("country", place.country.to_string()));
        pairs.push(("recipient", place.recipient.clone()));
    }
    out.pairs(&pairs)?;
    out.say(
        "Fetch the file from the agent's machine there, then `domicile losses decrypt FILE --key KEYFILE`. Where it is taken, the tenant's policy holds as well.",
    )?;
    Ok(Exit::Ok)
}

fn unreadable(file: &Path, error: &LossFileError) -> Failure {
    let exit = match error {
        LossFileError::Io(e) if e.kind() != std::io::ErrorKind::InvalidData => Exit::Io,
        _ => Exit::Usage,
    };
    Failure::new(exit, format!("{} can't be read: {error}", file.display()))
}

/// Decrypts a file: its rows on stdout, what it is of on stderr.
///
/// # Errors
/// When the key does not fit, or the file is not whole; rows that were shown before are genuine.
pub fn decrypt(file: &Path, key: &Path, out: &mut Out) -> Result<Exit, Failure> {
    let key = KeyFile::read(key).map_err(|e| unreadable(key, &e))?;
    let opened = std::fs::File::open(file).map_err(LossFileError::from);
    let reader = opened.and_then(|f| Reader::open(std::io::BufReader::new(f), &key)).map_err(|e| {
        unreadable(file, &e)
            .hint("`failover losses --json` names the recipient whose key fits and the file's SHA-256")
    })?;
    let header = reader.header().clone();
    let mut rows = 0_u64;
    for row in reader {
        let row = row.map_err(|e| {
            unreadable(file, &e).hint("rows shown before this are genuine; fetch the file again for the rest")
        })?;
        let line = serde_json::to_string(&row)
            .map_err(|e| Failure::new(Exit::Internal, format!("a row can't be shown as JSON: {e}")))?;
        writeln!(out.stdout, "{line}")?;
        rows += 1;
    }
    out.say(&format!(
        "{rows} changed rows of {} in cell {}, lost by move {} past {} of timeline {}; the file is whole.",
        header.part, header.cell, header.moving, header.fork, header.timeline
    ))?;
    Ok(Exit::Ok)
}

/// Makes a key file; its recipient on stdout.
///
/// # Errors
/// When the file exists or can't be written.
pub fn keygen(file: &Path, out: &mut Out) -> Result<Exit, Failure> {
    let key = KeyFile::generate();
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut made| made.write_all(key.text().as_bytes()).and_then(|()| made.sync_all()))
        .map_err(|e| {
            Failure::new(Exit::Io, format!("{} can't be made: {e}", file.display()))
                .hint("name a file that does not exist; an existing key is never overwritten")
        })?;
    let recipient = key.recipient().to_string();
    if out.json {
        out.data(&serde_json::json!({ "recipient": recipient }))?;
    } else {
        writeln!(out.stdout, "{recipient}")?;
    }
    out.say("Name it as `recipient` in [losses] of the agents' files. Without the key file nobody can read what they export: keep a copy.")?;
    Ok(Exit::Ok)
}
