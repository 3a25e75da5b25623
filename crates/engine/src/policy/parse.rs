//! The schema of policy files.
#![deny(clippy::arithmetic_side_effects)]

mod decision;
mod number;
mod when;

use super::document::{Fields, Node, Origin, Sources, Value};
use super::reach::{Unreachable, unreachable};
use super::rule::{Condition, Region, Rule, When};
use super::signal::Unit;
use super::{AnswerRule, Budget, Calibration, Judge};
use crate::limits::{POLICY_NAME_BYTES, POLICY_NUMBER, POLICY_REGIONS, POLICY_TEXT_BYTES, REFORKS, REWINDS};
use entropix_model::Result;
use std::sync::Arc;

/// The keys of a policy file.
pub(super) const TOP_LEVEL: [&str; 8] =
    ["name", "description", "unit", "parameters", "budget", "answer", "region", "default"];

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
    pub(super) budget: Budget,
    pub(super) answer: Option<AnswerRule>,
    /// Quantiles nobody could resolve.
    pub(super) unresolved: Vec<String>,
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
pub(super) fn parse(sources: &Sources<'_>, root: Node, calibration: Option<&Calibration>) -> Result<Spec> {
    let mut fields = Fields::new(sources, "", root)?;
    let name = name(&mut fields)?.ok_or_else(|| fields.missing("name"))?;
    let description =
        fields.text("description", POLICY_TEXT_BYTES)?.map_or_else(String::new, |(text, _)| text);
    let unit = match fields.text("unit", POLICY_NAME_BYTES)? {
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
    let budget = budget(fields.table("budget")?)?;
    let mut reader = Reader {
        sources,
        unit,
        base,
        calibration,
        reads_answers: false,
        regions: Vec::new(),
        phrases: Vec::new(),
        texts: Vec::new(),
        unresolved: Vec::new(),
    };
    let answer = reader.answer(&mut fields)?;
    reader.reads_answers = answer.is_some();
    let regions = fields.take("region");
    let default = fields.table("default")?.ok_or_else(|| fields.missing("default"))?;
    fields.finish()?;
    if let Some(regions) = regions {
        reader.regions(regions)?;
    }
    reader.default(default)?;
    let Reader { regions, phrases, texts, unresolved, .. } = reader;
    let regions = regions.into();
    Ok(Spec { name, description, regions, phrases, texts, budget, answer, unresolved })
}

fn budget(fields: Option<Fields<'_>>) -> Result<Budget> {
    let mut budget = Budget::default();
    let Some(mut fields) = fields else { return Ok(budget) };
    budget.extra_tokens = fields.number("extra_tokens", 0.0, POLICY_NUMBER)?.unwrap_or(budget.extra_tokens);
    let rewinds = fields.integer("rewinds", 0, i64::from(REWINDS))?;
    budget.rewinds = rewinds.map_or(budget.rewinds, |rewinds| rewinds as u32);
    let reforks = fields.integer("reforks", 0, i64::from(REFORKS))?;
    budget.reforks = reforks.map_or(budget.reforks, |reforks| reforks as u32);
    fields.finish()?;
    Ok(budget)
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
    let Some((name, at)) = fields.text("name", POLICY_NAME_BYTES)? else { return Ok(None) };
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
    calibration: Option<&'a Calibration>,
    /// Whether the file says how to find answers.
    reads_answers: bool,
    regions: Vec<Region>,
    phrases: Vec<PhraseText>,
    texts: Vec<String>,
    unresolved: Vec<String>,
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
            let is_enabled = fields.bool("enabled")?.unwrap_or(true);
            let labels = fields.bool("labels")?;
            let is_for = |known: &Calibration| labels.is_none_or(|labels| labels == known.has_labels());
            let is_meant = self.calibration.is_none_or(is_for);
            let Some(when) = fields.table("when")? else { return Err(fields.missing("when")) };
            let (when, conditions) = self.conditions(when)?;
            self.push(name, at, when, conditions, fields)?;
            if !is_enabled || !is_meant {
                self.regions.pop();
            }
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
        self.push(name, at, When::Default, Vec::new(), fields)
    }

    fn push(
        &mut self,
        name: Arc<str>,
        at: Origin,
        when: When,
        conditions: Vec<Condition>,
        mut fields: Fields<'a>,
    ) -> Result<()> {
        if self.regions.iter().any(|other| other.name == name) {
            return Err(self.sources.error("OutOfRange", at, format!("two regions are named {name}")));
        }
        let is_default = when == When::Default;
        let rule = self.rule(&mut fields)?;
        let fits = match when {
            When::Default => {
                !matches!(rule, Rule::Inject(_) | Rule::Branch(_) | Rule::Rewind { .. } | Rule::Refork { .. })
            }
            When::End => matches!(rule, Rule::Rewind { .. } | Rule::Refork { .. } | Rule::Stop(_)),
            When::Token | When::At(_) => !matches!(rule, Rule::Refork { .. }),
        };
        if !fits {
            let message = match when {
                When::Default => {
                    "the default cannot inject, branch, rewind or refork: when that may not be done nothing would be \
                     left to do"
                }
                When::End => "at the end of an answer only rewind, refork and stop make sense",
                When::Token | When::At(_) => "refork makes sense only at = \"end\"",
            };
            return Err(fields.error("OutOfRange", message));
        }
        let judge = match &rule {
            Rule::Branch(branch) => Some(&branch.judge),
            Rule::Refork { judge, .. } => Some(judge),
            _ => None,
        };
        let compares = judge.is_some_and(|judge| !matches!(judge, Judge::Best(_)));
        if compares && !self.reads_answers {
            return Err(fields.error(
                "MissingKey",
                "it compares answers, and the file does not say how to find them: add answer = \"last_number\", \"boxed\" or \
                 { regex = ... } at its top, or then = \"best\" here",
            ));
        }
        fields.finish()?;
        self.regions.push(Region { name: Arc::clone(&name), when, conditions, rule });
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
}
