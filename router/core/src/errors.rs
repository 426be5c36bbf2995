//! Why a request is not answered by the application: one table from cause to what everybody sees of it.

use std::time::Duration;

use serde::Serialize;

/// Why a request was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The request can't be understood: no usable host, or contradicting ones.
    BadRequest,
    /// The head of the request is larger than heads may be.
    HeadTooLarge,
    /// No tenant has this host.
    UnknownHost,
    /// The certificate of the connection is not for this host: a client that uses one connection for several hosts must
    /// open another one (RFC 9110, section 15.5.20).
    OtherHost,
    /// The residency policy forbids the region that serves now.
    Residency,
    /// The residency policy forbids that users' connections are decrypted where this edge stands.
    EdgeOutside,
    /// The cell stayed on hold for longer than it may.
    HoldTimeout,
    /// Too many requests wait already.
    HoldFull,
    /// A person closed the cell, or its registry contradicts itself.
    Closed,
    /// The router has no routing table yet.
    NoTable,
    /// The table did not come to the epoch that the request was sent with.
    TableBehind,
    /// The gate has no proof that its region may answer.
    NoProof,
    /// Another region, or another epoch, serves the cell.
    Misdirected,
    /// The request went from router to router too often.
    TooManyHops,
    /// The region has no address to send to.
    NoAddress,
    /// No address of the region accepted a connection; nothing was sent.
    Unreachable,
    /// The application did not answer in time; it may have seen the request.
    UpstreamTimeout,
    /// The connection broke after the request was sent; the application may have seen it.
    UpstreamBroken,
    /// The proof ended between request and answer: whether it took effect is not known.
    OutcomeUnknown,
    /// The router is about to stop.
    Draining,
    /// The client went away or sent something broken.
    Client,
    /// A mistake of ours.
    Internal,
}

/// What a cause means to everybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The HTTP status.
    pub status: u16,
    /// The last part of the problem type, and the label in metrics and logs. Stable.
    pub label: &'static str,
    /// Short text for people.
    pub title: &'static str,
    /// What to do next, for people.
    pub hint: &'static str,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u64>,
    /// Whether the router may send the request to another address of the same region: nothing was sent.
    pub retry: bool,
    /// Whether the router may look up the placement again and follow it: the application has not seen the request.
    pub re_resolve: bool,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::UnknownHost,
        Self::OtherHost,
        Self::Residency,
        Self::EdgeOutside,
        Self::HoldTimeout,
        Self::HoldFull,
        Self::Closed,
        Self::NoTable,
        Self::TableBehind,
        Self::NoProof,
        Self::Misdirected,
        Self::TooManyHops,
        Self::NoAddress,
        Self::Unreachable,
        Self::UpstreamTimeout,
        Self::UpstreamBroken,
        Self::OutcomeUnknown,
        Self::Draining,
        Self::Client,
        Self::Internal,
    ];

    /// The table.
    #[must_use]
    pub const fn entry(self) -> Entry {
        const fn entry(
            status: u16,
            label: &'static str,
            title: &'static str,
            hint: &'static str,
            retry_after: Option<u64>,
        ) -> Entry {
            Entry { status, label, title, hint, retry_after, retry: false, re_resolve: false }
        }
        const AGAIN: &str = "Try again after the time in Retry-After.";
        const CHECK: &str =
            "Check whether it took effect before you send it again: the application may have seen it.";
        match self {
            Self::BadRequest => entry(
                400,
                "bad-request",
                "The request names no usable host",
                "Send exactly one Host header with a host name.",
                None,
            ),
            Self::HeadTooLarge => entry(
                431,
                "head-too-large",
                "The head of the request is too large",
                "Send fewer or smaller header fields and cookies.",
                None,
            ),
            Self::UnknownHost => entry(
                404,
                "unknown-host",
                "No tenant has this host",
                "Check the spelling; an operator can see the hosts with `domicile tenant list`.",
                None,
            ),
            Self::OtherHost => entry(
                421,
                "other-host",
                "The certificate of this connection is not for this host",
                "Send the request over a connection that was opened for its host.",
                None,
            ),
            Self::Residency => entry(
                451,
                "residency",
                "The tenant's residency policy forbids the region that serves now",
                "Nothing was sent. An operator must move the tenant or change its policy.",
                None,
            ),
            Self::EdgeOutside => entry(
                421,
                "edge-outside",
                "The tenant's residency policy does not let requests be read where this edge stands",
                "Open a TLS connection for the host's name: it is passed on undecrypted. An edge that was not told its \
                 --region stands nowhere.",
                None,
            ),
            Self::HoldTimeout => {
                entry(503, "hold-timeout", "A move takes longer than requests may wait", AGAIN, Some(2))
            }
            Self::HoldFull => entry(503, "hold-full", "Too many requests wait for a move", AGAIN, Some(2)),
            Self::Closed => entry(503, "closed", "The tenant is closed for now", AGAIN, Some(30)),
            Self::NoTable => entry(503, "no-table", "The router does not know the fleet yet", AGAIN, Some(1)),
            Self::TableBehind => entry(
                503,
                "table-behind",
                "The router has not heard of the newest placement yet",
                AGAIN,
                Some(1),
            ),
            Self::NoProof => {
                entry(503, "no-proof", "The region can't prove that it may serve this tenant", AGAIN, Some(2))
            }
            Self::Misdirected => Entry {
                re_resolve: true,
                ..entry(
                    421,
                    "misdirected",
                    "Another region serves this tenant",
                    "Send the request to the region in Domicile-Region.",
                    None,
                )
            },
            Self::TooManyHops => entry(
                508,
                "too-many-hops",
                "The request went from router to router too often",
                AGAIN,
                Some(2),
            ),
            Self::NoAddress => entry(
                503,
                "no-address",
                "The region that serves this tenant has no address",
                "An operator must give the region an ingress or the cell an application address.",
                Some(30),
            ),
            Self::Unreachable => Entry {
                retry: true,
                ..entry(503, "unreachable", "The region does not answer", AGAIN, Some(2))
            },
            Self::UpstreamTimeout => {
                entry(504, "upstream-timeout", "The application did not answer in time", CHECK, None)
            }
            Self::UpstreamBroken => entry(
                502,
                "upstream-broken",
                "The connection broke before the answer was complete",
                CHECK,
                None,
            ),
            Self::OutcomeUnknown => {
                entry(502, "outcome-unknown", "The region lost the right to answer while it did", CHECK, None)
            }
            Self::Draining => entry(503, "draining", "The router is about to stop", AGAIN, Some(1)),
            Self::Client => entry(
                400,
                "client",
                "The request could not be read to its end",
                "Send the request again, complete.",
                None,
            ),
            Self::Internal => {
                entry(500, "internal", "The router made a mistake", "Report it with the request id.", None)
            }
        }
    }

    /// The label in metrics and logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.entry().label
    }
}

