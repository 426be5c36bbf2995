//! The running mirror, over the in-process store with its faults and over files. Over a real etcd: `tests/etcd_mirror.rs`.

mod files;
mod following;
