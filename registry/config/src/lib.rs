//! regions.toml: read in its short and long form, with every mistake reported at once.
//!
//! The text is walked by hand over the parser's spans: serde's derived readers stop at the first mistake, and lose
//! the line as soon as a short and a long form share a key.

mod duration;
mod mistake;
mod read;
mod suggest;
mod walk;

use domicile_model::Fleet;
use domicile_model::validate::violations;
use toml::de::DeTable;

pub use duration::{DurationError, parse_duration_ms};
pub use mistake::{Mistake, Mistakes};
use walk::Walk;

/// The largest file that is read, in bytes.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Reads the text of a regions.toml. `file` is its name as the user wrote it, for the report.
///
/// # Errors
/// Everything that is wrong with it: syntax, unknown keys, wrong types, ill-formed values, and what contradicts itself.
pub fn parse(file: &str, text: &str) -> Result<Fleet, Mistakes> {
    let refuse = |list| Mistakes { file: file.to_owned(), list };
    if text.len() > MAX_BYTES {
        return Err(refuse(vec![Mistake {
            line: None,
            what: format!("the file has {} bytes, more than {MAX_BYTES}", text.len()),
            hint: "split the fleet into several registries".into(),
        }]));
    }
    let (root, syntax) = DeTable::parse_recoverable(text);
    let mut walk = Walk::new(text);
    for error in &syntax {
        walk.syntax(error, text);
    }
    let read = read::fleet(&mut walk, root.get_ref());
    for violation in violations(&read.fleet) {
        if !read.broken.explains(&violation, &read.fleet) {
            let place = walk::locate(root.get_ref(), &violation.path);
            walk.mistake(place, violation.what, violation.hint);
        }
    }
    let list = walk.finish();
    if list.is_empty() { Ok(read.fleet) } else { Err(refuse(list)) }
}
