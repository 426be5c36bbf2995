//! What a connection may begin with, before any HTTP: read from bytes, without a socket.

pub mod hello;
pub mod proxy_protocol;
