//! `domicile exit-codes`

use crate::exit::Exit;
use crate::fail::Failure;
use crate::out::Out;

/// Runs it.
pub(crate) fn run(out: &mut Out) -> Result<Exit, Failure> {
    if out.json {
        let all: Vec<_> = Exit::ALL
            .iter()
            .map(|e| serde_json::json!({ "code": e.code(), "name": e.name(), "meaning": e.meaning() }))
            .collect();
        out.data(&all)?;
    } else {
        let rows = Exit::ALL
            .iter()
            .map(|e| vec![e.code().to_string(), e.name().to_owned(), e.meaning().to_owned()])
            .collect();
        out.table(&["CODE", "NAME", "MEANING"], rows)?;
    }
    Ok(Exit::Ok)
}
