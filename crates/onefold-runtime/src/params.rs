//! What settings of a method may be: kinds of values with their ranges, defaults, and the values themselves.
//!
//! A merge method or a balancer states each of its parameters once, with a [`Kind`], a [`enum@Default`] and a sentence of
//! help. Recipes are judged by that declaration before anything is read, and the tables of the guide are generated from
//! it, so a parameter cannot be checked one way and documented another.
//!
//! Conversions follow mergekit: `true` is 1 where a number is expected, 0 and 1 are booleans where a flag is
//! expected, and text that reads as a number is that number (`1e-5` is text in YAML 1.1). NaN and infinities
//! are never valid, even where a range has no end: no method can do anything useful with them.

use std::fmt;

use serde::Serialize;

/// Values a parameter accepts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A finite number in `[min, max]`, or in `(min, max]` if `min_open`. An infinite end means "no limit".
    Number {
        /// Smallest value, itself excluded if `min_open`.
        min: f64,
        /// Largest value.
        max: f64,
        /// Whether `min` itself is excluded.
        min_open: bool,
    },
    /// A whole number in `[min, max]`.
    Integer {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
    },
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`, or one of these words.
    FlagOr(&'static [&'static str]),
    /// A list of texts.
    TextList,
}

/// What holds if a recipe gives no value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Default {
    /// Nothing: the recipe must give a value. For a parameter that each model has, the base model is excepted.
    Required,
    /// No value: the method knows what that means.
    Optional,
    /// This number (also for [`Kind::Integer`]).
    Number(f64),
    /// This flag.
    Flag(bool),
    /// This word of a [`Kind::Choice`].
    Choice(&'static str),
}

/// A value of a parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A number; whole for [`Kind::Integer`].
    Number(f64),
    /// A boolean.
    Flag(bool),
    /// A word.
    Text(String),
    /// Several texts.
    TextList(Vec<String>),
}

impl Kind {
    /// Any finite number.
    pub const NUMBER: Self = Self::Number { min: f64::NEG_INFINITY, max: f64::INFINITY, min_open: false };
    /// A share of the elements that is kept: `(0, 1]`.
    pub const DENSITY: Self = Self::Number { min: 0.0, max: 1.0, min_open: true };

    /// `value` in this kind's own form, or a sentence saying what was expected and what was found.
    pub fn check(&self, value: &Value) -> Result<Value, String> {
        let refused = || format!("expected {self}, found {value}");
        match self {
            Self::Number { min, max, min_open } => {
                let number = value.as_number().ok_or_else(refused)?;
                let above = if *min_open { number > *min } else { number >= *min };
                if number.is_finite() && number.abs() > f64::from(f32::MAX) {
                    return Err(format!("{}, which is more than f32 holds (3.4e38)", refused()));
                }
                let inside = number.is_finite() && above && number <= *max;
                if inside { Ok(Value::Number(number)) } else { Err(refused()) }
            }
            Self::Integer { min, max } => {
                let number = value.as_number().and_then(whole).ok_or_else(refused)?;
                if (*min..=*max).contains(&number) {
                    Ok(Value::Number(number as f64))
                } else {
                    Err(refused())
                }
            }
            Self::Flag => value.as_flag().map(Value::Flag).ok_or_else(refused),
            Self::Choice(words) => match value {
                Value::Text(word) if words.contains(&word.as_str()) => Ok(value.clone()),
                _ => Err(refused()),
            },
            Self::FlagOr(words) => match value {
                Value::Text(word) if words.contains(&word.as_str()) => Ok(value.clone()),
                _ => value.as_flag().map(Value::Flag).ok_or_else(refused),
            },
            Self::TextList => match value {
                Value::TextList(_) => Ok(value.clone()),
                Value::Text(text) => Ok(Value::TextList(vec![text.clone()])),
                _ => Err(refused()),
            },
        }
    }
}

/// The accepted values in words, as they stand in error messages and in the guide.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number { min, max, min_open } => number_range(f, *min, *max, *min_open),
            Self::Integer { min: i64::MIN, max: i64::MAX } => f.write_str("a whole number"),
            Self::Integer { min, max: i64::MAX } => write!(f, "a whole number of at least {min}"),
            Self::Integer { min: i64::MIN, max } => write!(f, "a whole number of at most {max}"),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Flag => f.write_str("true or false"),
            Self::Choice([]) => f.write_str("no value"),
            Self::Choice([only]) => write!(f, "`{only}`"),
            Self::Choice([first @ .., last]) => {
                let list: Vec<_> = first.iter().map(|word| format!("`{word}`")).collect();
                write!(f, "{} or `{last}`", list.join(", "))
            }
            Self::FlagOr(words) => {
                let list: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
                write!(f, "true, false or {}", list.join(" or "))
            }
            Self::TextList => f.write_str("a list of texts"),
        }
    }
}

fn number_range(f: &mut fmt::Formatter<'_>, min: f64, max: f64, min_open: bool) -> fmt::Result {
    let open = if min_open { '(' } else { '[' };
    match (min.is_finite(), max.is_finite()) {
        (false, false) => f.write_str("a number"),
        (true, false) if min_open => write!(f, "a number greater than {min}"),
        (true, false) => write!(f, "a number of at least {min}"),
        (false, true) => write!(f, "a number of at most {max}"),
        (true, true) => write!(f, "a number in {open}{min}, {max}]"),
    }
}

/// Words for the guide's table: `required`, `none`, or the value.
impl fmt::Display for Default {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required => f.write_str("required"),
            Self::Optional => f.write_str("none"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Choice(word) => f.write_str(word),
        }
    }
}

impl Default {
    /// The value to use, if the default is one.
    pub fn value(&self) -> Option<Value> {
        match self {
            Self::Required | Self::Optional => None,
            Self::Number(number) => Some(Value::Number(*number)),
            Self::Flag(flag) => Some(Value::Flag(*flag)),
            Self::Choice(word) => Some(Value::Text((*word).to_owned())),
        }
    }
}

impl Value {
    /// The value as a number, as mergekit converts: `true` is 1, and text may be a number.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Flag(flag) => Some(f64::from(u8::from(*flag))),
            Self::Text(text) => parse_number(text),
            Self::TextList(_) => None,
        }
    }

    /// The value as a boolean: 0 and 1 count as one.
    pub fn as_flag(&self) -> Option<bool> {
        match self {
            Self::Flag(flag) => Some(*flag),
            Self::Number(0.0) => Some(false),
            Self::Number(1.0) => Some(true),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Text(text) => write!(f, "the text {text:?}"),
            Self::TextList(_) => f.write_str("a list of texts"),
        }
    }
}

/// The number that `text` spells, in the forms Python's `float` takes: surrounding blanks, a sign, exponents
/// without a dot, single underscores between digits, `nan` and `inf` (which every [`Kind`] then refuses).
pub fn parse_number(text: &str) -> Option<f64> {
    let text = text.trim();
    if !text.contains('_') {
        return text.parse().ok();
    }
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|i| bytes.get(i)).is_some_and(u8::is_ascii_digit);
    let placed = |(at, _): (usize, &str)| digit(at.checked_sub(1)) && digit(at.checked_add(1));
    if text.match_indices('_').all(placed) { text.replace('_', "").parse().ok() } else { None }
}

/// `number` as an integer if it is whole and no larger than an `f64` holds exactly.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Value {
        Value::Text(s.to_owned())
    }

    #[test]
    fn numbers_are_held_to_their_range() {
        let density = Kind::DENSITY;
        assert_eq!(density.check(&Value::Number(1.0)), Ok(Value::Number(1.0)));
        assert_eq!(density.check(&Value::Flag(true)), Ok(Value::Number(1.0)));
        assert_eq!(density.check(&text("1e-5")), Ok(Value::Number(1e-5)));
        for (value, found) in [
            (Value::Number(0.0), "0"),
            (Value::Number(1.5), "1.5"),
            (Value::Number(f64::NAN), "NaN"),
            (Value::Number(f64::INFINITY), "inf"),
            (Value::Flag(false), "false"),
            (text("50%"), "the text \"50%\""),
            (Value::TextList(vec!["a".into()]), "a list of texts"),
        ] {
            assert_eq!(density.check(&value), Err(format!("expected a number in (0, 1], found {found}")));
        }
    }

    #[test]
    fn an_endless_range_still_refuses_infinity_and_nan() {
        for bad in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            assert!(Kind::NUMBER.check(&Value::Number(bad)).is_err());
        }
        assert!(Kind::NUMBER.check(&text("nan")).is_err());
        assert_eq!(Kind::NUMBER.check(&Value::Number(-3.0)), Ok(Value::Number(-3.0)));
    }

    #[test]
    fn flags_take_booleans_zero_and_one() {
        assert_eq!(Kind::Flag.check(&Value::Number(1.0)), Ok(Value::Flag(true)));
        assert_eq!(Kind::Flag.check(&Value::Number(0.0)), Ok(Value::Flag(false)));
        assert_eq!(
            Kind::Flag.check(&Value::Number(0.5)),
            Err("expected true or false, found 0.5".to_owned())
        );
        assert!(Kind::Flag.check(&text("true")).is_err());
    }

    #[test]
    fn integers_are_whole_and_exact() {
        let kind = Kind::Integer { min: 1, max: i64::MAX };
        assert_eq!(kind.check(&Value::Number(20.0)), Ok(Value::Number(20.0)));
        for bad in [0.0, 1.5, 1e300, f64::NAN] {
            assert!(kind.check(&Value::Number(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn choices_and_lists() {
        let kind = Kind::Choice(&["l1", "inverse_density"]);
        assert_eq!(kind.check(&text("l1")), Ok(text("l1")));
        assert_eq!(
            kind.check(&text("l2")),
            Err("expected `l1` or `inverse_density`, found the text \"l2\"".to_owned())
        );
        assert_eq!(Kind::TextList.check(&text("a")), Ok(Value::TextList(vec!["a".into()])));
        assert!(Kind::TextList.check(&Value::Number(1.0)).is_err());
    }

    #[test]
    fn numbers_that_f32_cannot_hold_are_refused() {
        let message = Kind::NUMBER.check(&Value::Number(-1e300)).unwrap_err();
        assert!(message.starts_with("expected a number, found ") && message.ends_with("f32 holds (3.4e38)"));
        assert_eq!(Kind::NUMBER.check(&Value::Number(3e38)), Ok(Value::Number(3e38)));
    }

    #[test]
    fn ranges_read_well() {
        let range = |min, max, min_open| Kind::Number { min, max, min_open }.to_string();
        assert_eq!(range(0.0, f64::INFINITY, true), "a number greater than 0");
        assert_eq!(range(0.0, f64::INFINITY, false), "a number of at least 0");
        assert_eq!(range(f64::NEG_INFINITY, 1.0, false), "a number of at most 1");
        assert_eq!(range(-1.0, 1.0, false), "a number in [-1, 1]");
        assert_eq!(Kind::Integer { min: 1, max: 9 }.to_string(), "a whole number from 1 to 9");
        assert_eq!(Kind::Choice(&["a", "b", "c"]).to_string(), "`a`, `b` or `c`");
    }

    #[test]
    fn number_texts_as_python_reads_them() {
        assert_eq!(parse_number(" 1e-5 "), Some(1e-5));
        assert_eq!(parse_number("1_000.5"), Some(1000.5));
        assert_eq!(parse_number("-.5"), Some(-0.5));
        for bad in ["", "_1", "1_", "1__0", "1_.5", "0x10", "1,5", "½"] {
            assert_eq!(parse_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn defaults_are_values_or_nothing() {
        assert_eq!(Default::Required.value(), None);
        assert_eq!(Default::Flag(true).value(), Some(Value::Flag(true)));
        assert_eq!(Default::Number(0.15).to_string(), "0.15");
    }
}
