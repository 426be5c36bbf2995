//! The registry's store on etcd.
