//! What a policy file says once it is read: numbers, conditions, decisions. Everything in nats.

use super::signal::{Inputs, Signal};
use super::{Decision, History, Phrase};
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
}

impl DrawRule {
    /// A number that is not finite turns the temperature into NaN, which the engine refuses to draw with.
    fn filters(&self, inputs: &Inputs<'_>) -> Filters {
        let heat = match &self.heat {
            Heat::Temperature(number) | Heat::TargetEntropy(number) => number.value(inputs),
        };
        let (top_k, top_p) = (self.top_k.value(inputs), self.top_p.value(inputs));
        let min_p = self.min_p.value(inputs);
        let top_n_sigma = self.top_n_sigma.as_ref().map(|number| number.value(inputs));
        let all = [heat, top_k, top_p, min_p, top_n_sigma.unwrap_or(0.0)];
        let heat = if all.iter().all(|value| value.is_finite()) { heat as f32 } else { f32::NAN };
        Filters {
            temperature: match self.heat {
                Heat::Temperature(_) => Temperature::Fixed(heat),
                Heat::TargetEntropy(_) => Temperature::TargetEntropy(heat),
            },
            top_k: top_k as u32,
            top_p: top_p as f32,
            min_p: min_p as f32,
            top_n_sigma: top_n_sigma.map_or(f32::INFINITY, |sigma| sigma as f32),
            p_less: self.p_less,
        }
    }

    fn numbers(&self) -> impl Iterator<Item = &Number> {
        let heat = match &self.heat {
            Heat::Temperature(number) | Heat::TargetEntropy(number) => number,
        };
        [heat, &self.top_k, &self.top_p, &self.min_p].into_iter().chain(&self.top_n_sigma)
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
    /// An index of the policy's phrases.
    Inject(usize),
    Stop(Arc<str>),
}

impl Rule {
    pub(super) fn decide(&self, inputs: &Inputs<'_>) -> Decision {
        match self {
            Rule::Argmax => Decision::Argmax,
            Rule::Draw(draw) => Decision::Draw(draw.filters(inputs)),
            Rule::BestOf { n, draw } => Decision::BestOf { n: *n, filters: draw.filters(inputs) },
            &Rule::Inject(phrase) => Decision::Inject { phrase },
            Rule::Stop(reason) => Decision::Stop { reason: Arc::clone(reason) },
        }
    }

    pub(super) fn needs_attention(&self) -> bool {
        match self {
            Rule::Draw(draw) | Rule::BestOf { draw, .. } => {
                draw.numbers().flat_map(|number| &number.terms).any(|(signal, _)| signal.is_of_attention())
            }
            Rule::Argmax | Rule::Inject(_) | Rule::Stop(_) => false,
        }
    }

    pub(super) fn needs_logits(&self) -> bool {
        !matches!(self, Rule::Argmax | Rule::Stop(_))
    }
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
}

impl Condition {
    pub(super) fn holds(&self, inputs: &Inputs<'_>, history: &History<'_>, texts: &[Vec<TokenId>]) -> bool {
        match *self {
            Condition::Between { signal, above, below } => {
                let value = signal.value(inputs);
                above < value && value < below
            }
            Condition::EndsWith { text, wanted } => history.tokens().ends_with(&texts[text]) == wanted,
            Condition::Injected(wanted) => history.last_injected() == wanted,
            Condition::Class { class, wanted } => history.last_is(class) == wanted,
        }
    }
}

/// A row of the policy's table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Region {
    pub(super) name: Arc<str>,
    /// All of them must hold; none for the default.
    pub(super) conditions: Vec<Condition>,
    pub(super) rule: Rule,
}

impl Region {
    /// Whether it decides here. A region that injects is passed over where its phrase may not be injected.
    pub(super) fn applies(
        &self,
        inputs: &Inputs<'_>,
        history: &History<'_>,
        phrases: &[Phrase],
        texts: &[Vec<TokenId>],
    ) -> bool {
        self.conditions.iter().all(|condition| condition.holds(inputs, history, texts))
            && match self.rule {
                Rule::Inject(phrase) => history.may_inject(phrase, &phrases[phrase]),
                _ => true,
            }
    }

    pub(super) fn needs_attention(&self) -> bool {
        let in_condition = |condition: &Condition| match condition {
            Condition::Between { signal, .. } => signal.is_of_attention(),
            _ => false,
        };
        self.conditions.iter().any(in_condition) || self.rule.needs_attention()
    }
}
