//! Why the agent did not do what it was told: a problem for the caller, in sentences.

use domicile_api::problem::Problem;

use crate::os::OsError;

/// A refusal or a failure, as it goes over the wire.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}{hint}", hint = .0.hint.as_ref().map(|h| format!("; {h}")).unwrap_or_default())]
pub struct Failure(pub Box<Problem>);

impl Failure {
    pub(crate) fn new(kind: &str, title: &str, status: u16, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(kind, title, status, detail)))
    }

    pub(crate) fn hint(self, hint: &str) -> Self {
        Self(Box::new(self.0.hint(hint)))
    }

    /// The token ranks below one that was seen.
    pub(crate) fn deposed(detail: impl Into<String>) -> Self {
        Self::new("deposed", "A later order was seen", 409, detail)
    }

    /// Certainly not done, and not to be done as things are.
    pub(crate) fn refused(kind: &str, detail: impl Into<String>) -> Self {
        Self::new(kind, "The agent refuses this as things are", 409, detail)
    }

    /// Certainly not done; may work later.
    pub(crate) fn busy(detail: impl Into<String>) -> Self {
        Self::new("busy", "The agent is at something else", 423, detail)
    }

    /// Not over when the time was: it may still happen.
    pub(crate) fn unfinished(detail: impl Into<String>) -> Self {
        Self::new("unfinished", "It did not end in time", 504, detail)
    }

    /// Whether it is one that did not end in time.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.0.kind.ends_with("/unfinished")
    }

    /// Files or processes.
    pub(crate) fn machine(detail: impl Into<String>) -> Self {
        Self::new("machine", "The machine did not do it", 500, detail)
    }

    /// The registry could not be asked.
    pub(crate) fn registry(detail: impl Into<String>) -> Self {
        Self::new("registry-unavailable", "The registry could not be asked", 424, detail)
            .hint("restore the registry's quorum or the agent's way to it, then try again")
    }

    /// SQL. Our own statements hold no data; the server's message may, in its detail, which is left out.
    pub(crate) fn database(doing: &str, error: &sqlx::Error) -> Self {
        let (code, why) = match error.as_database_error() {
            Some(e) => (e.code().unwrap_or_default().into_owned(), e.message().to_owned()),
            None => (String::new(), error.to_string()),
        };
        let failure = Self::new(
            "database",
            "PostgreSQL did not do it",
            502,
            format!("{doing}: {why}{}", if code.is_empty() { String::new() } else { format!(" ({code})") }),
        );
        match code.as_str() {
            "53100" => failure.hint("the disk is full: free space on the database's volume"),
            "53300" => failure.hint("all connections are taken: raise max_connections or end some"),
            "57P03" => failure.hint("it starts, stops or recovers at this moment: try again"),
            _ => failure,
        }
    }

    pub(crate) fn database_slow(doing: &str, patience: std::time::Duration) -> Self {
        Self::new(
            "database-slow",
            "PostgreSQL did not answer in time",
            504,
            format!("{doing}: no answer within {} ms", patience.as_millis()),
        )
    }
}

impl From<OsError> for Failure {
    fn from(error: OsError) -> Self {
        let full = error.to_string().contains("os error 28");
        let failure = Self::machine(error.to_string());
        if full { failure.hint("the disk is full: free space on the agent's volume") } else { failure }
    }
}
