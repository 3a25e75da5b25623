//! The seam: something that can run one step of a transformer and answer questions about it.
//!
//! The seam is the step, not the operation, so fusion is each backend's own choice and a scripted
//! backend can stand in for a model when policies are tested.
#![forbid(unsafe_code)]

use crate::{AttentionSignals, Batch, BlockId, Candidates, Draw, Drawn, Result, Signals, Slot};

/// What a backend can hold; fixed when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Blocks of the KV cache.
    pub n_blocks: usize,
    /// Positions a block.
    pub block_size: usize,
    /// Rows a step.
    pub max_rows: usize,
    /// Tokens a step, over all rows.
    pub max_tokens: usize,
    /// Asks a step that keep their logits.
    pub max_kept: usize,
    /// Most candidates an ask.
    pub max_candidates: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Most positions of one sequence.
    pub max_context: usize,
}

/// Names a submitted step; the logits of a step live until the next submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepId(pub u64);

/// Copy the first `tokens` positions of block `from`, all layers, into block `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// Source.
    pub from: BlockId,
    /// Destination.
    pub to: BlockId,
    /// Positions that were written in the source; no other is read.
    pub tokens: usize,
}

/// Runs steps. A backend never makes a choice; broken batches are programming errors and may panic with
/// names and numbers, failures of the device are errors.
pub trait Backend: Send {
    /// What it can hold.
    fn capacity(&self) -> Capacity;

    /// Runs the batch: writes keys and values of every new token, and readies every ask.
    fn submit(&mut self, batch: &Batch) -> Result<StepId>;

    /// Waits for the step and writes one record an ask, in slot order; `out` is (n_asks).
    fn signals(&mut self, step: StepId, out: &mut [Signals]) -> Result<()>;

    /// The attention signals of asks that said they would want them; `out` is (asks.len()).
    fn attention(&mut self, step: StepId, asks: &[Slot], out: &mut [AttentionSignals]) -> Result<()>;

    /// The k best tokens of each (ask, k), appended to `out` after clearing it. The asks kept their logits.
    fn candidates(&mut self, step: StepId, asks: &[(Slot, u16)], out: &mut Candidates) -> Result<()>;

    /// Draws; `out` is (draws.len()). The asks kept their logits.
    fn draw(&mut self, step: StepId, draws: &[Draw<'_>], out: &mut [Drawn]) -> Result<()>;

    /// Both, [`Backend::draw`] into `drawn` and [`Backend::candidates`] into `lists`, with one wait where each would have
    /// its own.
    fn choose(
        &mut self,
        step: StepId,
        draws: &[Draw<'_>],
        drawn: &mut [Drawn],
        asks: &[(Slot, u16)],
        lists: &mut Candidates,
    ) -> Result<()> {
        if !draws.is_empty() {
            self.draw(step, draws, drawn)?;
        }
        lists.clear();
        if asks.is_empty() { Ok(()) } else { self.candidates(step, asks, lists) }
    }

    /// Copies cache blocks (copy on write), before the next submit.
    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<()>;

    /// The whole row of logits of an ask that kept them, (vocab_size). For tests and debugging only.
    fn logits(&self, step: StepId, slot: Slot) -> Result<Vec<f32>>;
}
