//! The oracle: the transformer in plain loops, f32 values with f64 reductions, straight from the papers.
//!
//! Nothing here is fast and nothing is shared with the kernels, so that the two can be held against each
//! other. [`ops`] has every operation alone, [`Model`] the whole forward pass, and [`ReferenceBackend`] puts
//! it behind the seam.

mod attention;
mod model;
pub mod ops;

pub use attention::{HeadAttention, attend, attention_signals};
pub use model::{Model, Position};

use entropix_model::sampling::{self, DrawScratch};
use entropix_model::{
    AttentionSignals, Backend, Batch, BlockCopy, Candidates, Capacity, Checkpoint, Draw, Drawn, Result,
    Signals, Slot, StepId,
};

/// What one ask left.
#[derive(Debug)]
struct Answer {
    /// (vocabulary)
    logits: Vec<f32>,
    signals: Signals,
    attention: AttentionSignals,
}

/// The reference model behind the seam: every decision of the engine can be tested against it.
#[derive(Debug)]
pub struct ReferenceBackend {
    model: Model,
    capacity: Capacity,
    /// (n_layers, n_blocks * block_size, kv_size) keys, after RoPE, and values.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    answers: Vec<Answer>,
    step: StepId,
    scratch: DrawScratch,
}

impl ReferenceBackend {
    /// Reads a whole model as f32, with a cache of `n_blocks` blocks of `block_size` positions.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn open(checkpoint: &Checkpoint, n_blocks: usize, block_size: usize) -> Result<Self> {
        let model = Model::open(checkpoint)?;
        let config = &model.config;
        let floats = n_blocks * block_size * config.kv_size();
        let capacity = Capacity {
            n_blocks,
            block_size,
            max_rows: 1024,
            max_tokens: 1 << 16,
            max_kept: 1 << 16,
            max_candidates: 256,
            vocab_size: config.vocab_size,
            max_context: config.max_context,
        };
        let cache = vec![vec![0.0; floats]; config.n_layers];
        Ok(Self {
            capacity,
            keys: cache.clone(),
            values: cache,
            answers: Vec::new(),
            step: StepId(0),
            scratch: DrawScratch::default(),
            model,
        })
    }

    fn answer(&self, step: StepId, slot: Slot) -> &Answer {
        assert_eq!(step, self.step, "only the last step can be asked");
        &self.answers[slot as usize]
    }
}

impl Backend for ReferenceBackend {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn submit(&mut self, batch: &Batch) -> Result<StepId> {
        self.answers.clear();
        self.step.0 += 1;
        for row in &batch.rows {
            let tokens = &batch.tokens[row.tokens.clone()];
            let blocks = &batch.blocks[row.blocks.clone()];
            let asks = &batch.asks[row.asks.clone()];
            let n = row.start + tokens.len();
            let place = |position: usize| {
                let block = blocks[position / self.capacity.block_size] as usize;
                block * self.capacity.block_size + position % self.capacity.block_size
            };
            for (i, &token) in tokens.iter().enumerate() {
                let places: Vec<usize> = (0..row.start + i + 1).map(place).collect();
                debug_assert!(places.len() <= n);
                let wanted = asks.iter().find(|ask| ask.index == i);
                let position =
                    self.model.forward(token, &places, &mut self.keys, &mut self.values, wanted.is_some());
                if let Some(ask) = wanted {
                    self.answers.push(Answer {
                        signals: sampling::signals_of(&position.logits, ask.target),
                        attention: attention_signals(&position.attention),
                        logits: position.logits,
                    });
                }
            }
        }
        Ok(self.step)
    }

    fn signals(&mut self, step: StepId, out: &mut [Signals]) -> Result<()> {
        assert_eq!(step, self.step, "only the last step can be asked");
        assert_eq!(out.len(), self.answers.len(), "one record an ask");
        for (signals, answer) in out.iter_mut().zip(&self.answers) {
            *signals = answer.signals;
        }
        Ok(())
    }

    fn attention(&mut self, step: StepId, asks: &[Slot], out: &mut [AttentionSignals]) -> Result<()> {
        for (signals, &slot) in out.iter_mut().zip(asks) {
            *signals = self.answer(step, slot).attention;
        }
        Ok(())
    }

    fn candidates(&mut self, step: StepId, asks: &[(Slot, u16)], out: &mut Candidates) -> Result<()> {
        assert_eq!(step, self.step, "only the last step can be asked");
        out.clear();
        for &(slot, k) in asks {
            let answer = &self.answers[slot as usize];
            sampling::candidates(&answer.logits, &answer.signals, k.into(), &mut self.scratch, out);
        }
        Ok(())
    }

    fn draw(&mut self, step: StepId, draws: &[Draw<'_>], out: &mut [Drawn]) -> Result<()> {
        assert_eq!(step, self.step, "only the last step can be asked");
        for (drawn, draw) in out.iter_mut().zip(draws) {
            let answer = &self.answers[draw.slot as usize];
            *drawn = sampling::draw(&answer.logits, &answer.signals, draw, &mut self.scratch);
        }
        Ok(())
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<()> {
        let (size, width) = (self.capacity.block_size, self.model.config.kv_size());
        for copy in copies {
            let first = |block: u32| block as usize * size * width;
            let from = first(copy.from)..first(copy.from) + copy.tokens * width;
            for layer in self.keys.iter_mut().chain(&mut self.values) {
                layer.copy_within(from.clone(), first(copy.to));
            }
        }
        Ok(())
    }

    fn logits(&self, step: StepId, slot: Slot) -> Result<Vec<f32>> {
        Ok(self.answer(step, slot).logits.clone())
    }
}
