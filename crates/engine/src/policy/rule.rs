//! What a policy file says once it is read: numbers, conditions, decisions. Everything in nats.

use super::dslider::Dslider;
use super::score::Score;
use super::signal::{Inputs, Signal};
use super::span::{Peak, Span};
use super::{Branch, Decision, History, Judge, Phrase, Refork, RegionId, Resume, Rewind};
use crate::TokenClass;
use entropix_model::{Filters, Temperature, TokenId};
use std::sync::Arc;

/// `base x (offset + sum of coefficient x signal)`, rounded, then kept within `min` and `max`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Number {
    pub(super) base: f64,
    pub(super) offset: f64,
    pub(super) terms: Vec<(Signal, f64)>,
    pub(super) rounding: Rounding,
    pub(super) min: f64,
    pub(super) max: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    No,
    /// To the nearest whole number, ties to the even one.
    Nearest,
    Floor,
}

impl Number {
    pub(super) fn constant(value: f64) -> Self {
        Self { base: value, offset: 1.0, terms: Vec::new(), rounding: Rounding::No, min: value, max: value }
    }

    /// The value when it depends on no signal.
    pub(super) fn fixed(&self) -> Option<f64> {
        self.terms.is_empty().then(|| (self.base * self.offset).clamp(self.min, self.max))
    }

    fn value(&self, inputs: &Inputs<'_>) -> f64 {
        let add = |sum, &(signal, coefficient): &(Signal, f64)| sum + coefficient * signal.value(inputs);
        let factor = self.terms.iter().fold(self.offset, add);
        let value = self.base * factor;
        let rounded = match self.rounding {
            Rounding::No => value,
            Rounding::Nearest => value.round_ties_even(),
            Rounding::Floor => value.floor(),
        };
        rounded.clamp(self.min, self.max)
    }
}

/// How to draw.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DrawRule {
    pub(super) heat: Heat,
    pub(super) top_k: Number,
    pub(super) top_p: Number,
    pub(super) min_p: Number,
    pub(super) top_n_sigma: Option<Number>,
    pub(super) p_less: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Heat {
    Temperature(Number),
    /// In nats.
    TargetEntropy(Number),
    /// `base x factor^(theta / H)`: EDT, arXiv 2403.14541, whose factor is 0.8. H in nats.
    Edt {
        base: f64,
        theta: f64,
        factor: f64,
    },
    /// `base x sqrt((slope x H + offset) / H)`, within `min` and `max`: hot when sure. H in nats.
    Root {
        base: f64,
        slope: f64,
        offset: f64,
        min: f64,
        max: f64,
    },
}

/// A temperature below this is greedy: z / T would leave the range of f32.
const COLDEST: f64 = 1e-3;

impl Heat {
    fn value(&self, inputs: &Inputs<'_>) -> f64 {
        let entropy = f64::from(inputs.signals.entropy);
        match *self {
            Heat::Temperature(ref number) | Heat::TargetEntropy(ref number) => number.value(inputs),
            Heat::Edt { base, theta, factor } => {
                let temperature = base * factor.powf(theta / entropy);
                if temperature < COLDEST { 0.0 } else { temperature }
            }
            Heat::Root { base, slope, offset, min, max } => {
                (base * ((slope * entropy + offset) / entropy).sqrt()).clamp(min, max)
            }
        }
    }
}

impl DrawRule {
    /// A number that is not finite turns the temperature into NaN, which the engine refuses to draw with.
    fn filters(&self, inputs: &Inputs<'_>) -> Filters {
        let heat = self.heat.value(inputs);
        let (top_k, top_p) = (self.top_k.value(inputs), self.top_p.value(inputs));
        let min_p = self.min_p.value(inputs);
        let top_n_sigma = self.top_n_sigma.as_ref().map(|number| number.value(inputs));
        let all = [heat, top_k, top_p, min_p, top_n_sigma.unwrap_or(0.0)];
        let heat = if all.iter().all(|value| value.is_finite()) { heat as f32 } else { f32::NAN };
        Filters {
            temperature: match self.heat {
                Heat::Temperature(_) | Heat::Edt { .. } | Heat::Root { .. } => Temperature::Fixed(heat),
                Heat::TargetEntropy(_) => Temperature::TargetEntropy(heat),
            },
            top_k: top_k as u32,
            top_p: top_p as f32,
            min_p: min_p as f32,
            top_n_sigma: top_n_sigma.map_or(f32::INFINITY, |sigma| sigma as f32),
            p_less: self.p_less,
        }
    }

