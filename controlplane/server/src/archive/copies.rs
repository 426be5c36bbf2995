//! Copies: every control plane with a directory fetches what it lacks, and says in the registry how far it has come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domicile_model::World;
use domicile_model::clock::pause;
use domicile_seal::chain::{Head, Segment};
use domicile_seal::keys::{Keyring, Purpose, Signed, When};
use domicile_store::lead::present_leader;
use domicile_store::{Commit, Key, Precondition, Txn, codec};
use serde::{Deserialize, Serialize};

use super::records::{ArchiveCopy, ArchiveHead, ArchiveKey};
use super::{Archive, Problem, head, ring};
use crate::app::App;
use crate::audit::AuditEntry;
use crate::causes::chain;

/// How often a follower looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long another control plane may take to hand out a segment.
const FETCH: Duration = Duration::from_secs(20);
/// Largest segment that is fetched, in bytes.
const LARGEST: usize = 64 << 20;
/// The header that a request for a segment is signed in.
pub(crate) const REQUEST: &str = "domicile-archive-request";

const PURPOSE: Purpose = Purpose("domicile/archive-fetch/1");

/// A request for a segment. Whoever repeats one that was overheard gets the bytes that were overheard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    by: String,
    segment: u64,
}

/// Keeps this copy complete, for as long as the process lives. While it leads the passes do that.
pub(crate) async fn follow(app: &App) {
    let Some(archive) = &app.archive else { return std::future::pending().await };
    let mut said = None;
    loop {
        if app.led().is_none() {
            let failed = look(app, archive).await.err().map(|error| chain(&error));
            if failed != said {
                if let Some(error) = &failed {
                    tracing::warn!(error, "this copy of the archive is not complete; tried again");
                }
                said = failed;
            }
        }
        pause(LOOK).await;
    }
}

async fn look(app: &App, archive: &Arc<Archive>) -> Result<(), Problem> {
    let (_, world) = app.store.read(&[Key::World]).await?;
    let Some(world) = world.into_iter().flatten().next() else { return Ok(()) };
    let world: World = codec::decode(&world.value)?;
    let ring = introduce(app, archive, &world).await?;
    let (head, seen) = head(app, Some(archive)).await?;
    if seen.is_some() {
        catch_up(app, archive, &head, &ring).await?;
    }
    if let Ok(Some(leader)) = present_leader(&*app.store).await
        && leader.record.name != app.name
    {
        let next = head.segment + 1;
        let held = archive.end(next);
        if let Some(segment) = fetch(app, archive, leader.record.address, next, held.map(|e| e.head)).await? {
            take(archive, &head, next, segment, &ring).await?;
        }
    }
    acknowledge(app, archive, &world).await
}

/// Publishes this control plane's key and copy, and gives the keys that count.
pub(crate) async fn introduce(app: &App, archive: &Arc<Archive>, world: &World) -> Result<Keyring, Problem> {
    let public = archive.key.public();
    let own = Key::ArchiveKey(public.id().to_string());
    let mut keys = ring(app).await?;
    if keys.get(&public.id()).is_none() {
        let key = ArchiveKey { server: app.name.clone(), key: domicile_seal::handover::published(&public) };
        let what = format!("key {} of {} seals segments of the archive", key.key.id, app.name);
        let audit = AuditEntry::now("control plane", &app.name, "archive-key", vec![what]);
        let txn =
            Txn::in_world(world).when(Precondition::Absent(own.clone())).put(own, &key).op(audit.write());
        app.store.commit(txn).await?;
        keys = ring(app).await?;
    }
    let written = keys.clone();
    archive.on_disk(move |own| Ok(own.dir.write_keys(&written)?)).await?;
    Ok(keys)
}

/// What this control plane says of its copy.
pub(super) fn own_copy(app: &App, archive: &Archive) -> ArchiveCopy {
    let last = archive.tip();
    // A leader on another machine may hold the newest without the oldest; what it acknowledges is the newest.
    let newest = archive.held().ends.last_key_value().map(|(n, head)| (*n, head.digest));
    let (segment, digest) = newest.or(last.map(|(_, e)| (e.segment, e.head.digest))).unzip();
    ArchiveCopy { server: app.name.clone(), address: archive.address, segment: segment.unwrap_or(0), digest }
}

