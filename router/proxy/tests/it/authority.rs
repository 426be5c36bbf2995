//! A certificate authority for the tests, and clients that others wrote.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::io::AsyncWriteExt;

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: PathBuf,
}

impl Authority {
    /// A new one; its certificate is written to `NAME.pem`.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pem = dir.join(format!("{name}.pem"));
        std::fs::write(&pem, certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes `FILE.crt` and `FILE.key` for these names; until the first of January of `year`.
    pub(crate) fn issue(&self, dir: &Path, file: &str, names: &[&str], year: i32) -> Pair {
        std::fs::create_dir_all(dir).unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair { chain: dir.join(format!("{file}.crt")), key: dir.join(format!("{file}.key")) };
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        std::fs::write(&pair.chain, certificate.pem()).unwrap();
        pair
    }
}

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
}

/// What a program printed, both of its streams, and how it ended.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
}

/// Runs `curl` against `https://HOST…`, which is at this address.
pub(crate) async fn curl(ca: &Authority, at: SocketAddr, host: &str, args: &[&str]) -> Said {
    let mut command = tokio::process::Command::new("curl");
    command.args(["-sS", "--noproxy", "*", "--max-time", "30", "--connect-to"]);
    command.arg(format!("{host}:443:{}:{}", at.ip(), at.port())).arg("--cacert").arg(&ca.pem).args(args);
    let done = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let out = [done.stdout, done.stderr].concat();
    Said { code: done.status.code().unwrap_or(-1), out: String::from_utf8_lossy(&out).into_owned() }
}

/// Runs `openssl s_client` against an address and sends it `input`.
pub(crate) async fn s_client(at: SocketAddr, args: &[&str], input: &str) -> Said {
    let mut command = tokio::process::Command::new("openssl");
    command.args(["s_client", "-connect", &at.to_string()]).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have been turned away before it reads.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let done = tokio::time::timeout(crate::kit::SOON, child.wait_with_output()).await.unwrap().unwrap();
    let out = [done.stdout, done.stderr].concat();
    Said { code: done.status.code().unwrap_or(-1), out: String::from_utf8_lossy(&out).into_owned() }
}
