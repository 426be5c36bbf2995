//! The logical replication protocol of `pgoutput`, version 1: one message per row of
//! `pg_logical_slot_peek_binary_changes`.
//!
//! Bytes come from a server that may be damaged; nothing here panics, and every length is checked.

use domicile_model::token::Lsn;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins.
    Begin {
        /// Where its commit record lies.
        commit: Lsn,
        /// Microseconds since 2000-01-01, by the server's clock.
        at: i64,
        /// Its number.
        xid: u32,
    },
    /// It ends.
    Commit {
        /// Where its commit record lies.
        commit: Lsn,
    },
    /// What a table looks like; comes before its first change.
    Relation(Relation),
    /// A row was inserted.
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple,
    },
    /// A row was changed.
    Update {
        /// The table.
        relation: u32,
        /// The old key, or the whole old row.
        old: Option<Tuple>,
        /// The row.
        new: Tuple,
    },
    /// A row was deleted.
    Delete {
        /// The table.
        relation: u32,
        /// Its key, or the whole row.
        old: Tuple,
    },
    /// Tables were emptied.
    Truncate {
        /// The tables.
        relations: Vec<u32>,
    },
    /// Something that carries no change of a row.
    Other,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its number.
    pub id: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its replica identity: `d` the key, `f` the whole row, `n` nothing, `i` an index.
    pub identity: u8,
    /// Its columns; true: part of the replica identity.
    pub columns: Vec<(String, bool)>,
}

/// The values of a row, in the order of the columns.
pub type Tuple = Vec<Value>;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// A large value that did not change and is not sent.
    Unchanged,
    /// As text.
    Text(String),
}

/// The bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a message of the logical slot is malformed: {0}")]
pub struct Malformed(&'static str);

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Malformed("it ends early"))?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed("it ends early"))
    }
    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }
    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }
    fn text(&mut self) -> Result<String, Malformed> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(Malformed("a name does not end"))?;
        let text = String::from_utf8_lossy(self.take(end)?).into_owned();
        self.take(1)?;
        Ok(text)
    }
    fn tuple(&mut self) -> Result<Tuple, Malformed> {
        let n = self.u16()?;
        (0..n)
            .map(|_| match self.u8()? {
                b'n' => Ok(Value::Null),
                b'u' => Ok(Value::Unchanged),
                b't' => {
                    let length = usize::try_from(self.u32()?).map_err(|_| Malformed("a length"))?;
                    Ok(Value::Text(String::from_utf8_lossy(self.take(length)?).into_owned()))
                }
                _ => Err(Malformed("a value of unknown kind")),
            })
            .collect()
    }
}

/// Reads one message.
///
/// # Errors
/// When the bytes are none.
pub fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
    let mut r = Reader(bytes);
    Ok(match r.u8()? {
        b'B' => {
            let commit = Lsn(r.u64()?);
            let at = i64::from_be_bytes(r.array()?);
            Message::Begin { commit, at, xid: r.u32()? }
        }
        b'C' => {
            r.u8()?;
            Message::Commit { commit: Lsn(r.u64()?) }
        }
        b'R' => {
            let id = r.u32()?;
            let (schema, name) = (r.text()?, r.text()?);
            let identity = r.u8()?;
            let n = r.u16()?;
            let columns = (0..n)
                .map(|_| {
                    let key = r.u8()? & 1 == 1;
                    let name = r.text()?;
                    r.take(8)?;
                    Ok((name, key))
                })
                .collect::<Result<_, _>>()?;
            Message::Relation(Relation { id, schema, name, identity, columns })
        }
        b'I' => {
            let relation = r.u32()?;
            r.u8()?;
            Message::Insert { relation, new: r.tuple()? }
        }
        b'U' => {
            let relation = r.u32()?;
            let old = match r.u8()? {
                b'K' | b'O' => {
                    let old = r.tuple()?;
                    r.u8()?;
                    Some(old)
                }
                _ => None,
            };
            Message::Update { relation, old, new: r.tuple()? }
        }
        b'D' => {
            let relation = r.u32()?;
            r.u8()?;
            Message::Delete { relation, old: r.tuple()? }
        }
        b'T' => {
            let n = r.u32()?;
            r.u8()?;
            // Each takes four bytes: a wrong count ends with the input, not with memory.
            let mut relations = Vec::new();
            for _ in 0..n {
                relations.push(r.u32()?);
            }
            Message::Truncate { relations }
        }
        b'O' | b'Y' | b'M' => Message::Other,
        _ => return Err(Malformed("its kind is unknown")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tuple(values: &[Option<&str>]) -> Vec<u8> {
        let mut out = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            match value {
                None => out.push(b'n'),
                Some(text) => {
                    out.push(b't');
                    out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend(text.as_bytes());
                }
            }
        }
        out
    }

    #[test]
    fn messages_are_read_as_postgresql_writes_them() {
        let begin = [&b"B"[..], &0x0300_00A8_u64.to_be_bytes(), &5_i64.to_be_bytes(), &742_u32.to_be_bytes()]
            .concat();
        assert_eq!(parse(&begin).unwrap(), Message::Begin { commit: Lsn(0x0300_00A8), at: 5, xid: 742 });
        let relation = [
            &b"R"[..],
            &9_u32.to_be_bytes(),
            b"public\0t\0d",
            &[0, 2],
            b"\x01id\0",
            &[0; 8],
            b"\0v\0",
            &[0; 8],
        ]
        .concat();
        let Message::Relation(r) = parse(&relation).unwrap() else { panic!() };
        assert_eq!((r.name.as_str(), r.identity), ("t", b'd'));
        assert_eq!(r.columns, [("id".to_owned(), true), ("v".to_owned(), false)]);
        let update = [
            &b"U"[..],
            &9_u32.to_be_bytes(),
            b"K",
            &tuple(&[Some("1"), None]),
            b"N",
            &tuple(&[Some("2"), None]),
        ]
        .concat();
        let expected = Message::Update {
            relation: 9,
            old: Some(vec![Value::Text("1".into()), Value::Null]),
            new: vec![Value::Text("2".into()), Value::Null],
        };
        assert_eq!(parse(&update).unwrap(), expected);
        let truncate =
            [&b"T"[..], &2_u32.to_be_bytes(), &[0], &9_u32.to_be_bytes(), &8_u32.to_be_bytes()].concat();
        assert_eq!(parse(&truncate).unwrap(), Message::Truncate { relations: vec![9, 8] });
        // A count that the bytes do not keep is an error, not an allocation.
        assert!(parse(&[b'T', 255, 255, 255, 255, 0]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_usize..9) {
            let _ = parse(&bytes);
            let mut framed = vec![b"BCRIUDTOX"[kind]];
            framed.extend(bytes);
            let _ = parse(&framed);
        }
    }
}
