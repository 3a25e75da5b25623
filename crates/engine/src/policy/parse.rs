//! The schema of policy files.

use super::document::{Fields, Node, Origin, Sources, Value};
use super::reach::{Unreachable, unreachable};
use super::rule::{Condition, DrawRule, Heat, Number, Region, Rounding, Rule};
use super::signal::{Signal, Unit};
use crate::TokenClass;
use crate::limits::{BEST_OF, POLICY_REGIONS};
use entropix_model::Result;
use std::sync::Arc;

/// The keys of a policy file.
pub(super) const TOP_LEVEL: [&str; 6] = ["name", "description", "unit", "parameters", "region", "default"];

/// Bytes of a name.
const NAME_BYTES: usize = 64;
/// Bytes of a phrase, a reason or a description.
const TEXT_BYTES: usize = 4096;
/// The largest number, up or down: far from where arithmetic would overflow.
const LARGEST: f64 = 1e9;

/// What a policy file says.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: Arc<str>,
    pub(super) description: String,
    /// The default last.
    pub(super) regions: Arc<[Region]>,
    pub(super) phrases: Vec<PhraseText>,
    /// Texts that conditions look for.
    pub(super) texts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PhraseText {
    pub(super) text: String,
    pub(super) cap: u32,
    pub(super) cooldown: u32,
}

/// What a parameter of a draw may be.
#[derive(Clone, Copy)]
struct Limits {
    least: f64,
    most: f64,
    is_whole: bool,
}

const TEMPERATURE: Limits = Limits { least: 0.0, most: 100.0, is_whole: false };
const TOP_K: Limits = Limits { least: 0.0, most: u32::MAX as f64, is_whole: true };
const SHARE: Limits = Limits { least: 0.0, most: 1.0, is_whole: false };
const TOP_N_SIGMA: Limits = Limits { least: 0.0, most: 1000.0, is_whole: false };

/// The draw that all draws of the file start from.
struct Base {
    temperature: f64,
    top_k: f64,
    top_p: f64,
    min_p: f64,
    top_n_sigma: Option<f64>,
    p_less: bool,
}

/// Reads a whole file.
pub(super) fn parse(sources: &Sources<'_>, root: Node) -> Result<Spec> {
    let mut fields = Fields::new(sources, "", root)?;
    let name = name(&mut fields)?.ok_or_else(|| fields.missing("name"))?;
    let description = fields.text("description", TEXT_BYTES)?.map_or_else(String::new, |(text, _)| text);
    let unit = match fields.text("unit", NAME_BYTES)? {
        None => Unit::Nat,
        Some((unit, at)) => match unit.as_str() {
            "nat" => Unit::Nat,
            "bit" => Unit::Bit,
            _ => {
                return Err(fields.wrong(
                    "OutOfRange",
                    at,
                    "unit",
                    format!("{unit:?}; allowed are \"nat\" and \"bit\""),
                ));
            }
        },
    };
    let base = base(fields.table("parameters")?)?;
    let mut reader =
        Reader { sources, unit, base, regions: Vec::new(), phrases: Vec::new(), texts: Vec::new() };
    let regions = fields.take("region");
    let default = fields.table("default")?.ok_or_else(|| fields.missing("default"))?;
    fields.finish()?;
    if let Some(regions) = regions {
        reader.regions(regions)?;
    }
    reader.default(default)?;
    let Reader { regions, phrases, texts, .. } = reader;
    Ok(Spec { name, description, regions: regions.into(), phrases, texts })
}

