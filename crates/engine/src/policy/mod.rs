//! The judgement: who turns the signals of a position into a decision.

mod document;
mod file;
mod parse;
mod reach;
mod rule;
mod signal;
mod table;
#[cfg(test)]
mod tests;

pub use file::{Encode, PolicyFile, Preset};

use crate::{TokenClass, TokenClasses};
use entropix_model::{AttentionSignals, Filters, Signals, TokenId};
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
    /// outcome, and rows that are not finite never get here. `attention` is there when [`Needs::attention`]
    /// asked for it.
    fn decide(
        &self,
        signals: &Signals,
        attention: Option<&AttentionSignals>,
        history: &History<'_>,
        state: &mut PolicyState,
    ) -> Verdict;

    /// Sees every token of the output once, with its ln p at temperature 1 before any edit, in nats.
    fn observe(&self, _token: TokenId, _logprob: f32, _state: &mut PolicyState) {}
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
}

/// What to do at one position, and which region said so.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Which region.
    pub region: RegionId,
    /// What to do.
    pub decision: Decision,
}

/// What to do at one position.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Decision {
    /// Take the most probable token (after the request's own edits).
    Argmax,
    /// Draw one.
    Draw(Filters),
    /// Draw `n` and keep the one that is most probable at temperature 1 before any edit.
    BestOf {
        /// 1..=256.
        n: u16,
        /// What may be drawn.
        filters: Filters,
    },
    /// Force a phrase through the model as if it had said it. What its limits forbid
    /// ([`History::may_inject`]) becomes `Argmax`.
    Inject {
        /// An index of [`Policy::phrases`].
        phrase: usize,
    },
    /// End the answer before this token.
    Stop {
        /// Why, for the report.
        reason: Arc<str>,
    },
}

impl Decision {
    /// Which kind this is.
    pub fn kind(&self) -> DecisionKind {
        match self {
            Decision::Argmax => DecisionKind::Argmax,
            Decision::Draw(_) => DecisionKind::Draw,
            Decision::BestOf { .. } => DecisionKind::BestOf,
            Decision::Inject { .. } => DecisionKind::Inject,
            Decision::Stop { .. } => DecisionKind::Stop,
        }
    }
}

/// A [`Decision`] without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecisionKind {
    /// The most probable token.
    Argmax,
    /// One draw.
    Draw,
    /// The likeliest of several draws.
    BestOf,
    /// A forced token.
    Inject,
    /// The end of the answer.
    Stop,
}

impl DecisionKind {
    /// All kinds, in the order of [`crate::Stats::decisions`].
    pub const ALL: [DecisionKind; 5] = [
        DecisionKind::Argmax,
        DecisionKind::Draw,
        DecisionKind::BestOf,
        DecisionKind::Inject,
        DecisionKind::Stop,
    ];

    /// `argmax`, `draw`, `best_of`, `inject` or `stop`.
    pub fn name(self) -> &'static str {
        match self {
            DecisionKind::Argmax => "argmax",
            DecisionKind::Draw => "draw",
            DecisionKind::BestOf => "best_of",
            DecisionKind::Inject => "inject",
            DecisionKind::Stop => "stop",
        }
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

/// How often phrases were injected into one continuation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injections {
    /// By phrase; missing entries are 0.
    counts: Vec<u32>,
    /// Length of the sequence after the last forced token.
    end: Option<usize>,
}

impl Injections {
    /// Counts the start of an injection of `phrase`.
    pub fn begin(&mut self, phrase: usize) {
        if self.counts.len() <= phrase {
            self.counts.resize(phrase + 1, 0);
        }
        self.counts[phrase] += 1;
    }

    /// Notes that the token before `length` was forced.
    pub fn forced(&mut self, length: usize) {
        self.end = Some(length);
    }
}

/// What a policy may look back at: the tokens so far.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    tokens: &'a [TokenId],
    n_prompt: usize,
    injections: &'a Injections,
    classes: &'a TokenClasses,
}

impl<'a> History<'a> {
    /// The view of a continuation whose first `n_prompt` tokens are the prompt.
    pub fn new(
        tokens: &'a [TokenId],
        n_prompt: usize,
        injections: &'a Injections,
        classes: &'a TokenClasses,
    ) -> Self {
        assert!(n_prompt <= tokens.len(), "a prompt of {n_prompt} in {} tokens", tokens.len());
        Self { tokens, n_prompt, injections, classes }
    }

    /// Prompt and output; the token to be decided comes after the last of them.
    pub fn tokens(&self) -> &'a [TokenId] {
        self.tokens
    }

    /// What was said so far, injected tokens included.
    pub fn output(&self) -> &'a [TokenId] {
        &self.tokens[self.n_prompt..]
    }

    /// Whether the last token was forced.
    pub fn last_injected(&self) -> bool {
        self.injections.end == Some(self.tokens.len())
    }

    /// Whether the last token is of `class`.
    pub fn last_is(&self, class: TokenClass) -> bool {
        self.tokens.last().is_some_and(|&token| self.classes.is(token, class))
    }

    /// Whether `phrase`, number `index` of the policy's, may be injected now.
    pub fn may_inject(&self, index: usize, phrase: &Phrase) -> bool {
        let used = self.injections.counts.get(index).copied().unwrap_or(0);
        let own = self.injections.end.map_or(usize::MAX, |end| self.tokens.len() - end);
        used < phrase.cap && own >= phrase.cooldown.max(1) as usize
    }
}
