//! `domicile archive verify`, which asks nobody.

use std::io::Write;
use std::sync::{Arc, Mutex};

use domicile_archive::{Directory, Item, seal};
use domicile_cli::exit::Exit;
use domicile_cli::out::Out;
use domicile_cli::{Asked, parse, run};
use domicile_seal::chain::Head;
use domicile_seal::keys::{KeyEntry, Keyring};

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn verify(args: &[&str]) -> (Exit, String) {
    let words = ["domicile", "archive", "verify"].iter().chain(args).map(Into::into);
    let page = Page::default();
    let Asked::Client(cli) = parse(words) else { return (Exit::Usage, String::new()) };
    let (stdout, stderr) = (Box::new(page.clone()), Box::new(page.clone()));
    let mut out = Out { stdout, stderr, answers: None, live: false, json: cli.global.json };
    let exit = run(&cli, &mut out).await;
    let bytes = page.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    (exit, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn a_sound_copy_a_changed_one_one_without_its_end_and_none() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let archive = Directory::create(dir.path()).unwrap();
    let key = archive.signing_key().unwrap();
    let mut ring = Keyring::default();
    ring.add(KeyEntry::new(key.public(), "cp-1")).unwrap();
    archive.write_keys(&ring).unwrap();
    let mut head = Head::genesis("a chain");
    for n in 1..=2 {
        let item = Item { key: format!("audit/{n}"), created: 1, modified: 1, value: b"{}".to_vec() };
        let (segment, next) = seal("a chain", head, &[item], &key).unwrap();
        archive.write(n, &segment.to_lines().unwrap()).unwrap();
        head = next;
    }
    let known = format!("2:{}:{}", head.n, head.digest);
    let (exit, said) = verify(&["--dir", place, "--head", &known]).await;
    assert!(exit == Exit::Ok && said.contains("sound") && said.contains(&known), "{said}");
    let (exit, said) = verify(&["--dir", place, "--json"]).await;
    assert!(exit == Exit::Ok && said.contains("\"sound\": true") && said.contains("--head"), "{said}");

    let sound = archive.read(1).unwrap().unwrap();
    let mut changed = sound.clone();
    changed[12] ^= 1;
    archive.write(1, &changed).unwrap();
    let (exit, said) = verify(&["--dir", place]).await;
    assert!(
        exit == Exit::NotDone && said.contains("segment 1") && said.contains("another control plane"),
        "{said}"
    );
    archive.write(1, &sound).unwrap();
    archive.set_aside(2).unwrap();
    let (exit, said) = verify(&["--dir", place, "--head", &known]).await;
    assert!(exit == Exit::NotDone && said.contains("segment 2 is missing"), "{said}");

    assert_eq!(verify(&["--dir", place, "--head", "2:x"]).await.0, Exit::Usage);
    let (exit, said) = verify(&["--dir", "/no/such/archive"]).await;
    assert!(exit == Exit::Io && said.contains("--archive-dir"), "{said}");
}
