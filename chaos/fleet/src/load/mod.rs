//! Users: readers that come whether or not they are served, writers that wait for their answer, an upload now and
//! then; and a record of every single request.

pub mod client;
mod jobs;
pub mod record;
pub mod run;

pub use record::{Kind, Outcome, Record};
pub use run::{Load, Shape};
