//! The binary on a real etcd.

mod cut_off;
mod rig;
mod serve;