fn base(fields: Option<Fields<'_>>) -> Result<Base> {
    let mut base =
        Base { temperature: 1.0, top_k: 0.0, top_p: 1.0, min_p: 0.0, top_n_sigma: None, p_less: false };
    let Some(mut fields) = fields else { return Ok(base) };
    let mut set = |place: &mut f64, key, limits: Limits| -> Result<()> {
        let number = if limits.is_whole {
            fields.integer(key, limits.least as i64, limits.most as i64)?.map(|number| number as f64)
        } else {
            fields.number(key, limits.least, limits.most)?
        };
        *place = number.unwrap_or(*place);
        Ok(())
    };
    set(&mut base.temperature, "temperature", TEMPERATURE)?;
    set(&mut base.top_k, "top_k", TOP_K)?;
    set(&mut base.top_p, "top_p", SHARE)?;
    set(&mut base.min_p, "min_p", SHARE)?;
    base.top_n_sigma = fields.number("top_n_sigma", TOP_N_SIGMA.least, TOP_N_SIGMA.most)?;
    base.p_less = fields.bool("p_less")?.unwrap_or(false);
    fields.finish()?;
    Ok(base)
}

/// A name: letters, digits, dots, dashes and underscores.
fn name(fields: &mut Fields<'_>) -> Result<Option<Arc<str>>> {
    let Some((name, at)) = fields.text("name", NAME_BYTES)? else { return Ok(None) };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(is_plain) {
        let what = format!("{name:?}; a name is made of letters, digits, dots, dashes and underscores");
        return Err(fields.wrong("OutOfRange", at, "name", what));
    }
    Ok(Some(name.into()))
}

struct Reader<'a> {
    sources: &'a Sources<'a>,
    unit: Unit,
    base: Base,
    regions: Vec<Region>,
    phrases: Vec<PhraseText>,
    texts: Vec<String>,
}

impl<'a> Reader<'a> {
    fn regions(&mut self, node: Node) -> Result<()> {
        let Value::Array(nodes) = node.value else {
            return Err(self.sources.error("WrongType", node.origin, "region must be written as [[region]]"));
        };
        if nodes.len() > POLICY_REGIONS {
            let message = format!("{} regions, at most {POLICY_REGIONS}", nodes.len());
            return Err(self.sources.error("OutOfRange", node.origin, message));
        }
        for node in nodes {
            let mut fields = Fields::new(self.sources, "region", node)?;
            let at = fields.origin;
            let name = name(&mut fields)?.ok_or_else(|| fields.missing("name"))?;
            fields.path = format!("region {name}");
            let Some(when) = fields.table("when")? else { return Err(fields.missing("when")) };
            let conditions = self.conditions(when)?;
            self.push(name, at, conditions, fields)?;
        }
        Ok(())
    }

    fn default(&mut self, mut fields: Fields<'a>) -> Result<()> {
        let at = fields.origin;
        let name = name(&mut fields)?.unwrap_or_else(|| "default".into());
        if fields.has("when") {
            return Err(
                fields.error("UnknownKey", "the default decides everything that is left; it takes no `when`")
            );
        }
        self.push(name, at, Vec::new(), fields)
    }

    fn push(
        &mut self,
        name: Arc<str>,
        at: Origin,
        conditions: Vec<Condition>,
        mut fields: Fields<'a>,
    ) -> Result<()> {
        if self.regions.iter().any(|other| other.name == name) {
            return Err(self.sources.error("OutOfRange", at, format!("two regions are named {name}")));
        }
        let is_default = conditions.is_empty();
        let rule = self.rule(&mut fields)?;
        if is_default && matches!(rule, Rule::Inject(_)) {
            let message = "the default cannot inject: when its phrase is used up nothing would be left to do";
            return Err(fields.error("OutOfRange", message));
        }
        fields.finish()?;
        self.regions.push(Region { name: Arc::clone(&name), conditions, rule });
        if is_default {
            return Ok(());
        }
        let why = match unreachable(&self.regions) {
            None => return Ok(()),
            Some(Unreachable::Empty) => "its conditions cannot hold together",
            Some(Unreachable::Covered) => "the regions before it take every case",
        };
        Err(self.sources.error("Unreachable", at, format!("region {name} can never decide: {why}")))
    }

