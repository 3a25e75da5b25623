//! A TOML text as a tree whose every node knows where it was written, so that each complaint can say so.
#![deny(clippy::arithmetic_side_effects)]

use entropix_model::{Class, Error, Result};
use std::fmt::Write as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// At this byte of the file.
    File(usize),
    /// In this override.
    Override(usize),
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Bool(bool),
    Integer(i64),
    Real(f64),
    Text(String),
    Array(Vec<Node>),
    /// In the order of the file.
    Table(Vec<Entry>),
    /// A date or a time, which no key wants.
    Date,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Of the key.
    pub(super) origin: Origin,
    pub(super) node: Node,
}

impl Value {
    fn name(&self) -> &'static str {
        match self {
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "a whole number",
            Value::Real(_) => "a number",
            Value::Text(_) => "a text",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
            Value::Date => "a date",
        }
    }
}

/// The texts a tree was read from.
#[derive(Debug, Clone)]
pub(super) struct Sources<'a> {
    /// What to call the file.
    pub(super) place: &'a str,
    pub(super) text: &'a str,
    pub(super) overrides: &'a [String],
}

impl Sources<'_> {
    /// The tree of the file, with the overrides in place.
    pub(super) fn read(&self) -> Result<Node> {
        let document = DeTable::parse(self.text).map_err(|error| {
            let at = Origin::File(error.span().map_or(0, |span| span.start));
            self.error("PolicySyntax", at, error.message())
        })?;
        let origin = Origin::File(0);
        let mut root = Node { origin, value: self.table(document.get_ref(), &Origin::File)? };
        for (i, order) in self.overrides.iter().enumerate() {
            self.set(&mut root, order, i)?;
        }
        Ok(root)
    }

    /// A complaint about what was written at `at`.
    pub(super) fn error(&self, code: &'static str, at: Origin, message: impl AsRef<str>) -> Error {
        let message = message.as_ref();
        let message = match at {
            Origin::Override(i) => format!("--set {}: {message}", self.overrides[i]),
            Origin::File(offset) => {
                let before = &self.text[..self.text.floor_char_boundary(offset)];
                let line = before.split('\n').count();
                let column = before.chars().rev().take_while(|&c| c != '\n').count().saturating_add(1);
                format!("{}:{line}:{column}: {message}", self.place)
            }
        };
        Error::new(Class::Config, code, message)
    }

    fn table(&self, table: &DeTable<'_>, origin: &dyn Fn(usize) -> Origin) -> Result<Value> {
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let at = origin(key.span().start);
            entries.push(Entry {
                key: key.get_ref().to_string(),
                origin: at,
                node: self.node(value, at, origin)?,
            });
        }
        entries.sort_by_key(|entry| match entry.origin {
            Origin::File(offset) | Origin::Override(offset) => offset,
        });
        Ok(Value::Table(entries))
    }

    fn node(
        &self,
        value: &Spanned<DeValue<'_>>,
        key: Origin,
        origin: &dyn Fn(usize) -> Origin,
    ) -> Result<Node> {
        let at = origin(value.span().start);
        let value = match value.get_ref() {
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => {
                    return Err(self.error("OutOfRange", at, format!("{number} is too large a number")));
                }
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Value::Real(number),
                Err(_) => {
                    return Err(self.error("PolicySyntax", at, format!("{} is no number", number.as_str())));
                }
            },
            DeValue::Array(values) => {
                // A table of an array has no key of its own.
                let element =
                    |value: &Spanned<DeValue<'_>>| self.node(value, origin(value.span().start), origin);
                Value::Array(values.iter().map(element).collect::<Result<_>>()?)
            }
            DeValue::Table(table) => {
                return Ok(Node { origin: key, value: self.table(table, origin)? });
            }
        };
        Ok(Node { origin: at, value })
    }

    /// Puts override number `i`, `key=value`, into the tree.
    fn set(&self, root: &mut Node, order: &str, i: usize) -> Result<()> {
        let at = Origin::Override(i);
        let fail = |message: String| self.error("Override", at, message);
        let Some((path, text)) = order.split_once('=') else {
            return Err(fail("an override is KEY=VALUE, e.g. temperature=0.7".into()));
        };
        let value = self.override_value(text.trim(), at)?;
        let mut path: Vec<&str> = path.trim().split('.').map(str::trim).collect();
        if !super::parse::TOP_LEVEL.contains(&path[0]) {
            path.insert(0, "parameters");
        }
        let mut node = root;
        let mut walked = String::new();
        for (depth, &key) in path.iter().enumerate() {
            let is_last = path.len().checked_sub(1) == Some(depth);
            if key.is_empty() {
                return Err(fail("an empty part in the dotted path".into()));
            }
            node = match &mut node.value {
                Value::Table(entries) => {
                    let place = match entries.iter().position(|entry| entry.key == key) {
                        Some(place) => place,
                        None => {
                            let node = Node { origin: at, value: Value::Table(Vec::new()) };
                            let place = entries.len();
                            entries.push(Entry { key: key.to_owned(), origin: at, node });
                            place
                        }
                    };
                    if is_last {
                        entries[place].origin = at;
                    }
                    &mut entries[place].node
                }
                Value::Array(tables) => match tables.iter().position(|table| named(table, key)) {
                    Some(place) => &mut tables[place],
                    None => return Err(fail(format!("{walked} has nothing named {key}"))),
                },
                other => return Err(fail(format!("{walked} is {}, it has no {key}", other.name()))),
            };
            if !walked.is_empty() {
                walked.push('.');
            }
            walked.push_str(key);
        }
        *node = Node { origin: at, value };
        Ok(())
    }

    /// A TOML value; what is none is taken as a text, so that `unit=bit` needs no quotes.
    fn override_value(&self, text: &str, at: Origin) -> Result<Value> {
        let document = format!("value = {text}");
        match DeTable::parse(&document) {
            Ok(table) if table.get_ref().len() == 1 => {
                let values = table.get_ref().values().next();
                values.map_or(Ok(Value::Date), |value| Ok(self.node(value, at, &|_| at)?.value))
            }
            _ => Ok(Value::Text(text.to_owned())),
        }
    }
}

