//! What a model's signals usually are: quantiles, so that a threshold means the same for another model.

use super::Signal;
use super::document::{Fields, Node, Sources, Value};
use super::doubt::Bin;
use super::span::{Part, Span, Stat};
use crate::limits::CALIBRATION_BYTES;
use entropix_model::{Class, Error, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Values of a table: its quantiles 0.00, 0.01, ... 1.00.
const LEVELS: usize = 101;

/// Quantiles of a model's signals over many requests, in nats.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// What the model is called.
    pub model: String,
    /// SHA-256 of the model's bytes, 64 hex digits.
    pub sha256: String,
    /// How it was computed, e.g. `int8`.
    pub precision: String,
    /// Requests it was made from.
    pub requests: u64,
    /// Generated tokens it was made from.
    pub tokens: u64,
    /// Tokens of prompts it was made from; 0 where nobody counted.
    pub prefill_tokens: u64,
    /// By signal name: of generated tokens.
    pub generated: BTreeMap<String, Vec<f64>>,
    /// By signal name: of tokens of prompts.
    pub prefill: BTreeMap<String, Vec<f64>>,
    /// By [`Calibration::span_name`]: of whole requests.
    pub request: BTreeMap<String, Vec<f64>>,
    /// By [`Calibration::span_name`]: from where on another line was right more often than the first one.
    pub replace: BTreeMap<String, f64>,
    /// By [`Calibration::span_name`]: how often answers were right, the least doubtful first.
    pub accuracy: BTreeMap<String, Vec<Bin>>,
}

impl Calibration {
    /// What spans are called in the file, e.g. `mean.entropy.first64` or `max.entropy.all.window32`.
    pub fn span_name(span: &Span) -> String {
        let signal = span.signal.name();
        let stat = match span.stat {
            Stat::Mean => "mean".to_owned(),
            Stat::Max => "max".to_owned(),
            Stat::Min => "min".to_owned(),
            Stat::ShareAbove(bar) => format!("share_above_{bar}"),
        };
        let part = match span.part {
            Part::First(n) => format!("first{n}"),
            Part::Last(n) => format!("last{n}"),
            Part::All => "all".to_owned(),
        };
        match span.window {
            0 | 1 => format!("{stat}.{signal}.{part}"),
            window => format!("{stat}.{signal}.{part}.window{window}"),
        }
    }

    /// Whether it was made with known answers.
    pub fn has_labels(&self) -> bool {
        !self.replace.is_empty() || !self.accuracy.is_empty()
    }

