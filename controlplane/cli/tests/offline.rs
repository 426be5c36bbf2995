//! What the command line does without a server: mistakes, exit codes, and never repeating a secret.

use std::io::Write;
use std::sync::{Arc, Mutex};

use domicile_cli::exit::Exit;
use domicile_cli::out::Out;
use domicile_cli::{Asked, parse, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

impl Page {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

async fn domicile(args: &[&str]) -> (Exit, String, String) {
    let words = std::iter::once("domicile").chain(args.iter().copied()).map(Into::into);
    let (stdout, stderr) = (Page::default(), Page::default());
    match parse(words) {
        Asked::Client(cli) => {
            let mut out = Out {
                stdout: Box::new(stdout.clone()),
                stderr: Box::new(stderr.clone()),
                answers: None,
                live: false,
                json: cli.global.json,
            };
            let exit = run(&cli, &mut out).await;
            (exit, stdout.text(), stderr.text())
        }
        Asked::Over(exit) => (exit, String::new(), String::new()),
        Asked::Registry(..) | Asked::Serve(_) | Asked::Agent(_) | Asked::Supervise(_) => {
            (Exit::Ok, String::new(), String::new())
        }
    }
}

/// The six bad things of a hand-written file.
const SIX: &str = include_str!("../../../registry/config/tests/invalid/six.toml");

#[tokio::test]
async fn check_reports_all_six_mistakes_at_once_each_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("regions.toml");
    std::fs::write(&file, SIX).unwrap();
    let (exit, stdout, stderr) = domicile(&["check", file.to_str().unwrap()]).await;
    assert_eq!((exit, stdout.as_str()), (Exit::Usage, ""));
    for (line, word) in [
        (11, "residancy"),
        (14, "us-east-9"),
        (20, "residency policy"),
        (25, "is claimed by"),
        (30, "not a host"),
        (34, "primary region"),
    ] {
        let found = stderr.lines().any(|l| l.contains(&format!("regions.toml:{line}: ")) && l.contains(word));
        assert!(found, "line {line}, {word}:\n{stderr}");
    }
    assert!(stderr.contains("nothing was changed"), "{stderr}");
}

#[tokio::test]
async fn a_sound_file_is_counted_on_stdout() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("regions.toml");
    std::fs::write(&file, "[regions]\na1 = { country = \"US\", ingress = [\"10.0.0.1:1\"] }\n").unwrap();
    let (exit, stdout, stderr) = domicile(&["--json", "check", file.to_str().unwrap()]).await;
    assert_eq!((exit, stderr.as_str()), (Exit::Ok, ""));
    let said: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(said["regions"], 1);
    let (exit, _, stderr) = domicile(&["check", "/nowhere/regions.toml"]).await;
    assert_eq!(exit, Exit::Usage);
    assert!(stderr.contains("/nowhere/regions.toml can't be read") && stderr.contains("hint: "), "{stderr}");
    let (exit, _, stderr) = domicile(&["check", "/dev/zero"]).await;
    assert_eq!(exit, Exit::Usage);
    assert!(stderr.contains("is larger than"), "{stderr}");
}

#[tokio::test]
async fn usage_is_refused_before_anything_is_dialled() {
    for wrong in [
        &["failover", "start", "--to", "us-west-2"][..],
        &["failover", "start", "c", "--tenant", "t", "--to", "us-west-2"],
        &["failover", "start", "c", "--to", "us-west-2", "--accept-loss", "3"],
        &["failover", "start", "c", "--to", "us-west-2", "--accept-unknown"],
        &["failover", "show", "not-an-id"],
        &["cell", "show", "Not A Cell"],
        &["nonsense"],
        &["--server", "no-port", "status"],
        &["serve", "--name", "a"],
        &[
            "serve",
            "--name",
            "a b",
            "--region",
            "r",
            "--registry",
            "etcd://a:1",
            "--listen",
            "127.0.0.1:1",
            "--tokens",
            "t",
            "--agent-secret",
            "file:s",
        ],
    ] {
        assert_eq!(domicile(wrong).await.0, Exit::Usage, "{wrong:?}");
    }
    assert_eq!(domicile(&["--help"]).await.0, Exit::Ok);
}

#[tokio::test]
async fn a_token_in_place_of_its_reference_is_not_repeated() {
    let (exit, stdout, stderr) = domicile(&["--token", "hunter2", "status"]).await;
    assert_eq!(exit, Exit::Usage);
    assert!(!format!("{stdout}{stderr}").contains("hunter2"), "{stderr}");
    assert!(stderr.contains("file:/path"), "{stderr}");
    let (exit, _, stderr) = domicile(&["--token", "file:/nowhere/token", "status"]).await;
    assert_eq!(exit, Exit::Permission);
    assert!(stderr.contains("/nowhere/token"), "{stderr}");
}

