//! What the engine tells its caller while it works.

use crate::{DecisionKind, RegionId, RequestId};
use entropix_model::{AttentionSignals, Candidate, Error, Signals, TokenId};
use std::sync::Arc;

/// Something happened to a request. A request ends exactly once: with one `Done` for each of its choices,
/// or with one `Failed` after which nothing more comes; a cancelled request just falls silent.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A token of the output.
    Token(Token),
    /// A position of a scored text.
    Scored(Scored),
    /// A choice, or the scoring of a text, is finished.
    Done(Done),
    /// The request cannot be finished; its other choices end with it.
    Failed {
        /// Which.
        request: RequestId,
        /// Why. A row of logits that was not numbers has the code `NumericalError`.
        error: Error,
    },
}

/// A token of the output and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Of which request.
    pub request: RequestId,
    /// Of which of its answers, from 0.
    pub choice: u32,
    /// The token.
    pub token: TokenId,
    /// Its place in the sequence, prompt included, from 0.
    pub position: usize,
    /// The distribution it was taken from.
    pub signals: Signals,
    /// The attention of the position before it, when it was computed.
    pub attention: Option<AttentionSignals>,
    /// Its ln p at temperature 1 before any edit, in nats.
    pub logprob: f32,
    /// The temperature of the draw; 0 when there was none.
    pub temperature: f32,
    /// The [`crate::Parameters::logprobs`] likeliest tokens, the likeliest first.
    pub top: Vec<Candidate>,
    /// The region of the policy that decided, an index of [`crate::Policy::regions`].
    pub region: RegionId,
    /// What was decided.
    pub decision: DecisionKind,
    /// Whether this is an end token or one of `stop_tokens` that ended the answer: usually not shown.
    pub end: bool,
}

/// A position of a scored text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Of which request.
    pub request: RequestId,
    /// Position of the last token the distribution saw, from 0, rising by one from event to event.
    pub position: usize,
    /// The distribution after that token. `target_logprob` is ln p of the text's next token, NaN at the end.
    pub signals: Signals,
    /// The attention of that position, when it was wanted.
    pub attention: Option<AttentionSignals>,
}

/// A finished choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// Of which request.
    pub request: RequestId,
    /// Which of its answers, from 0.
    pub choice: u32,
    /// Why it ended.
    pub finish: FinishReason,
    /// What the policy said when it stopped the answer.
    pub reason: Option<Arc<str>>,
    /// What it cost.
    pub usage: Usage,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end token, a stop token or the watcher; for scoring, the end of the text.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// The policy would not go on.
    Abstain,
}

impl FinishReason {
    /// `stop`, `length` or `abstain`.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Abstain => "abstain",
        }
    }
}

/// What one choice cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the output, the end token and injected ones included.
    pub completion_tokens: usize,
    /// Tokens that were computed and thrown away by a decision.
    pub discarded_tokens: usize,
    /// Tokens of the prompt whose keys and values another request had computed already.
    pub shared_tokens: usize,
}
