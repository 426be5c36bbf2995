//! A whole fleet on one machine: real etcd, real PostgreSQL, our own programs, and a fault proxy on every link.
//!
//! | module | what it holds |
//! |---|---|
//! | [`fleet`] | what the fleet is made of: the plan, its files, `fleet.json` |
//! | [`supervisor`] | the one process that owns all others, the links, and the control address |
//! | [`control`] | what the supervisor can be told, and how |
//! | [`app`] | the clinic application that stands behind the gates |
//! | [`load`] | users: open-loop readers, writers, uploads; and a record of each request |
//! | [`oracle`] | what became of the writes, by the databases' own word |
//! | [`fault`] | what befalls a region, and how it is mended |
//! | [`demo`] | the story of switchover, failover and outage, measured |
//! | [`soak`] | many moves in a row under load and random faults, each of them judged |

pub mod app;
pub mod control;
pub mod demo;
pub mod fault;
pub mod fleet;
pub mod load;
pub mod oracle;
pub mod soak;
pub mod supervisor;
pub mod verbs;
