//! One file: header, rows, end; written and read as a stream.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};

use domicile_model::token::Lsn;
use domicile_model::{CellId, MoveId};
use serde::{Deserialize, Serialize};

use crate::{DigestKey, KeyFile, LossFileError, Recipient};

/// The version of the lines. A reader refuses a newer one.
pub const VERSION: u32 = 1;
/// Longest line that is read, in bytes: PostgreSQL's largest value is 1 GiB, and JSON may double it.
const LONGEST: u64 = 4 << 30;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub domicile_losses: u32,
    /// The move that lost the rows.
    #[serde(rename = "move")]
    pub moving: MoveId,
    /// The cell.
    pub cell: CellId,
    /// A tenant's id, or [`crate::UNASSIGNED`].
    pub part: String,
    /// The old primary's timeline.
    pub timeline: u32,
    /// Where the new primary's timeline left it.
    pub fork: Lsn,
    /// The key of the digests in the list of the move, in hexadecimal.
    pub digest_key: String,
}

impl Header {
    /// The key of the digests.
    #[must_use]
    pub fn key(&self) -> Option<DigestKey> {
        DigestKey::from_hex(&self.digest_key)
    }
}

/// What was done to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// It was made.
    Insert,
    /// It was changed.
    Update,
    /// It was deleted.
    Delete,
    /// Its whole table was emptied: there is no row.
    Truncate,
}

impl Operation {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
        }
    }
}

/// The columns of a row, as PostgreSQL writes them as text. A large value that did not change is left out.
pub type Columns = BTreeMap<String, Option<String>>;

/// A changed row that the new primary never saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The transaction's number on the old primary.
    pub xid: u32,
    /// Where its commit record lies.
    pub commit: Lsn,
    /// When it committed, by the old primary's clock.
    pub at: jiff::Timestamp,
    /// `schema.name`.
    pub table: String,
    /// What was done.
    pub operation: Operation,
    /// The columns of its key; none where the table has no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<BTreeMap<String, String>>,
    /// The old key, or the whole old row, as far as PostgreSQL kept it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Columns>,
    /// The new row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Columns>,
}

/// The last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How many rows came before.
    pub rows: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    End { end: End },
    Row(Box<Row>),
}

/// Encrypts rows as they come; holds no more than 64 KiB of them.
pub struct Writer<W: Write> {
    out: age::stream::StreamWriter<W>,
    rows: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn new(out: W, recipient: &Recipient, header: &Header) -> Result<Self, LossFileError> {
        let recipient: &dyn age::Recipient = &recipient.0;
        let encryptor = age::Encryptor::with_recipients(std::iter::once(recipient))
            .map_err(|_| LossFileError::Key("the recipient can't be encrypted for"))?;
        let mut writer = Self { out: encryptor.wrap_output(out)?, rows: 0 };
        writer.line(header)?;
        Ok(writer)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), LossFileError> {
        serde_json::to_writer(&mut self.out, value).map_err(std::io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn row(&mut self, row: &Row) -> Result<(), LossFileError> {
        self.rows += 1;
        self.line(row)
    }

    /// Ends the file; gives what it was written to, and the number of rows. Without this the file is not whole.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(mut self) -> Result<(W, u64), LossFileError> {
        let rows = self.rows;
        self.line(&Line::End { end: End { rows } })?;
        let mut out = self.out.finish()?;
        out.flush()?;
        Ok((out, rows))
    }
}

/// Decrypts a file row by row.
pub struct Reader<R: Read> {
    lines: BufReader<age::stream::StreamReader<R>>,
    header: Header,
    rows: u64,
    over: bool,
}

impl<R: Read> Reader<R> {
    /// Opens a file.
    ///
    /// # Errors
    /// When it was made for another key, was changed, or is no such file.
    pub fn open(file: R, key: &KeyFile) -> Result<Self, LossFileError> {
        let key: &dyn age::Identity = &key.0;
        let stream = age::Decryptor::new(file)
            .and_then(|decryptor| decryptor.decrypt(std::iter::once(key)))
            .map_err(|e| LossFileError::Decrypt(e.to_string()))?;
        let mut lines = BufReader::new(stream);
        let text = line(&mut lines)?.ok_or_else(|| LossFileError::Content("it is empty".into()))?;
        let header: Header = serde_json::from_slice(&text)
            .map_err(|_| LossFileError::Content("it does not begin as an export of lost rows does".into()))?;
        if header.domicile_losses > VERSION {
            return Err(LossFileError::Content(format!(
                "it is of version {}, this program reads up to {VERSION}: use a newer one",
                header.domicile_losses
            )));
        }
        Ok(Self { lines, header, rows: 0, over: false })
    }

