//! Numbers of a stretch of the output, and its peaks.

use super::signal::Inputs;
use super::{Lots, Signal};
use crate::{DecisionKind, Token};
use entropix_model::AttentionSignals;

/// A number of a signal over part of an output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Of which signal.
    pub signal: Signal,
    /// Which number.
    pub stat: Stat,
    /// Over which tokens.
    pub part: Part,
    /// Means over so many neighbours are looked at instead of single tokens; 1 is off. Where the part is
    /// shorter there is one mean, of all.
    pub window: usize,
}

/// What to make of the values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stat {
    /// Their mean.
    Mean,
    /// The largest.
    Max,
    /// The least.
    Min,
    /// How many of them are above this, 0 to 1.
    ShareAbove(f64),
}

/// Which tokens of an output; fewer where it has fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The first so many.
    First(usize),
    /// The last so many.
    Last(usize),
    /// All.
    All,
}

impl Part {
    fn of(self, trace: &[Token]) -> &[Token] {
        match self {
            Part::First(n) => &trace[..n.min(trace.len())],
            Part::Last(n) => &trace[trace.len().saturating_sub(n)..],
            Part::All => trace,
        }
    }
}

/// A token's own signal.
pub(super) fn value(token: &Token, signal: Signal) -> f64 {
    let none = AttentionSignals::default();
    signal.value(&Inputs { signals: &token.signals, attention: token.attention.as_ref().unwrap_or(&none) })
}

impl Span {
    /// The number, in nats (or nats squared, or none, as the signal has it); none without a token.
    pub fn value(&self, trace: &[Token]) -> Option<f64> {
        let values: Vec<f64> = self.part.of(trace).iter().map(|token| value(token, self.signal)).collect();
        if values.is_empty() {
            return None;
        }
        let width = self.window.clamp(1, values.len());
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let means = values.windows(width).map(mean);
        Some(match self.stat {
            Stat::Mean => mean(&means.collect::<Vec<_>>()),
            Stat::Max => means.fold(f64::NEG_INFINITY, f64::max),
            Stat::Min => means.fold(f64::INFINITY, f64::min),
            Stat::ShareAbove(bar) => {
                let n = values.len() - width + 1;
                means.filter(|&value| value > bar).count() as f64 / n as f64
            }
        })
    }
}

/// What puts peaks in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeakBy {
    /// The height of a signal.
    Signal(Signal),
    /// Chance: [`Lots::of_token`].
    Lot,
}

/// The places of an output where another token was a real choice, the highest first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// What makes them high.
    pub by: PeakBy,
    /// Where to look.
    pub part: Part,
    /// Tokens at the end that are left out first.
    pub before: usize,
    /// Fewest tokens between a peak and another one, or a place that was tried before.
    pub min_gap: usize,
    /// Fewest effective choices, 1 / `collision`.
    pub choices: f64,
    /// Least p of the runner-up.
    pub runner_up: f64,
}

impl Peak {
    /// At most `n` places of the output, from 0, the highest first, ties to the earlier. `tried` are places
    /// that are taken, `lots` those of the answer.
    pub fn find(
        &self,
        trace: &[Token],
        tried: impl Iterator<Item = usize>,
        lots: Lots,
        n: usize,
    ) -> Vec<usize> {
        let trace = &trace[..trace.len().saturating_sub(self.before)];
        let part = self.part.of(trace);
        let first = match self.part {
            Part::Last(_) => trace.len() - part.len(),
            Part::First(_) | Part::All => 0,
        };
        let mut taken: Vec<usize> = tried.collect();
        let n_tried = taken.len();
        let mut places: Vec<(usize, f64)> = part
            .iter()
            .enumerate()
            .filter(|(_, token)| self.is_choice(token))
            .map(|(i, token)| (first + i, self.height(first + i, token, lots)))
            .collect();
        places.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (place, _) in places {
            if taken.len() - n_tried == n {
                break;
            }
            if taken.iter().all(|&other| place.abs_diff(other) >= self.min_gap.max(1)) {
                taken.push(place);
            }
        }
        taken.split_off(n_tried)
    }

    fn height(&self, place: usize, token: &Token, lots: Lots) -> f64 {
        match self.by {
            PeakBy::Signal(signal) => value(token, signal),
            PeakBy::Lot => lots.of_token(place),
        }
    }

    fn is_choice(&self, token: &Token) -> bool {
        let signals = &token.signals;
        token.decision != DecisionKind::Inject
            && 1.0 / f64::from(signals.collision) >= self.choices
            && f64::from(signals.best[1].logprob).exp() >= self.runner_up
    }
}
