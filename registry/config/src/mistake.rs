//! The report of everything that is wrong with a file.

use std::fmt;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1; none if the mistake has no place.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// All mistakes of a file, in the order of their lines. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    /// The file, as the user named it.
    pub file: String,
    /// The mistakes.
    pub list: Vec<Mistake>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.list {
            match mistake.line {
                Some(line) => writeln!(f, "{}:{line}: {}", self.file, mistake.what)?,
                None => writeln!(f, "{}: {}", self.file, mistake.what)?,
            }
            writeln!(f, "    {}", mistake.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
