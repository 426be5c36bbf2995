//! References to secrets. The registry, its history and every log hold the reference, never the secret.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a secret is to be read: `file:/path` or `env:NAME`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    /// The file's content, without the final line end.
    File(String),
    /// The value of an environment variable.
    Env(String),
}

/// Why a secret can't be had. Never holds any of the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Not of the form `file:/path` or `env:NAME`. The text is not repeated: it may be the secret itself.
    #[error("not a reference to a secret: write `file:/path` or `env:NAME`, never the secret itself")]
    Form,
    /// The file can't be read.
    #[error("the secret's file {path} can't be read")]
    File {
        /// The path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The variable is not set.
    #[error("the environment variable {name} is not set")]
    Env {
        /// The variable.
        name: String,
    },
    /// There is nothing in it.
    #[error("the secret at {place} is empty")]
    Empty {
        /// The reference.
        place: String,
    },
}

impl SecretRef {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`SecretError::Form`] when the text is anything else.
    pub fn new(text: &str) -> Result<Self, SecretError> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            Some(("env", name))
                if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
            {
                Ok(Self::Env(name.to_owned()))
            }
            _ => Err(SecretError::Form),
        }
    }

    /// Reads the secret. Call it when it is needed and do not keep the result.
    ///
    /// # Errors
    /// When it is not there or empty.
    pub fn read(&self) -> Result<String, SecretError> {
        let value = match self {
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|source| SecretError::File { path: path.clone(), source })?
                .trim_end_matches(['\n', '\r'])
                .to_owned(),
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env { name: name.clone() })?,
        };
        if value.is_empty() { Err(SecretError::Empty { place: self.to_string() }) } else { Ok(value) }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{path}"),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for SecretRef {
    type Error = SecretError;
    fn try_from(text: String) -> Result<Self, SecretError> {
        Self::new(&text)
    }
}

impl From<SecretRef> for String {
    fn from(secret: SecretRef) -> Self {
        secret.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_place_of_a_reference_is_refused_and_not_repeated() {
        let error = SecretRef::new("hunter2").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        assert!(SecretRef::new("env:").is_err());
        assert!(SecretRef::new("env:A B").is_err());
    }

    #[test]
    fn a_file_is_read_without_its_line_end() {
        let path = std::env::temp_dir().join(format!("domicile-secret-{}", std::process::id()));
        std::fs::write(&path, "s3cret\n").unwrap();
        let secret = SecretRef::new(&format!("file:{}", path.display())).unwrap();
        assert_eq!(secret.read().unwrap(), "s3cret");
        std::fs::write(&path, "").unwrap();
        assert!(matches!(secret.read(), Err(SecretError::Empty { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(secret.read(), Err(SecretError::File { .. })));
    }
}
