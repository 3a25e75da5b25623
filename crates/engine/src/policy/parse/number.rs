//! Numbers of a draw: constants, affine tables, named rules.

use super::super::document::Fields;
use super::super::rule::{DrawRule, Heat, Number, Rounding};
use super::super::signal::Signal;
use super::{Limits, Reader, SHARE, TEMPERATURE, TOP_K, TOP_N_SIGMA};
use crate::limits::{POLICY_NAME_BYTES, POLICY_NUMBER};
use entropix_model::Result;

impl<'a> Reader<'a> {
    pub(super) fn draw(&self, fields: &mut Fields<'a>) -> Result<DrawRule> {
        let base = &self.base;
        let heat = if fields.has("target_entropy") {
            if fields.has("temperature") {
                return Err(fields.error(
                    "OutOfRange",
                    format!("{}: temperature and target_entropy exclude one another", fields.path),
                ));
            }
            let limits = Limits { least: 0.0, most: POLICY_NUMBER, is_whole: false };
            let mut target =
                self.number(fields, "target_entropy", limits, None)?.unwrap_or(Number::constant(0.0));
            let scale = Signal::Entropy.scale(self.unit);
            (target.base, target.min, target.max) =
                (target.base * scale, target.min * scale, target.max * scale);
            Heat::TargetEntropy(target)
        } else if let Some(heat) = self.named_rule(fields)? {
            heat
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

    /// `temperature = { edt = { theta, base, factor } }` or `{ root = { base, slope, offset, min, max } }`,
    /// of the entropy in nats whatever the unit of the file.
    fn named_rule(&self, fields: &mut Fields<'a>) -> Result<Option<Heat>> {
        if !fields.table_holds("temperature", &["edt", "root"]) {
            return Ok(None);
        }
        let Some(mut table) = fields.table("temperature")? else { return Ok(None) };
        let (least, most) = (TEMPERATURE.least, TEMPERATURE.most);
        let usual = self.base.temperature;
        let heat = if let Some(mut rule) = table.table("edt")? {
            let theta = rule.number("theta", 0.0, POLICY_NUMBER)?.ok_or_else(|| rule.missing("theta"))?;
            let base = rule.number("base", least, most)?.unwrap_or(usual);
            let factor = rule.number("factor", 0.0, 1.0)?.unwrap_or(0.8);
            rule.finish()?;
            Heat::Edt { base, theta, factor }
        } else if let Some(mut rule) = table.table("root")? {
            let base = rule.number("base", least, most)?.unwrap_or(usual);
            let slope = rule.number("slope", 0.0, POLICY_NUMBER)?.ok_or_else(|| rule.missing("slope"))?;
            let offset = rule.number("offset", 0.0, POLICY_NUMBER)?.ok_or_else(|| rule.missing("offset"))?;
            let min = rule.number("min", least, most)?.unwrap_or(least);
            let max = rule.number("max", min, most)?.unwrap_or(most);
            rule.finish()?;
            Heat::Root { base, slope, offset, min, max }
        } else {
            return Ok(None);
        };
        table.finish()?;
        Ok(Some(heat))
    }

    /// A constant, or a table `{ base, offset, <signal> = coefficient …, min, max, round }`.
    pub(super) fn number(
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
        let base = match (table.number("base", -POLICY_NUMBER, POLICY_NUMBER)?, base) {
            (Some(base), _) | (None, Some(base)) => base,
            (None, None) => return Err(table.missing("base")),
        };
        let offset = table.number("offset", -POLICY_NUMBER, POLICY_NUMBER)?.unwrap_or(1.0);
        let mut terms = Vec::new();
        for (signal, name) in Signal::ALL {
            if let Some(coefficient) = table.number(name, -POLICY_NUMBER, POLICY_NUMBER)? {
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
    match table.text("round", POLICY_NAME_BYTES)? {
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
