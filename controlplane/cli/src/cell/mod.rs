//! `domicile cell …`

pub mod list;
pub mod show;
