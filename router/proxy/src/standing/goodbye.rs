//! How each protocol is told that its stream ends, and that coming back makes sense.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Why a stream was ended from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its cell moves, or has moved.
    Moved,
    /// This router stops.
    Draining,
    /// The proof that the region may answer has ended: nobody knows what became of it.
    Unproven,
    /// The server behind broke off.
    Broken,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Moved, Self::Draining, Self::Unproven, Self::Broken];

    /// The label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Draining => "draining",
            Self::Unproven => "unproven",
            Self::Broken => "broken",
        }
    }

    /// The trailers of a gRPC call that is ended: `UNAVAILABLE` (14) where calling again is right, `UNKNOWN` (2) where
    /// nobody knows whether it took effect.
    #[must_use]
    pub fn trailers(self) -> HeaderMap {
        let (status, message) = match self {
            Self::Moved => ("14", "the service moves to another region: call again"),
            Self::Draining => ("14", "this router stops: call again"),
            Self::Unproven => ("2", "the region lost the right to answer while it did"),
            Self::Broken => ("14", "the connection to the service broke"),
        };
        HeaderMap::from_iter([
            (HeaderName::from_static("grpc-status"), HeaderValue::from_static(status)),
            (HeaderName::from_static("grpc-message"), HeaderValue::from_static(message)),
        ])
    }
}
