//! Backup, restore and rebuild of the registry.
//!
//! A registry that is restored as it was turns epochs back: a region could serve under an epoch that the others have
//! passed. So what comes back is a *new world*. Its record is written first and says "not reconciled", under which there
//! is no proof, no leader and no open database; then everybody who can be reached is asked what they know
//! ([`asking`]); one pure function says who holds what ([`decide`]), with epochs above all that anybody knows; and only
//! the last transaction says "reconciled" ([`publish`]). What contradicts itself stays closed until a person decides.

pub mod asking;
pub mod content;
pub mod decide;
pub mod file;
pub mod publish;
mod ruling;
mod show;
mod verbs;

pub use verbs::run;
