//! The ClientHello (RFC 8446, section 4.1.2): the name that a client asks for, read without answering and without any key.
//!
//! It may come in pieces of any size, over any number of records. What is read here decides who may decrypt, so what is
//! not understood is refused and never guessed.

/// The longest ClientHello that is read, in bytes. Real ones have less than 2,000; tickets and keys of the future more.
pub const MOST: usize = 64 << 10;
/// The most bytes that may carry it: pieces of a few bytes each are allowed, a record for each byte is not.
pub const MOST_WIRE: usize = 2 * MOST;

const RECORD: usize = 5;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Bytes in one record (RFC 8446, section 5.1).
const MOST_RECORD: usize = 1 << 14;
const SERVER_NAME: u16 = 0;
/// `encrypted_client_hello` (RFC 9849).
const ENCRYPTED: u16 = 0xfe0d;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The host that is asked for, in lower case; none: it asks for none, or for an address.
    pub name: Option<String>,
    /// It has a second hello in it that only the holder of a key can read, or pretends to. Then `name` is the outer one.
    pub encrypted: bool,
    /// Bytes of the records that carry it.
    pub len: usize,
}

/// How far the reader has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    NeedMore,
    /// All of it has come.
    Done(Hello),
}

/// Why it can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It begins with something else.
    #[error("the connection does not begin with a TLS handshake")]
    NotTls,
    /// It, or what carries it, is longer than is read.
    #[error("the ClientHello is too long")]
    TooLong,
    /// It breaks the rules.
    #[error("the ClientHello is malformed: {0}")]
    Malformed(&'static str),
}

/// Reads a hello from everything that has come so far.
///
/// # Errors
/// What is wrong with it. Nothing is known of the connection then.
pub fn read(bytes: &[u8]) -> Result<Progress, Refused> {
    let bad = Refused::Malformed;
    // Where the records' contents lie, and how much there is of them; put together only once all is there.
    let (mut at, mut pieces, mut have, mut whole) = (0, Vec::new(), 0, None);
    while whole.is_none_or(|whole| have < whole) {
        let head = &bytes[at..bytes.len().min(at + RECORD)];
        if head.first().is_some_and(|kind| *kind != HANDSHAKE) || head.get(1).is_some_and(|major| *major != 3)
        {
            return Err(if at == 0 { Refused::NotTls } else { bad("another record comes in between") });
        }
        let Some(&[_, _, _, high, low]) = head.first_chunk::<RECORD>() else {
            return more(bytes);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if len == 0 || len > MOST_RECORD {
            return Err(if at == 0 { Refused::NotTls } else { bad("a record of no possible length") });
        }
        let from = at + RECORD;
        let piece = &bytes[from..bytes.len().min(from + len)];
        pieces.push(piece);
        have += piece.len();
        if whole.is_none() {
            let mut head = pieces.iter().copied().flatten();
            if head.next().is_some_and(|kind| *kind != CLIENT_HELLO) {
                return Err(Refused::NotTls);
            }
            if let (Some(a), Some(b), Some(c)) = (head.next(), head.next(), head.next()) {
                let body = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                if body > MOST {
                    return Err(Refused::TooLong);
                }
                whole = Some(4 + body);
            }
        }
        if piece.len() < len && whole.is_none_or(|whole| have < whole) {
            return more(bytes);
        }
        at = from + len;
        if at > MOST_WIRE {
            return Err(Refused::TooLong);
        }
    }
    let whole = whole.unwrap_or(have);
    // A client waits for the answer after its hello, so nothing may stand behind it, come or still to come.
    if have > whole || at > bytes.len() {
        return Err(bad("something stands behind it in its record"));
    }
    let message: Vec<u8> = pieces.concat();
    let (name, encrypted) = body(message.get(4..whole).unwrap_or_default())?;
    Ok(Progress::Done(Hello { name, encrypted, len: at }))
}

fn more(bytes: &[u8]) -> Result<Progress, Refused> {
    if bytes.len() > MOST_WIRE { Err(Refused::TooLong) } else { Ok(Progress::NeedMore) }
}

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    const SHORT: Refused = Refused::Malformed("a field is cut short");

    fn take(&mut self, len: usize) -> Result<&'a [u8], Refused> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Self::SHORT)?;
        self.0 = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<usize, Refused> {
        Ok(usize::from(self.take(1)?[0]))
    }

    fn short(&mut self) -> Result<u16, Refused> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A field with its length in two bytes before it.
    fn long_field(&mut self) -> Result<&'a [u8], Refused> {
        let len = usize::from(self.short()?);
        self.take(len)
    }
}

