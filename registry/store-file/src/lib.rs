//! The registry's store read from regions.toml: a router needs no server to be tried.