    /// Its numbers by the names policy files have for them; NaN for what depends on a signal that is NaN.
    pub(super) fn told(&self, inputs: &Inputs<'_>) -> Vec<(&'static str, f64)> {
        let heat = match self.heat {
            Heat::TargetEntropy(_) => "target_entropy",
            Heat::Temperature(_) | Heat::Edt { .. } | Heat::Root { .. } => "temperature",
        };
        let mut all = vec![
            (heat, self.heat.value(inputs)),
            ("top_k", self.top_k.value(inputs)),
            ("top_p", self.top_p.value(inputs)),
            ("min_p", self.min_p.value(inputs)),
        ];
        all.extend(self.top_n_sigma.as_ref().map(|number| ("top_n_sigma", number.value(inputs))));
        if self.p_less {
            all.push(("p_less", 1.0));
        }
        all
    }

    fn numbers(&self) -> impl Iterator<Item = &Number> {
        let heat = match &self.heat {
            Heat::Temperature(number) | Heat::TargetEntropy(number) => Some(number),
            Heat::Edt { .. } | Heat::Root { .. } => None,
        };
        [&self.top_k, &self.top_p, &self.min_p].into_iter().chain(heat).chain(&self.top_n_sigma)
    }

    fn resume(&self, inputs: &Inputs<'_>) -> Resume {
        Resume { draw: Some(self.filters(inputs)), throughout: false }
    }
}

/// Where to go back to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// So many tokens.
    Back(usize),
    /// To the `nth` highest of these.
    Peak { peak: Peak, nth: usize },
}

impl Target {
    /// The place in the output, if there is one.
    fn place(&self, history: &History<'_>) -> Option<usize> {
        match self {
            Target::Back(n) => history.output().len().checked_sub(*n),
            Target::Peak { peak, nth } => {
                peak.find(history.trace(), history.tried(), history.lots(), *nth).get(nth - 1).copied()
            }
        }
    }
}

/// What a region decides.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rule {
    Argmax,
    Draw(DrawRule),
    BestOf {
        n: u16,
        draw: DrawRule,
    },
    /// The only one of its policy: what it remembers is the policy's state.
    Dslider(Box<Dslider>),
    /// An index of the policy's phrases.
    Inject(usize),
    Stop(Arc<str>),
    Branch(Branch),
    Rewind {
        target: Target,
        draw: Option<DrawRule>,
        keep: Option<Score>,
        /// Most times an answer.
        attempts: usize,
    },
    Refork {
        points: usize,
        peak: Peak,
        draw: Option<DrawRule>,
        judge: Judge,
        /// Most times an answer.
        attempts: usize,
    },
}

impl Rule {
    /// The decision, unless it may not be taken here: then the next region has its turn.
    pub(super) fn decide(
        &self,
        region: RegionId,
        inputs: &Inputs<'_>,
        history: &History<'_>,
        phrases: &[Phrase],
    ) -> Option<Decision> {
        let allowance = history.allowance();
        let resume =
            |draw: &Option<DrawRule>| draw.as_ref().map_or(Resume::default(), |it| it.resume(inputs));
        Some(match self {
            Rule::Argmax => Decision::Argmax,
            Rule::Draw(draw) => Decision::Draw(draw.filters(inputs)),
            Rule::BestOf { n, draw } => Decision::BestOf { n: *n, filters: draw.filters(inputs) },
            Rule::Dslider(dslider) => Decision::Pick { candidates: dslider.candidates },
            &Rule::Inject(phrase) => {
                history.may_inject(phrase, &phrases[phrase]).then_some(Decision::Inject { phrase })?
            }
            Rule::Stop(reason) => {
                (!allowance.tentative).then(|| Decision::Stop { reason: Arc::clone(reason) })?
            }
            Rule::Branch(branch) => allowance.branch.then(|| Decision::Branch(branch.clone()))?,
            Rule::Rewind { target, draw, keep, attempts } => {
                if !allowance.rewind || history.attempts(region) >= *attempts {
                    return None;
                }
                Decision::Rewind(Rewind { to: target.place(history)?, resume: resume(draw), keep: *keep })
            }
            Rule::Refork { points, peak, draw, judge, attempts } => {
                if !allowance.refork || history.attempts(region) >= *attempts {
                    return None;
                }
                let points = peak.find(history.trace(), history.tried(), history.lots(), *points);
                if points.is_empty() {
                    return None;
                }
                Decision::Refork(Refork { points, resume: resume(draw), judge: judge.clone() })
            }
        })
    }