fn body(bytes: &[u8]) -> Result<(Option<String>, bool), Refused> {
    let bad = Refused::Malformed;
    let mut fields = Fields(bytes);
    if fields.short()? >> 8 != 3 {
        return Err(bad("a version that never was"));
    }
    let _random = fields.take(32)?;
    let session = fields.byte()?;
    if session > 32 {
        return Err(bad("a session of no possible length"));
    }
    fields.take(session)?;
    let ciphers = fields.long_field()?;
    if ciphers.is_empty() || ciphers.len() % 2 == 1 {
        return Err(bad("no list of ciphers"));
    }
    let methods = fields.byte()?;
    if methods == 0 {
        return Err(bad("no list of compressions"));
    }
    fields.take(methods)?;
    if fields.0.is_empty() {
        // Before TLS 1.3 there may be no extensions at all.
        return Ok((None, false));
    }
    let mut extensions = Fields(fields.long_field()?);
    if !fields.0.is_empty() {
        return Err(bad("something stands behind its extensions"));
    }
    let (mut name, mut encrypted) = (None, false);
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let value = extensions.long_field()?;
        match kind {
            // Which of the two would count? Servers do not agree.
            SERVER_NAME if name.is_some() => return Err(bad("two lists of names")),
            SERVER_NAME => name = Some(server_name(value)?),
            ENCRYPTED => encrypted = true,
            _ => {}
        }
    }
    Ok((name.flatten(), encrypted))
}