    /// The 101 quantiles 0.00 to 1.00 of some values, by linear interpolation; none when there are none.
    pub fn quantiles(mut values: Vec<f64>) -> Option<Vec<f64>> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then(|| (0..LEVELS).map(|level| at(&values, level as f64 / 100.0)).collect())
    }

    /// The quantile of generated tokens.
    pub fn token(&self, signal: Signal, level: f64) -> Option<f64> {
        self.generated.get(signal.name()).map(|table| at(table, level))
    }

    /// The quantile of requests.
    pub fn request(&self, span: &Span, level: f64) -> Option<f64> {
        self.request.get(&Self::span_name(span)).map(|table| at(table, level))
    }

    /// From where on another line was right more often than the first one; infinity when nobody knows.
    pub fn replace_above(&self, span: &Span) -> f64 {
        self.replace.get(&Self::span_name(span)).copied().unwrap_or(f64::INFINITY)
    }

    /// Reads a file's text; `place` is what errors call it.
    ///
    /// # Errors
    /// `Config`, with line and column.
    pub fn parse(place: &str, bytes: &[u8]) -> Result<Self> {
        let fail = |code, message: String| Err(Error::new(Class::Config, code, message));
        if bytes.len() > CALIBRATION_BYTES {
            return fail("TooLarge", format!("{place}: a calibration has at most {CALIBRATION_BYTES} bytes"));
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return fail("NotUtf8", format!("{place}: not UTF-8"));
        };
        let sources = Sources { place, text, overrides: &[] };
        let mut fields = Fields::new(&sources, "", sources.read()?)?;
        let mut word = |key: &'static str| match fields.text(key, 256)? {
            Some((word, _)) => Ok(word),
            None => Err(fields.missing(key)),
        };
        let (model, sha256, precision) = (word("model")?, word("sha256")?, word("precision")?);
        let most = i64::MAX;
        let requests = fields.integer("requests", 0, most)?.unwrap_or(0) as u64;
        let tokens = fields.integer("tokens", 0, most)?.unwrap_or(0) as u64;
        let prefill_tokens = fields.integer("prefill_tokens", 0, most)?.unwrap_or(0) as u64;
        let mut tables = |key| tables(&sources, fields.take(key));
        let (generated, prefill, request) = (tables("generated")?, tables("prefill")?, tables("request")?);
        let mut replace = BTreeMap::new();
        if let Some(node) = fields.take("replace") {
            let Value::Table(entries) = node.value else {
                return Err(sources.error("WrongType", node.origin, "replace is no table"));
            };
            for entry in entries {
                let value = number(&sources, &entry.node)?;
                replace.insert(entry.key, value);
            }
        }
        let mut accuracy: BTreeMap<String, Vec<Bin>> = BTreeMap::new();
        if let Some(node) = fields.take("accuracy") {
            let Value::Array(nodes) = node.value else {
                return Err(sources.error("WrongType", node.origin, "accuracy is written as [[accuracy]]"));
            };
            for node in nodes {
                let mut bin = Fields::new(&sources, "accuracy", node)?;
                let (span, _) = bin.text("span", 256)?.ok_or_else(|| bin.missing("span"))?;
                let from = bin.number("from", f64::MIN, f64::MAX)?.ok_or_else(|| bin.missing("from"))?;
                let mut count = |key| Ok(bin.integer(key, 0, most)?.ok_or_else(|| bin.missing(key))? as u64);
                let (requests, right) = (count("requests")?, count("right")?);
                let (fixed, broken) = (count("fixed")?, count("broken")?);
                bin.finish()?;
                accuracy.entry(span).or_default().push(Bin { from, requests, right, fixed, broken });
            }
        }
        fields.finish()?;
        Ok(Self {
            model,
            sha256,
            precision,
            requests,
            tokens,
            prefill_tokens,
            generated,
            prefill,
            request,
            replace,
            accuracy,
        })
    }

    /// The file's text, which [`Calibration::parse`] reads back.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = writeln!(
            out,
            "# Quantiles 0.00, 0.01 ... 1.00 of signals, in nats. Made by `entropix calibrate`."
        );
        let _ = writeln!(out, "model = {:?}\nsha256 = {:?}", self.model, self.sha256);
        let _ = writeln!(out, "precision = {:?}", self.precision);
        let _ = writeln!(out, "requests = {}\ntokens = {}", self.requests, self.tokens);
        if self.prefill_tokens > 0 {
            let _ = writeln!(out, "prefill_tokens = {}", self.prefill_tokens);
        }
        let parts = [("generated", &self.generated), ("prefill", &self.prefill), ("request", &self.request)];
        for (name, tables) in parts {
            let _ = writeln!(out, "\n[{name}]");
            for (key, values) in tables {
                let values: Vec<String> = values.iter().map(|value| short(*value)).collect();
                let _ = writeln!(out, "{key:?} = [{}]", values.join(", "));
            }
        }
        if !self.replace.is_empty() {
            let _ = writeln!(out, "\n[replace]");
            for (key, value) in &self.replace {
                let _ = writeln!(out, "{key:?} = {}", short(*value));
            }
        }
        for (span, bins) in &self.accuracy {
            for Bin { from, requests, right, fixed, broken } in bins {
                let _ = writeln!(
                    out,
                    "\n[[accuracy]]\nspan = {span:?}\nfrom = {}\nrequests = {requests}\nright = {right}\nfixed = {fixed}\n\
                     broken = {broken}",
                    short(*from)
                );
            }
        }
        out
    }
}

