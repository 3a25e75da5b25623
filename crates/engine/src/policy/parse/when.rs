//! When a region decides: signals of the token, spans of the output, checkpoints, the tokens before.

use super::super::Signal;
use super::super::document::{Fields, Origin, Value};
use super::super::rule::{Condition, LotOf, When};
use super::super::span::{Part, Peak, PeakBy, Span, Stat};
use super::Reader;
use crate::TokenClass;
use crate::limits::{POLICY_NAME_BYTES, POLICY_NUMBER, POLICY_SPAN, POLICY_TEXT_BYTES};
use entropix_model::Result;

/// What the quantiles of a threshold are taken from.
#[derive(Debug, Clone, Copy)]
enum Population<'a> {
    /// Single tokens.
    Tokens(Signal),
    /// Whole requests.
    Requests(&'a Span),
    /// None: a share of lots is what it is.
    Lots,
}

impl<'a> Reader<'a> {
    pub(super) fn conditions(&mut self, mut when: Fields<'a>) -> Result<(When, Vec<Condition>)> {
        let mut conditions = Vec::new();
        if when.is_empty() {
            return Err(
                when.error("MissingKey", "a region needs a condition; what is left over goes to [default]")
            );
        }
        let at = self.at(&mut when)?;
        for (signal, key) in Signal::ALL {
            let Some(mut bounds) = when.table(key)? else { continue };
            if at == When::End {
                let message = format!("{}: at the end of an answer there is no next token", bounds.path);
                return Err(bounds.error("OutOfRange", message));
            }
            let (above, below) =
                self.bounds(&mut bounds, signal.scale(self.unit), Population::Tokens(signal))?;
            bounds.finish()?;
            conditions.push(Condition::Between { signal, above, below });
        }
        for (of, key) in LotOf::ALL {
            let Some(mut bounds) = when.table(key)? else { continue };
            if (at, of) == (When::End, LotOf::Token) {
                let message = format!("{}: at the end of an answer there is no next token", bounds.path);
                return Err(bounds.error("OutOfRange", message));
            }
            let (above, below) = self.bounds(&mut bounds, 1.0, Population::Lots)?;
            bounds.finish()?;
            conditions.push(Condition::Lot { of, above, below });
        }
        if let Some(node) = when.take("spans") {
            let Value::Array(nodes) = node.value else {
                return Err(when.wrong("WrongType", node.origin, "spans", "not an array of tables"));
            };
            for node in nodes {
                let mut fields = Fields::new(self.sources, when.name("spans"), node)?;
                let span = self.span(&mut fields)?;
                let scale = match span.stat {
                    Stat::ShareAbove(_) => 1.0,
                    _ => span.signal.scale(self.unit),
                };
                let (above, below) = self.bounds(&mut fields, scale, Population::Requests(&span))?;
                fields.finish()?;
                conditions.push(Condition::Span { span, above, below });
            }
        }
        if let Some(mut bounds) = when.table("output")? {
            let above = bounds.integer("above", 0, POLICY_SPAN)?.map(|n| n as usize);
            let below = bounds.integer("below", 0, POLICY_SPAN)?.map(|n| n as usize);
            if above.is_none() && below.is_none() && bounds.is_empty() {
                return Err(bounds.missing("above or below"));
            }
            if let (Some(above), Some(below)) = (above, below)
                && above.saturating_add(1) >= below
            {
                let message = format!("{}: no number is above {above} and below {below}", bounds.path);
                return Err(bounds.error("OutOfRange", message));
            }
            bounds.finish()?;
            conditions.push(Condition::Output { above, below });
        }
        if let Some(mut repeats) = when.table("repeats")? {
            let ngram = repeats.integer("ngram", 1, 1024)?.ok_or_else(|| repeats.missing("ngram"))?;
            let times = repeats.integer("times", 2, 1024)?.ok_or_else(|| repeats.missing("times"))?;
            repeats.finish()?;
            conditions.push(Condition::Repeats { ngram: ngram as usize, times: times as usize });
        }
        if let Some(last) = when.table("last")? {
            self.last(last, &mut conditions)?;
        }
        when.finish()?;
        Ok((at, conditions))
    }

