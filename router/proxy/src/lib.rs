//! The router: edges take user traffic anywhere, gates stand in front of the application. On Pingora.
//!
//! [`config`] says what it is told, [`app`] puts it together and runs it, [`serve`] is the way of a request,
//! [`loops`] keep proofs, acknowledgements and the witness's memory up to date, [`doors`] are the admin and the peer
//! listener, [`facts`] are counted for the control planes, [`front`] takes connections, [`tls`] holds certificates,
//! [`standing`] carries what stands open for long, [`upgrade`] puts a new process in the place of a running one. Decisions are in `domicile-router-core`.

pub mod access_log;
pub mod app;
pub mod config;
pub mod doors;
pub mod facts;
pub mod front;
pub mod hold;
pub mod loops;
pub mod metrics;
pub mod serve;
pub mod standing;
pub mod state;
pub mod stop;
pub mod tls;
pub mod upgrade;