/// The body of an error answer, RFC 9457. Names no address inside the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem<'a> {
    /// A stable URI, for programs.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short, the same for every problem of this type.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What to do next.
    pub detail: &'static str,
    /// Names this very request in the logs.
    #[serde(rename = "requestId")]
    pub request_id: &'a str,
}

/// The media type of [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

impl<'a> Problem<'a> {
    /// The body for a cause.
    #[must_use]
    pub fn of(cause: Cause, request_id: &'a str) -> Self {
        let entry = cause.entry();
        Self {
            kind: format!("https://domicile.dev/problems/{}", entry.label),
            title: entry.title,
            status: entry.status,
            detail: entry.hint,
            request_id,
        }
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// `Retry-After` for a hold that still has this long to go: whole seconds, at least one.
#[must_use]
pub fn retry_after(left: Duration) -> u64 {
    left.as_secs().saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_cause_has_its_own_label_and_a_real_status() {
        let labels: BTreeSet<_> = Cause::ALL.iter().map(|c| c.label()).collect();
        assert_eq!(labels.len(), Cause::ALL.len());
        for cause in Cause::ALL {
            let e = cause.entry();
            assert!((400..600).contains(&e.status), "{cause:?}");
            assert_eq!(e.status == 503, e.retry_after.is_some() && e.status == 503, "{cause:?} says when");
        }
    }

    #[test]
    fn nothing_that_the_application_may_have_seen_is_sent_again() {
        for cause in [Cause::OutcomeUnknown, Cause::UpstreamBroken, Cause::UpstreamTimeout] {
            assert!(!cause.entry().retry && !cause.entry().re_resolve, "{cause:?}");
        }
    }

    #[test]
    fn a_problem_is_json_with_a_stable_type() {
        let text = String::from_utf8(Problem::of(Cause::UnknownHost, "r1").to_json()).unwrap();
        assert!(text.contains(r#""type":"https://domicile.dev/problems/unknown-host""#), "{text}");
        assert!(text.contains(r#""status":404"#) && text.contains(r#""requestId":"r1""#), "{text}");
    }
}
