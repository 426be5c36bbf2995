//! What must hold of any bytes that come from outside. Each module has the laws of one reader; its `check` panics where one
//! is broken. The fuzz targets (`fuzz`) look for bytes that do it; the tests of this crate go through all bytes that were
//! ever kept (`fuzz/seeds`, `fuzz/regressions`), and show that each law finds a reader that breaks it.

pub mod client_hello;
mod dice;
mod growing;
pub mod identify;
pub mod proxy_protocol;
pub mod regions_toml;

pub use dice::Dice;

/// Panics if these bytes break a law.
pub type Check = fn(&[u8]);

/// All of them, by the name of their fuzz target.
pub const ALL: [(&str, Check); 4] = [
    ("client_hello", client_hello::check),
    ("identify", identify::check),
    ("proxy_protocol", proxy_protocol::check),
    ("regions_toml", regions_toml::check),
];
