//! Certificates for tests.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

/// Writes a pair for these names.
pub(crate) fn pair(dir: &Path, file: &str, names: &[&str]) {
    pair_until(dir, file, names, 2040);
}

/// Writes a pair that ends with the first of January of a year.
pub(crate) fn pair_until(dir: &Path, file: &str, names: &[&str], year: i32) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_after = date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(dir.join(format!("{file}.crt")), certificate.pem()).unwrap();
    std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
}