    /// What policy files call it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Rule::Argmax => "argmax",
            Rule::Draw(_) => "draw",
            Rule::BestOf { .. } => "best_of",
            Rule::Dslider(_) => "dslider",
            Rule::Inject(_) => "inject",
            Rule::Stop(_) => "stop",
            Rule::Branch(_) => "branch",
            Rule::Rewind { .. } => "rewind",
            Rule::Refork { .. } => "refork",
        }
    }

    pub(super) fn needs_attention(&self) -> bool {
        match self {
            Rule::Draw(draw) | Rule::BestOf { draw, .. } | Rule::Rewind { draw: Some(draw), .. } => {
                draw.numbers().flat_map(|number| &number.terms).any(|(signal, _)| signal.is_of_attention())
            }
            _ => false,
        }
    }

    /// Whether a token may be decided for which the likeliest one is not enough.
    pub(super) fn needs_logits(&self) -> bool {
        !matches!(self, Rule::Argmax | Rule::Stop(_) | Rule::Rewind { .. } | Rule::Refork { .. })
    }

    /// Whether it looks at how the output came about.
    pub(super) fn needs_trace(&self) -> bool {
        matches!(self, Rule::Rewind { .. } | Rule::Refork { .. })
    }

    /// How many tokens it holds back: those from this place of an output of `n_output` on may go.
    pub(super) fn holds_back(&self, when: When, history: &History<'_>) -> usize {
        let n_output = history.output().len();
        let allowance = history.allowance();
        match self {
            Rule::Refork { peak, .. } if allowance.reforks_left > 0 => {
                reach(&Target::Peak { peak: *peak, nth: 1 }, n_output)
            }
            Rule::Rewind { target, .. } if allowance.rewinds_left > 0 => match when {
                When::At(n) if !history.ends_before(n) && !history.reaches(n) => n_output,
                _ => reach(target, n_output),
            },
            _ => n_output,
        }
    }
}

/// The first place of an output of `n_output` tokens, and of all longer ones, that a return may lead to.
fn reach(target: &Target, n_output: usize) -> usize {
    match target {
        Target::Back(n) => n_output.saturating_sub(*n),
        Target::Peak { peak, .. } => match peak.part {
            super::Part::Last(n) => n_output.saturating_sub(n.saturating_add(peak.before)),
            super::Part::First(_) | super::Part::All => 0,
        },
    }
}

/// At which positions a region is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Every one.
    Token,
    /// Once, when the output has so many tokens, or is over with fewer.
    At(usize),
    /// When the answer is over.
    End,
    /// When no other region decides.
    Default,
}

/// Whose lot a condition asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LotOf {
    Answer,
    /// The one to be decided.
    Token,
}

