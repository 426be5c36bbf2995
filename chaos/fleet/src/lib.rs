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
//! | [`demo`] | the story of switchover, failover and outage, measured |

pub mod app;
pub mod control;
pub mod demo;
pub mod fleet;
pub mod load;
pub mod oracle;
pub mod supervisor;
pub mod verbs;
