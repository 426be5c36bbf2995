//! Who may call and do what: operators by name with their roles, their tokens hashed at rest.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What a name in the operators' file may do. Everybody who stands in it may look, but routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks, and no more.
    Viewer,
    /// Changes things: applies files, starts moves and speaks to them. What a line without roles gives.
    Operator,
    /// Approves or rejects what others have asked for.
    Approver,
    /// Learns where rows lie that a forced move has lost. They are patient data, encrypted for somebody else: this role
    /// leads to the file, not into it.
    Losses,
    /// May let the approval policy ask for fewer people.
    Admin,
    /// A router, whose id the name is: tells what it saw, and may nothing else.
    Router,
}

impl Role {
    const ALL: [Self; 6] =
        [Self::Viewer, Self::Operator, Self::Approver, Self::Losses, Self::Admin, Self::Router];

    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Losses => "losses",
            Self::Admin => "admin",
            Self::Router => "router",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The roles of a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles(BTreeSet<Role>);

impl Roles {
    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    /// Whether it is the only one.
    #[must_use]
    pub fn is_only(&self, role: Role) -> bool {
        self.0.len() == 1 && self.has(role)
    }

    /// Reads `operator,approver`.
    fn parse(text: &str) -> Option<Self> {
        let role = |word: &str| Role::ALL.into_iter().find(|role| role.as_str() == word);
        text.split(',').map(role).collect::<Option<_>>().map(Self)
    }
}

impl Default for Roles {
    /// What every name could do before there were roles.
    fn default() -> Self {
        Self([Role::Operator].into())
    }
}

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
    /// A line is not `name sha256-in-hex [roles]`. The line itself is not repeated: it may hold a token in the clear.
    #[error(
        "the operators' file {path}, line {line}: {what}; write `name`, the SHA-256 of the token in 64 hexadecimal digits (printf %s \"$TOKEN\" | sha256sum), and, if not `operator` alone, the roles as in `operator,approver` (viewer, operator, approver, losses, admin, router)"
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
pub struct Operators(Vec<Known>);

/// A line of the file.
#[derive(Clone, PartialEq, Eq)]
struct Known {
    name: String,
    hash: [u8; 32],
    roles: Roles,
}

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

    /// Reads the text of the file: lines `name sha256-in-hex`, with roles after that if it is not
    /// `operator` alone; blank lines and lines that begin with `#` ignored.
    ///
    /// # Errors
    /// When a line is wrong, a name stands twice, or there is nobody.
    pub fn parse(path: &Path, text: &str) -> Result<Self, OperatorsError> {
        let mut list: Vec<Known> = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let wrong = |what| OperatorsError::Line { path: path.to_owned(), line: n + 1, what };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            let (Some(name), Some(hash), roles, None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(wrong("it does not have two or three words"));
            };
            let named = name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@'));
            if !named {
                return Err(wrong("the name is not 1 to 64 letters, digits, `-`, `_`, `.` and `@`"));
            }
            let mut bytes = [0; 32];
            hex::decode_to_slice(hash, &mut bytes)
                .map_err(|_| wrong("the hash is not 64 hexadecimal digits"))?;
            let roles = match roles {
                None => Roles::default(),
                Some(text) => Roles::parse(text).ok_or_else(|| {
                    wrong("the third word is not a list of roles, such as `operator,approver`")
                })?,
            };
            // A person is counted by name: two spellings of one name would be two people.
            if list.iter().any(|known| known.name.eq_ignore_ascii_case(name)) {
                return Err(wrong("the name stands twice"));
            }
            if list.len() == MOST {
                return Err(wrong("there are more than 10 000 operators"));
            }
            list.push(Known { name: name.to_owned(), hash: bytes, roles });
        }
        if list.is_empty() {
            return Err(OperatorsError::Empty { path: path.to_owned() });
        }
        Ok(Self(list))
    }

    /// Whose token this is, and what that one may do. Takes the same time for every wrong token.
    #[must_use]
    pub fn whose(&self, token: &str) -> Option<(Operator, Roles)> {
        if token.is_empty() || token.len() > LONGEST_TOKEN {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        // No early way out: how far the list was read must not show in the time.
        for known in &self.0 {
            if bool::from(known.hash.ct_eq(&hash)) {
                found = Some((Operator(known.name.clone()), known.roles.clone()));
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
        let operator = |name: &str| Some((Operator(name.into()), Roles::default()));
        assert_eq!(operators.whose("b-token"), operator("bob"));
        assert_eq!(operators.whose("a-token"), operator("ann"));
        for wrong in ["", "c-token", &hash("a-token"), &"x".repeat(2000)] {
            assert_eq!(operators.whose(wrong), None);
        }
    }

    #[test]
    fn a_line_without_roles_may_do_what_it_always_could_and_no_more() {
        let text =
            format!("ann {}\nbob {} approver,operator\neve {} viewer\n", hash("a"), hash("b"), hash("c"));
        let operators = parse(&text).unwrap();
        let may = |token: &str| {
            let (_, roles) = operators.whose(token).unwrap();
            Role::ALL.map(|role| roles.has(role))
        };
        assert_eq!(may("a"), [false, true, false, false, false, false]);
        assert_eq!(may("b"), [false, true, true, false, false, false]);
        assert_eq!(may("c"), [true, false, false, false, false, false]);
        for wrong in ["root", "operator,", "operator approver", "Operator", ","] {
            assert!(parse(&format!("ann {} {wrong}", hash("a"))).is_err(), "{wrong}");
        }
        // One person in two spellings would be two.
        assert!(parse(&format!("ann {}\nAnn {}\n", hash("a"), hash("b"))).is_err());
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
