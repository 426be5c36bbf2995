//! A law counts when it has been seen to fail: readers with one slip each, and what was kept finds every one.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use domicile_chaos_input::{client_hello, identify, proxy_protocol, regions_toml};
use domicile_router_core::identify::host_name;
use domicile_router_core::wire::hello::{self, Hello};
use domicile_router_core::wire::proxy_protocol as proxy;

use crate::kept::kept;

/// Whether some file that is kept for a target makes the check panic.
fn found(target: &str, check: impl Fn(&[u8])) -> bool {
    kept(target).iter().any(|(_, bytes)| catch_unwind(AssertUnwindSafe(|| check(bytes))).is_err())
}

type Slip<T> = (&'static str, fn(&[u8]) -> T);

#[test]
fn slips_in_reading_a_hello_are_found() {
    type Read = Result<hello::Progress, hello::Refused>;
    fn of(bytes: &[u8], change: impl Fn(Hello) -> hello::Progress) -> Read {
        match hello::read(bytes)? {
            hello::Progress::Done(hello) => Ok(change(hello)),
            more => Ok(more),
        }
    }
    let slips: [Slip<Read>; 7] = [
        ("no name", |bytes| of(bytes, |hello| hello::Progress::Done(Hello { name: None, ..hello }))),
        ("another name", |bytes| {
            let other = |hello: Hello| Hello { name: hello.name.map(|n| format!("x{n}")), ..hello };
            of(bytes, |hello| hello::Progress::Done(other(hello)))
        }),
        ("capitals", |bytes| {
            let loud = |hello: Hello| Hello { name: hello.name.map(|n| n.to_uppercase()), ..hello };
            of(bytes, |hello| hello::Progress::Done(loud(hello)))
        }),
        ("a byte short", |bytes| {
            of(bytes, |hello| hello::Progress::Done(Hello { len: hello.len - 1, ..hello }))
        }),
        ("always waiting", |_| Ok(hello::Progress::NeedMore)),
        ("impatient", |bytes| match hello::read(bytes)? {
            hello::Progress::NeedMore => Err(hello::Refused::NotTls),
            done => Ok(done),
        }),
        ("the first record alone", |bytes| {
            let head =
                bytes.first_chunk::<5>().map_or(0, |h| 5 + usize::from(u16::from_be_bytes([h[3], h[4]])));
            match hello::read(bytes)? {
                hello::Progress::Done(hello) if hello.len > head => Err(hello::Refused::TooLong),
                other => Ok(other),
            }
        }),
    ];
    for (slip, read) in slips {
        assert!(found("client_hello", |bytes| client_hello::check_reader(&read, bytes)), "{slip}");
    }
}

#[test]
fn slips_in_reading_a_proxy_header_are_found() {
    use proxy::Progress::{Done, NeedMore};
    type Read = Result<proxy::Progress, proxy::Refused>;
    let slips: [Slip<Read>; 5] = [
        ("a byte too many", |bytes| {
            Ok(match proxy::read(bytes)? {
                Done { len, told } => Done { len: len + 1, told },
                more => more,
            })
        }),
        ("swapped", |bytes| {
            Ok(match proxy::read(bytes)? {
                Done { len, told: Some(told) } => {
                    let told = proxy::Told { source: told.destination, destination: told.source, ..told };
                    Done { len, told: Some(told) }
                }
                other => other,
            })
        }),
        ("everybody splices", |bytes| {
            Ok(match proxy::read(bytes)? {
                Done { len, told: Some(told) } => {
                    Done { len, told: Some(proxy::Told { spliced: true, ..told }) }
                }
                other => other,
            })
        }),
        ("who waits speaks for himself", |bytes| {
            Ok(match proxy::read(bytes)? {
                NeedMore if bytes.len() > 16 => Done { len: bytes.len(), told: None },
                other => other,
            })
        }),
        ("version 1 alone", |bytes| {
            if bytes.starts_with(b"\r\n") { Err(proxy::Refused::None) } else { proxy::read(bytes) }
        }),
    ];
    for (slip, read) in slips {
        assert!(found("proxy_protocol", |bytes| proxy_protocol::check_reader(&read, bytes)), "{slip}");
    }
}

#[test]
fn slips_in_reading_a_host_are_found() {
    fn text(bytes: &[u8]) -> Option<&str> {
        std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty())
    }
    type Read = for<'b> fn(&'b [u8]) -> Option<Cow<'b, str>>;
    let slips: [(&str, Read); 3] = [
        ("capitals", |bytes| host_name(bytes).and(text(bytes)).map(Cow::Borrowed)),
        ("the port", |bytes| host_name(bytes).and(text(bytes)).map(|t| Cow::Owned(t.to_lowercase()))),
        ("the final dot", |bytes| {
            let name = host_name(bytes)?;
            Some(if bytes.ends_with(b".") { Cow::Owned(format!("{name}.")) } else { name })
        }),
    ];
    for (slip, read) in slips {
        assert!(found("identify", |bytes| identify::check_reader(&read, bytes)), "{slip}");
    }
}

#[test]
fn slips_in_reading_a_file_are_found() {
    use domicile_config::{Mistakes, parse};
    use domicile_model::Fleet;
    fn mistaken(text: &str, change: impl Fn(&mut Mistakes)) -> Result<Fleet, Mistakes> {
        parse("f", text).map_err(|mut mistakes| {
            change(&mut mistakes);
            mistakes
        })
    }
    type Read = fn(&str) -> Result<Fleet, Mistakes>;
    let slips: [(&str, Read); 5] = [
        ("no hint", |text| mistaken(text, |m| m.list[0].hint.clear())),
        ("no place", |text| mistaken(text, |m| m.list.iter_mut().for_each(|m| m.line = None))),
        ("a place outside", |text| mistaken(text, |m| m.list[0].line = Some(100_000))),
        ("refused for nothing", |text| mistaken(text, |m| m.list.clear())),
        ("a cell lost", |text| {
            let mut fleet = parse("f", text)?;
            fleet.cells.pop_first();
            Ok(fleet)
        }),
    ];
    for (slip, read) in slips {
        let check =
            |bytes: &[u8]| regions_toml::check_reader(&read, std::str::from_utf8(bytes).unwrap_or("[x]"));
        assert!(found("regions_toml", check), "{slip}");
    }
}
