//! Exit codes, as one documented list.

/// How a command ended, as its exit code. Scripts may rely on these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Ok,
    /// Understood and not done: a check, a rule or a person stands against it, or a move was rolled back or is stuck.
    NotDone,
    /// The command line or the file is wrong.
    Usage,
    /// The cell, tenant, region or move does not exist.
    NotFound,
    /// No control plane could be reached.
    Unavailable,
    /// A bug of ours, or a server that answers nonsense.
    Internal,
    /// A file or the terminal could not be read or written.
    Io,
    /// Nothing was done; the same command may succeed soon: nobody leads, or the registry does not answer.
    Temporary,
    /// The token is missing, wrong, or not allowed to do this.
    Permission,
}

impl Exit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::NotDone,
        Self::Usage,
        Self::NotFound,
        Self::Unavailable,
        Self::Internal,
        Self::Io,
        Self::Temporary,
        Self::Permission,
    ];

    /// The number: those of `sysexits.h` where one fits.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::NotDone => 1,
            Self::Usage => 64,
            Self::NotFound => 66,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Io => 74,
            Self::Temporary => 75,
            Self::Permission => 77,
        }
    }

    /// The name in JSON and in the documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotDone => "not-done",
            Self::Usage => "usage",
            Self::NotFound => "not-found",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Io => "io",
            Self::Temporary => "temporary",
            Self::Permission => "permission",
        }
    }

    /// What it means, in a sentence.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done, or nothing to do",
            Self::NotDone => {
                "understood and not done: a check, a rule or a person stands against it, or a move was rolled back or is stuck"
            }
            Self::Usage => "the command line or the file is wrong",
            Self::NotFound => "the cell, tenant, region or move does not exist",
            Self::Unavailable => "no control plane could be reached",
            Self::Internal => "a bug of ours, or a server that answers nonsense",
            Self::Io => "a file or the terminal could not be read or written",
            Self::Temporary => {
                "the same command may succeed soon: nobody leads, or the registry or a database does not answer"
            }
            Self::Permission => "the token is missing, wrong, or not allowed to do this",
        }
    }

    /// From the status of a problem that a server answered with.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::Permission,
            404 => Self::NotFound,
            // 507: what is left of the registry is kept for moves.
            409 | 412 | 507 => Self::NotDone,
            429 | 502 | 503 | 504 => Self::Temporary,
            400..=499 => Self::Usage,
            _ => Self::Internal,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_used_once_and_in_order() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|e| e.code()).collect();
        let mut sorted = codes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(codes, sorted);
        let mut names: Vec<&str> = Exit::ALL.iter().map(|e| e.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Exit::ALL.len());
    }

    #[test]
    fn the_document_says_what_the_enum_says() {
        let document = include_str!("../EXIT-CODES.md");
        let rows: Vec<&str> =
            document.lines().filter(|l| l.starts_with("| ") && !l.contains("code")).collect();
        let expected: Vec<String> = Exit::ALL
            .iter()
            .map(|e| format!("| {} | `{}` | {} |", e.code(), e.name(), e.meaning()))
            .collect();
        assert_eq!(rows, expected, "EXIT-CODES.md and the enum Exit differ");
    }

    #[test]
    fn every_status_of_the_api_has_its_code() {
        for (status, exit) in [
            (400, Exit::Usage),
            (401, Exit::Permission),
            (404, Exit::NotFound),
            (409, Exit::NotDone),
            (413, Exit::Usage),
            (422, Exit::Usage),
            (500, Exit::Internal),
            (503, Exit::Temporary),
            (504, Exit::Temporary),
        ] {
            assert_eq!(Exit::of_status(status), exit, "{status}");
        }
    }
}