/// Says how far this copy reaches, if that has changed.
pub(super) async fn acknowledge(app: &App, archive: &Archive, world: &World) -> Result<(), Problem> {
    app.metrics.archive.held.set(archive.tip().map_or(0, |(_, e)| i64::try_from(e.segment).unwrap_or(0)));
    let key = Key::ArchiveCopy(app.name.clone());
    let (_, found) = app.store.read(std::slice::from_ref(&key)).await?;
    let found = found.into_iter().flatten().next();
    let copy = own_copy(app, archive);
    if found.as_ref().is_some_and(|entry| entry.value == codec::encode(&copy)) {
        return Ok(());
    }
    let unchanged = match found {
        Some(entry) => Precondition::ModifiedAt(key.clone(), entry.modified),
        None => Precondition::Absent(key.clone()),
    };
    match app.store.commit(Txn::in_world(world).when(unchanged).put(key, &copy)).await? {
        Commit::Done(_) => Ok(()),
        Commit::Refused { .. } => Err(Problem::Other("the registry changed meanwhile".to_owned())),
    }
}

/// All copies that the registry knows, this one included.
pub(crate) async fn all(app: &App) -> Result<Vec<ArchiveCopy>, Problem> {
    let listing = app.store.list("archive/copies/").await?;
    Ok(listing.entries.iter().map(|entry| codec::decode(&entry.value)).collect::<Result<_, _>>()?)
}

/// Fetches every segment up to the head that is missing here. What stands in its place and does not count is set aside.
///
/// # Errors
/// When one can't be had from anybody.
pub(super) async fn catch_up(
    app: &App,
    archive: &Arc<Archive>,
    head: &ArchiveHead,
    ring: &Keyring,
) -> Result<(), Problem> {
    app.metrics.archive.head.set(i64::try_from(head.segment).unwrap_or(i64::MAX));
    if head.segment == 0 {
        return Ok(());
    }
    // From the newest backwards: each names the digest of the one before it.
    let (mut n, mut end) = (head.segment, head.head);
    while n > 0 {
        let ours = archive.end(n).is_some_and(|held| held.head == end);
        if ours && n <= archive.held().sound {
            break;
        }
        if !ours {
            let Some(segment) = fetch_from_anybody(app, archive, n, end).await? else {
                return Err(Problem::Other(format!(
                    "segment {n} of the archive is not here, and no control plane that is up holds it: start one that \
                     does, or copy its file here"
                )));
            };
            let checked = segment.verify(&head.chain, start_of(&segment), ring);
            if checked.map_err(|e| Problem::Segment(n, e))? != end {
                return Err(Problem::Other(format!("segment {n} is not the one that counts")));
            }
            archive
                .on_disk(move |own| {
                    own.set_aside(n)?;
                    own.store(n, &segment)
                })
                .await?;
        }
        let loaded = archive.on_disk(move |own| own.load(n)).await?;
        let (segment, _) = loaded.ok_or_else(|| Problem::Other(format!("segment {n} has vanished")))?;
        end = start_of(&segment);
        n -= 1;
    }
    archive.held().sound = head.segment;
    Ok(())
}

fn start_of(segment: &Segment) -> Head {
    let seal = &segment.seal.body;
    Head { n: seal.first.saturating_sub(1), digest: seal.prev }
}

/// Takes a segment that follows the head, in place of one that the leader does not have any more.
async fn take(
    archive: &Arc<Archive>,
    head: &ArchiveHead,
    n: u64,
    segment: Segment,
    ring: &Keyring,
) -> Result<(), Problem> {
    segment.verify(&head.chain, head.head, ring).map_err(|e| Problem::Segment(n, e))?;
    archive
        .on_disk(move |own| {
            own.set_aside(n)?;
            own.store(n, &segment)
        })
        .await
}

