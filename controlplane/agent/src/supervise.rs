//! The supervisor: a small process between the agent and PostgreSQL, so that neither of the two being stopped keeps a
//! database open without proof.
//!
//! It starts PostgreSQL, which dies with it (`setpriv --pdeathsig KILL`), and reads lines from its standard input:
//! `until <nanoseconds since boot>` or `until never`. When that moment passes, or the input ends because the agent is
//! gone, it kills every process of the server. No runtime, no threads but the reader's: the death signal belongs to
//! the thread that started PostgreSQL, which must be the one that lives longest.

use std::io::BufRead;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use domicile_model::clock::{BootTime, Clock};

use crate::os::kill_server;

/// Exit code when the server was killed because its time was up.
pub const LAPSED: i32 = 75;
/// Exit code when the server was killed because the agent is gone.
pub const ORPHANED: i32 = 76;

const TICK: Duration = Duration::from_millis(10);

enum Word {
    Until(Option<BootTime>),
    Gone,
}

/// Runs the supervisor: the data directory, then PostgreSQL's command. Returns the exit code.
#[must_use]
pub fn run(args: impl IntoIterator<Item = String>) -> i32 {
    let mut args = args.into_iter().filter(|a| a != "--");
    let (Some(data_dir), Some(program)) = (args.next(), args.next()) else {
        eprintln!("agent-supervise is started by the agent: DATA_DIR PROGRAM ARGUMENTS…");
        return 64;
    };
    let data_dir = PathBuf::from(data_dir);
    let (send, words) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if let Some(word) = parse(&line)
                && send.send(word).is_err()
            {
                return;
            }
        }
        // A failure means that the main thread has ended, which ends the process.
        send.send(Word::Gone).ok();
    });
    let mut child = match Command::new(&program).args(args).stdin(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(e) => {
            eprintln!("{program} can't be started: {e}");
            return 69;
        }
    };
    let mut until = None;
    let clock = Clock::Machine;
    let code = loop {
        match words.recv_timeout(TICK) {
            Ok(Word::Until(moment)) => until = moment,
            Ok(Word::Gone) | Err(mpsc::RecvTimeoutError::Disconnected) => break ORPHANED,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if until.is_some_and(|until| clock.now() >= until) {
            break LAPSED;
        }
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                // Backends of a postmaster that died can live on for a statement.
                kill_server(&data_dir, Duration::from_secs(5));
                return status.code().unwrap_or(1);
            }
            Err(_) => break ORPHANED,
        }
    };
    kill_server(&data_dir, Duration::from_secs(30));
    child.kill().ok();
    child.wait().ok();
    code
}

fn parse(line: &str) -> Option<Word> {
    match line.strip_prefix("until ")? {
        "never" => Some(Word::Until(None)),
        nanos => nanos.parse().ok().map(|n| Word::Until(Some(BootTime::from_nanos(n)))),
    }
}
