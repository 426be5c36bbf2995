//! Durations as people write them: `1h`, `15m`, `30s`, `500ms`.

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a whole number with one of the units.
    #[error("not a duration: write a whole number with a unit, as in `1h`, `15m`, `30s` or `500ms`")]
    Form,
    /// Zero, or above a year.
    #[error("out of range: durations are above zero and at most a year")]
    Range,
}

const YEAR_MS: u64 = 366 * 24 * 3_600_000;

/// Reads a duration, in milliseconds.
///
/// # Errors
/// When the text has another form, is zero, or above a year.
pub fn parse_duration_ms(text: &str) -> Result<u64, DurationError> {
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(DurationError::Form)?;
    let (digits, unit) = text.split_at(split);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(DurationError::Form),
    };
    if digits.is_empty() {
        return Err(DurationError::Form);
    }
    // Only digits: what does not fit into 64 bits is far above a year.
    let count: u64 = digits.parse().map_err(|_| DurationError::Range)?;
    match count.checked_mul(unit_ms) {
        Some(ms) if (1..=YEAR_MS).contains(&ms) => Ok(ms),
        _ => Err(DurationError::Range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood() {
        for (text, ms) in
            [("1h", 3_600_000), ("15m", 900_000), ("30s", 30_000), ("500ms", 500), ("2d", 172_800_000)]
        {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["", "h", "1", "1 h", "-1h", "1.5h", "1H", "1h30m", "1hour", "１h", "+1s"] {
            assert_eq!(parse_duration_ms(bad), Err(DurationError::Form), "{bad:?}");
        }
        for bad in ["0s", "400d", "99999999999999999999999s", "18446744073709551615h"] {
            assert_eq!(parse_duration_ms(bad), Err(DurationError::Range), "{bad:?}");
        }
    }
}
