//! The kit's PostgreSQL: a prepared pair streams, and nothing is left behind.

use domicile_chaos_kit::ports::free_address;
use domicile_chaos_kit::postgres::{self, Postgres, Spec};

#[test]
fn a_prepared_pair_streams_and_is_gone_afterwards() {
    let home = postgres::home().unwrap();
    let (a, b) = (home.path().join("a"), home.path().join("b"));
    let spec = Spec { schema: "CREATE TABLE t (id int PRIMARY KEY);\n".into(), ..Spec::default() };
    postgres::prepare_primary(&a, &spec).unwrap();
    let address = free_address().unwrap();
    postgres::prepare_standby(&a, &b, address, "standby", &spec).unwrap();
    let primary = Postgres::start(&a, address).unwrap();
    primary.superuser("postgres", "SELECT pg_create_physical_replication_slot('standby', true)").unwrap();
    let standby = Postgres::start(&b, free_address().unwrap()).unwrap();
    primary.sql("app", &spec.app_password, &spec.database, "INSERT INTO t VALUES (1)").unwrap();
    let lsn = primary.superuser("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    while standby.superuser("postgres", &caught_up).unwrap() != "t" {}
    assert_eq!(standby.sql("app", &spec.app_password, &spec.database, "SELECT id FROM t").unwrap(), "1");
    assert!(primary.sql("app", "wrong", &spec.database, "SELECT 1").is_err());
    // A backup from the running server works as well.
    let c = home.path().join("c");
    postgres::base_backup(&c, address, "standby", &spec).unwrap();
    drop((primary, standby));
    assert!(postgres::processes(&a).is_empty() && postgres::processes(&b).is_empty());
    // It was not stopped cleanly now, so a copy would be no standby.
    assert!(postgres::prepare_standby(&a, &home.path().join("d"), address, "standby", &spec).is_err());
}