    fn conditions(&mut self, mut when: Fields<'a>) -> Result<Vec<Condition>> {
        let mut conditions = Vec::new();
        if when.is_empty() {
            return Err(
                when.error("MissingKey", "a region needs a condition; what is left over goes to [default]")
            );
        }
        for (signal, key) in Signal::ALL {
            let Some(mut bounds) = when.table(key)? else { continue };
            let scale = signal.scale(self.unit);
            let above = bounds.number("above", -LARGEST, LARGEST)?;
            let below = bounds.number("below", -LARGEST, LARGEST)?;
            if above.is_none() && below.is_none() && bounds.is_empty() {
                return Err(bounds.missing("above or below"));
            }
            if let (Some(above), Some(below)) = (above, below)
                && above >= below
            {
                let message = format!("{}: nothing is above {above} and below {below}", bounds.path);
                return Err(bounds.error("OutOfRange", message));
            }
            bounds.finish()?;
            let above = above.map_or(f64::NEG_INFINITY, |above| above * scale);
            let below = below.map_or(f64::INFINITY, |below| below * scale);
            conditions.push(Condition::Between { signal, above, below });
        }
        if let Some(last) = when.table("last")? {
            self.last(last, &mut conditions)?;
        }
        when.finish()?;
        Ok(conditions)
    }

