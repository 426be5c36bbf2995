//! Looks whether the files have changed, and replaces what they say without touching a connection.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::pause;
use sha2::{Digest, Sha256};

use super::guard::Guard;
use super::peers::Peers;
use super::shelf::Unusable;
use super::{Keys, Tls};
use crate::metrics::Metrics;
use crate::state::Shared;

/// How often the files are looked at. Only their names, sizes and times: cheap for thousands.
const LOOK: Duration = Duration::from_secs(1);
/// A certificate that ends within this is counted as ending soon.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Reloads for as long as the router lives.
pub async fn run(shared: Arc<Shared>) {
    let (keys, metrics) = (shared.keys.clone(), shared.metrics.clone());
    let mut known = look(&keys).await;
    let mut failing = false;
    // The first look is under the table of now, which need not be the one that the files were first read under.
    let mut guarded: Option<Guard> = None;
    let mut kept_out = Vec::new();
    loop {
        if let Some(tls) = &keys.clients {
            measure(tls, &metrics);
        }
        let told = tokio::select! {
            () = pause(LOOK) => false,
            () = keys.look_now.notified() => true,
        };
        // Before the files are read: what changes meanwhile is seen the next time.
        let now = look(&keys).await;
        // A policy that became tighter takes keys away, one that became wider brings them back.
        let guard = Guard::of(&shared);
        if now == known && !told && !failing && guarded.as_ref().is_some_and(|old| old.same(&guard)) {
            continue;
        }
        let reading = keys.clone();
        let read = move || {
            let wrong = reading.reload(&guard);
            (wrong, guard)
        };
        let Ok((wrong, guard)) = tokio::task::spawn_blocking(read).await else { continue };
        guarded = Some(guard);
        say_kept_out(&keys, &mut kept_out);
        if now != known || told {
            for why in &wrong {
                tracing::warn!(
                    path = why.path,
                    why = why.why,
                    "a certificate can't be used; what was there before serves"
                );
            }
            let all = keys.clients.as_ref().map_or(0, |tls| tls.terms().shelf.all().count());
            tracing::info!(certificates = all, unusable = wrong.len(), "the certificates were read again");
        }
        failing = !wrong.is_empty();
        known = now;
    }
}

/// Each time that they are others.
fn say_kept_out(keys: &Keys, said: &mut Vec<Unusable>) {
    let now = keys.clients.as_ref().map(|tls| tls.terms().shelf.kept_out().to_vec()).unwrap_or_default();
    if now != *said {
        for one in &now {
            tracing::warn!(path = one.path, why = one.why, "a key may not be here");
        }
        *said = now;
    }
}

impl Keys {
    fn reload(&self, guard: &Guard) -> Vec<Unusable> {
        let mut wrong = self.clients.as_ref().map(|tls| tls.reload(guard)).unwrap_or_default();
        wrong.extend(self.peers.as_ref().and_then(Peers::reload));
        wrong
    }
}

/// A digest of what the files look like from outside. None: it could not be made.
async fn look(keys: &Arc<Keys>) -> Option<Vec<u8>> {
    let keys = keys.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let mut seen = Sha256::new();
        if let Some(tls) = &keys.clients {
            fingerprint(&tls.config.certs, &mut seen, 2);
            if let Some(ca) = &tls.config.client_ca {
                fingerprint(ca, &mut seen, 0);
            }
        }
        for file in keys.peers.iter().flat_map(Peers::files) {
            fingerprint(file, &mut seen, 0);
        }
        seen.finalize().to_vec()
    });
    looked.await.ok()
}

fn fingerprint(path: &Path, seen: &mut Sha256, below: u8) {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::metadata(path) else { return };
    seen.update(path.as_os_str().as_bytes());
    let (changed, nanos) = (meta.mtime(), meta.mtime_nsec());
    for n in [meta.ino(), meta.size(), changed.cast_unsigned(), nanos.cast_unsigned()] {
        seen.update(n.to_le_bytes());
    }
    if below > 0 && meta.is_dir() {
        let mut inside: Vec<_> =
            std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok).map(|e| e.path()).collect();
        inside.sort();
        for path in inside {
            fingerprint(&path, seen, below - 1);
        }
    }
}

/// Counts, and the first end: labels by name would grow with the tenants; the names stand on the admin listener.
fn measure(tls: &Tls, metrics: &Metrics) {
    let terms = tls.terms();
    let now = jiff::Timestamp::now().as_second();
    let soon = now + i64::try_from(SOON.as_secs()).unwrap_or(0);
    let count = |f: &dyn Fn(i64) -> bool| {
        i64::try_from(terms.shelf.all().filter(|c| f(c.not_after)).count()).unwrap_or(i64::MAX)
    };
    metrics.certificates.with_label_values(&["good"]).set(count(&|end| end > soon));
    metrics.certificates.with_label_values(&["ends-soon"]).set(count(&|end| now < end && end <= soon));
    metrics.certificates.with_label_values(&["ended"]).set(count(&|end| end <= now));
    metrics
        .certificates
        .with_label_values(&["unusable"])
        .set(i64::try_from(terms.unusable.len()).unwrap_or(i64::MAX));
    metrics
        .certificates
        .with_label_values(&["kept-out"])
        .set(i64::try_from(terms.shelf.kept_out().len()).unwrap_or(i64::MAX));
    metrics.certificate_first_end.set(terms.shelf.all().map(|c| c.not_after).min().unwrap_or(0));
}
