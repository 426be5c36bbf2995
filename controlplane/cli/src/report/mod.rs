//! `domicile report …`

pub mod rto;
pub mod sla;

use jiff::Timestamp;

/// A moment in milliseconds since 1970, as people read it.
fn moment(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "-".to_owned(), |at| format!("{at:.3}"))
}

/// A field of CSV (RFC 4180).
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A line of CSV.
fn line(fields: &[String]) -> String {
    fields.iter().map(|text| field(text)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        let fields = ["a", "b,c", "say \"d\"", "e\nf", ""].map(str::to_owned);
        assert_eq!(line(&fields), "a,\"b,c\",\"say \"\"d\"\"\",\"e\nf\",");
        assert_eq!(moment(0), "1970-01-01T00:00:00.000Z");
    }
}
