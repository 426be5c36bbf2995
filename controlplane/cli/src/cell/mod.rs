//! `domicile cell …`

pub mod list;
pub mod reprotect;
pub mod service;
pub mod show;
pub mod trust_agent;
pub mod witnesses;