/// RFC 6066, section 3: one name of the only kind that there is.
fn server_name(value: &[u8]) -> Result<Option<String>, Refused> {
    let bad = Refused::Malformed;
    let mut fields = Fields(value);
    let mut list = Fields(fields.long_field()?);
    if !fields.0.is_empty() || list.0.is_empty() {
        return Err(bad("no list of names"));
    }
    if list.byte()? != 0 {
        return Err(bad("a name of an unknown kind"));
    }
    let name = list.long_field()?;
    if !list.0.is_empty() {
        return Err(bad("more than one name"));
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let text = match std::str::from_utf8(name) {
        // Clients that should know better ask for an address: that is no name.
        Ok(text) if text.parse::<std::net::IpAddr>().is_ok() => return Ok(None),
        Ok(text) if !name.is_empty() && name.len() <= 253 && name.iter().all(plain) => text,
        _ => return Err(bad("a name that can't be a host's")),
    };
    if text.split('.').any(str::is_empty) {
        return Err(bad("a name with an empty label"));
    }
    Ok(Some(text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(value.len()).unwrap();
        [&kind.to_be_bytes()[..], &len.to_be_bytes(), value].concat()
    }

    fn name(text: &[u8]) -> Vec<u8> {
        let len = u16::try_from(text.len()).unwrap();
        let list = [&[0][..], &len.to_be_bytes(), text].concat();
        let all = u16::try_from(list.len()).unwrap();
        extension(SERVER_NAME, &[&all.to_be_bytes()[..], &list].concat())
    }

    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let len = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO, len[1], len[2], len[3]][..], &body].concat()
    }

    fn records(message: &[u8], each: usize) -> Vec<u8> {
        let record = |piece: &[u8]| {
            let len = u16::try_from(piece.len()).unwrap().to_be_bytes();
            [&[HANDSHAKE, 3, 1, len[0], len[1]][..], piece].concat()
        };
        message.chunks(each).flat_map(record).collect()
    }

    fn hello(name: Option<&str>, encrypted: bool, len: usize) -> Result<Progress, Refused> {
        Ok(Progress::Done(Hello { name: name.map(Into::into), encrypted, len }))
    }

    #[test]
    fn the_name_is_read_over_any_records_and_in_any_pieces() {
        let message = message(&[name(b"Mercy.Example.com"), extension(43, &[2, 3, 4])].concat());
        for each in [1, 2, 3, 5, 40, 16_384] {
            let wire = records(&message, each);
            for end in 0..wire.len() {
                assert_eq!(read(&wire[..end]), Ok(Progress::NeedMore), "{each} {end}");
            }
            assert_eq!(read(&wire), hello(Some("mercy.example.com"), false, wire.len()));
            // What the client has sent on: early data, say.
            let more = [&wire[..], &[23, 3, 3, 0, 1, 9]].concat();
            assert_eq!(read(&more), hello(Some("mercy.example.com"), false, wire.len()));
        }
    }

    #[test]
    fn no_name_an_address_and_an_encrypted_hello_are_told_apart() {
        let read = |extensions: &[u8]| read(&records(&message(extensions), 16_384));
        let is = |found: Result<Progress, Refused>, name: Option<&str>, encrypted| match found {
            Ok(Progress::Done(hello)) => {
                assert_eq!((hello.name.as_deref(), hello.encrypted), (name, encrypted));
            }
            other => panic!("{other:?}"),
        };
        is(read(&extension(43, &[2, 3, 4])), None, false);
        is(read(&name(b"192.0.2.1")), None, false);
        is(read(&name(b"2001:db8::1")), None, false);
        is(
            read(&[extension(ENCRYPTED, &[0; 40]), name(b"public.example")].concat()),
            Some("public.example"),
            true,
        );
    }

    #[test]
    fn a_large_hello_is_read_up_to_the_bound() {
        let wire = records(&message(&[extension(21, &vec![0; 60_000]), name(b"a.example")].concat()), 16_384);
        assert_eq!(read(&wire), hello(Some("a.example"), false, wire.len()));
        let too_long = [HANDSHAKE, 3, 1, 0x40, 0, CLIENT_HELLO, 2, 0, 0];
        assert_eq!(read(&too_long), Err(Refused::TooLong));
        let drops = records(&message(&extension(21, &vec![0; 60_000])), 1);
        assert_eq!(read(&drops), Err(Refused::TooLong), "a record for each byte");
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        let refused = |extensions: &[u8]| {
            let wire = records(&message(extensions), 16_384);
            assert!(matches!(read(&wire), Err(Refused::Malformed(_))), "{extensions:?}: {:?}", read(&wire));
        };
        refused(&[name(b"a.example"), name(b"b.example")].concat());
        refused(&name(b""));
        refused(&name(b"a..example"));
        refused(&name(b"a.example."));
        refused(&name(b"a\0.example"));
        refused(&name("ä.example".as_bytes()));
        refused(&name(&[b'a'; 254]));
        refused(&extension(SERVER_NAME, &[0, 0]));
        refused(&extension(SERVER_NAME, &[0, 4, 1, 0, 1, b'a']));
        refused(&extension(SERVER_NAME, &[0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b']));
        refused(&extension(SERVER_NAME, &[0, 9, 0, 0, 1, b'a']));
        refused(&[0, 0, 0]);
        for not in
            [&b"GET / HTTP/1.1\r\n"[..], b"\x80\x2e\x01\x03\x01", b"\x16\x02\x00", b"\x16\x03\x01\x00\x00"]
        {
            assert_eq!(read(not), Err(Refused::NotTls));
        }
        // Two records with something else in between, and two messages in one record.
        let whole = message(&name(b"a.example"));
        let first = records(&whole[..20], 20);
        assert!(matches!(read(&[&first[..], &[20, 3, 3, 0, 1, 1]].concat()), Err(Refused::Malformed(_))));
        let double = [&whole[..], &whole].concat();
        assert!(matches!(read(&records(&double, 16_384)), Err(Refused::Malformed(_))));
    }
}
