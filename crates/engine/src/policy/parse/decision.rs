//! What a region decides.

use super::super::answer::AnswerRule;
use super::super::document::{Fields, Value};
use super::super::dslider::Dslider;
use super::super::rule::{DrawRule, Heat, Rule, Target};
use super::super::score::Score;
use super::super::{Branch, Judge};
use super::{PhraseText, Reader};
use crate::limits::{
    BEST_OF, BRANCH_WIDTH, PICK, POLICY_ATTEMPTS, POLICY_HORIZON, POLICY_NAME_BYTES, POLICY_NUMBER,
    POLICY_TEXT_BYTES, REFORK_POINTS,
};
use entropix_model::{Filters, Result, Temperature};

impl<'a> Reader<'a> {
    pub(super) fn rule(&mut self, fields: &mut Fields<'a>) -> Result<Rule> {
        let Some((decision, at)) = fields.text("decision", POLICY_NAME_BYTES)? else {
            return Err(fields.missing("decision"));
        };
        match decision.as_str() {
            "argmax" => Ok(Rule::Argmax),
            "draw" => Ok(Rule::Draw(self.draw(fields)?)),
            "best_of" => {
                let n = fields.integer("n", 2, i64::from(BEST_OF))?.ok_or_else(|| fields.missing("n"))?;
                Ok(Rule::BestOf { n: n as u16, draw: self.draw(fields)? })
            }
            "dslider" => self.dslider(fields),
            "inject" => {
                let (text, at) =
                    fields.text("phrase", POLICY_TEXT_BYTES)?.ok_or_else(|| fields.missing("phrase"))?;
                if text.is_empty() {
                    return Err(fields.wrong("OutOfRange", at, "phrase", "empty"));
                }
                let most = i64::from(u32::MAX);
                let cap = fields.integer("cap", 1, most)?.ok_or_else(|| fields.missing("cap"))? as u32;
                let cooldown = fields.integer("cooldown", 1, most)?.unwrap_or(1) as u32;
                let place = self.phrases.len();
                self.phrases.push(PhraseText { text, cap, cooldown });
                Ok(Rule::Inject(place))
            }
            "branch" => self.branch(fields),
            "rewind" => self.rewind(fields),
            "refork" => self.refork(fields),
            "stop" => {
                let (reason, _) =
                    fields.text("reason", POLICY_TEXT_BYTES)?.ok_or_else(|| fields.missing("reason"))?;
                Ok(Rule::Stop(reason.into()))
            }
            _ => {
                let what = format!(
                    "{decision:?}; known are argmax, draw, best_of, dslider, inject, branch, rewind, refork and stop"
                );
                Err(fields.wrong("OutOfRange", at, "decision", what))
            }
        }
    }

    fn dslider(&mut self, fields: &mut Fields<'a>) -> Result<Rule> {
        if self.regions.iter().any(|region| matches!(region.rule, Rule::Dslider(_))) {
            return Err(
                fields.error("OutOfRange", "two regions decide by dslider; what it remembers is of one")
            );
        }
        let most = i64::from(PICK);
        let candidates =
            fields.integer("candidates", 2, most)?.ok_or_else(|| fields.missing("candidates"))?;
        let plain_top = fields.integer("plain_top", 1, most)?.ok_or_else(|| fields.missing("plain_top"))?;
        let mut pair = |key, first, second| -> Result<[f64; 2]> {
            let mut table = fields.table(key)?.ok_or_else(|| fields.missing(key))?;
            let first = required(&mut table, first, 0.0, POLICY_NUMBER)?;
            let second = required(&mut table, second, 0.0, POLICY_NUMBER)?;
            table.finish()?;
            Ok([first, second])
        };
        let [sure, likely] = [pair("sure", "weight", "bias")?, pair("likely", "weight", "bias")?];
        let variance_rate = pair("variance_rate", "model", "changed")?;
        let target = fields.numbers("target", 0.0, POLICY_NUMBER)?.ok_or_else(|| fields.missing("target"))?;
        let target: [f64; 4] = match <[f64; 4]>::try_from(target) {
            Ok(target) if target.iter().sum::<f64>() > 0.0 => target,
            _ => {
                return Err(
                    fields.error("OutOfRange", "target: four weights are wanted, one of them above 0")
                );
            }
        };
        let mut number = |key, least, most| required(fields, key, least, most);
        let dslider = Dslider {
            candidates: candidates as u16,
            plain_top: plain_top as usize,
            floor: number("floor", -80.0, -1.0)?,
            rate: number("rate", 0.0, 1.0)?,
            cross_rate: number("cross_rate", 0.0, 1.0)?,
            variance_rate,
            support_base: number("support_base", 1.0, POLICY_NUMBER)?,
            support_factor: number("support_factor", 0.0, POLICY_NUMBER)?,
            outlier_entropy: number("outlier_entropy", 0.0, POLICY_NUMBER)?,
            outlier_deviation: number("outlier_deviation", 0.0, POLICY_NUMBER)?,
            outlier_spread: number("outlier_spread", 0.0, POLICY_NUMBER)?,
            outlier_bias: number("outlier_bias", -POLICY_NUMBER, POLICY_NUMBER)?,
            sure: sure.into(),
            likely: likely.into(),
            target,
            mix_base: number("mix_base", 1.0, POLICY_NUMBER)?,
            mix_factor: number("mix_factor", 0.0, POLICY_NUMBER)?,
        };
        if variance_rate.iter().any(|rate| *rate > 1.0) {
            return Err(fields.error("OutOfRange", "variance_rate: a share of the newest value is at most 1"));
        }
        Ok(Rule::Dslider(Box::new(dslider)))
    }

