//! Who may call: operators by name, their tokens hashed at rest.

use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Largest file that is read, in bytes.
const LARGEST: u64 = 2 << 20;
/// Most operators of a file.
const MOST: usize = 10_000;
/// Longest token that is looked at, in bytes: hashing must stay cheap for those who have none.
const LONGEST_TOKEN: usize = 1024;

/// Why a file of operators can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OperatorsError {
    /// It can't be read.
    #[error("the operators' file {path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is not `name sha256-in-hex`. The line itself is not repeated: it may hold a token in the clear.
    #[error(
        "the operators' file {path}, line {line}: {what}; write `name` and the SHA-256 of the token in 64 hexadecimal digits (printf %s \"$TOKEN\" | sha256sum)"
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// It is no such file.
    #[error("the operators' file {path} is larger than 2 MiB: is it the right file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Nobody could ever call.
    #[error("the operators' file {path} names nobody: add a line `name sha256-of-token`")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Everybody who may call.
#[derive(Clone, PartialEq, Eq)]
pub struct Operators(Vec<(String, [u8; 32])>);

/// The caller, as it stands in moves and in the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator(pub String);

impl Operators {
    /// Reads the file.
    ///
    /// # Errors
    /// When it can't be read or a line is wrong.
    pub fn load(path: &Path) -> Result<Self, OperatorsError> {
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text))
            .map_err(|source| OperatorsError::Read { path: path.to_owned(), source })?;
        if text.len() as u64 > LARGEST {
            // The end of what was read may be the middle of a line.
            return Err(OperatorsError::TooLarge { path: path.to_owned() });
        }
        Self::parse(path, &text)
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nobody; a file never says that.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the text of the file: lines `name sha256-in-hex`, blank lines and lines that begin with `#` ignored.
    ///
    /// # Errors
    /// When a line is wrong, a name stands twice, or there is nobody.
    pub fn parse(path: &Path, text: &str) -> Result<Self, OperatorsError> {
        let mut list: Vec<(String, [u8; 32])> = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let wrong = |what| OperatorsError::Line { path: path.to_owned(), line: n + 1, what };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            let (Some(name), Some(hash), None) = (words.next(), words.next(), words.next()) else {
                return Err(wrong("it does not have two words"));
            };
            let named = name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@'));
            if !named {
                return Err(wrong("the name is not 1 to 64 letters, digits, `-`, `_`, `.` and `@`"));
            }
            let mut bytes = [0; 32];
            hex::decode_to_slice(hash, &mut bytes)
                .map_err(|_| wrong("the hash is not 64 hexadecimal digits"))?;
            if list.iter().any(|(known, _)| known == name) {
                return Err(wrong("the name stands twice"));
            }
            if list.len() == MOST {
                return Err(wrong("there are more than 10 000 operators"));
            }
            list.push((name.to_owned(), bytes));
        }
        if list.is_empty() {
            return Err(OperatorsError::Empty { path: path.to_owned() });
        }
        Ok(Self(list))
    }

    /// Whose token this is. Takes the same time for every wrong token.
    #[must_use]
    pub fn whose(&self, token: &str) -> Option<Operator> {
        if token.is_empty() || token.len() > LONGEST_TOKEN {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        // No early way out: how far the list was read must not show in the time.
        for (name, known) in &self.0 {
            if bool::from(known.ct_eq(&hash)) {
                found = Some(Operator(name.clone()));
            }
        }
        found
    }
}

impl std::fmt::Debug for Operators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Operators({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(token: &str) -> String {
        hex::encode(Sha256::digest(token.as_bytes()))
    }

    fn parse(text: &str) -> Result<Operators, OperatorsError> {
        Operators::parse(Path::new("tokens"), text)
    }

    #[test]
    fn a_token_leads_to_its_name_and_nothing_else_does() {
        let text = format!("# people\nann {}\n\nbob  {}\n", hash("a-token"), hash("b-token"));
        let operators = parse(&text).unwrap();
        assert_eq!(operators.whose("b-token"), Some(Operator("bob".into())));
        assert_eq!(operators.whose("a-token"), Some(Operator("ann".into())));
        for wrong in ["", "c-token", &hash("a-token"), &"x".repeat(2000)] {
            assert_eq!(operators.whose(wrong), None);
        }
    }

    #[test]
    fn mistakes_name_the_line_and_never_repeat_it() {
        for (text, line) in [
            ("ann hunter2".to_owned(), 1),
            (format!("ann {0}\nann {0}", hash("x")), 2),
            (format!("\n{}", hash("x")), 2),
            (format!("a/b {}", hash("x")), 1),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(matches!(error, OperatorsError::Line { line: l, .. } if l == line), "{error}");
            assert!(!error.to_string().contains("hunter2"));
        }
        assert!(matches!(parse("# nobody\n"), Err(OperatorsError::Empty { .. })));
    }
}