/// Five digits: a quantile of some hundred values has no more.
fn short(value: f64) -> String {
    let text = format!("{value:.5}");
    let text = text.trim_end_matches('0');
    if text.ends_with('.') { format!("{text}0") } else { text.to_owned() }
}

/// The quantile at `level` of rising values.
fn at(values: &[f64], level: f64) -> f64 {
    let place = level.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let (low, share) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(values.len() - 1);
    values[low] + share * (values[high] - values[low])
}

fn tables(sources: &Sources<'_>, node: Option<Node>) -> Result<BTreeMap<String, Vec<f64>>> {
    let Some(node) = node else { return Ok(BTreeMap::new()) };
    let Value::Table(entries) = node.value else {
        return Err(sources.error("WrongType", node.origin, "not a table of quantiles"));
    };
    let mut tables = BTreeMap::new();
    for entry in entries {
        let origin = entry.node.origin;
        let wrong = |what: &str| sources.error("OutOfRange", origin, format!("{}: {what}", entry.key));
        let Value::Array(nodes) = &entry.node.value else { return Err(wrong("not an array")) };
        let values = nodes.iter().map(|node| number(sources, node)).collect::<Result<Vec<f64>>>()?;
        if values.len() != LEVELS || !values.is_sorted() {
            return Err(wrong("quantiles are 101 rising numbers"));
        }
        tables.insert(entry.key, values);
    }
    Ok(tables)
}

fn number(sources: &Sources<'_>, node: &Node) -> Result<f64> {
    match node.value {
        Value::Real(value) if value.is_finite() => Ok(value),
        Value::Integer(value) => Ok(value as f64),
        _ => Err(sources.error("WrongType", node.origin, "not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(Calibration::quantiles(Vec::new()), None);
        assert_eq!(Calibration::quantiles(vec![f64::NAN]), None);
        let table = Calibration::quantiles((0..=200).rev().map(f64::from).collect()).expect("values");
        assert_eq!((table.len(), table[0], table[50], table[100]), (101, 0.0, 100.0, 200.0));
        assert_eq!(at(&table, 0.905), 181.0);
        assert_eq!((at(&[3.0], 0.7), at(&[1.0, 2.0], 0.25)), (3.0, 1.25));
    }

    #[test]
    fn files_are_read_back() {
        let table = Calibration::quantiles(vec![0.5, 1.5, 2.25]).expect("values");
        let file = Calibration {
            model: "a \"model\"".into(),
            sha256: "ab".repeat(32),
            precision: "int8".into(),
            requests: 3,
            tokens: 9,
            prefill_tokens: 7,
            generated: [("entropy".to_owned(), table.clone())].into(),
            prefill: BTreeMap::new(),
            request: [("mean.entropy.first64".to_owned(), table)].into(),
            replace: [("mean.entropy.first64".to_owned(), 0.25)].into(),
            accuracy: [(
                "mean.entropy.first64".to_owned(),
                vec![Bin { from: 0.5, requests: 4, right: 3, fixed: 1, broken: 0 }],
            )]
            .into(),
        };
        let again = Calibration::parse("c", file.to_toml().as_bytes()).expect("sound");
        assert_eq!(again.to_toml(), file.to_toml());
        assert_eq!((again.model.as_str(), again.tokens), ("a \"model\"", 9));
        let span = Span { signal: Signal::Entropy, stat: Stat::Mean, part: Part::First(64), window: 1 };
        assert_eq!((again.request(&span, 0.5), again.replace_above(&span)), (Some(1.5), 0.25));
        assert_eq!(again.accuracy, file.accuracy);
        assert_eq!(again.token(Signal::Varentropy, 0.5), None);
        for (text, code) in [
            ("model = 1", "WrongType"),
            ("model = \"m\"", "MissingKey"),
            ("model = \"m\"\nsha256 = \"\"\nprecision = \"\"\n[generated]\nentropy = [1, 2]", "OutOfRange"),
            ("model = \"m\"\nsha256 = \"\"\nprecision = \"\"\nx = 1", "UnknownKey"),
        ] {
            assert_eq!(Calibration::parse("c", text.as_bytes()).expect_err(text).code, code, "{text}");
        }
    }
}