    fn branch(&mut self, fields: &mut Fields<'a>) -> Result<Rule> {
        let width =
            fields.integer("width", 2, BRANCH_WIDTH.into())?.ok_or_else(|| fields.missing("width"))?;
        let horizon = if fields.holds_text("horizon") {
            match fields.text("horizon", POLICY_NAME_BYTES)? {
                Some((text, at)) if text != "end" => {
                    let what = format!("{text:?}; a number of tokens or \"end\"");
                    return Err(fields.wrong("OutOfRange", at, "horizon", what));
                }
                _ => None,
            }
        } else {
            Some(fields.integer("horizon", 1, POLICY_HORIZON)?.ok_or_else(|| fields.missing("horizon"))?
                as u32)
        };
        let to_sentence_end = fields.bool("sentence")?.unwrap_or(false);
        let judge = self.judge(fields, "best")?;
        Ok(Rule::Branch(Branch { width: width as u8, horizon, to_sentence_end, judge }))
    }

    fn rewind(&mut self, fields: &mut Fields<'a>) -> Result<Rule> {
        let peak = fields.table("peak")?.map(|peak| self.peak(peak)).transpose()?;
        let back = fields.integer("back", 1, POLICY_HORIZON)?;
        let target = match (peak, back) {
            (Some(peak), None) => {
                let nth = fields.integer("nth", 1, POLICY_ATTEMPTS)?.unwrap_or(1);
                Target::Peak { peak, nth: nth as usize }
            }
            (None, Some(back)) => Target::Back(back as usize),
            _ => return Err(fields.missing("peak or back, one of them,")),
        };
        let keep = self.score(fields, "keep")?;
        let attempts = fields.integer("attempts", 1, POLICY_ATTEMPTS)?.map(|n| n as usize);
        let draw = self.first_token(fields)?;
        Ok(Rule::Rewind { target, draw, keep, attempts: attempts.unwrap_or(usize::MAX) })
    }

    fn refork(&mut self, fields: &mut Fields<'a>) -> Result<Rule> {
        let peak = fields.table("peak")?.ok_or_else(|| fields.missing("peak"))?;
        let peak = self.peak(peak)?;
        let points = fields.integer("points", 1, REFORK_POINTS as i64)?.unwrap_or(1) as usize;
        let attempts = fields.integer("attempts", 1, POLICY_ATTEMPTS)?.map_or(1, |n| n as usize);
        let judge = self.judge(fields, "majority")?;
        let draw = self.first_token(fields)?;
        Ok(Rule::Refork { points, peak, draw, judge, attempts })
    }

    /// How a line goes on where something was taken back: with the best of what is left, or a draw.
    fn first_token(&self, fields: &mut Fields<'a>) -> Result<Option<DrawRule>> {
        match fields.text("first", POLICY_NAME_BYTES)? {
            None => Ok(None),
            Some((text, _)) if text == "runner_up" => Ok(None),
            Some((text, _)) if text == "draw" => Ok(Some(self.draw(fields)?)),
            Some((text, at)) => {
                let what = format!("{text:?}; allowed are \"runner_up\" and \"draw\"");
                Err(fields.wrong("OutOfRange", at, "first", what))
            }
        }
    }

