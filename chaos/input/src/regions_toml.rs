//! regions.toml: whatever a person writes is taken as it stands or refused with all that is wrong, and where.

use std::fmt::Debug;

use domicile_config::{Mistakes, parse};
use domicile_model::Fleet;
use domicile_model::validate::violations;
use domicile_store::codec::{Record, decode, encode};

/// A reader.
pub type Read<'r> = &'r dyn Fn(&str) -> Result<Fleet, Mistakes>;

/// The laws, of the product's reader. What is no UTF-8 is mended first: editors do the same.
///
/// # Panics
/// When it breaks one.
pub fn check(bytes: &[u8]) {
    check_reader(&|text| parse("f", text), &String::from_utf8_lossy(bytes));
}

/// The laws, of any reader.
///
/// # Panics
/// When it breaks one.
pub fn check_reader(read: Read<'_>, text: &str) {
    let found = read(text);
    assert_eq!(read(text), found, "a second reading");
    match found {
        Ok(fleet) => {
            assert_eq!(violations(&fleet), [], "it was taken");
            if !text.ends_with('\r') {
                assert_eq!(
                    read(&format!("{text}\n# The end.\n")).as_ref(),
                    Ok(&fleet),
                    "with a comment below"
                );
            }
            stored(&fleet);
        }
        Err(mistakes) => report(&mistakes, text),
    }
}

/// Each mistake says what is wrong, where, and what to do, in that order of lines, and can be printed.
fn report(mistakes: &Mistakes, text: &str) {
    let lines = 1 + text.matches('\n').count();
    assert!(!mistakes.list.is_empty(), "refused for nothing");
    for mistake in &mistakes.list {
        assert!(!mistake.what.trim().is_empty() && !mistake.hint.trim().is_empty(), "{mistake:?}");
        let printed = format!("{}{}", mistake.what, mistake.hint);
        assert!(!printed.contains(char::is_control), "{mistake:?}");
        match mistake.line {
            Some(line) => assert!((1..=lines).contains(&line), "{mistake:?} of {lines} lines"),
            // Only what is wrong with the file as a whole has no place.
            None => assert!(
                mistake.what == "there is no [regions]"
                    || mistake.what.ends_with("more mistakes are not shown"),
                "{mistake:?} has no place"
            ),
        }
    }
    let at: Vec<usize> = mistakes.list.iter().map(|m| m.line.unwrap_or(usize::MAX)).collect();
    assert!(at.is_sorted(), "{at:?}");
}

/// What was accepted goes into the registry and comes back as it was.
fn stored(fleet: &Fleet) {
    fleet.regions.values().for_each(comes_back);
    fleet.jurisdictions.values().for_each(comes_back);
    fleet.cells.values().for_each(comes_back);
    fleet.tenants.values().for_each(comes_back);
    fleet.approvals.iter().for_each(comes_back);
}

fn comes_back<T: Record + PartialEq + Debug>(record: &T) {
    match decode::<T>(&encode(record)) {
        Ok(again) => assert_eq!(again, *record),
        Err(why) => panic!("{why}: {record:?}"),
    }
}
