//! `domicile archive …`

pub mod run;
pub mod status;
pub mod verify;
