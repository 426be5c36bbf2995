//! `domicile tenant …`

pub mod list;
pub mod route;
pub mod show;
