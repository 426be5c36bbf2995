//! Real servers for tests: etcd clusters, PostgreSQL pairs, fault links; started, stopped and cleaned up.

pub mod postgres;
