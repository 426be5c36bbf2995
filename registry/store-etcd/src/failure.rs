//! What a failed call means: try elsewhere, give up, or nobody knows.

use domicile_model::Revision;
use domicile_store::StoreError;
use etcd_client::Error;

/// How a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was carried out. Another member may do better.
    NotDone(String),
    /// It may have been carried out.
    Unclear(String),
    /// The answer is longer than we read.
    TooLong(String),
    /// The cluster's database is full: nothing was carried out, and every member would say the same.
    Full,
    /// Every member would say the same.
    Final(StoreError),
}

/// gRPC's numbers of what we tell apart; the type itself belongs to a crate that we do not depend on.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// What the server itself says begins like this; everything else was made up by the transport on our side.
const FROM_ETCD: &str = "etcdserver: ";

/// Longest reason that is passed on.
const LONGEST: usize = 300;

impl Failure {
    /// What this error means.
    pub(crate) fn of(error: &Error) -> Self {
        let why: String = error.to_string().chars().take(LONGEST).collect();
        match error {
            Error::GRpcStatus(status) => {
                let number = status.code() as i32;
                let message = status.message();
                if message.starts_with(FROM_ETCD) {
                    return Self::said_by_etcd(number, message, why);
                }
                if number == code::OUT_OF_RANGE {
                    return Self::TooLong(why);
                }
                if number == code::UNAVAILABLE && never_connected(status, message) {
                    return Self::NotDone(why);
                }
                if matches!(number, code::UNAUTHENTICATED | code::PERMISSION_DENIED) {
                    return Self::Final(StoreError::Refused(why));
                }
                Self::Unclear(why)
            }
            Error::LeaseKeepAliveError(text) if text == "lease not found" => {
                Self::Final(StoreError::LeaseLost)
            }
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
                Self::Final(StoreError::Refused(why))
            }
            _ => Self::Unclear(why),
        }
    }

    fn said_by_etcd(number: i32, message: &str, why: String) -> Self {
        match number {
            code::OUT_OF_RANGE if message.contains("compacted") => {
                // Which revision is left it does not say here; whoever asked lists again anyhow.
                Self::Final(StoreError::Compacted(Revision::ZERO))
            }
            code::NOT_FOUND if message.contains("lease not found") => Self::Final(StoreError::LeaseLost),
            code::RESOURCE_EXHAUSTED if message.contains("space exceeded") => Self::Full,
            code::RESOURCE_EXHAUSTED => Self::NotDone(why),
            // Said before the request is looked at, because we ask for a leader with every call.
            code::UNAVAILABLE if message == "etcdserver: no leader" => Self::NotDone(why),
            code::INVALID_ARGUMENT
            | code::NOT_FOUND
            | code::PERMISSION_DENIED
            | code::FAILED_PRECONDITION
            | code::OUT_OF_RANGE
            | code::UNAUTHENTICATED => Self::Final(StoreError::Refused(why)),
            _ => Self::Unclear(why),
        }
    }

    /// As an error of a call that may be repeated without harm.
    pub(crate) fn of_a_question(self, place: &str) -> StoreError {
        match self {
            Self::NotDone(why) | Self::Unclear(why) | Self::TooLong(why) => {
                StoreError::Unavailable { place: place.to_owned(), why }
            }
            Self::Full => StoreError::Full { place: place.to_owned() },
            Self::Final(error) => error,
        }
    }
}

/// Whether the connection was never made, so that nothing can have been sent on it. The server never sets a source;
/// the transport does, and names its connector.
fn never_connected(status: &(impl std::error::Error + ?Sized), message: &str) -> bool {
    if status.source().is_none() {
        return false;
    }
    let mut cause = status.source();
    while let Some(error) = cause {
        let refused = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
        if refused {
            return true;
        }
        cause = error.source();
    }
    message.starts_with("tcp connect error")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(number: i32, message: &str) -> Failure {
        Failure::said_by_etcd(number, message, message.to_owned())
    }

    #[test]
    fn what_may_have_been_carried_out_is_unclear() {
        for (number, message) in [
            (14, "etcdserver: request timed out"),
            (14, "etcdserver: request timed out, possibly due to previous leader failure"),
            (14, "etcdserver: leader changed"),
            (14, "etcdserver: server stopped"),
            (2, "etcdserver: something new"),
        ] {
            assert!(matches!(said(number, message), Failure::Unclear(_)), "{message}");
        }
    }

    #[test]
    fn what_was_certainly_not_carried_out_may_go_elsewhere() {
        assert!(matches!(said(14, "etcdserver: no leader"), Failure::NotDone(_)));
        assert!(matches!(said(8, "etcdserver: too many requests"), Failure::NotDone(_)));
    }

    #[test]
    fn what_every_member_would_say_is_final() {
        let refused = |failure| matches!(failure, Failure::Final(StoreError::Refused(_)));
        assert!(matches!(said(8, "etcdserver: mvcc: database space exceeded"), Failure::Full));
        assert!(refused(said(3, "etcdserver: request is too large")));
        assert!(refused(said(7, "etcdserver: permission denied")));
        let lost = said(5, "etcdserver: requested lease not found");
        assert!(matches!(lost, Failure::Final(StoreError::LeaseLost)));
        let compacted = said(11, "etcdserver: mvcc: required revision has been compacted");
        assert!(matches!(compacted, Failure::Final(StoreError::Compacted(_))));
    }
}
