//! The router as a user runs it: the real binary, real sockets, and a real etcd where it follows one.

#![expect(clippy::unwrap_used, reason = "a test and its helpers fail where they stand")]

mod admission;
mod authority;
mod balancers;
mod calls;
mod clients;
mod doors;
mod drain;
mod facts;
mod file_mode;
mod floods_h2;
mod frames;
mod grpc;
mod hardening;
mod kit;
mod large;
mod mllp;
mod moves;
mod origin;
mod peers;
mod proofs;
mod recorder;
mod residency;
mod slow_connect;
mod slow_tls;
mod smuggling_h2;
mod splice;
mod spoofing;
mod streams;
mod switches;
mod tap;
mod tls;
mod upgrade;
mod worlds;
