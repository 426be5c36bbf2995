//! The router's decisions, without any transport: identify, resolve, admit, hold, prove.
