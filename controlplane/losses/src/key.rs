//! Whose eyes the rows are for: a recipient (public) in the agents' configuration, a key file with the reader.

use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use zeroize::Zeroizing;

use crate::LossFileError;

/// Largest key file that is read, in bytes.
const LARGEST: u64 = 64 * 1024;

/// Who can decrypt: an X25519 recipient of age, written `age1…`. Not a secret.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Recipient(pub(crate) age::x25519::Recipient);

impl FromStr for Recipient {
    type Err = LossFileError;
    fn from_str(text: &str) -> Result<Self, LossFileError> {
        text.trim().parse().map(Self).map_err(|_| {
            LossFileError::Key("not a recipient: write the line `age1…` that `domicile losses keygen` shows")
        })
    }
}

impl TryFrom<String> for Recipient {
    type Error = LossFileError;
    fn try_from(text: String) -> Result<Self, LossFileError> {
        text.parse()
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::fmt::Debug for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// The reader's key, as `age-keygen` and `domicile losses keygen` write it.
#[derive(Clone)]
pub struct KeyFile(pub(crate) age::x25519::Identity);

impl KeyFile {
    /// A new key.
    #[must_use]
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// Reads a key file: the first line that is neither empty nor a comment.
    ///
    /// # Errors
    /// When it can't be read, or holds no X25519 key of age.
    pub fn read(path: &Path) -> Result<Self, LossFileError> {
        let mut text = Zeroizing::new(String::new());
        std::fs::File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
        Self::parse(&text)
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// When it holds no X25519 key of age.
    pub fn parse(text: &str) -> Result<Self, LossFileError> {
        let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        line.and_then(|line| line.parse().ok())
            .map(Self)
            .ok_or(LossFileError::Key("no key in it: it takes a line `AGE-SECRET-KEY-1…`"))
    }

    /// The text of a key file. A secret.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let secret = self.0.to_string();
        Zeroizing::new(format!("# public key: {}\n{}\n", self.recipient(), secret.expose_secret()))
    }

    /// Who it decrypts for.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyFile({})", self.recipient())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_reads_back_and_shows_its_secret_to_nobody() {
        let key = KeyFile::generate();
        let again = KeyFile::parse(&key.text()).unwrap();
        assert_eq!(again.recipient(), key.recipient());
        assert_eq!(key.recipient().to_string().parse::<Recipient>().unwrap(), key.recipient());
        assert!(!format!("{key:?}").contains("SECRET"));
        for wrong in ["", "# only a comment\n", "AGE-SECRET-KEY-1NOPE", "age1abc"] {
            let error = KeyFile::parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("NOPE"), "{error}");
        }
        assert!("age1abc".parse::<Recipient>().is_err());
    }
}
