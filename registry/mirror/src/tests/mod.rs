//! The running mirror, over the in-process store with its faults, over files, and over a real etcd.

mod etcd;
mod files;
mod following;