fn named(node: &Node, name: &str) -> bool {
    let Value::Table(entries) = &node.value else { return false };
    entries
        .iter()
        .any(|entry| entry.key == "name" && matches!(&entry.node.value, Value::Text(text) if text == name))
}

impl Node {
    /// What it says, in a form in which layout, comments and the spelling of numbers make no difference.
    pub(super) fn canonical(&self) -> String {
        let mut text = String::new();
        self.write_canonical(&mut text);
        text
    }

    fn write_canonical(&self, out: &mut String) {
        // Writing into a String cannot fail.
        let _ = match &self.value {
            Value::Bool(value) => write!(out, "{value}"),
            Value::Integer(value) => write!(out, "{:?}", *value as f64),
            Value::Real(value) => write!(out, "{value:?}"),
            Value::Text(text) => write!(out, "{text:?}"),
            Value::Date => write!(out, "date"),
            Value::Array(nodes) => {
                out.push('[');
                nodes.iter().for_each(|node| {
                    node.write_canonical(out);
                    out.push(',');
                });
                write!(out, "]")
            }
            Value::Table(entries) => {
                let mut entries: Vec<&Entry> = entries.iter().collect();
                entries.sort_by(|a, b| a.key.cmp(&b.key));
                out.push('{');
                entries.iter().for_each(|entry| {
                    let _ = write!(out, "{:?}=", entry.key);
                    entry.node.write_canonical(out);
                    out.push(',');
                });
                write!(out, "}}")
            }
        };
    }
}

