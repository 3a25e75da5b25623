//! What an engine did so far and where it stands.

use crate::DecisionKind;
use std::time::Duration;

/// Counters since the engine was made, and its present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Sequences that hold cache blocks now.
    pub running: usize,
    /// Sequences that wait for room now.
    pub waiting: usize,
    /// Cache blocks that sequences hold now.
    pub blocks_used: usize,
    /// Cache blocks kept for their content, free to be taken.
    pub blocks_cached: usize,
    /// All cache blocks.
    pub blocks_total: usize,
    /// Steps.
    pub steps: u64,
    /// Prompt tokens of admitted requests.
    pub tokens_in: u64,
    /// Tokens of the outputs, as far as they were told.
    pub tokens_out: u64,
    /// Prompt tokens that were not computed because another request had done so.
    pub shared_tokens: u64,
    /// Tokens computed again after a preemption.
    pub recomputed_tokens: u64,
    /// Tokens that were computed and thrown away by decisions.
    pub discarded_tokens: u64,
    /// Cache blocks copied because a line wrote into one that another line reads.
    pub copied_blocks: u64,
    /// Answers whose policy wanted to begin something that a spent budget forbade
    /// ([`crate::Budget::extra_tokens`], [`crate::EngineOptions::extra_tokens`]).
    pub over_budget: u64,
    /// Sequences that lost their blocks to an older one.
    pub preemptions: u64,
    /// Requests that ended in [`crate::Event::Failed`].
    pub failed: u64,
    /// Decisions by kind, in the order of [`DecisionKind::ALL`]; a forced token counts as one,
    /// a decision for several lines too.
    pub decisions: [u64; DecisionKind::ALL.len()],
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepReport {
    /// Rows in the batch.
    pub rows: usize,
    /// Tokens in the batch.
    pub tokens: usize,
    /// Those of them that continue prompts (and sequences computed again).
    pub prefill_tokens: usize,
    /// Choosing the batch.
    pub planning: Duration,
    /// Waiting for the backend: the layers and the signals.
    pub forward: Duration,
    /// Waiting for the backend: candidates, draws, attention signals.
    pub drawing: Duration,
    /// Deciding and bookkeeping.
    pub deciding: Duration,
}