#[tokio::test]
async fn an_unreachable_server_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t").unwrap();
    let token = format!("file:{}", token.display());
    let gone = format!("127.0.0.1:{}", domicile_chaos_kit::ports::free().unwrap());
    let (exit, _, stderr) = domicile(&["--server", &gone, "--token", &token, "status"]).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(stderr.contains(&gone) && stderr.contains("hint: "), "{stderr}");
}

/// Something else listens there: not "there is no such cell".
#[tokio::test]
async fn who_answers_but_is_no_control_plane_is_named_and_the_next_one_asked() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t").unwrap();
    let token = format!("file:{}", token.display());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = listener.local_addr().unwrap().to_string();
    let _server = AbortOnDrop(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope").await;
        }
    }));
    let (exit, _, stderr) = domicile(&["--server", &other, "--token", &token, "cell", "list"]).await;
    assert_eq!(exit, Exit::Internal);
    assert!(stderr.contains("not as a control plane does") && stderr.contains(&other), "{stderr}");
    let gone = format!("127.0.0.1:{}", domicile_chaos_kit::ports::free().unwrap());
    let both = format!("{other},{gone}");
    let (exit, _, stderr) = domicile(&["--server", &both, "--token", &token, "cell", "list"]).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(stderr.contains("also asked: ") && stderr.contains(&other) && stderr.contains(&gone), "{stderr}");
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn the_exit_codes_are_printed_as_documented() {
    let (exit, stdout, _) = domicile(&["exit-codes"]).await;
    assert_eq!(exit, Exit::Ok);
    for code in Exit::ALL {
        assert!(stdout.contains(code.name()) && stdout.contains(code.meaning()), "{stdout}");
    }
}

#[tokio::test]
async fn lost_rows_are_read_offline_with_the_key_that_keygen_made_and_with_no_other() {
    use domicile_losses::{Header, Operation, Row, VERSION, Writer};
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (key, other) = (at("key"), at("other"));
    let (exit, recipient, _) = domicile(&["losses", "keygen", &key]).await;
    assert_eq!(exit, Exit::Ok);
    let secret = std::fs::read_to_string(&key).unwrap();
    assert!(secret.contains("AGE-SECRET-KEY-1") && !recipient.contains("SECRET"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let (exit, _, _) = domicile(&["losses", "keygen", &key]).await;
    assert_eq!((exit, std::fs::read_to_string(&key).unwrap()), (Exit::Io, secret), "never overwritten");
    let header = Header {
        domicile_losses: VERSION,
        moving: domicile_model::MoveId::from_u128(1),
        cell: domicile_model::CellId::new("c").unwrap(),
        part: "mercy-health".into(),
        timeline: 1,
        fork: "0/9".parse().unwrap(),
        digest_key: "00".repeat(32),
    };
    let row = Row {
        xid: 7,
        commit: "0/A".parse().unwrap(),
        at: jiff::Timestamp::UNIX_EPOCH,
        table: "public.encounters".into(),
        operation: Operation::Insert,
        key: None,
        old: None,
        new: Some([("key".to_owned(), Some("k1".to_owned()))].into()),
    };
    let mut writer = Writer::new(Vec::new(), &recipient.parse().unwrap(), &header).unwrap();
    writer.row(&row).unwrap();
    let bytes = writer.finish().unwrap().0;
    let file = at("mercy-health.jsonl.age");
    std::fs::write(&file, &bytes).unwrap();

    let (exit, stdout, stderr) = domicile(&["losses", "decrypt", &file, "--key", &key]).await;
    assert_eq!(exit, Exit::Ok, "{stderr}");
    assert_eq!(serde_json::from_str::<Row>(&stdout).unwrap(), row);
    assert!(stderr.contains("mercy-health") && stderr.contains("whole"), "{stderr}");

    domicile(&["losses", "keygen", &other]).await;
    let (exit, stdout, stderr) = domicile(&["losses", "decrypt", &file, "--key", &other]).await;
    assert_eq!((exit, stdout.as_str()), (Exit::Usage, ""), "{stderr}");
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let (exit, _, stderr) = domicile(&["losses", "decrypt", &file, "--key", &key]).await;
    assert!(exit != Exit::Ok && !stderr.contains("is whole"), "{stderr}");
    let (exit, _, _) = domicile(&["losses", "decrypt", &file, "--key", &at("none")]).await;
    assert_eq!(exit, Exit::Io);
    for wrong in [vec!["losses", "locate", "x"], vec!["losses", "locate", "x", "--tenant", "t"]] {
        assert_eq!(domicile(&wrong).await.0, Exit::Usage, "whose rows and why must be said");
    }
}
