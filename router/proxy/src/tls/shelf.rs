//! The certificates on disk: pairs of `NAME.crt` (the chain, leaf first) and `NAME.key` in one folder and the folders
//! right below it. Which names a pair is for stands in the certificate itself (its DNS names, RFC 6125).

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::guard::Guard;

/// The largest file that is read, in bytes.
const MOST_BYTES: u64 = 1 << 20;
/// Pairs in one folder.
const MOST_PAIRS: usize = 20_000;

/// A certificate with its key.
#[derive(Debug, Serialize)]
pub struct Certificate {
    /// The file that it was read from.
    pub file: PathBuf,
    /// The names that it is for, in lower case; `*.` in front stands for exactly one label.
    pub names: Vec<String>,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: i64,
    #[serde(skip)]
    key: Arc<CertifiedKey>,
}

/// What can't be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct Unusable {
    /// The file or folder.
    pub path: String,
    /// Why, and what to do.
    pub why: String,
}

/// All certificates, by name.
#[derive(Debug, Default)]
pub struct Shelf {
    certificates: BTreeMap<PathBuf, Arc<Certificate>>,
    exact: HashMap<Box<str>, Arc<Certificate>>,
    /// By what comes after `*.`.
    wildcard: HashMap<Box<str>, Arc<Certificate>>,
    kept_out: Vec<Unusable>,
}

impl Certificate {
    /// Chain and key, as the handshake wants them.
    #[must_use]
    pub fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// Whether it is for this host, given in lower case.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            None => name == host,
            Some(parent) => {
                host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
            }
        })
    }

    /// The DNS names in a certificate, given in DER; none if it can't be read.
    #[must_use]
    pub fn names_in(der: &[u8]) -> Vec<String> {
        X509Certificate::from_der(der).map(|(_, parsed)| dns_names(&parsed)).unwrap_or_default()
    }

    /// The chain and the private key as they lie on disk, in DER, for a library that wants them so.
    pub(super) fn der(&self, key: &Path) -> Result<(Vec<Vec<u8>>, Vec<u8>), Unusable> {
        let private = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|e| Unusable { path: key.display().to_string(), why: e.to_string() })?;
        Ok((self.key.cert.iter().map(|c| c.to_vec()).collect(), private.secret_der().to_vec()))
    }

    /// Reads a pair.
    pub(super) fn read(chain: &Path, key: &Path, provider: &CryptoProvider) -> Result<Self, Unusable> {
        let bad = |path: &Path, why: String| Unusable { path: path.display().to_string(), why };
        let certs = certificates(chain)?;
        let leaf = certs
            .first()
            .ok_or_else(|| bad(chain, "holds no certificate; expected PEM, leaf first".into()))?;
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|e| bad(chain, format!("its certificate can't be read: {e}")))?;
        let names = dns_names(&parsed);
        if names.is_empty() {
            return Err(bad(
                chain,
                "its certificate names no DNS host; ask for one with a subjectAltName".into(),
            ));
        }
        let (not_before, not_after) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let bytes = read(key)?;
        let private = PrivateKeyDer::from_pem_slice(&bytes)
            .map_err(|e| bad(key, format!("holds no private key in PEM (PKCS #8, PKCS #1 or SEC 1): {e}")))?;
        let key = CertifiedKey::from_der(certs, private, provider)
            .map_err(|e| bad(key, format!("is not the key of {}: {e}", chain.display())))?;
        Ok(Self { file: chain.to_owned(), names, not_before, not_after, key: Arc::new(key) })
    }

    /// From memory: for certificates of the router's own making.
    pub(super) fn of(names: Vec<String>, key: CertifiedKey) -> Self {
        Self { file: PathBuf::new(), names, not_before: 0, not_after: i64::MAX, key: Arc::new(key) }
    }
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternative)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |n: &GeneralName<'_>| match n {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    alternative.value.general_names.iter().filter_map(name).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
    let bad = |why: String| Unusable { path: path.display().to_string(), why };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| bad(format!("can't be read: {e}")))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(bad(format!("is larger than {MOST_BYTES} bytes")));
    }
    Ok(bytes)
}