async fn fetch_from_anybody(
    app: &App,
    archive: &Archive,
    n: u64,
    end: Head,
) -> Result<Option<Segment>, Problem> {
    let copies = all(app).await?;
    for copy in copies.iter().filter(|c| c.server != app.name && c.segment >= n) {
        match fetch(app, archive, copy.address, n, None).await {
            Ok(Some(segment)) if segment.seal.body.head == end.digest => return Ok(Some(segment)),
            Ok(_) => {}
            Err(error) => tracing::debug!(from = copy.server, %error, "a segment was not fetched"),
        }
    }
    Ok(None)
}

/// Asks a control plane for a segment; none if it has none, or the one that is held already.
async fn fetch(
    app: &App,
    archive: &Archive,
    from: SocketAddr,
    n: u64,
    held: Option<Head>,
) -> Result<Option<Segment>, Problem> {
    let body = Request { by: app.name.clone(), segment: n };
    let other = |what: String| Problem::Other(format!("segment {n} was not fetched from {from}: {what}"));
    let signature = archive.key.sign(PURPOSE, &body).map_err(|e| other(e.to_string()))?;
    let signed = serde_json::to_string(&Signed { body, signature }).map_err(|e| other(e.to_string()))?;
    let address = app.links.dial(from);
    let mut request = app
        .http
        .get(format!("http://{address}/v1/archive/segments/{n}"))
        .header(REQUEST, signed)
        .timeout(FETCH);
    if let Some(held) = held {
        request = request.header("if-none-match", format!("\"{}\"", held.digest));
    }
    let mut answer = request.send().await.map_err(|e| other(e.without_url().to_string()))?;
    match answer.status().as_u16() {
        200 => {}
        304 | 404 => return Ok(None),
        status => return Err(other(format!("it answered {status}"))),
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| other(e.without_url().to_string()))? {
        if bytes.len() + chunk.len() > LARGEST {
            return Err(other("it is too large".to_owned()));
        }
        bytes.extend_from_slice(&chunk);
    }
    Segment::from_lines(&bytes).map(Some).map_err(|e| Problem::Segment(n, e))
}

/// A request to another control plane, signed with this one's key.
pub(crate) fn sign<T: Serialize>(archive: &Archive, purpose: Purpose, body: T) -> Result<String, Problem> {
    let wrong = |what: String| Problem::Other(format!("a request can't be signed: {what}"));
    let signature = archive.key.sign(purpose, &body).map_err(|e| wrong(e.to_string()))?;
    serde_json::to_string(&Signed { body, signature }).map_err(|e| wrong(e.to_string()))
}

/// What a control plane whose key the registry knows has signed, and its name; none if nobody of them has.
pub(crate) async fn signed_by<T: Serialize + for<'de> Deserialize<'de>>(
    app: &App,
    purpose: Purpose,
    header: Option<&str>,
) -> Result<Option<(T, String)>, Problem> {
    let Some(Ok(signed)) = header.map(serde_json::from_str::<Signed<T>>) else { return Ok(None) };
    let keys = ring(app).await?;
    let asked = keys.verify(purpose, &signed.body, &signed.signature, When::position(0), "a request");
    let owner = asked.ok().map(|key| key.owner.clone());
    Ok(owner.map(|owner| (signed.body, owner)))
}

/// Whether a control plane whose key the registry knows asks for this very segment.
pub(crate) async fn may_fetch(app: &App, segment: u64, header: Option<&str>) -> Result<bool, Problem> {
    let Some(Ok(signed)) = header.map(serde_json::from_str::<Signed<Request>>) else { return Ok(false) };
    if signed.body.segment != segment {
        return Ok(false);
    }
    let keys = ring(app).await?;
    let asked =
        keys.verify(PURPOSE, &signed.body, &signed.signature, When::position(0), "a request for a segment");
    Ok(asked.is_ok_and(|key| key.owner == signed.body.by))
}

/// The bytes of a segment that is held here, and the digest that it ends with.
pub(crate) async fn hand_out(archive: &Arc<Archive>, n: u64) -> Result<Option<(Vec<u8>, Head)>, Problem> {
    let Some(end) = archive.end(n) else { return Ok(None) };
    let bytes = archive.on_disk(move |own| Ok(own.dir.read(n)?)).await?;
    Ok(bytes.map(|bytes| (bytes, end.head)))
}
