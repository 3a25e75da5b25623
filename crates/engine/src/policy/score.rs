//! How good a line is, from the model's own doubt about it.

use super::Signal;
use super::Span;
use super::span::{Part, Stat};
use crate::Token;

/// How good a line is; higher is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Score {
    /// Mean ln p (temperature 1, before edits) of the line's own tokens.
    MeanLogp,
    /// Minus the mean entropy over the last 16 of the line's own tokens.
    TailEntropy,
    /// The least mean ln p over 8 neighbours of the line's own tokens (DeepConf, arXiv 2508.15260, calls it
    /// lowest group confidence).
    WindowConfidence,
    /// Minus a number of the whole output.
    Span(Span),
}

const TAIL: usize = 16;
const WINDOW: usize = 8;

impl Score {
    /// The tokens of an output that it looks at if it looks at the first ones only; else 0.
    pub(crate) fn n_first(&self) -> usize {
        match self {
            Score::Span(Span { part: Part::First(n), .. }) => *n,
            _ => 0,
        }
    }

    /// Of a line whose output is `trace` (the own tokens at least), the first `n_shared` of them not its own.
    /// Minus infinity when there is nothing to go by.
    pub fn of(&self, trace: &[Token], n_shared: usize) -> f64 {
        let own = &trace[n_shared.min(trace.len())..];
        let logprobs = || own.iter().map(|token| f64::from(token.logprob).max(-1e4)).collect::<Vec<_>>();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let score = match self {
            Score::MeanLogp => mean(&logprobs()),
            Score::TailEntropy => {
                let tail =
                    Span { signal: Signal::Entropy, stat: Stat::Mean, part: Part::Last(TAIL), window: 1 };
                -tail.value(own).unwrap_or(f64::NAN)
            }
            Score::WindowConfidence => {
                let all = logprobs();
                all.windows(WINDOW.clamp(1, all.len().max(1))).map(mean).fold(f64::NAN, f64::min)
            }
            Score::Span(span) => -span.value(trace).unwrap_or(f64::NAN),
        };
        if score.is_nan() { f64::NEG_INFINITY } else { score }
    }
}
