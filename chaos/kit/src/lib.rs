//! Real servers for tests: etcd clusters, processes that can be killed and paused, links that can be cut.
//!
//! Everybody's tests use this as a dev-dependency, and the chaos fleet stands on it. What a test starts it also ends:
//! every guard kills its own process group and its descendants on drop, and a killed test takes its children along.
//!
//! | module | what for |
//! |---|---|
//! | [`install`] | what must be installed, and where it is found |
//! | [`postgres`] | PostgreSQL servers, made ready and run |
//! | [`ports`] | free loopback ports that no other test takes |
//! | [`process`] | a process as a guard: kill, pause, resume, terminate |
//! | [`proc`] | descendants and socket owners, as the kernel knows them |
//! | [`link`] | a TCP proxy that can be cut, delayed, stalled and throttled |
//! | [`etcd`] | a cluster of real etcd servers |
//! | [`wait`] | waiting for a condition instead of sleeping |

pub mod etcd;
pub mod install;
pub mod link;
pub mod ports;
pub mod postgres;
pub mod proc;
pub mod process;
pub mod wait;
