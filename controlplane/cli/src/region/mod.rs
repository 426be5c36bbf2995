//! `domicile region …`

pub mod list;
