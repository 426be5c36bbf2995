//! Data on stdout, talk on stderr; both injected, so that tests read what a user reads.

use std::io::{BufRead, IsTerminal, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::exit::Exit;
use crate::fail::Failure;

/// The three streams of a command, and how it shall talk.
pub struct Out {
    /// Data.
    pub stdout: Box<dyn Write + Send>,
    /// Talk: progress, questions, errors.
    pub stderr: Box<dyn Write + Send>,
    /// Answers to questions; none when nobody is there to ask.
    pub answers: Option<Box<dyn BufRead + Send>>,
    /// Whether progress may move the cursor.
    pub live: bool,
    /// Whether data is printed as JSON.
    pub json: bool,
}

impl Out {
    /// The streams of this process.
    #[must_use]
    pub fn of_process(json: bool) -> Self {
        let answers: Option<Box<dyn BufRead + Send>> = if std::io::stdin().is_terminal() {
            Some(Box::new(std::io::BufReader::new(std::io::stdin())))
        } else {
            None
        };
        Self {
            stdout: Box::new(std::io::stdout()),
            stderr: Box::new(std::io::stderr()),
            answers,
            live: std::io::stderr().is_terminal(),
            json,
        }
    }

    /// Data as JSON, two spaces deep, with a final line end.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn data<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Failure::new(Exit::Internal, format!("the answer can't be shown as JSON: {e}")))?;
        writeln!(self.stdout, "{text}")?;
        Ok(())
    }

    /// A table with a head line.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn table(&mut self, head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(head.to_vec());
        for row in rows {
            table.add_row(row);
        }
        for line in table.to_string().lines() {
            // The style pads every cell; the first pad would indent the whole table.
            writeln!(self.stdout, "{}", line.strip_prefix(' ').unwrap_or(line).trim_end())?;
        }
        Ok(())
    }

    /// A list of names and values.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn pairs(&mut self, pairs: &[(&str, String)]) -> Result<(), Failure> {
        let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in pairs {
            let mut lines = value.lines();
            writeln!(self.stdout, "{name:width$}  {}", lines.next().unwrap_or("-"))?;
            for line in lines {
                writeln!(self.stdout, "{:width$}  {line}", "")?;
            }
        }
        Ok(())
    }

    /// A line for people.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn say(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.stderr, "{line}")?;
        Ok(())
    }

    /// Asks a yes-or-no question; `yes` answers it. Nobody to ask is a usage error, never a yes.
    ///
    /// # Errors
    /// When the answer is no, or nobody can be asked.
    pub fn confirm(&mut self, question: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        let Some(answers) = self.answers.as_mut() else {
            return Err(Failure::new(
                Exit::Usage,
                format!("{question}: nobody is at the terminal to answer"),
            )
            .hint("say --yes if that is what you want"));
        };
        write!(self.stderr, "{question} [y/N] ")?;
        self.stderr.flush()?;
        let mut line = String::new();
        answers.read_line(&mut line)?;
        if matches!(line.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            Err(Failure::new(Exit::NotDone, "answered with no: nothing was done"))
        }
    }
}

/// A value, or `-` where there is none.
#[must_use]
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |v| v.to_string())
}

/// Several values in one field, or `-`.
#[must_use]
pub fn joined<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "-".into();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Milliseconds as people read them.
#[must_use]
pub fn millis(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => format!("{} min", ms / 60_000),
    }
}

/// Bytes as people read them.
#[must_use]
pub fn bytes(n: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", n / unit, n % unit * 10 / unit);
    match n {
        0..0x400 => format!("{n} B"),
        0x400..0x10_0000 => format!("{} KiB", tenths(1 << 10)),
        0x10_0000..0x4000_0000 => format!("{} MiB", tenths(1 << 20)),
        _ => format!("{} GiB", tenths(1 << 30)),
    }
}

/// A phase in one word.
#[must_use]
pub fn phase(phase: domicile_model::Phase) -> String {
    use domicile_model::{ClosedReason, Phase};
    match phase {
        Phase::Serving => "serving".into(),
        Phase::Holding { .. } => "holding".into(),
        Phase::Closed { reason, .. } => format!(
            "closed ({})",
            match reason {
                ClosedReason::Moving => "moving",
                ClosedReason::Operator => "by an operator",
                ClosedReason::Conflict => "conflict",
            }
        ),
    }
}
