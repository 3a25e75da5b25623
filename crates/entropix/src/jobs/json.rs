//! One line of JSON, read strictly: every member keeps the place it stands at, a key that comes twice is an
//! error, and nothing is converted silently. `serde_json` alone keeps the last of two equal keys and
//! knows no columns of values.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;

/// What is wrong with a line, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// A stable name, e.g. `Field`.
    pub code: &'static str,
    /// Byte offset into the line.
    pub offset: usize,
    /// Field, value, limit and remedy.
    pub message: String,
}

impl Flaw {
    /// A flaw at byte `offset`.
    pub fn new(code: &'static str, offset: usize, message: impl Into<String>) -> Self {
        Self { code, offset, message: message.into() }
    }

    /// The same at another byte.
    pub fn at(self, offset: usize) -> Self {
        Self { offset, ..self }
    }

    /// The column of the flaw in `line`, in characters from 1; bytes that are no UTF-8 count as one each.
    pub fn column(&self, line: &[u8]) -> usize {
        let begins = |byte: &&u8| **byte & 0xc0 != 0x80;
        match line.get(..=self.offset) {
            Some(until) => until.iter().filter(begins).count().max(1),
            None => line.iter().filter(begins).count() + 1,
        }
    }
}

/// A JSON value that is known to be well-formed, still as text, and the byte offset it starts at.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    text: &'a str,
    offset: usize,
}

/// One `"key": value` of an object.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// The key, unescaped.
    pub key: String,
    /// Byte offset of the key.
    pub offset: usize,
    /// The value.
    pub value: Value<'a>,
}

impl<'a> Value<'a> {
    /// Checks that `line` is one JSON value and nothing after it.
    pub fn parse(line: &'a str) -> Result<Self, Flaw> {
        let raw: &RawValue = serde_json::from_str(line).map_err(|e| syntax(line, 0, &e))?;
        Ok(Self::inside(line, 0, raw))
    }

    /// `text` as JSON writes it.
    pub fn quote(text: &str) -> String {
        serde_json::to_string(text).expect("a string serialises")
    }

    /// `raw` points into `text`, which starts at `offset`.
    fn inside(text: &'a str, offset: usize, raw: &'a RawValue) -> Self {
        let start = raw.get().as_ptr() as usize - text.as_ptr() as usize;
        Self { text: raw.get(), offset: offset + start }
    }

    /// Byte offset of the value in its line.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.text == "null"
    }

    /// Whether it is a string.
    pub fn is_string(&self) -> bool {
        self.text.starts_with('"')
    }

    /// Whether it is an array.
    pub fn is_array(&self) -> bool {
        self.text.starts_with('[')
    }

    /// Whether it is `true` or `false`.
    pub fn is_bool(&self) -> bool {
        matches!(self.text, "true" | "false")
    }

    /// What to call it in a message: its kind, and the text itself when that is short.
    pub fn describe(&self) -> String {
        let kind = match self.text.as_bytes()[0] {
            b'{' => return "an object".into(),
            b'[' => return "an array".into(),
            b'"' => "the string ",
            b'n' | b't' | b'f' => "",
            _ => "the number ",
        };
        match self.text.char_indices().nth(40) {
            Some((end, _)) => format!("{kind}{}…", &self.text[..end]),
            None => format!("{kind}{}", self.text),
        }
    }

    /// The members of an object, in order; `what` names it in messages.
    pub fn members(&self, what: &str) -> Result<Vec<Member<'a>>, Flaw> {
        if !self.text.starts_with('{') {
            return Err(self.flaw(format!("{what} is {}, wants an object", self.describe())));
        }
        let mut reader = serde_json::Deserializer::from_str(self.text);
        let raw = reader.deserialize_map(Members).map_err(|e| syntax(self.text, self.offset, &e))?;
        let mut members = Vec::with_capacity(raw.len());
        let mut keys = HashSet::with_capacity(raw.len());
        for (key, value) in raw {
            let at = Self::inside(self.text, self.offset, key);
            let key = at.string("a key")?;
            if !keys.insert(key.clone()) {
                return Err(Flaw::new("DuplicateKey", at.offset, format!("{key:?} stands twice in {what}")));
            }
            members.push(Member {
                key,
                offset: at.offset,
                value: Self::inside(self.text, self.offset, value),
            });
        }
        Ok(members)
    }

    /// The elements of an array of at most `limit`.
    pub fn elements(&self, what: &str, limit: usize) -> Result<Vec<Value<'a>>, Flaw> {
        if !self.is_array() {
            return Err(self.flaw(format!("{what} is {}, wants an array", self.describe())));
        }
        let raw: Vec<&RawValue> =
            serde_json::from_str(self.text).map_err(|e| syntax(self.text, self.offset, &e))?;
        if raw.len() > limit {
            return Err(self.flaw(format!("{what} has {} elements, at most {limit} are allowed", raw.len())));
        }
        Ok(raw.into_iter().map(|r| Self::inside(self.text, self.offset, r)).collect())
    }

    /// A string.
    pub fn string(&self, what: &str) -> Result<String, Flaw> {
        if !self.is_string() {
            return Err(self.flaw(format!("{what} is {}, wants a string", self.describe())));
        }
        serde_json::from_str(self.text).map_err(|e| syntax(self.text, self.offset, &e))
    }

    /// `true` or `false`.
    pub fn boolean(&self, what: &str) -> Result<bool, Flaw> {
        match self.text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.flaw(format!("{what} is {}, wants true or false", self.describe()))),
        }
    }

    /// A whole number within `[least, most]`, written without fraction or exponent.
    pub fn integer(&self, what: &str, least: i64, most: i64) -> Result<i64, Flaw> {
        let number: Option<i64> = self.text.parse().ok();
        match number {
            Some(n) if (least..=most).contains(&n) => Ok(n),
            _ => Err(self
                .flaw(format!("{what} is {}, wants a whole number from {least} to {most}", self.describe()))),
        }
    }

    /// A whole number of 64 bits without a sign.
    pub fn unsigned(&self, what: &str) -> Result<u64, Flaw> {
        self.text.parse().map_err(|_| {
            self.flaw(format!("{what} is {}, wants a whole number from 0 to {}", self.describe(), u64::MAX))
        })
    }

    /// A finite number; none for anything else.
    pub fn number(&self) -> Option<f64> {
        self.text.parse().ok().filter(|x: &f64| x.is_finite())
    }

    /// A flaw of this value.
    pub fn flaw(&self, message: impl Into<String>) -> Flaw {
        Flaw::new("Field", self.offset, message)
    }
}

