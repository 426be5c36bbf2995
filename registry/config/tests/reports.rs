//! What a user reads when a file is wrong: each file under `invalid` with its whole report.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use domicile_config::parse;

fn report(file: &str) -> String {
    let path = format!("{}/tests/invalid/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    parse(file, &text).unwrap_err().to_string()
}

#[test]
fn each_invalid_file_has_its_whole_report() {
    for file in ["six.toml", "types.toml", "cells.toml", "syntax.toml", "approvals.toml", "first.toml"] {
        insta::assert_snapshot!(file.trim_end_matches(".toml"), report(file));
    }
}

#[test]
fn the_six_bad_things_come_in_one_report_each_with_its_line() {
    let report = report("six.toml");
    for (line, what) in [
        (11, "unknown key `residancy`"),
        (14, "region `us-east-9` does not exist"),
        (20, "does not allow for dr"),
        (25, "host `mercy.example.com` is claimed by"),
        (30, "`not a host` is not a host name"),
        (34, "is also its DR region"),
    ] {
        let start = format!("six.toml:{line}: ");
        assert!(
            report.lines().any(|l| l.starts_with(&start) && l.contains(what)),
            "line {line} must say {what:?}:\n{report}"
        );
    }
    assert_eq!(report.lines().count(), 12, "six mistakes with a hint each, and nothing else:\n{report}");
}

#[test]
fn a_secret_in_place_of_its_reference_is_not_repeated() {
    let report = report("cells.toml");
    assert!(
        report.contains("password of the database of cell `pool`") && !report.contains("hunter2"),
        "{report}"
    );
}
