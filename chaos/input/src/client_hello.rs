//! The ClientHello: the router's reader decides who may decrypt, so it must see the name that every other reader sees.
//! rustls's own is the other one here.

use domicile_router_core::wire::hello::{self, Hello, MOST_WIRE, Progress, Refused};
use rustls::server::Acceptor;

use crate::dice::Dice;
use crate::growing::decides_once;

/// A reader.
pub type Read<'r> = &'r dyn Fn(&[u8]) -> Result<Progress, Refused>;

/// What rustls makes of some bytes.
#[derive(Debug)]
enum Theirs {
    NeedMore,
    /// A hello that asks for this name, in lower case and without the final dot.
    Read(Option<String>),
    Refused,
}

/// The laws, of the router's reader.
///
/// # Panics
/// When it breaks one.
pub fn check(bytes: &[u8]) {
    check_reader(&hello::read, bytes);
}

/// The laws, of any reader.
///
/// # Panics
/// When it breaks one.
pub fn check_reader(read: Read<'_>, bytes: &[u8]) {
    let ours = read(bytes);
    // Of two reasons to refuse, either will do.
    let understood = |bytes: &[u8]| match read(bytes) {
        Ok(Progress::NeedMore) => None,
        Ok(Progress::Done(hello)) => Some(Some(hello)),
        Err(_) => Some(None),
    };
    decides_once(bytes, understood);
    let theirs = rustls(bytes);
    match ours {
        Ok(Progress::NeedMore) => {
            assert!(bytes.len() <= MOST_WIRE, "it waits after {} bytes", bytes.len());
            assert!(
                !matches!(theirs, Theirs::Read(_)),
                "it waits for more of what rustls has read: {theirs:?}"
            );
        }
        Ok(Progress::Done(hello)) => {
            assert!((1..=bytes.len()).contains(&hello.len), "{hello:?} of {} bytes", bytes.len());
            let wire = &bytes[..hello.len];
            assert_eq!(understood(wire), Some(Some(hello.clone())), "what carries it is enough");
            if let Some(name) = &hello.name {
                proper(name);
            }
            let exactly = rustls(wire);
            assert!(!matches!(exactly, Theirs::NeedMore), "rustls waits for more: {hello:?}");
            for theirs in [theirs, exactly] {
                if let Theirs::Read(name) = theirs {
                    assert_eq!(hello.name, name, "the name that we read, and that rustls reads");
                }
            }
            cut_otherwise(read, &hello, wire);
        }
        // It may refuse what rustls takes: then nobody is served, and nobody wrongly.
        Err(_) => {}
    }
}

fn proper(name: &str) {
    assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
    assert!(name.is_ascii() && !name.contains(char::is_uppercase), "{name:?}");
    assert!(!name.split('.').any(str::is_empty), "{name:?}");
}

/// The same message in records of other sizes says the same.
fn cut_otherwise(read: Read<'_>, hello: &Hello, wire: &[u8]) {
    const HEAD: usize = 5;
    let mut message = Vec::new();
    let mut rest = wire;
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let (piece, after) = after.split_at(usize::from(u16::from_be_bytes([head[3], head[4]])));
        message.extend_from_slice(piece);
        rest = after;
    }
    let mut dice = Dice::of(wire);
    let most = 1 + dice.below(100);
    let mut again = Vec::new();
    let mut rest = &message[..];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(1 + dice.below(most)));
        again.extend([22, 3, 1, 0]);
        again.extend(u8::try_from(piece.len()));
        again.extend_from_slice(piece);
        rest = after;
    }
    if again.len() <= MOST_WIRE {
        let same = Hello { len: again.len(), ..hello.clone() };
        assert_eq!(read(&again), Ok(Progress::Done(same)), "in records of at most {most} bytes");
    }
}

fn rustls(bytes: &[u8]) -> Theirs {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return Theirs::Read(name.map(|name| name.trim_end_matches('.').to_owned()));
            }
            Ok(None) if rest.is_empty() => return Theirs::NeedMore,
            Ok(None) if acceptor.read_tls(&mut rest).is_ok() => {}
            Ok(None) | Err(_) => return Theirs::Refused,
        }
    }
}
