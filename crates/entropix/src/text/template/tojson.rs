//! `tojson` as transformers has it: Python's `json.dumps` with `ensure_ascii=False` and no HTML escapes.

use super::limits;
use super::work::too_large;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write;

/// The filter.
pub(super) fn tojson(value: &Value, indent: Option<i64>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<i64>>("indent")?,
    };
    let mut writer = Writer {
        out: String::new(),
        // Beyond any reader's screen; Python would go on.
        indent: indent.map(|n| n.clamp(0, 64) as usize),
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        comma: if indent.is_some() { "," } else { ", " }.to_owned(),
        colon: ": ".to_owned(),
    };
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")?
        && let [comma, colon] = &separators[..]
    {
        (writer.comma, writer.colon) = (comma.clone(), colon.clone());
    }
    options.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(writer.out.into())
}

struct Writer {
    out: String,
    indent: Option<usize>,
    ascii: bool,
    sorted: bool,
    comma: String,
    colon: String,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > limits::TEMPLATE_JSON_DEPTH {
            return Err(too_large(format!(
                "tojson: values lie more than {} deep in one another",
                limits::TEMPLATE_JSON_DEPTH
            )));
        }
        if self.out.len() > limits::TEMPLATE_VALUE_SIZE {
            return Err(too_large(format!("tojson: more than {} bytes", limits::TEMPLATE_VALUE_SIZE)));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', items.len(), depth, |writer, i| writer.value(&items[i], depth + 1))?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    entries.push((key.to_string(), item));
                }
                if self.sorted {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.list('{', '}', entries.len(), depth, |writer, i| {
                    writer.string(&entries[i].0);
                    let colon = writer.colon.clone();
                    writer.out.push_str(&colon);
                    writer.value(&entries[i].1, depth + 1)
                })?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: a value of type {kind} has no JSON"),
                ));
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        n_items: usize,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for i in 0..n_items {
            if i > 0 {
                let comma = self.comma.clone();
                self.out.push_str(&comma);
            }
            self.line(depth + 1);
            item(self, i)?;
        }
        if n_items > 0 {
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

    /// Python's `repr`: a float keeps its point, and has an exponent from 1e16 up and below 1e-4.
    fn number(&mut self, value: &Value) {
        let written = value.to_string();
        let float = !value.is_integer();
        match f64::try_from(value.clone()) {
            Ok(x) if float && x.is_nan() => self.out.push_str("NaN"),
            Ok(x) if float && x.is_infinite() => {
                self.out.push_str(if x > 0.0 { "Infinity" } else { "-Infinity" })
            }
            Ok(x) if float && x != 0.0 && !(1e-4..1e16).contains(&x.abs()) => {
                let written = format!("{x:e}");
                let (digits, exponent) = written.split_once('e').expect("written with an exponent");
                let exponent: i32 = exponent.parse().expect("an integer");
                let sign = if exponent < 0 { '-' } else { '+' };
                write!(self.out, "{digits}e{sign}{:02}", exponent.abs()).expect("a string takes all");
            }
            _ => self.out.push_str(&written),
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}").expect("a string takes all");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::Environment;

    fn render(source: &str) -> Result<String, Error> {
        let mut environment = Environment::new();
        environment.add_filter("tojson", tojson);
        let b = vec![
            1.into(),
            2.0.into(),
            1e20.into(),
            1.5e-7.into(),
            (-0.25).into(),
            Value::from(()),
            true.into(),
        ];
        let a = Value::from_pairs([("<é🦀>", "it's \"q\"\n\u{1}")]);
        let empty = Value::from_pairs(Vec::<(String, Value)>::new());
        let value = Value::from_pairs([
            ("b", Value::from(b)),
            ("a", a),
            ("e", Vec::<Value>::new().into()),
            ("o", empty),
        ]);
        environment.render_str(source, minijinja::context!(v => value))
    }

    /// The right sides are what Python 3.11's json.dumps prints.
    #[test]
    fn json_is_that_of_python() {
        for (source, wanted) in [
            (
                "{{ v|tojson }}",
                r#"{"b": [1, 2.0, 1e+20, 1.5e-07, -0.25, null, true], "a": {"<é🦀>": "it's \"q\"\n\u0001"}, "e": [], "o": {}}"#,
            ),
            ("{{ v.a|tojson(ensure_ascii=true) }}", r#"{"<\u00e9\ud83e\udd80>": "it's \"q\"\n\u0001"}"#),
            ("{{ v.b[:2]|tojson(indent=2) }}", "[\n  1,\n  2.0\n]"),
            (
                "{{ {'z': 1, 'y': [{}]}|tojson(indent=1, sort_keys=true) }}",
                "{\n \"y\": [\n  {}\n ],\n \"z\": 1\n}",
            ),
            ("{{ [1, {'a': 2}]|tojson(separators=(',', ':')) }}", r#"[1,{"a":2}]"#),
        ] {
            assert_eq!(render(source).unwrap(), wanted, "{source}");
        }
    }

    #[test]
    fn bottomless_values_are_an_error() {
        let error = render("{% set n = namespace() %}{% set n.n = n %}{{ n|tojson }}").unwrap_err();
        assert!(super::super::work::is_limit(&error), "{error}");
    }
}