/// All certificates of a PEM file.
///
/// # Errors
/// When it can't be read, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let bad = |why: String| Unusable { path: path.display().to_string(), why };
    let bytes = read(path)?;
    let certs = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(format!("holds no certificates in PEM: {e}")))?;
    if certs.is_empty() { Err(bad("holds no certificate; expected PEM".into())) } else { Ok(certs) }
}

/// The names of the certificate in a file; none if it can't be read, of which reading all of it then tells more.
fn names_of(chain: &Path) -> Option<Vec<String>> {
    certificates(chain).ok()?.first().map(|leaf| Certificate::names_in(leaf))
}

/// The pairs in a folder and right below it, without looking into the files.
fn pairs(dir: &Path) -> (Vec<(PathBuf, PathBuf)>, Vec<Unusable>) {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    let mut folders = vec![(dir.to_owned(), true)];
    while let Some((folder, top)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) => {
                wrong.push(Unusable {
                    path: folder.display().to_string(),
                    why: format!("can't be read: {e}"),
                });
                continue;
            }
        };
        for path in entries.filter_map(Result::ok).map(|e| e.path()) {
            // Secrets that are mounted by Kubernetes lie twice, the real ones in a folder that begins with two dots.
            if path.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with("..")) {
                continue;
            }
            if path.is_dir() {
                if top {
                    folders.push((path, false));
                }
            } else if path.extension().is_some_and(|e| e == "crt") {
                let key = path.with_extension("key");
                if key.exists() {
                    found.push((path, key));
                } else {
                    let why = format!("has no key beside it: put it at {}", key.display());
                    wrong.push(Unusable { path: path.display().to_string(), why });
                }
            }
        }
    }
    found.sort();
    if found.len() > MOST_PAIRS {
        let why = format!("holds {} pairs; at most {MOST_PAIRS} are read", found.len());
        wrong.push(Unusable { path: dir.display().to_string(), why });
        found.truncate(MOST_PAIRS);
    }
    (found, wrong)
}

impl Shelf {
    /// Reads a folder. A pair that can't be used is left as it was on `old`, if it was there: one that is being written
    /// takes nothing away. A pair that `guard` forbids is taken away in any case, and its key is not read.
    #[must_use]
    pub fn read(dir: &Path, old: &Self, guard: &Guard, provider: &CryptoProvider) -> (Self, Vec<Unusable>) {
        let (pairs, mut wrong) = pairs(dir);
        let mut certificates = BTreeMap::new();
        let mut kept_out = Vec::new();
        for (chain, key) in pairs {
            if let Some(why) = names_of(&chain).and_then(|names| guard.forbids(&names)) {
                kept_out.push(Unusable { path: chain.display().to_string(), why });
                continue;
            }
            match Certificate::read(&chain, &key, provider) {
                Ok(certificate) => {
                    certificates.insert(chain, Arc::new(certificate));
                }
                Err(why) => {
                    wrong.push(why);
                    let may = |kept: &&Arc<Certificate>| guard.forbids(&kept.names).is_none();
                    if let Some(kept) = old.certificates.get(&chain).filter(may) {
                        certificates.insert(chain, kept.clone());
                    }
                }
            }
        }
        (Self { kept_out, ..Self::of(certificates) }, wrong)
    }