    fn at(&self, when: &mut Fields<'a>) -> Result<When> {
        if when.holds_text("at") {
            return match when.text("at", POLICY_NAME_BYTES)? {
                Some((text, _)) if text == "end" => Ok(When::End),
                Some((text, at)) => {
                    Err(when.wrong("OutOfRange", at, "at", format!("{text:?}; a number or \"end\"")))
                }
                None => Ok(When::Token),
            };
        }
        Ok(when.integer("at", 1, POLICY_SPAN)?.map_or(When::Token, |n| When::At(n as usize)))
    }

    /// `above` and `below`, in nats.
    fn bounds(&mut self, fields: &mut Fields<'a>, scale: f64, of: Population<'_>) -> Result<(f64, f64)> {
        let above = self.threshold(fields, "above", scale, of)?;
        let below = self.threshold(fields, "below", scale, of)?;
        if above.is_none() && below.is_none() && fields.is_empty() {
            return Err(fields.missing("above or below"));
        }
        if let (Some(above), Some(below)) = (above, below)
            && above >= below
        {
            let (above, below) = (above / scale, below / scale);
            let message = format!("{}: nothing is above {above} and below {below}", fields.path);
            return Err(fields.error("OutOfRange", message));
        }
        Ok((above.unwrap_or(f64::NEG_INFINITY), below.unwrap_or(f64::INFINITY)))
    }

    /// A number in the file's unit, or a quantile: `"q0.90"` of tokens, `"rq0.50"` of requests, or
    /// `"replace"`, from where on another line is right more often than the first one. NaN, which nothing is
    /// above or below, while there is no calibration.
    fn threshold(
        &mut self,
        fields: &mut Fields<'a>,
        key: &'static str,
        scale: f64,
        of: Population<'_>,
    ) -> Result<Option<f64>> {
        if !fields.holds_text(key) {
            let (least, most) =
                if matches!(of, Population::Lots) { (0.0, 1.0) } else { (-POLICY_NUMBER, POLICY_NUMBER) };
            return Ok(fields.number(key, least, most)?.map(|number| number * scale));
        }
        let Some((text, at)) = fields.text(key, POLICY_NAME_BYTES)? else { return Ok(None) };
        let level = |prefix: &str| {
            let level: f64 = text.strip_prefix(prefix)?.parse().ok()?;
            (0.0..=1.0).contains(&level).then_some(level)
        };
        let value = match of {
            Population::Lots => None,
            Population::Tokens(signal) => {
                level("q").map(|level| self.calibration.map(|known| known.token(signal, level)))
            }
            Population::Requests(span) if text == "replace" => {
                Some(self.calibration.map(|known| Some(known.replace_above(span))))
            }
            // A span of a mean is compared with single tokens, too.
            Population::Requests(span) if text.starts_with('q') => {
                level("q").map(|level| self.calibration.map(|known| known.token(span.signal, level)))
            }
            Population::Requests(span) => {
                level("rq").map(|level| self.calibration.map(|known| known.request(span, level)))
            }
        };
        match value {
            None => {
                let wanted = match of {
                    Population::Lots => "a number from 0 to 1",
                    Population::Tokens(_) => "a number, or a quantile of tokens such as \"q0.90\"",
                    Population::Requests(_) => {
                        "a number, or a quantile of requests such as \"rq0.50\" or of tokens such as \"q0.90\""
                    }
                };
                Err(fields.wrong("OutOfRange", at, key, format!("{text:?}; allowed is {wanted}")))
            }
            Some(None) => {
                self.unresolved.push(text);
                Ok(Some(f64::NAN))
            }
            Some(Some(None)) => Err(fields.wrong(
                "Calibration",
                at,
                key,
                format!("{text:?}, of which the calibration has no quantiles; make it anew"),
            )),
            Some(Some(Some(value))) => Ok(Some(value)),
        }
    }

    /// `mean|max|min = SIGNAL` or `share_above = { SIGNAL = bar }`, of `first|last = n` tokens or all, each a
    /// mean over `window`.
    pub(super) fn span(&self, fields: &mut Fields<'a>) -> Result<Span> {
        let mut found = None;
        for (key, stat) in [("mean", Stat::Mean), ("max", Stat::Max), ("min", Stat::Min)] {
            if let Some(signal) = self.signal(fields, key)? {
                found = Some((signal, stat));
            }
        }
        if let Some(signal) = self.signal(fields, "share_above")? {
            let scale = signal.scale(self.unit);
            let bar =
                fields.number("bar", -POLICY_NUMBER, POLICY_NUMBER)?.ok_or_else(|| fields.missing("bar"))?;
            found = Some((signal, Stat::ShareAbove(bar * scale)));
        }
        let (signal, stat) = found.ok_or_else(|| fields.missing("mean, max, min or share_above"))?;
        let part = self.part(fields)?;
        let window = fields.integer("window", 1, POLICY_SPAN)?.unwrap_or(1) as usize;
        Ok(Span { signal, stat, part, window })
    }

