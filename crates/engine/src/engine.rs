//! The loop: requests in, events out.

use crate::{Event, Request, RequestId, Stats, StepReport, TokenClasses};
use entropix_model::{Backend, Capacity, Result};

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The classes of the vocabulary's tokens.
    pub classes: TokenClasses,
    /// Most tokens of a sequence, prompt and output; none is what model and cache allow.
    pub max_context: Option<usize>,
    /// Most sequences at once; none is what the backend allows.
    pub max_rows: Option<usize>,
    /// Most tokens a step over all rows; none is what the backend allows.
    pub max_tokens: Option<usize>,
    /// Most prompt tokens a step of one row; none is `max_tokens`.
    pub prefill_chunk: Option<usize>,
    /// Cache blocks that must stay free when a further sequence is admitted beside running ones.
    pub watermark: usize,
    /// Whether a prompt that starts like an earlier sequence uses its blocks. Off, no request can notice by
    /// timing what others asked.
    pub prefix_sharing: bool,
}

impl EngineOptions {
    /// The usual set-up.
    pub fn new(classes: TokenClasses) -> Self {
        Self {
            classes,
            max_context: None,
            max_rows: None,
            max_tokens: None,
            prefill_chunk: None,
            watermark: 1,
            prefix_sharing: true,
        }
    }
}

/// Runs requests on a backend. Synchronous, on the caller's thread; nothing happens between steps.
pub struct Engine {
    backend: Box<dyn Backend>,
    options: EngineOptions,
}

impl Engine {
    /// An idle engine.
    ///
    /// # Errors
    /// `Usage` when an option is out of range or the classes are not of the backend's vocabulary.
    pub fn new(backend: Box<dyn Backend>, options: EngineOptions) -> Result<Self> {
        Ok(Self { backend, options })
    }

    /// What the backend can hold.
    pub fn capacity(&self) -> Capacity {
        self.backend.capacity()
    }

    /// Most tokens of one sequence, prompt and output: the one limit, the least of what the options, the
    /// model and the cache allow.
    pub fn context_limit(&self) -> usize {
        self.options.max_context.unwrap_or(0)
    }

    /// Takes a request in. It runs in the steps to come.
    ///
    /// # Errors
    /// `Data` when it can never be run: `EmptyPrompt`, `TooLong`, `TokenOutOfRange`, `OutOfRange` (naming
    /// field, value and range).
    pub fn submit(&mut self, _request: Request) -> Result<RequestId> {
        unreachable!("written together with the scheduler")
    }

    /// Runs one step and appends what happened to `events`.
    ///
    /// # Errors
    /// Failures of the backend. The engine cannot go on after one: every later step returns it again.
    pub fn step(&mut self, _events: &mut Vec<Event>) -> Result<StepReport> {
        unreachable!("written together with the scheduler")
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        true
    }

    /// Ends a request without a further event and frees what it holds. Says whether it was there.
    pub fn cancel(&mut self, _request: RequestId) -> bool {
        false
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