/// A table whose keys are taken out one by one; what is left at the end is unknown.
pub(super) struct Fields<'a> {
    sources: &'a Sources<'a>,
    /// What to call the table in complaints.
    pub(super) path: String,
    pub(super) origin: Origin,
    entries: Vec<Entry>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(sources: &'a Sources<'a>, path: impl Into<String>, node: Node) -> Result<Self> {
        let (path, origin) = (path.into(), node.origin);
        match node.value {
            Value::Table(entries) => Ok(Self { sources, path, origin, entries, known: Vec::new() }),
            other => {
                Err(sources.error("WrongType", origin, format!("{path} is {}, not a table", other.name())))
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    pub(super) fn holds_table(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key && matches!(entry.node.value, Value::Table(_)))
    }

    /// Whether `key` is a table with one of `inner`.
    pub(super) fn table_holds(&self, key: &str, inner: &[&str]) -> bool {
        self.entries.iter().any(|entry| match &entry.node.value {
            Value::Table(table) if entry.key == key => {
                table.iter().any(|entry| inner.contains(&entry.key.as_str()))
            }
            _ => false,
        })
    }

    pub(super) fn holds_text(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key && matches!(entry.node.value, Value::Text(_)))
    }

    /// The value of `key`.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let place = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(place).node)
    }

    pub(super) fn table(&mut self, key: &'static str) -> Result<Option<Fields<'a>>> {
        let path = self.name(key);
        self.take(key).map(|node| Fields::new(self.sources, path, node)).transpose()
    }

    pub(super) fn text(&mut self, key: &'static str, most_bytes: usize) -> Result<Option<(String, Origin)>> {
        let Some(Node { origin, value }) = self.take(key) else { return Ok(None) };
        match value {
            Value::Text(text) if text.len() <= most_bytes => Ok(Some((text, origin))),
            Value::Text(text) => Err(self.wrong(
                "OutOfRange",
                origin,
                key,
                format!("{} bytes long, at most {most_bytes}", text.len()),
            )),
            other => Err(self.wrong("WrongType", origin, key, format!("{}, not a text", other.name()))),
        }
    }

    pub(super) fn bool(&mut self, key: &'static str) -> Result<Option<bool>> {
        let Some(Node { origin, value }) = self.take(key) else { return Ok(None) };
        match value {
            Value::Bool(value) => Ok(Some(value)),
            other => Err(self.wrong("WrongType", origin, key, format!("{}, not a boolean", other.name()))),
        }
    }

    /// A number within `least..=most`.
    pub(super) fn number(&mut self, key: &'static str, least: f64, most: f64) -> Result<Option<f64>> {
        let Some(Node { origin, value }) = self.take(key) else { return Ok(None) };
        let number = match value {
            Value::Integer(number) => number as f64,
            Value::Real(number) => number,
            other => {
                return Err(self.wrong("WrongType", origin, key, format!("{}, not a number", other.name())));
            }
        };
        if number >= least && number <= most {
            return Ok(Some(number));
        }
        Err(self.wrong("OutOfRange", origin, key, format!("{number}; allowed is {least} to {most}")))
    }

    /// Numbers within `least..=most`.
    pub(super) fn numbers(&mut self, key: &'static str, least: f64, most: f64) -> Result<Option<Vec<f64>>> {
        let Some(Node { origin, value }) = self.take(key) else { return Ok(None) };
        let Value::Array(nodes) = value else {
            return Err(self.wrong("WrongType", origin, key, format!("{}, not an array", value.name())));
        };
        let number = |node: Node| match node.value {
            Value::Integer(number) => Ok(number as f64),
            Value::Real(number) => Ok(number),
            other => Err(self.wrong("WrongType", node.origin, key, format!("{}, no number", other.name()))),
        };
        let numbers = nodes.into_iter().map(number).collect::<Result<Vec<f64>>>()?;
        match numbers.iter().find(|number| !(least..=most).contains(*number)) {
            None => Ok(Some(numbers)),
            Some(number) => {
                Err(self.wrong("OutOfRange", origin, key, format!("{number}; allowed is {least} to {most}")))
            }
        }
    }

    /// A whole number within `least..=most`.
    pub(super) fn integer(&mut self, key: &'static str, least: i64, most: i64) -> Result<Option<i64>> {
        let Some(Node { origin, value }) = self.take(key) else { return Ok(None) };
        match value {
            Value::Integer(number) if (least..=most).contains(&number) => Ok(Some(number)),
            Value::Integer(number) => {
                Err(self.wrong("OutOfRange", origin, key, format!("{number}; allowed is {least} to {most}")))
            }
            other => {
                Err(self.wrong("WrongType", origin, key, format!("{}, not a whole number", other.name())))
            }
        }
    }

    /// What to call `key` in complaints.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        self.sources.error("MissingKey", self.origin, format!("{} is missing", self.name(key)))
    }

    pub(super) fn wrong(&self, code: &'static str, at: Origin, key: &str, what: impl AsRef<str>) -> Error {
        self.sources.error(code, at, format!("{} is {}", self.name(key), what.as_ref()))
    }

    pub(super) fn error(&self, code: &'static str, message: impl AsRef<str>) -> Error {
        self.sources.error(code, self.origin, message)
    }

    /// Complains about the first key that nobody took.
    pub(super) fn finish(self) -> Result<()> {
        let Some(entry) = self.entries.first() else { return Ok(()) };
        let known = self.known.join(", ");
        let message = format!("unknown key {}; known here: {known}", self.name(&entry.key));
        Err(self.sources.error("UnknownKey", entry.origin, message))
    }
}