    fn part(&self, fields: &mut Fields<'a>) -> Result<Part> {
        let first = fields.integer("first", 1, POLICY_SPAN)?;
        let last = fields.integer("last", 1, POLICY_SPAN)?;
        match (first, last) {
            (Some(_), Some(_)) => {
                let message = format!("{}: first and last exclude one another", fields.path);
                Err(fields.error("OutOfRange", message))
            }
            (Some(n), None) => Ok(Part::First(n as usize)),
            (None, Some(n)) => Ok(Part::Last(n as usize)),
            (None, None) => Ok(Part::All),
        }
    }

    fn signal(&self, fields: &mut Fields<'a>, key: &'static str) -> Result<Option<Signal>> {
        let Some((name, at)) = fields.text(key, POLICY_NAME_BYTES)? else { return Ok(None) };
        signal_named(fields, key, &name, at).map(Some)
    }

    /// Where another token was a real choice.
    pub(super) fn peak(&self, mut fields: Fields<'a>) -> Result<Peak> {
        let by = match fields.text("signal", POLICY_NAME_BYTES)? {
            None => PeakBy::Signal(Signal::Entropy),
            Some((name, _)) if name == "lot" => PeakBy::Lot,
            Some((name, at)) => PeakBy::Signal(signal_named(&fields, "signal", &name, at)?),
        };
        let part = self.part(&mut fields)?;
        let peak = Peak {
            by,
            part,
            before: fields.integer("before", 0, POLICY_SPAN)?.unwrap_or(0) as usize,
            min_gap: fields.integer("min_gap", 1, POLICY_SPAN)?.unwrap_or(1) as usize,
            choices: fields.number("choices", 1.0, POLICY_NUMBER)?.unwrap_or(1.5),
            runner_up: fields.number("runner_up", 0.0, 0.5)?.unwrap_or(0.05),
        };
        fields.finish()?;
        Ok(peak)
    }

    /// Conditions about the token before the one to be decided.
    fn last(&mut self, mut last: Fields<'a>, conditions: &mut Vec<Condition>) -> Result<()> {
        let n_before = conditions.len();
        for (key, wanted) in [("is", true), ("is_not", false)] {
            if let Some((text, at)) = last.text(key, POLICY_TEXT_BYTES)? {
                if text.is_empty() {
                    return Err(last.wrong("OutOfRange", at, key, "empty"));
                }
                let place = self.texts.iter().position(|other| *other == text).unwrap_or_else(|| {
                    let place = self.texts.len();
                    self.texts.push(text);
                    place
                });
                conditions.push(Condition::EndsWith { text: place, wanted });
            }
        }
        if let Some(wanted) = last.bool("injected")? {
            conditions.push(Condition::Injected(wanted));
        }
        for (key, wanted) in [("class", true), ("class_is_not", false)] {
            if let Some((name, at)) = last.text(key, POLICY_NAME_BYTES)? {
                match TokenClass::ALL.iter().find(|(_, other)| *other == name) {
                    Some(&(class, _)) => conditions.push(Condition::Class { class, wanted }),
                    None => {
                        let known = TokenClass::ALL.map(|(_, name)| name).join(", ");
                        return Err(last.wrong(
                            "OutOfRange",
                            at,
                            key,
                            format!("{name:?}; known are {known}"),
                        ));
                    }
                }
            }
        }
        if conditions.len() == n_before && last.is_empty() {
            return Err(last.missing("is, is_not, injected, class or class_is_not"));
        }
        last.finish()
    }
}

fn signal_named(fields: &Fields<'_>, key: &'static str, name: &str, at: Origin) -> Result<Signal> {
    match Signal::ALL.iter().find(|(_, known)| *known == name) {
        Some(&(signal, _)) => Ok(signal),
        None => {
            let known = Signal::ALL.map(|(_, name)| name).join(", ");
            Err(fields.wrong("OutOfRange", at, key, format!("{name:?}; known are {known}")))
        }
    }
}
