//! Moves in a row, as `domicile-chaos soak` runs them by the hundred.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs a course in a fleet of its own; what it said, and its summary.
fn course(args: &[&str], fails: bool) -> (Output, Value) {
    let home = tempfile::Builder::new().prefix("fleet-course-").tempdir().unwrap();
    let (dir, out) = (home.path().join("fleet"), home.path().join("soak"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_domicile-chaos"));
    command
        .arg("--dir")
        .arg(&dir)
        .args(["soak", "--light", "--fence-ms", "2000", "--out"])
        .arg(&out)
        .args(args);
    let ended = command.output().unwrap();
    let text = std::fs::read(Path::new(&out).join("summary.json")).unwrap();
    if ended.status.success() == fails {
        // The logs tell why.
        eprintln!("{}\nlogs: {}", String::from_utf8_lossy(&ended.stderr), home.keep().display());
    }
    (ended, serde_json::from_slice(&text).unwrap())
}

/// A member of the registry dies in the middle of the planned ones.
#[test]
fn ten_switchovers_cost_nothing_and_three_forced_moves_what_they_said() {
    let (ended, summary) = course(&["--switchovers", "10", "--forced", "3", "--seed", "3"], false);
    assert!(ended.status.success(), "{summary:#}");
    let (planned, forced) = (&summary["switchovers"], &summary["failovers"]);
    assert_eq!((&planned["count"], &forced["count"]), (&10.into(), &3.into()));
    assert_eq!((&planned["requests_failed"], &planned["writes_lost"]), (&0.into(), &0.into()));
    let number = |value: &Value| value.as_u64().unwrap();
    assert!(number(&planned["writes_acknowledged"]) > 500, "{planned:#}");
    assert!(number(&planned["write_pause_ms"]["count"]) > 10, "{planned:#}");
    assert!(number(&forced["writes_lost"]) > 0, "{forced:#}");
    assert_eq!(forced["writes_lost"], forced["listed_acknowledged"]);
    assert_eq!((&forced["listed_unknown"], &summary["one_writer"]), (&0.into(), &true.into()));
    println!("{}", String::from_utf8_lossy(&ended.stdout));
}

/// The same verdict about a fleet that has lost a write.
#[test]
fn seen_to_fail_one_deleted_write_fails_a_course() {
    let (ended, summary) = course(&["--switchovers", "1", "--forced", "0", "--tamper"], true);
    assert!(!ended.status.success());
    assert_eq!((&summary["gone_at_the_end"], &summary["one_writer"]), (&1.into(), &true.into()));
    assert_eq!(
        summary["broken"],
        serde_json::json!(["of all acknowledged writes 1 are gone, and 0 were listed as lost"])
    );
}
