//! Numbers by the rules of ECMAScript's `Number::toString`, which RFC 8785 takes over.

use serde_json::Number;

use super::JsonError;

/// The canonical text of a number.
pub(super) fn text(number: &Number) -> Result<String, JsonError> {
    let own = number.to_string();
    let whole = number.is_u64() || number.is_i64();
    let double = if whole { own.parse().ok() } else { number.as_f64() };
    let text = double.and_then(ecmascript).ok_or_else(|| JsonError::Inexact(own.clone()))?;
    // 2^53 + 1 would become its neighbour, and 2^60 would lose its last digits: two integers with one canonical form.
    if whole && text != own { Err(JsonError::Inexact(own)) } else { Ok(text) }
}

/// As ECMAScript writes it; none for what is no number in JSON (NaN, infinities).
pub(super) fn ecmascript(double: f64) -> Option<String> {
    if !double.is_finite() {
        return None;
    }
    if double == 0.0 {
        // Minus zero too.
        return Some("0".to_owned());
    }
    // Rust gives the fewest digits that read back as the same double, which are those that ECMAScript asks for, but for a
    // tie: of two equally near ones the RFC takes the even one, as rounding to that many digits does.
    let shortest = format!("{:e}", double.abs());
    let places = shortest.find('e')?.saturating_sub(2);
    let rounded = format!("{:.places$e}", double.abs());
    let shortest = if rounded.parse() == Ok(double.abs()) { rounded } else { shortest };
    let (mantissa, exponent) = shortest.split_once('e')?;
    let exponent: i32 = exponent.parse().ok()?;
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let count = i32::try_from(digits.len()).ok()?;
    // The value is 0.digits × 10^point.
    let point = exponent + 1;
    let zeros = |n: i32| "0".repeat(usize::try_from(n).unwrap_or(0));
    let unsigned = if count <= point && point <= 21 {
        format!("{digits}{}", zeros(point - count))
    } else if 0 < point && point <= 21 {
        let (whole, fraction) = digits.split_at_checked(usize::try_from(point).ok()?)?;
        format!("{whole}.{fraction}")
    } else if -6 < point && point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else {
        let (first, rest) = digits.split_at_checked(1)?;
        let dot = if rest.is_empty() { "" } else { "." };
        format!("{first}{dot}{rest}e{exponent:+}")
    };
    Some(if double < 0.0 { format!("-{unsigned}") } else { unsigned })
}
