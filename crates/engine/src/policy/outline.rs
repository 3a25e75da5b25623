//! What a policy file asks and decides, region by region, for whoever draws it.

use super::rule::{Condition, LotOf, When};
use super::span::{Part, Span, Stat};
use super::{PolicyFile, Signal};
use crate::TokenClass;
use std::sync::Arc;

/// A region of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// Its name.
    pub region: Arc<str>,
    /// What it decides, as policy files call it.
    pub decision: &'static str,
    /// What must hold of the next token's signals, all of it.
    pub bounds: Vec<Bound>,
    /// What else must hold, in words.
    pub conditions: Vec<String>,
}

/// Limits that a signal must lie strictly between; in nats where it has a unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Which signal.
    pub signal: Signal,
    /// Minus infinity where there is none; NaN for a quantile without a calibration.
    pub above: f64,
    /// Infinity where there is none; NaN likewise.
    pub below: f64,
}

impl PolicyFile {
    /// Its regions in the order they are asked, the default last.
    pub fn outline(&self) -> Vec<Outline> {
        let spec = self.spec();
        let outline = |region: &super::rule::Region| {
            let mut conditions = match region.when {
                When::At(n) => vec![format!("at {n} tokens of the output")],
                When::End => vec!["at the end of the answer".to_owned()],
                When::Default => vec!["where no other region decides".to_owned()],
                When::Token => Vec::new(),
            };
            conditions.extend(region.conditions.iter().filter_map(|condition| words(condition, &spec.texts)));
            let bound = |condition: &Condition| match *condition {
                Condition::Between { signal, above, below } => Some(Bound { signal, above, below }),
                _ => None,
            };
            Outline {
                region: Arc::clone(&region.name),
                decision: region.rule.name(),
                bounds: region.conditions.iter().filter_map(bound).collect(),
                conditions,
            }
        };
        spec.regions.iter().map(outline).collect()
    }
}

/// `above 1.0000`, `below 2.0000`, or both.
pub(super) fn between(above: f64, below: f64) -> String {
    let limit = |limit: f64| match limit {
        _ if limit.is_nan() => "a quantile".to_owned(),
        f64::INFINITY => "anything, for want of a band in the calibration".to_owned(),
        _ => told(limit),
    };
    match (above == f64::NEG_INFINITY, below == f64::INFINITY) {
        (false, false) => format!("between {} and {}", limit(above), limit(below)),
        (false, true) => format!("above {}", limit(above)),
        (true, true) => "anything".to_owned(),
        (true, false) => format!("below {}", limit(below)),
    }
}

/// A number as a person reads it: four decimals, and powers of ten where they would say nothing.
pub(super) fn told(value: f64) -> String {
    match value.abs() {
        0.0 | 1e-3..1e6 => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

/// A condition about more than the next token; none for one that is a [`Bound`].
fn words(condition: &Condition, texts: &[String]) -> Option<String> {
    let not = |wanted: bool| if wanted { "" } else { "not " };
    Some(match *condition {
        Condition::Between { .. } => return None,
        Condition::EndsWith { text, wanted } => {
            let text = texts.get(text).map_or("", String::as_str);
            format!("the text before does {}end with {text:?}", not(wanted))
        }
        Condition::Injected(wanted) => format!("the token before was {}forced", not(wanted)),
        Condition::Class { class, wanted } => {
            let name =
                TokenClass::ALL.iter().find(|(known, _)| *known == class).map_or("?", |(_, name)| name);
            format!("the token before is {}of the class {name}", not(wanted))
        }
        Condition::Span { ref span, above, below } => format!("{} {}", of(span), between(above, below)),
        Condition::Lot { of, above, below } => {
            let of = match of {
                LotOf::Answer => "answer",
                LotOf::Token => "token",
            };
            format!("the lot of the {of} {}", between(above, below))
        }
        Condition::Output { above, below } => {
            let above = above.map_or(f64::NEG_INFINITY, |n| n as f64);
            let words = between(above, below.map_or(f64::INFINITY, |n| n as f64));
            format!("tokens of the output {}", words.replace(".0000", ""))
        }
        Condition::Repeats { ngram, times } => format!("the last {ngram} tokens stand there {times} times"),
    })
}

/// `mean entropy of the first 64 tokens`.
fn of(span: &Span) -> String {
    let stat = match span.stat {
        Stat::Mean => "mean".to_owned(),
        Stat::Max => "largest".to_owned(),
        Stat::Min => "least".to_owned(),
        Stat::ShareAbove(bar) => format!("share above {bar:.4} of the"),
    };
    let part = match span.part {
        Part::First(n) => format!("the first {n} tokens"),
        Part::Last(n) => format!("the last {n} tokens"),
        Part::All => "all tokens".to_owned(),
    };
    let window = if span.window > 1 { format!(" (means over {})", span.window) } else { String::new() };
    format!("{stat} {}{window} of {part}", span.signal.name())
}