    fn judge(&mut self, fields: &mut Fields<'a>, usual: &str) -> Result<Judge> {
        let (then, at) = fields.text("then", POLICY_NAME_BYTES)?.unwrap_or((usual.to_owned(), fields.origin));
        let score = self.score(fields, "score")?;
        let needed = || score.ok_or_else(|| fields.missing("score"));
        let judge = match then.as_str() {
            "best" => return Ok(Judge::Best(needed()?)),
            "replace" => return Ok(Judge::Replace(needed()?)),
            "weighted" => {
                let score = needed()?;
                let parent_weight = fields.number("parent_weight", 0.0, POLICY_NUMBER)?.unwrap_or(1.0);
                return Ok(Judge::Weighted { score, parent_weight });
            }
            "majority" => {
                let parent_weight = fields.number("parent_weight", 0.0, POLICY_NUMBER)?.unwrap_or(1.0);
                let tie_break = match fields.table("tie_break")? {
                    None => None,
                    Some(mut table) => {
                        let draw = self.draw(&mut table)?;
                        let filters = constant(&draw).ok_or_else(|| {
                            table.error(
                                "OutOfRange",
                                "a tie-break has no signals to depend on: give plain numbers",
                            )
                        })?;
                        table.finish()?;
                        Some(filters)
                    }
                };
                Judge::Majority { parent_weight, tie_break }
            }
            _ => {
                let what = format!("{then:?}; known are best, majority, weighted and replace");
                return Err(fields.wrong("OutOfRange", at, "then", what));
            }
        };
        Ok(judge)
    }

    /// A score by name, or a span of which less is better.
    fn score(&self, fields: &mut Fields<'a>, key: &'static str) -> Result<Option<Score>> {
        if fields.holds_table(key) {
            let Some(mut table) = fields.table(key)? else { return Ok(None) };
            let span = self.span(&mut table)?;
            table.finish()?;
            return Ok(Some(Score::Span(span)));
        }
        let Some((name, at)) = fields.text(key, POLICY_NAME_BYTES)? else { return Ok(None) };
        match name.as_str() {
            "mean_logp" => Ok(Some(Score::MeanLogp)),
            "tail_entropy" => Ok(Some(Score::TailEntropy)),
            "window_confidence" => Ok(Some(Score::WindowConfidence)),
            _ => {
                let what = format!(
                    "{name:?}; known are mean_logp, tail_entropy, window_confidence and a span such as {{ mean = \"entropy\", \
                     last = 32 }}"
                );
                Err(fields.wrong("OutOfRange", at, key, what))
            }
        }
    }

    pub(super) fn answer(&self, fields: &mut Fields<'a>) -> Result<Option<AnswerRule>> {
        if fields.holds_table("answer") {
            let Some(mut table) = fields.table("answer")? else { return Ok(None) };
            let (regex, _) = table.text("regex", POLICY_TEXT_BYTES)?.ok_or_else(|| table.missing("regex"))?;
            table.finish()?;
            return Ok(Some(AnswerRule::Regex(regex.into())));
        }
        let Some(node) = fields.take("answer") else { return Ok(None) };
        let known = "\"last_number\", \"boxed\" or { regex = \"...\" }";
        let Value::Text(name) = &node.value else {
            return Err(fields.wrong("WrongType", node.origin, "answer", format!("not {known}")));
        };
        match name.as_str() {
            "last_number" => Ok(Some(AnswerRule::LastNumber)),
            "boxed" => Ok(Some(AnswerRule::Boxed)),
            _ => {
                Err(fields.wrong("OutOfRange", node.origin, "answer", format!("{name:?}; known are {known}")))
            }
        }
    }
}

fn required(fields: &mut Fields<'_>, key: &'static str, least: f64, most: f64) -> Result<f64> {
    fields.number(key, least, most)?.ok_or_else(|| fields.missing(key))
}

/// The filters of a draw that depends on no signal.
fn constant(draw: &DrawRule) -> Option<Filters> {
    let heat = match &draw.heat {
        Heat::Temperature(number) => Temperature::Fixed(number.fixed()? as f32),
        Heat::TargetEntropy(number) => Temperature::TargetEntropy(number.fixed()? as f32),
        Heat::Edt { .. } | Heat::Root { .. } => return None,
    };
    let top_n_sigma = match &draw.top_n_sigma {
        Some(number) => number.fixed()? as f32,
        None => f32::INFINITY,
    };
    Some(Filters {
        temperature: heat,
        top_k: draw.top_k.fixed()? as u32,
        top_p: draw.top_p.fixed()? as f32,
        min_p: draw.min_p.fixed()? as f32,
        top_n_sigma,
        p_less: draw.p_less,
    })
}
