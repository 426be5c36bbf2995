//! What ends a command early: a sentence for people and an exit code for programs.

use domicile_api::problem::Problem;

use crate::exit::Exit;

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, and where.
    pub what: String,
    /// What to do next.
    pub hint: Option<String>,
    /// All of them, when there are several.
    pub mistakes: Vec<String>,
    /// What other servers said that were asked.
    pub others: Vec<String>,
}

impl Failure {
    /// A failure with this code and sentence.
    #[must_use]
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), hint: None, mistakes: Vec::new(), others: Vec::new() }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// From the problem that a server answered with.
    #[must_use]
    pub fn of_problem(problem: Problem, server: &str) -> Self {
        let mistakes = problem
            .mistakes
            .iter()
            .map(|m| match m.line {
                Some(line) => format!("line {line}: {}\n  {}", m.what, m.hint),
                None => format!("{}\n  {}", m.what, m.hint),
            })
            .collect();
        Self {
            exit: Exit::of_status(problem.status),
            what: format!("{} (said {server})", problem.detail.trim_end_matches('.')),
            hint: problem.hint,
            mistakes,
            others: Vec::new(),
        }
    }

    /// As it is shown on stderr.
    #[must_use]
    pub fn render(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for mistake in &self.mistakes {
            let _ = writeln!(text, "{mistake}");
        }
        for other in &self.others {
            let _ = writeln!(text, "also asked: {other}");
        }
        let _ = writeln!(text, "error: {}", self.what);
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // A reader that has seen enough (`| head`) is no failure.
        let exit = if error.kind() == std::io::ErrorKind::BrokenPipe { Exit::Ok } else { Exit::Io };
        Self::new(exit, format!("the output can't be written: {error}"))
    }
}
