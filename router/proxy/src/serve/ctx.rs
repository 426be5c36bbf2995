//! What is remembered of a request on its way.

use std::sync::Arc;
use std::time::Duration;

use domicile_model::clock::BootTime;
use domicile_model::{CellId, Epoch, RegionId, TenantId};
use domicile_router_core::Cause;
use domicile_router_core::admit::{Moved, Route};
use domicile_router_core::inflight::Counted;

use crate::front::connection::Connection;
use crate::hold::Released;
use crate::tls::Secure;

/// How long a connection may take where the region has another address to ask.
const CONNECT: Duration = Duration::from_secs(1);

/// A request on its way.
#[derive(Debug)]
pub struct Ctx {
    /// When its head had come.
    pub started: BootTime,
    /// Names it in every log.
    pub request_id: String,
    /// The `traceparent` that is sent on.
    pub trace: String,
    /// What it came over.
    pub connection: Option<Arc<Connection>>,
    /// Whether it came from a network whose headers are believed.
    pub trusted: bool,
    /// Whose it is.
    pub tenant: Option<TenantId>,
    /// The tenant's cell.
    pub cell: Option<CellId>,
    /// The epoch that a trusted router sent it with.
    pub sent: Option<Epoch>,
    /// Routers that it has passed before this one.
    pub hops: u8,
    /// Whether its body is too large, or of unknown size, to be sent twice.
    pub unrepeatable: bool,
    /// Whether it is a gRPC call: those need HTTP/2 on every hop, for their trailers.
    pub grpc: bool,
    /// Whether it waited here.
    pub held: bool,
    /// For how long, in all.
    pub hold: Duration,
    /// Where it goes.
    pub route: Option<Route>,
    /// The address that is tried.
    pub address: usize,
    /// How often a 421 was followed.
    pub follows: u8,
    /// Set between a 421 that is followed and the next try.
    pub following: bool,
    /// What a gate's 421 said, or what ours is to say.
    pub moved: Option<Moved>,
    /// It is in flight.
    pub counted: Option<Counted>,
    /// It was let out of the hold and takes a place on the ramp.
    pub released: Option<Released>,
    /// When the next server was first asked.
    pub asked: Option<BootTime>,
    /// When its answer's head came.
    pub answered: Option<BootTime>,
    /// Who answered, under which epoch, as far as an answer says.
    pub answer: Option<(RegionId, Epoch)>,
    /// Why the application did not answer it.
    pub cause: Option<Cause>,
    /// Why a stream was ended from here.
    pub ended: Option<&'static str>,
    /// Seconds for Retry-After, if better known than from the cause.
    pub retry_after: Option<u64>,
    /// The probe of the own listener: not logged, not counted.
    pub probe: bool,
}

impl Ctx {
    /// Before anything is known.
    #[must_use]
    pub fn new(started: BootTime) -> Self {
        Self {
            started,
            request_id: String::new(),
            trace: String::new(),
            connection: Connection::current(),
            trusted: false,
            tenant: None,
            cell: None,
            sent: None,
            hops: 0,
            unrepeatable: false,
            grpc: false,
            held: false,
            hold: Duration::ZERO,
            route: None,
            address: 0,
            follows: 0,
            following: false,
            moved: None,
            counted: None,
            released: None,
            asked: None,
            answered: None,
            answer: None,
            cause: None,
            ended: None,
            retry_after: None,
            probe: false,
        }
    }

    /// What TLS says of its connection; none in the clear.
    #[must_use]
    pub fn secure(&self) -> Option<&Secure> {
        self.connection.as_ref()?.secure.as_ref()
    }

    /// How long a connection to the address that is tried may take, with its handshakes: nothing was sent yet. `last` is what
    /// the last address has.
    #[must_use]
    pub fn connect_within(&self, last: Duration) -> Duration {
        let more = self.route.as_ref().is_some_and(|r| self.address + 1 < r.addresses.len());
        if more { CONNECT.min(last) } else { last }
    }

    /// Whether it goes to the application itself.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.route.as_ref().is_some_and(|r| r.local)
    }
}