fn syntax(text: &str, offset: usize, error: &serde_json::Error) -> Flaw {
    // serde_json's columns are bytes from 1; its message repeats line and column, which would be those of
    // the fragment.
    let at = offset + error.column().saturating_sub(1).min(text.len());
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message);
    Flaw::new("Json", at, format!("not valid JSON: {message}"))
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(&'de RawValue, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_know_their_columns() {
        let line = r#"{"é": [1, {"b" : -2}], "stop": "x"}"#;
        let members = Value::parse(line).unwrap().members("the request").unwrap();
        assert_eq!(members[0].key, "é");
        let inner = members[0].value.elements("é", 9).unwrap()[1].members("é[1]").unwrap();
        let flaw = inner[0].value.integer("b", 0, 5).unwrap_err();
        assert_eq!(flaw.column(line.as_bytes()), line.chars().position(|c| c == '-').unwrap() + 1);
        assert!(flaw.message.contains("the number -2"), "{}", flaw.message);
        assert_eq!(members[1].offset, line.find("\"stop\"").unwrap());
    }

    #[test]
    fn broken_lines_are_flaws() {
        for (line, column) in
            [(r#"{"a": 1"#, 7), (r#"{"a": 1} x"#, 10), (r#"{"a": "\ud800"}"#, 14), (r#"{"a" 1}"#, 6), ("", 1)]
        {
            let flaw = Value::parse(line)
                .and_then(|v| v.members("x"))
                .and_then(|m| m[0].value.string("a").map(|_| ()))
                .unwrap_err();
            assert_eq!(flaw.code, "Json", "{line}");
            assert_eq!(flaw.column(line.as_bytes()), column, "{line}: {}", flaw.message);
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_named() {
        let line = r#"{"a": 1, "\u0061": 2}"#;
        let flaw = Value::parse(line).unwrap().members("the request").unwrap_err();
        assert_eq!((flaw.code, flaw.offset), ("DuplicateKey", 9));
    }

    /// A recursive reader would overflow the stack here and kill the process.
    #[test]
    fn a_million_brackets_are_an_error() {
        let line = format!(r#"{{"prompt": {}"#, "[".repeat(1_000_000));
        assert_eq!(Value::parse(&line).unwrap_err().code, "Json");
        let line = format!("{{\"prompt\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        if let Ok(value) = Value::parse(&line) {
            assert!(value.members("x").unwrap()[0].value.string("prompt").is_err());
        }
    }

    #[test]
    fn numbers_are_taken_as_written() {
        let of = |text: &'static str| Value::parse(text).unwrap();
        assert_eq!(of("5").integer("x", 0, 5), Ok(5));
        for bad in ["6", "-1", "1.5", "1e300", "\"5\"", "9223372036854775808", "null", "true"] {
            assert!(of(bad).integer("x", 0, 5).is_err(), "{bad}");
        }
        assert_eq!(of("18446744073709551615").unsigned("x"), Ok(u64::MAX));
        assert!(of("-1").unsigned("x").is_err());
        for bad in ["1e999", "\"1\"", "null", "[1]"] {
            assert_eq!(of(bad).number(), None, "{bad}");
        }
        assert_eq!(of("0.5").number(), Some(0.5));
    }
}
