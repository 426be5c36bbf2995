//! Hellos that rustls's own client makes, cut into records at any places and read byte by byte; and what no good client
//! sends, added to them.

use std::sync::Arc;

use domicile_chaos_input::client_hello::check;
use domicile_router_core::wire::hello::{Hello, MOST, Progress, Refused, read};
use proptest::prelude::*;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// What a client is told to do.
#[derive(Debug, Clone, Default)]
struct Client {
    protocols: Vec<Vec<u8>>,
    tls12: bool,
    names_nobody: bool,
    /// Bytes in its records; none: as many as there may be.
    fragment: Option<usize>,
}

impl Client {
    /// The first bytes that it sends.
    fn hello(&self, host: &ServerName<'static>) -> Vec<u8> {
        let versions = if self.tls12 { &[&rustls::version::TLS12][..] } else { rustls::DEFAULT_VERSIONS };
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols.clone_from(&self.protocols);
        config.enable_sni = !self.names_nobody;
        config.max_fragment_size = self.fragment;
        let mut connection = ClientConnection::new(Arc::new(config), host.clone()).unwrap();
        let mut bytes = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }
}

fn host(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap()
}

/// What the records carry.
fn message(mut wire: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some((head, rest)) = wire.split_first_chunk::<5>() {
        let (piece, rest) = rest.split_at(usize::from(u16::from_be_bytes([head[3], head[4]])));
        message.extend_from_slice(piece);
        wire = rest;
    }
    message
}

/// In records of these sizes, again and again.
fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut wire, mut rest) = (Vec::new(), message);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(rest.len().min(*size));
        let len = u16::try_from(piece.len()).unwrap().to_be_bytes();
        wire.extend([22, 3, 1, len[0], len[1]]);
        wire.extend_from_slice(piece);
        rest = after;
    }
    wire
}

/// The message with one more extension, in front of the others.
fn extended(message: &[u8], kind: u16, value: &[u8]) -> Vec<u8> {
    let session = 4 + 2 + 32;
    let ciphers = session + 1 + usize::from(message[session]);
    let methods = ciphers + 2 + usize::from(u16::from_be_bytes([message[ciphers], message[ciphers + 1]]));
    let list = methods + 1 + usize::from(message[methods]);
    let size = |len: usize| u16::try_from(len).unwrap().to_be_bytes();
    let more = [&kind.to_be_bytes()[..], &size(value.len()), value].concat();
    let others = &message[list + 2..];
    let body = [&message[4..list], &size(more.len() + others.len()), &more, others].concat();
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, len[1], len[2], len[3]][..], &body].concat()
}

fn server_names(names: &[&[u8]]) -> Vec<u8> {
    let size = |len: usize| u16::try_from(len).unwrap().to_be_bytes();
    let list: Vec<u8> = names.iter().flat_map(|name| [&[0][..], &size(name.len()), name].concat()).collect();
    [&size(list.len())[..], &list].concat()
}

fn asks(wire: &[u8]) -> Hello {
    check(wire);
    match read(wire) {
        Ok(Progress::Done(hello)) => {
            assert_eq!(hello.len, wire.len());
            hello
        }
        other => panic!("{other:?}"),
    }
}

fn name() -> impl Strategy<Value = String> {
    let label = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,14}[a-zA-Z0-9])?";
    (proptest::collection::vec(label, 0..4), "[a-zA-Z]{1,10}[.]?").prop_map(|(mut labels, last)| {
        labels.push(last);
        labels.join(".")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_name_that_a_client_asks_for_is_read_however_it_is_cut(
        name in name(),
        protocols in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..30), 0..8),
        tls12: bool,
        fragment in proptest::option::of(32usize..600),
        sizes in proptest::collection::vec(1usize..80, 1..6),
    ) {
        let wire = Client { protocols, tls12, fragment, ..Client::default() }.hello(&host(&name));
        let expected = name.trim_end_matches('.').to_ascii_lowercase();
        prop_assert_eq!(asks(&wire).name, Some(expected.clone()));
        let wire = records(&message(&wire), &sizes);
        for cut in 0..wire.len() {
            prop_assert_eq!(read(&wire[..cut]), Ok(Progress::NeedMore), "{} of {}", cut, wire.len());
        }
        let hello = asks(&wire);
        prop_assert_eq!((hello.name, hello.encrypted), (Some(expected), false));
    }

    #[test]
    fn a_second_hello_inside_is_seen_wherever_it_is(name in name(), inner: Vec<u8>, sizes in proptest::collection::vec(1usize..400, 1..6)) {
        let plain = message(&Client::default().hello(&host(&name)));
        let hello = asks(&records(&extended(&plain, 0xfe0d, &inner), &sizes));
        prop_assert_eq!(hello.name, Some(name.trim_end_matches('.').to_ascii_lowercase()));
        prop_assert!(hello.encrypted);
    }

    #[test]
    fn a_byte_that_was_changed_makes_no_other_name_than_rustls_reads(name in name(), at: prop::sample::Index, byte: u8) {
        let mut wire = Client::default().hello(&host(&name));
        let at = at.index(wire.len());
        wire[at] = byte;
        check(&wire);
    }
}

#[test]
fn who_names_nobody_or_an_address_asks_for_no_name() {
    let silent = Client { names_nobody: true, ..Client::default() }.hello(&host("a.example"));
    assert_eq!(asks(&silent).name, None);
    for address in ["192.0.2.1", "2001:db8::1"] {
        assert_eq!(asks(&Client::default().hello(&host(address))).name, None);
        let said = extended(&message(&silent), 0, &server_names(&[address.as_bytes()]));
        assert_eq!(asks(&records(&said, &[16_384])).name, None, "said as if it were a name");
    }
}

#[test]
fn two_names_are_none_that_can_be_trusted() {
    let silent = message(&Client { names_nobody: true, ..Client::default() }.hello(&host("a.example")));
    let one = extended(&silent, 0, &server_names(&[b"a.example"]));
    assert_eq!(asks(&records(&one, &[100])).name.as_deref(), Some("a.example"));
    let in_one_list = extended(&silent, 0, &server_names(&[b"a.example", b"b.example"]));
    for two in [in_one_list, extended(&one, 0, &server_names(&[b"b.example"])), extended(&one, 0, &[])] {
        let wire = records(&two, &[100]);
        check(&wire);
        assert!(matches!(read(&wire), Err(Refused::Malformed(_))), "{:?}", read(&wire));
    }
}

#[test]
fn a_hello_is_large_but_not_larger_than_the_bound() {
    let protocols = (0u8..250).map(|n| vec![n; 200]).collect();
    let wire = Client { protocols, ..Client::default() }.hello(&host("a.example"));
    assert!(wire.len() > 3 * 16_384, "in several records");
    assert_eq!(asks(&wire).name.as_deref(), Some("a.example"));

    let plain = message(&Client::default().hello(&host("a.example")));
    let largest = |len: usize| extended(&plain, 21, &vec![0; len]);
    let most = largest(65_000);
    assert!(most.len() < MOST);
    assert_eq!(asks(&records(&most, &[16_384])).name.as_deref(), Some("a.example"));
    // Longer than extensions can be: by what it says of itself.
    let mut long = most.clone();
    long[1..4].copy_from_slice(&[1, 0, 1]);
    check(&records(&long, &[16_384]));
    assert_eq!(read(&records(&long, &[16_384])), Err(Refused::TooLong));
    assert_eq!(read(&records(&most, &[1])), Err(Refused::TooLong), "a record for each byte");
}
