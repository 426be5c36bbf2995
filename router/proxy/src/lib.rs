//! The edge and gate proxy on Pingora.
