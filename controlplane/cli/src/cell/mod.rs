//! `domicile cell …`

pub mod list;
pub mod reprotect;
pub mod show;
pub mod trust_agent;
