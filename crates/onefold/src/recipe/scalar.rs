//! What a plain scalar means in YAML 1.1, as PyYAML's `safe_load` reads it.
//!
//! mergekit recipes are written for PyYAML, whose rules differ from YAML 1.2: `yes`, `no`, `on`, `off` are
//! booleans; `010` is octal and `1:30` is base 60; a float needs a dot, and its exponent a sign, so `1e-5` and
//! `1.0e5` are text. (Numeric settings accept such text as a number; that is their business, not YAML's.)
//! Two deviations, both harmless here: dates stay text, and what PyYAML fails to convert (`0x_`) stays text.

/// The type and value of a scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning {
    /// `~`, `null` or nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float, or an integer beyond `i64`.
    Float(f64),
    /// Text: the scalar as written.
    Text,
}

/// What the plain scalar `text` means.
pub fn plain(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Meaning::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Meaning::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Meaning::Float(f64::NAN),
        _ => {}
    }
    let (negative, body) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let signed = body.len() != text.len();
    if matches!(body, ".inf" | ".Inf" | ".INF") {
        return Meaning::Float(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if let Some(value) = integer(body) {
        return match value {
            Meaning::Int(n) if negative => n.checked_neg().map_or(Meaning::Float(-(n as f64)), Meaning::Int),
            Meaning::Float(x) if negative => Meaning::Float(-x),
            other => other,
        };
    }
    // PyYAML knows no sign before a leading dot: `-.5` is text.
    if signed && body.starts_with('.') {
        return Meaning::Text;
    }
    float(body).map_or(Meaning::Text, |x| Meaning::Float(if negative { -x } else { x }))
}

/// An unsigned integer: binary, octal, hexadecimal, decimal or base 60.
fn integer(body: &str) -> Option<Meaning> {
    let first = *body.as_bytes().first()?;
    if !first.is_ascii_digit() {
        return None;
    }
    if let Some(digits) = body.strip_prefix("0b") {
        return radix(digits, 2);
    }
    if let Some(digits) = body.strip_prefix("0x") {
        return radix(digits, 16);
    }
    if body == "0" {
        return Some(Meaning::Int(0));
    }
    if first == b'0' {
        return radix(&body[1..], 8);
    }
    if body.contains(':') {
        let (head, tail) = body.split_once(':')?;
        let parts = std::iter::once(head).chain(tail.split(':'));
        if !decimal(head) || !tail.split(':').all(base60) {
            return None;
        }
        let mut sum: i64 = 0;
        for part in parts {
            let digit: i64 = part.replace('_', "").parse().ok()?;
            sum = sum.checked_mul(60)?.checked_add(digit)?;
        }
        return Some(Meaning::Int(sum));
    }
    if decimal(body) { radix(body, 10) } else { None }
}

/// Digits and underscores in `base`; a value beyond `i64` becomes a float.
fn radix(digits: &str, base: u32) -> Option<Meaning> {
    let digits = digits.replace('_', "");
    // `0_` is octal without digits: PyYAML strips the underscore and reads 0.
    if digits.is_empty() {
        return (base == 8).then_some(Meaning::Int(0));
    }
    if !digits.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    if let Ok(exact) = i64::from_str_radix(&digits, base) {
        return Some(Meaning::Int(exact));
    }
    if base == 10 {
        return digits.parse().ok().map(Meaning::Float);
    }
    // Beyond 128 bits no setting has any use for the value.
    u128::from_str_radix(&digits, base).ok().map(|wide| Meaning::Float(wide as f64))
}

/// An unsigned float with a dot; the exponent has a sign; base 60 allowed before the dot.
fn float(body: &str) -> Option<f64> {
    let (whole, rest) = body.split_once('.')?;
    let (fraction, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    if !fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_') || !exponent.is_none_or(signed_digits) {
        return None;
    }
    if whole.is_empty() {
        let starts_with_digit = fraction.as_bytes().first().is_some_and(u8::is_ascii_digit);
        return if starts_with_digit { bare(body) } else { None };
    }
    if let Some((head, tail)) = whole.split_once(':') {
        if exponent.is_some() || !decimal(head) || !tail.split(':').all(base60) {
            return None;
        }
        let last = tail.rsplit(':').next()?;
        let before = whole.strip_suffix(last)?.trim_end_matches(':');
        let sum = before.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + bare(part)?))?;
        return Some(sum * 60.0 + bare(&format!("{last}.{fraction}"))?);
    }
    if decimal(whole) { bare(body) } else { None }
}

/// The number without its underscores.
fn bare(text: &str) -> Option<f64> {
    text.replace('_', "").parse().ok()
}

/// A digit, then digits and underscores.
fn decimal(text: &str) -> bool {
    text.as_bytes().first().is_some_and(u8::is_ascii_digit)
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

/// 0 to 59, at most two digits.
fn base60(text: &str) -> bool {
    match text.as_bytes() {
        [units] => units.is_ascii_digit(),
        [tens, units] => (b'0'..=b'5').contains(tens) && units.is_ascii_digit(),
        _ => false,
    }
}

/// A sign and at least one digit.
fn signed_digits(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row was read by PyYAML 6.0 (`yaml.safe_load`); `testdata/mergekit/make_scalars.py` repeats it.
    #[test]
    fn reads_scalars_as_pyyaml_does() {
        let golden = include_str!("../../../../testdata/mergekit/scalars.json");
        let rows: Vec<(String, String, serde_json::Value)> =
            serde_json::from_str(golden).expect("golden file");
        assert!(rows.len() > 90);
        for (text, kind, value) in rows {
            let (found_kind, found) = match plain(&text) {
                Meaning::Null => ("null", String::new()),
                Meaning::Bool(b) => ("bool", b.to_string()),
                Meaning::Int(n) => ("int", n.to_string()),
                Meaning::Float(x) if x.is_nan() => ("float", "nan".to_owned()),
                Meaning::Float(x) => ("float", format!("{:016x}", x.to_bits())),
                Meaning::Text => ("text", text.clone()),
            };
            assert_eq!(
                (found_kind, found.as_str()),
                (kind.as_str(), value.as_str().expect("text")),
                "{text:?}"
            );
        }
    }

    #[test]
    fn integers_beyond_i64_become_floats() {
        assert_eq!(plain("9223372036854775807"), Meaning::Int(i64::MAX));
        assert_eq!(plain("9223372036854775808"), Meaning::Float(9223372036854775808.0));
        assert_eq!(plain("-9223372036854775809"), Meaning::Float(-9223372036854775808.0));
    }
}
