//! The judgement: who turns the signals of a position into a decision.

mod answer;
mod calibration;
mod decision;
mod document;
pub mod doubt;
mod dslider;
mod explain;
mod file;
mod history;
mod lot;
mod outline;
mod parse;
mod reach;
mod rule;
mod score;
mod signal;
mod span;
mod table;
#[cfg(test)]
mod tests;

pub use answer::{AnswerRule, ReadAnswer};
pub use calibration::Calibration;
pub use decision::{Branch, Decision, DecisionKind, Judge, Pick, Refork, Resume, Rewind, Verdict};
pub use explain::Explained;
pub use file::{Encode, PolicyFile, Preset};
pub use history::{Allowance, History, Injections};
pub use lot::Lots;
pub use outline::{Bound, Outline};
pub use score::Score;
pub use signal::Signal;
pub use span::{Part, Peak, PeakBy, Span, Stat};

use crate::FinishReason;
use entropix_model::{AttentionSignals, Candidate, Coin, Result, Signals, TokenId};
use std::sync::Arc;

/// Decides each token of a request from the model's uncertainty. The same thing as a policy file, for
/// embedders.
pub trait Policy: Send + Sync {
    /// A name for reports.
    fn name(&self) -> &str;

    /// The names of its regions; a [`RegionId`] is an index of this.
    fn regions(&self) -> &[Arc<str>];

    /// What it must be told.
    fn needs(&self) -> Needs;

    /// What it may inject; [`Decision::Inject`] is an index of this.
    fn phrases(&self) -> &[Phrase] {
        &[]
    }

    /// What it remembers at the start of a request.
    fn start(&self) -> PolicyState {
        PolicyState::default()
    }

    /// Decides the next token. No input, no output, no failure: every finite `signals` has exactly one
    /// outcome, and rows that are not finite never get here. May be asked again about the same position, with another
    /// allowance and a copy of the state. `attention` is there when [`Needs::attention`]
    /// asked for it.
    fn decide(
        &self,
        signals: &Signals,
        attention: Option<&AttentionSignals>,
        history: &History<'_>,
        state: &mut PolicyState,
    ) -> Verdict;

    /// Picks one of `candidates`, at least one, falling by ln p at temperature 1 (after the edits, in nats),
    /// where [`Decision::Pick`] was decided. `coin` is the only chance there is.
    ///
    /// # Errors
    /// What cannot be computed; it ends the request.
    fn pick(
        &self,
        _region: RegionId,
        _candidates: &[Candidate],
        _signals: &Signals,
        _coin: Coin,
        _state: &mut PolicyState,
    ) -> Result<Pick> {
        Ok(Pick { place: 0, kind: DecisionKind::Argmax, temperature: 0.0 })
    }

    /// Sees every token of the output once, with its ln p at temperature 1 before any edit, in nats.
    fn observe(&self, _token: TokenId, _logprob: f32, _state: &mut PolicyState) {}

    /// How far it may go beyond the tokens of the answer.
    fn budget(&self) -> Budget {
        Budget::default()
    }

    /// How many tokens of the output it will never take back, whatever comes; so many are shown to a
    /// streaming reader. A [`Rewind`] behind them is not obeyed.
    fn settled(&self, history: &History<'_>) -> usize {
        history.output().len()
    }

    /// Asked when an answer is over, before it is shown whole; again after every contest that this began.
    /// May say [`Decision::Rewind`], [`Decision::Refork`] or [`Decision::Stop`]; none, or anything else, lets
    /// the answer stand.
    fn conclude(
        &self,
        _finish: FinishReason,
        _history: &History<'_>,
        _state: &mut PolicyState,
    ) -> Option<Verdict> {
        None
    }

    /// What an output says in the end, in a form in which equal answers are equal texts; none when it says
    /// nothing. What a [`Judge`] counts.
    fn answer(&self, _output: &[TokenId]) -> Option<Arc<str>> {
        None
    }
}

/// An index of [`Policy::regions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RegionId(pub u16);

/// What a policy must be told to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// The attention signals of every position it decides.
    pub attention: bool,
    /// Whether it may decide anything but `Argmax` and `Stop`, so that logits must stay readable.
    pub logits: bool,
    /// Whether [`History::trace`] must hold the whole output. Nothing can be taken back without it.
    pub trace: bool,
}

/// How much a policy may spend on one answer besides the answer. With this and the bounds of each decision
/// every answer ends: a line is taken back at most `rewinds` times and refinished at most `reforks` times,
/// and between two of these it grows with every step of all its branches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Tokens thrown away, as a share of the output so far: while more are, no [`Branch`], [`Rewind`] or
    /// [`Refork`] is begun. One that was begun is carried out. 0 forbids them all.
    pub extra_tokens: f64,
    /// Most [`Rewind`]s, at most [`crate::limits::REWINDS`].
    pub rewinds: u32,
    /// Most [`Refork`]s, at most [`crate::limits::REFORKS`].
    pub reforks: u32,
}

impl Budget {
    /// The most tokens that are computed for one answer of at most n = `max_tokens`, whatever the signals are, by a
    /// policy whose branches have at most `width` lines and whose reforks at most `points` points:
    /// (1 + rewinds + reforks) (n + width n (n + 1) / 2) + reforks (points + 2) n. Between two returns the answer grows
    /// with every branch, by one token at least while the losers may run to the end; a refork runs a line a point and one
    /// to break a tie, and keeps its parent.
    pub fn most_tokens(&self, max_tokens: usize, width: usize, points: usize) -> usize {
        let (n, rewinds, reforks) = (max_tokens, self.rewinds as usize, self.reforks as usize);
        let grown = n + width * n * (n + 1) / 2;
        (1 + rewinds + reforks) * grown + reforks * (points + 2) * n
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self { extra_tokens: 1.0, rewinds: 2, reforks: 1 }
    }
}

/// What a policy remembers of one continuation: numbers whose meaning is the policy's own. Cloned when a
/// continuation forks, kept when it is preempted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyState {
    /// Whatever the policy put there.
    pub numbers: Vec<f64>,
}

/// Tokens a policy may force, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phrase {
    /// At least one.
    pub tokens: Vec<TokenId>,
    /// Most times a request (each of its choices).
    pub cap: u32,
    /// The fewest tokens of the model's own between the end of any injection and the next one of this
    /// phrase; at least 1 whatever is written here.
    pub cooldown: u32,
}
