//! What templates expect of Python: JSON as `json.dumps` writes it, `strftime`, exceptions.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use serde_json::{Map, Value as Json};

/// A moment of local time, as `strftime_now` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Year, for example 2026.
    pub year: i32,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, 1 to 31.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Second, 0 to 59.
    pub second: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Date {
    /// Day of the week, Sunday = 0 (Sakamoto's rule).
    fn weekday(self) -> usize {
        const SHIFT: [i64; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let year = i64::from(self.year) - i64::from(self.month < 3);
        let leap = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let month = usize::from(self.month.clamp(1, 12)) - 1;
        (year + leap + SHIFT[month] + i64::from(self.day)).rem_euclid(7) as usize
    }

    /// The date by a format of C's `strftime` in its locale; an error names a code that is not known.
    pub fn strftime(self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => out.push_str(&self.field(letters.next())?),
                other => out.push(other),
            }
        }
        Ok(out)
    }

    fn field(self, code: Option<char>) -> Result<String, String> {
        let month = MONTHS[usize::from(self.month.clamp(1, 12)) - 1];
        let day = DAYS[self.weekday()];
        let hour = (self.hour + 11) % 12 + 1;
        Ok(match code {
            Some('Y') => self.year.to_string(),
            Some('y') => format!("{:02}", self.year.rem_euclid(100)),
            Some('m') => format!("{:02}", self.month),
            Some('d') => format!("{:02}", self.day),
            Some('e') => format!("{:2}", self.day),
            Some('B') => month.to_owned(),
            Some('b' | 'h') => month[..3].to_owned(),
            Some('A') => day.to_owned(),
            Some('a') => day[..3].to_owned(),
            Some('H') => format!("{:02}", self.hour),
            Some('I') => format!("{hour:02}"),
            Some('p') => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => format!("{:02}", self.minute),
            Some('S') => format!("{:02}", self.second),
            Some('F') => self.strftime("%Y-%m-%d")?,
            Some('T') => self.strftime("%H:%M:%S")?,
            Some('%') => "%".to_owned(),
            Some(other) => return Err(format!("strftime_now: format code %{other} is not supported")),
            None => return Err("strftime_now: the format ends in a single %".to_owned()),
        })
    }
}

/// JSON as a template sees it.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(keys) => object(keys),
    }
}

/// A JSON object as a template sees it, its keys in their order.
pub(crate) fn object(keys: &Map<String, Json>) -> Value {
    Value::from_pairs(keys.iter().map(|(key, json)| (key.as_str(), value(json))))
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// The function `strftime_now(format)` of a conversation that takes place at `now`.
pub(super) fn strftime_now(now: Option<Date>) -> Value {
    Value::from_function(move |format: String| -> Result<String, Error> {
        let now = now.ok_or_else(|| invalid("strftime_now: the recipe gives no date; set `date`"))?;
        now.strftime(&format).map_err(invalid)
    })
}

/// The function `raise_exception(message)`.
pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(invalid(message))
}

/// The filter `tojson`, which writes as Python's `json.dumps(value, ensure_ascii=False, …)` does.
#[allow(clippy::needless_pass_by_value, reason = "the form of a filter")]
pub(super) fn tojson(value: Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<(String, String)> = match kwargs.get::<Option<Value>>("separators")? {
        None => None,
        Some(pair) => {
            let both: Vec<String> = pair.try_iter()?.map(|part| part.to_string()).collect();
            let [item, key] =
                <[String; 2]>::try_from(both).map_err(|_| invalid("tojson: separators are two strings"))?;
            Some((item, key))
        }
    };
    let (item, key) =
        separators.unwrap_or_else(|| (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()));
    let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let mut writer = Writer { out: String::new(), indent, item, key, ascii, sort };
    writer.value(&value, 0)?;
    Ok(writer.out)
}

/// JSON in the layout of Python's `json` module.
struct Writer {
    out: String,
    indent: Option<usize>,
    item: String,
    key: String,
    ascii: bool,
    sort: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        const DEEPEST: usize = 256;
        if depth > DEEPEST {
            return Err(invalid("tojson: the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Map => self.map(value, depth)?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', &items, depth, |writer, item| writer.value(item, depth + 1))?;
            }
            other => return Err(invalid(format!("tojson: a value of kind {other} has no JSON form"))),
        }
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort {
            keys.sort_by_key(Value::to_string);
        }
        self.list('{', '}', &keys, depth, |writer, key| {
            writer.string(&key.to_string());
            let separator = writer.key.clone();
            writer.out.push_str(&separator);
            writer.value(&value.get_item(key)?, depth + 1)
        })
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                letter if letter < ' ' || (self.ascii && !letter.is_ascii()) => self.escape(letter),
                letter => self.out.push(letter),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, letter: char) {
        for unit in letter.encode_utf16(&mut [0; 2]) {
            self.out.push_str(&format!("\\u{unit:04x}"));
        }
    }
}

/// A float as Python's `repr` writes it: an exponent from 1e16 and below 1e-4, with sign and two digits.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if value != 0.0 && !(1e-4..1e16).contains(&value.abs()) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').expect("the format `e` writes an exponent");
        let sign = if exponent.starts_with('-') { '-' } else { '+' };
        return format!("{digits}e{sign}{:0>2}", exponent.trim_start_matches('-'));
    }
    let text = value.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_by_format() {
        let date = Date { year: 2024, month: 7, day: 26, hour: 0, minute: 5, second: 9 };
        assert_eq!(date.strftime("%d %b %Y %H:%M:%S %I%p %%").unwrap(), "26 Jul 2024 00:05:09 12AM %");
        assert_eq!(date.strftime("%A, %B %e, %y").unwrap(), "Friday, July 26, 24");
        assert_eq!(
            Date { year: 2000, month: 2, day: 29, ..date }.strftime("%a %F").unwrap(),
            "Tue 2000-02-29"
        );
        assert!(date.strftime("%Q").unwrap_err().contains("%Q"));
        assert!(date.strftime("%").unwrap_err().contains("single %"));
    }

    #[test]
    fn floats_as_python_writes_them() {
        for (value, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (1.5e-7, "1.5e-07"),
            (-1e-300, "-1e-300"),
        ] {
            assert_eq!(float(value), text);
        }
    }
}