impl LotOf {
    pub(super) const ALL: [(LotOf, &'static str); 2] =
        [(LotOf::Answer, "answer_lot"), (LotOf::Token, "token_lot")];
}

/// One thing that must hold for a region.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    /// Strictly between.
    Between { signal: Signal, above: f64, below: f64 },
    /// The sequence ends with this text, an index of the policy's texts; or it does not.
    EndsWith { text: usize, wanted: bool },
    /// The last token was forced; or it was not.
    Injected(bool),
    /// The last token is of this class; or it is not.
    Class { class: TokenClass, wanted: bool },
    /// Strictly between; not without a token.
    Span { span: Span, above: f64, below: f64 },
    /// A lot, strictly between.
    Lot { of: LotOf, above: f64, below: f64 },
    /// Tokens of the output, strictly between.
    Output { above: Option<usize>, below: Option<usize> },
    /// The last `ngram` tokens of the output stand in it `times` times.
    Repeats { ngram: usize, times: usize },
}

impl Condition {
    pub(super) fn holds(&self, inputs: &Inputs<'_>, history: &History<'_>, texts: &[Vec<TokenId>]) -> bool {
        match *self {
            Condition::Between { signal, above, below } => signal.is_between(inputs, above, below),
            Condition::EndsWith { text, wanted } => history.tokens().ends_with(&texts[text]) == wanted,
            Condition::Injected(wanted) => history.last_injected() == wanted,
            Condition::Class { class, wanted } => history.last_is(class) == wanted,
            Condition::Span { span, above, below } => {
                span.value(history.trace()).is_some_and(|value| above < value && value < below)
            }
            Condition::Lot { of, above, below } => {
                let lots = history.lots();
                let lot = match of {
                    LotOf::Answer => lots.of_answer(),
                    LotOf::Token => lots.of_token(history.output().len()),
                };
                above < lot && lot < below
            }
            Condition::Output { above, below } => {
                let n = history.output().len();
                above.is_none_or(|above| above < n) && below.is_none_or(|below| n < below)
            }
            Condition::Repeats { ngram, times } => {
                let output = history.output();
                output.len() >= ngram + times - 1 && {
                    let last = &output[output.len() - ngram..];
                    output.windows(ngram).filter(|window| *window == last).count() >= times
                }
            }
        }
    }
}

/// A row of the policy's table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Region {
    pub(super) name: Arc<str>,
    pub(super) when: When,
    /// All of them must hold; none for the default.
    pub(super) conditions: Vec<Condition>,
    pub(super) rule: Rule,
}

impl Region {
    /// What it decides about the next token, if anything.
    pub(super) fn decide(
        &self,
        id: RegionId,
        inputs: &Inputs<'_>,
        history: &History<'_>,
        phrases: &[Phrase],
        texts: &[Vec<TokenId>],
    ) -> Option<Decision> {
        let is_time = match self.when {
            When::Token | When::Default => true,
            When::At(n) => !history.allowance().tentative && history.reaches(n),
            When::End => false,
        };
        let holds = |condition: &Condition| condition.holds(inputs, history, texts);
        if !is_time || !self.conditions.iter().all(holds) {
            return None;
        }
        self.rule.decide(id, inputs, history, phrases)
    }

    /// What it decides about an answer that is over, if anything.
    pub(super) fn conclude(
        &self,
        id: RegionId,
        inputs: &Inputs<'_>,
        history: &History<'_>,
        texts: &[Vec<TokenId>],
    ) -> Option<Decision> {
        let is_time = match self.when {
            When::End => true,
            When::At(n) => history.ends_before(n) && matches!(self.rule, Rule::Rewind { .. } | Rule::Stop(_)),
            When::Token | When::Default => false,
        };
        let holds = |condition: &Condition| condition.holds(inputs, history, texts);
        if !is_time || !self.conditions.iter().all(holds) {
            return None;
        }
        self.rule.decide(id, inputs, history, &[])
    }

    pub(super) fn needs_attention(&self) -> bool {
        let in_condition = |condition: &Condition| match condition {
            Condition::Between { signal, .. } => signal.is_of_attention(),
            Condition::Span { span, .. } => span.signal.is_of_attention(),
            _ => false,
        };
        self.conditions.iter().any(in_condition) || self.rule.needs_attention()
    }

    pub(super) fn needs_trace(&self) -> bool {
        let of_span = |condition: &Condition| matches!(condition, Condition::Span { .. });
        self.conditions.iter().any(of_span) || self.rule.needs_trace()
    }

    /// Whether it decides wherever its conditions about single tokens hold.
    pub(super) fn is_plain(&self) -> bool {
        let is_known = |condition: &Condition| match condition {
            Condition::Between { above, below, .. } => !above.is_nan() && !below.is_nan(),
            Condition::Span { .. }
            | Condition::Lot { .. }
            | Condition::Output { .. }
            | Condition::Repeats { .. } => false,
            _ => true,
        };
        self.when == When::Token
            && self.conditions.iter().all(is_known)
            && matches!(self.rule, Rule::Argmax | Rule::Draw(_) | Rule::BestOf { .. } | Rule::Dslider(_))
    }
}
