//! What the engine tells its caller while it works.

use crate::{DecisionKind, RegionId, RequestId};
use entropix_model::{AttentionSignals, Candidate, Error, Signals, TokenId};
use std::sync::Arc;

/// Something happened to a request. A request ends exactly once: with one `Done` for each of its choices,
/// or with one `Failed` after which nothing more comes; a cancelled request just falls silent.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A token of the output that will not be taken back.
    Token(Token),
    /// What goes on behind that, for a request that asked for it ([`crate::Parameters::raw_events`]).
    Raw(Raw),
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

/// What happens to the lines of an answer, as it happens. Lines are numbered in the order of their making,
/// the first is 0.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Raw {
    /// A token joins a line.
    Token {
        /// Of which line.
        branch: u32,
        /// Also known by its request and choice; its `end` is right.
        token: Token,
    },
    /// The policy begins to force a phrase.
    Inject {
        /// Of which request.
        request: RequestId,
        /// Of which of its answers.
        choice: u32,
        /// Into which line.
        branch: u32,
        /// Which, of [`crate::Policy::phrases`].
        phrase: usize,
        /// Where its first token will stand.
        position: usize,
    },
    /// The policy decided something no token comes of: a return, an end, or further ends. What comes of it follows.
    Decision {
        /// Of which request.
        request: RequestId,
        /// Of which of its answers.
        choice: u32,
        /// About which line.
        branch: u32,
        /// Where its next token would have stood.
        position: usize,
        /// The region of the policy that decided.
        region: RegionId,
        /// `Rewind`, `Refork` or `Stop`.
        decision: DecisionKind,
        /// What the next token would have been taken from, and its attention where it was computed; none when the
        /// answer was over.
        seen: Option<(Signals, Option<AttentionSignals>)>,
    },
    /// A line loses its last tokens.
    Retract {
        /// Of which request.
        request: RequestId,
        /// Of which of its answers.
        choice: u32,
        /// Which line.
        branch: u32,
        /// The place of the first token that goes.
        position: usize,
        /// The region of the policy that took them back.
        region: RegionId,
        /// Tokens charged for it, a part of [`Usage::discarded_tokens`].
        discarded: usize,
    },
    /// Lines that share the tokens of another one before a position go on by themselves.
    Fork {
        /// Of which request.
        request: RequestId,
        /// Of which of its answers.
        choice: u32,
        /// The line they leave; it goes on by itself too, or rests.
        parent: u32,
        /// The new lines, each with the place of its first own token.
        children: Vec<(u32, usize)>,
        /// Why: `Branch`, `Rewind` or `Refork`.
        decision: DecisionKind,
        /// The region of the policy that wanted it.
        region: RegionId,
    },
    /// One line goes on, the others end.
    Join {
        /// Of which request.
        request: RequestId,
        /// Of which of its answers.
        choice: u32,
        /// Which line goes on.
        winner: u32,
        /// All lines that were compared, with their scores; NaN when a line need not be run to its end.
        scores: Vec<(u32, f64)>,
        /// Tokens charged for the others, a part of [`Usage::discarded_tokens`].
        discarded: usize,
    },
}

impl Raw {
    /// Of which request.
    pub fn request(&self) -> RequestId {
        match self {
            Raw::Token { token, .. } => token.request,
            Raw::Inject { request, .. }
            | Raw::Decision { request, .. }
            | Raw::Retract { request, .. }
            | Raw::Fork { request, .. }
            | Raw::Join { request, .. } => *request,
        }
    }
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
    /// Times it was branched.
    pub branches: u32,
    /// Times it was taken back.
    pub rewinds: u32,
    /// Times it was finished again.
    pub reforks: u32,
    /// Tokens of the prompt whose keys and values another request had computed already.
    pub shared_tokens: usize,
}
