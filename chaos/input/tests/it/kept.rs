//! The bytes that are kept in the repository.

use std::path::PathBuf;

/// A folder of the fuzz targets.
pub(crate) fn folder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", name].iter().collect()
}

/// The bytes of each file that is kept for a target, by its name: seeds, and what once broke a law.
pub(crate) fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for folder in ["seeds", "regressions"] {
        let Ok(files) = self::folder(folder).join(target).read_dir() else { continue };
        for file in files {
            let path = file.unwrap().path();
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}