    fn of(certificates: BTreeMap<PathBuf, Arc<Certificate>>) -> Self {
        let mut shelf = Self::default();
        for certificate in certificates.values() {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut shelf.wildcard, parent),
                    None => (&mut shelf.exact, name.as_str()),
                };
                // Where two are for one name, the one that lasts longer: a renewed one may lie beside the old one.
                let longer = |known: &Arc<Certificate>| known.not_after >= certificate.not_after;
                if !map.get(name).is_some_and(longer) {
                    map.insert(name.into(), certificate.clone());
                }
            }
        }
        shelf.certificates = certificates;
        shelf
    }

    /// The certificate for a host, given in lower case: one that names it before one that covers it.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&Arc<Certificate>> {
        self.exact.get(host).or_else(|| {
            let (label, parent) = host.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(parent) }
        })
    }

    /// Those whose keys may not be here, and why.
    #[must_use]
    pub fn kept_out(&self) -> &[Unusable] {
        &self.kept_out
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Certificate> {
        self.certificates.values().map(|c| &**c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::provider;
    use crate::tls::testing::{pair, pair_until};

    fn shelf(dir: &Path, old: &Shelf) -> (Shelf, Vec<Unusable>) {
        Shelf::read(dir, old, &Guard::asleep(), &provider())
    }

    #[test]
    fn names_are_found_exact_first_and_a_star_is_one_label() {
        let dir = tempfile::tempdir().unwrap();
        pair(dir.path(), "star", &["*.example.com"]);
        pair(dir.path(), "one", &["mercy.example.com", "Other.Example.org"]);
        std::fs::create_dir(dir.path().join("k8s")).unwrap();
        pair(&dir.path().join("k8s"), "tls", &["k.example.net"]);
        let (shelf, wrong) = shelf(dir.path(), &Shelf::default());
        assert_eq!(wrong, []);
        let file = |host| shelf.find(host).map(|c| c.file.file_stem().unwrap().to_str().unwrap().to_owned());
        assert_eq!(file("mercy.example.com").as_deref(), Some("one"));
        assert_eq!(file("other.example.org").as_deref(), Some("one"));
        assert_eq!(file("any.example.com").as_deref(), Some("star"));
        assert_eq!(file("k.example.net").as_deref(), Some("tls"));
        for none in ["example.com", "a.b.example.com", ".example.com", ""] {
            assert_eq!(file(none), None, "{none}");
        }
        let star = shelf.find("any.example.com").unwrap();
        assert!(
            star.covers("x.example.com") && !star.covers("a.b.example.com") && !star.covers("example.com")
        );
    }

    #[test]
    fn every_unusable_file_is_named_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        pair(dir.path(), "a", &["a.example.com"]);
        pair(dir.path(), "b", &["b.example.com"]);
        let (before, wrong) = shelf(dir.path(), &Shelf::default());
        assert_eq!(wrong, []);
        // Half of a renewal: the chain is new, the key is not yet.
        let key = std::fs::read(at("a.key")).unwrap();
        pair(dir.path(), "a", &["a.example.com"]);
        std::fs::write(at("a.key"), key).unwrap();
        std::fs::write(at("c.crt"), "nothing").unwrap();
        std::fs::write(at("d.crt"), "nothing").unwrap();
        std::fs::write(at("d.key"), "nothing").unwrap();
        std::fs::remove_file(at("b.crt")).unwrap();
        let (after, wrong) = shelf(dir.path(), &before);
        let text = wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for part in ["a.key: is not the key of", "c.crt: has no key beside it", "d.crt: holds no certificate"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(wrong.len(), 3);
        assert!(after.find("a.example.com").is_some(), "the old pair still serves");
        assert!(after.find("b.example.com").is_none(), "what was taken away is gone");
        assert!(!text.contains("PRIVATE"));
    }

    #[test]
    fn of_two_for_one_name_the_one_that_lasts_longer_serves() {
        let dir = tempfile::tempdir().unwrap();
        pair_until(dir.path(), "a", &["a.example.com"], 2040);
        pair_until(dir.path(), "b", &["a.example.com"], 2030);
        let (shelf, _) = shelf(dir.path(), &Shelf::default());
        assert!(shelf.find("a.example.com").unwrap().file.ends_with("a.crt"));
    }
}