    /// What it is of.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn read(&mut self) -> Result<Option<Row>, LossFileError> {
        let cut = || LossFileError::Content("it ends early: it is not whole".into());
        let text = line(&mut self.lines)?.ok_or_else(cut)?;
        let parsed = serde_json::from_slice(&text)
            .map_err(|_| LossFileError::Content(format!("line {} is no row", self.rows + 2)))?;
        match parsed {
            Line::Row(row) => {
                self.rows += 1;
                Ok(Some(*row))
            }
            Line::End { end } if end.rows == self.rows && line(&mut self.lines)?.is_none() => Ok(None),
            Line::End { .. } => Err(LossFileError::Content("its end does not fit what came before".into())),
        }
    }
}

/// Rows until the end; after an error there is nothing more.
impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Row, LossFileError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.read().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}

fn line(from: &mut impl BufRead) -> Result<Option<Vec<u8>>, LossFileError> {
    let mut text = Vec::new();
    from.take(LONGEST).read_until(b'\n', &mut text)?;
    if text.is_empty() {
        return Ok(None);
    }
    if text.pop() != Some(b'\n') {
        return Err(LossFileError::Content("it ends within a line: it is not whole".into()));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            domicile_losses: VERSION,
            moving: MoveId::from_u128(7),
            cell: CellId::new("c").unwrap(),
            part: "mercy-health".into(),
            timeline: 1,
            fork: Lsn(9),
            digest_key: DigestKey::random().unwrap().to_hex(),
        }
    }

    fn row(n: u32) -> Row {
        Row {
            xid: n,
            commit: Lsn(u64::from(n)),
            at: jiff::Timestamp::UNIX_EPOCH,
            table: "public.t".into(),
            operation: Operation::Insert,
            key: Some(BTreeMap::from([("id".into(), n.to_string())])),
            old: None,
            new: Some(BTreeMap::from([
                ("id".into(), Some(n.to_string())),
                ("name".into(), Some("Ann Doe".into())),
            ])),
        }
    }

    fn file(key: &KeyFile, rows: u32) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &key.recipient(), &header()).unwrap();
        (0..rows).for_each(|n| writer.row(&row(n)).unwrap());
        writer.finish().unwrap().0
    }

    #[test]
    fn rows_come_back_for_their_recipient_and_for_nobody_else() {
        let key = KeyFile::generate();
        let bytes = file(&key, 3000);
        let plain = String::from_utf8_lossy(&bytes);
        assert!(
            !plain.contains("Ann Doe") && !plain.contains("mercy-health"),
            "nothing of it is in the clear"
        );
        let reader = Reader::open(&bytes[..], &key).unwrap();
        assert_eq!(reader.header().part, "mercy-health");
        let rows: Vec<Row> = reader.map(Result::unwrap).collect();
        assert_eq!(rows, (0..3000).map(row).collect::<Vec<_>>());
        assert!(matches!(Reader::open(&bytes[..], &KeyFile::generate()), Err(LossFileError::Decrypt(_))));
    }

    #[test]
    fn a_file_that_was_cut_or_changed_never_reads_as_whole() {
        let key = KeyFile::generate();
        let bytes = file(&key, 2000);
        let whole = |bytes: &[u8]| match Reader::open(bytes, &key) {
            Ok(reader) => reader.collect::<Result<Vec<_>, _>>().is_ok(),
            Err(_) => false,
        };
        assert!(whole(&bytes));
        for length in [0, 10, 200, bytes.len() / 2, bytes.len() - 1] {
            assert!(!whole(&bytes[..length]), "cut to {length}");
        }
        for at in [5, 120, bytes.len() / 2, bytes.len() - 3] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(!whole(&changed), "changed at {at}");
        }
        // Ended by encryption, but never by its writer.
        let open = Writer::new(Vec::new(), &key.recipient(), &header()).unwrap();
        assert!(!whole(&open.out.finish().unwrap()));
        let mut newer = header();
        newer.domicile_losses = VERSION + 1;
        let bytes = Writer::new(Vec::new(), &key.recipient(), &newer).unwrap().finish().unwrap().0;
        assert!(Reader::open(&bytes[..], &key).err().unwrap().to_string().contains("newer"));
    }
}