    /// Conditions about the token before the one to be decided.
    fn last(&mut self, mut last: Fields<'a>, conditions: &mut Vec<Condition>) -> Result<()> {
        let n_before = conditions.len();
        for (key, wanted) in [("is", true), ("is_not", false)] {
            if let Some((text, at)) = last.text(key, TEXT_BYTES)? {
                if text.is_empty() {
                    return Err(last.wrong("OutOfRange", at, key, "empty"));
                }
                let place = self.texts.iter().position(|other| *other == text).unwrap_or_else(|| {
                    self.texts.push(text);
                    self.texts.len() - 1
                });
                conditions.push(Condition::EndsWith { text: place, wanted });
            }
        }
        if let Some(wanted) = last.bool("injected")? {
            conditions.push(Condition::Injected(wanted));
        }
        for (key, wanted) in [("class", true), ("class_is_not", false)] {
            if let Some((name, at)) = last.text(key, NAME_BYTES)? {
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

    fn rule(&mut self, fields: &mut Fields<'a>) -> Result<Rule> {
        let Some((decision, at)) = fields.text("decision", NAME_BYTES)? else {
            return Err(fields.missing("decision"));
        };
        match decision.as_str() {
            "argmax" => Ok(Rule::Argmax),
            "draw" => Ok(Rule::Draw(self.draw(fields)?)),
            "best_of" => {
                let n = fields.integer("n", 2, i64::from(BEST_OF))?.ok_or_else(|| fields.missing("n"))?;
                Ok(Rule::BestOf { n: n as u16, draw: self.draw(fields)? })
            }
            "inject" => {
                let (text, at) =
                    fields.text("phrase", TEXT_BYTES)?.ok_or_else(|| fields.missing("phrase"))?;
                if text.is_empty() {
                    return Err(fields.wrong("OutOfRange", at, "phrase", "empty"));
                }
                let most = i64::from(u32::MAX);
                let cap = fields.integer("cap", 1, most)?.ok_or_else(|| fields.missing("cap"))? as u32;
                let cooldown = fields.integer("cooldown", 1, most)?.unwrap_or(1) as u32;
                self.phrases.push(PhraseText { text, cap, cooldown });
                Ok(Rule::Inject(self.phrases.len() - 1))
            }
            "stop" => {
                let (reason, _) =
                    fields.text("reason", TEXT_BYTES)?.ok_or_else(|| fields.missing("reason"))?;
                Ok(Rule::Stop(reason.into()))
            }
            _ => {
                let what = format!("{decision:?}; known are argmax, draw, best_of, inject and stop");
                Err(fields.wrong("OutOfRange", at, "decision", what))
            }
        }
    }

    fn draw(&self, fields: &mut Fields<'a>) -> Result<DrawRule> {
        let base = &self.base;
        let heat = if fields.has("target_entropy") {
            if fields.has("temperature") {
                return Err(fields.error(
                    "OutOfRange",
                    format!("{}: temperature and target_entropy exclude one another", fields.path),
                ));
            }
            let limits = Limits { least: 0.0, most: LARGEST, is_whole: false };
            let mut target =
                self.number(fields, "target_entropy", limits, None)?.unwrap_or(Number::constant(0.0));
            let scale = Signal::Entropy.scale(self.unit);
            (target.base, target.min, target.max) =
                (target.base * scale, target.min * scale, target.max * scale);
            Heat::TargetEntropy(target)
        } else {
            let temperature = self.number(fields, "temperature", TEMPERATURE, Some(base.temperature))?;
            Heat::Temperature(temperature.unwrap_or(Number::constant(base.temperature)))
        };
        let mut number = |key, limits, base: f64| {
            Ok::<_, entropix_model::Error>(
                self.number(fields, key, limits, Some(base))?.unwrap_or(Number::constant(base)),
            )
        };
        let top_k = number("top_k", TOP_K, base.top_k)?;
        let top_p = number("top_p", SHARE, base.top_p)?;
        let min_p = number("min_p", SHARE, base.min_p)?;
        let top_n_sigma = self
            .number(fields, "top_n_sigma", TOP_N_SIGMA, base.top_n_sigma)?
            .or(base.top_n_sigma.map(Number::constant));
        let p_less = fields.bool("p_less")?.unwrap_or(base.p_less);
        Ok(DrawRule { heat, top_k, top_p, min_p, top_n_sigma, p_less })
    }

    /// A constant, or a table `{ base, offset, <signal> = coefficient …, min, max, round }`.
    fn number(
        &self,
        fields: &mut Fields<'a>,
        key: &'static str,
        limits: Limits,
        base: Option<f64>,
    ) -> Result<Option<Number>> {
        let Limits { least, most, is_whole } = limits;
        let path = fields.name(key);
        if !fields.holds_table(key) {
            let constant = if is_whole {
                fields.integer(key, least as i64, most as i64)?.map(|number| number as f64)
            } else {
                fields.number(key, least, most)?
            };
            return Ok(constant.map(Number::constant));
        }
        let Some(mut table) = fields.table(key)? else { return Ok(None) };
        let base = match (table.number("base", -LARGEST, LARGEST)?, base) {
            (Some(base), _) | (None, Some(base)) => base,
            (None, None) => return Err(table.missing("base")),
        };
        let offset = table.number("offset", -LARGEST, LARGEST)?.unwrap_or(1.0);
        let mut terms = Vec::new();
        for (signal, name) in Signal::ALL {
            if let Some(coefficient) = table.number(name, -LARGEST, LARGEST)? {
                terms.push((signal, coefficient / signal.scale(self.unit)));
            }
        }
        // A computed top_k of 0 would mean "all" where "few" was meant.
        let least = if is_whole { least.max(1.0) } else { least };
        let min = table.number("min", least, most)?.unwrap_or(least);
        let max = table.number("max", least, most)?.unwrap_or(most);
        if min > max {
            return Err(table.error("OutOfRange", format!("{path}: min {min} is above max {max}")));
        }
        let rounding = if is_whole { rounding(&mut table)? } else { Rounding::No };
        table.finish()?;
        Ok(Some(Number { base, offset, terms, rounding, min, max }))
    }
}

fn rounding(table: &mut Fields<'_>) -> Result<Rounding> {
    match table.text("round", NAME_BYTES)? {
        None => Ok(Rounding::Nearest),
        Some((round, at)) => match round.as_str() {
            "nearest" => Ok(Rounding::Nearest),
            "floor" => Ok(Rounding::Floor),
            _ => Err(table.wrong(
                "OutOfRange",
                at,
                "round",
                format!("{round:?}; allowed are nearest and floor"),
            )),
        },
    }
}
