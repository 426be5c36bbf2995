use super::*;
use crate::app::Answer;
use crate::load::Kind;

const MS: u64 = 1_000_000;

fn write(writer: usize, key: &str, sent_ms: u64, ended_ms: u64, epoch: Option<u64>) -> Record {
    let answer = |epoch| Answer {
        key: key.into(),
        content: "c".into(),
        region: "a".into(),
        system_id: "1".into(),
        timeline: 1,
        epoch,
    };
    Record {
        kind: Kind::Write,
        writer: Some(writer),
        tenant: "t".into(),
        cell: "c".into(),
        key: key.into(),
        content: "c".into(),
        intended: sent_ms * MS,
        sent: sent_ms * MS,
        ended: ended_ms * MS,
        outcome: epoch.map_or(Outcome::Unanswered { why: "reset".into() }, |e| Outcome::Fine(answer(e))),
    }
}

fn holding(keys: &[(&str, &str)]) -> Stored {
    keys.iter().map(|(key, content)| (("t".into(), (*key).into()), (*content).into())).collect()
}

#[test]
fn a_write_is_lost_when_its_key_is_missing_or_its_content_differs() {
    let records = [write(0, "a", 0, 1, Some(1)), write(0, "b", 2, 3, Some(1)), write(0, "d", 4, 5, None)];
    assert!(
        lost(&records, &holding(&[("a", "c"), ("b", "c")])).is_empty(),
        "an unanswered write is not lost"
    );
    let found = lost(&records, &holding(&[("a", "other")]));
    assert_eq!(found.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn the_pause_is_the_longest_gap_of_a_writer_between_acknowledgements() {
    let records = [
        write(0, "a", 0, 10, Some(1)),
        write(0, "b", 20, 30, None),
        write(0, "d", 40, 510, Some(2)),
        write(1, "e", 0, 10, Some(1)),
        write(1, "f", 20, 30, Some(1)),
    ];
    let numbers = numbers(&records, "c");
    assert_eq!((numbers.requests, numbers.requests_failed, numbers.writes_acknowledged), (5, 1, 4));
    assert!((numbers.write_pause_ms_max - 500.0).abs() < 1e-9);
    assert!((super::numbers(&records, "other").write_pause_ms_max).abs() < 1e-9);
}

#[test]
fn an_acknowledgement_of_an_older_epoch_after_a_newer_one_is_found() {
    assert!(check_one_writer(&[write(0, "a", 0, 1, Some(1)), write(0, "b", 2, 3, Some(2))]).is_ok());
    assert!(check_one_writer(&[write(0, "a", 0, 1, Some(2)), write(1, "b", 2, 3, Some(1))]).is_err());
}

#[test]
fn what_a_forced_move_cost_is_counted_from_the_users_side() {
    let records = [
        write(0, "a", 0, 10, Some(1)),
        write(0, "b", 90, 100, Some(1)),
        write(1, "x", 105, 110, None),
        write(0, "d", 2_000, 2_100, Some(3)),
    ];
    let cost = cost(&records, "c", 104 * MS, &holding(&[("a", "c"), ("d", "c")]));
    assert!((cost.rpo_ms - 90.0).abs() < 1e-9);
    assert!((cost.rto_ms.unwrap() - 1_995.0).abs() < 1e-9);
}

#[test]
fn a_listed_transaction_is_known_by_the_digest_of_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let key = domicile_losses::KeyFile::generate();
    let header = domicile_losses::Header {
        domicile_losses: domicile_losses::VERSION,
        moving: domicile_model::MoveId::from_u128(1),
        cell: CellId::new("c").unwrap(),
        part: "t".into(),
        timeline: 1,
        fork: "0/1".parse().unwrap(),
        digest_key: "11".repeat(32),
    };
    let row = |record: &Record| domicile_losses::Row {
        xid: 1,
        commit: "0/1".parse().unwrap(),
        at: jiff::Timestamp::UNIX_EPOCH,
        table: "public.encounters".into(),
        operation: domicile_losses::Operation::Insert,
        key: None,
        old: None,
        new: Some(
            [("key", &record.key), ("content", &record.content)]
                .map(|(k, v)| (k.into(), Some(v.clone())))
                .into(),
        ),
    };
    let records = [write(0, "a", 0, 1, Some(1)), write(0, "b", 0, 1, None)];
    let mut writer = domicile_losses::Writer::new(Vec::new(), &key.recipient(), &header).unwrap();
    writer.row(&row(&records[0])).unwrap();
    let (bytes, rows) = writer.finish().unwrap();
    std::fs::write(directory.path().join("t.jsonl.age"), &bytes).unwrap();
    let digest = |key: &str| {
        digest(&[Export { header: header.clone(), rows: Vec::new() }], &write(0, key, 0, 0, None))
    };
    let listed = |keys: &[&str]| {
        let change = |key: &&str| domicile_api::agent::LostChange {
            table: "public.encounters".into(),
            operation: "insert".into(),
            key_digest: digest(key),
            tenant: domicile_model::TenantId::new("t").ok(),
        };
        let transaction = |key: &&str| domicile_api::agent::LostTransaction {
            xid: 1,
            commit: "0/1".parse().unwrap(),
            at: jiff::Timestamp::UNIX_EPOCH,
            changes: vec![change(key)],
            more: 0,
        };
        LossReport {
            moving: domicile_model::MoveId::from_u128(1),
            fork: domicile_api::agent::Fork { parent: 1, at: "0/1".parse().unwrap() },
            transactions: keys.iter().map(transaction).collect(),
            more: 0,
            counts: BTreeMap::new(),
            own: 0,
            rows_at: "r".into(),
            parts: vec![domicile_api::agent::LossPart {
                tenant: domicile_model::TenantId::new("t").ok(),
                file: "t.jsonl.age".into(),
                rows,
                bytes: bytes.len() as u64,
                sha256: hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes)),
            }],
            place: None,
            blind_spots: Vec::new(),
        }
    };
    let report = listed(&["a", "b", "never-sent"]);
    let exports = exported(&report, directory.path(), &key).unwrap();
    let found = classify(&report, &exports, &records);
    assert_eq!(found, Listed { acknowledged: 1, unanswered: 1, unknown: 1 });
    assert_eq!(
        classify(&report, &[], &records).unknown,
        3,
        "without the rows nobody can tell whose keys these are"
    );
    assert!(not_exported(&[&records[0]], &exports).is_empty());
    let missing = not_exported(&[&records[0], &records[1]], &exports);
    assert_eq!(missing.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["b"]);
    std::fs::write(directory.path().join("t.jsonl.age"), "changed").unwrap();
    assert!(exported(&report, directory.path(), &key).unwrap_err().to_string().contains("was changed"));
}
