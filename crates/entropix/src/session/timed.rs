//! A backend whose times can be read while the engine owns it.

use entropix_cpu::{CpuBackend, StepTimes};
use entropix_model::{
    AttentionSignals, Backend, Batch, BlockCopy, Candidates, Capacity, Draw, Drawn, Result, Signals, Slot,
    StepId,
};
use std::sync::{Arc, Mutex, PoisonError};

/// The times of all steps since the backend was opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Times(Arc<Mutex<StepTimes>>);

impl Times {
    pub(super) fn get(&self) -> StepTimes {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, more: StepTimes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += more;
    }
}

pub(super) struct TimedBackend {
    pub(super) backend: CpuBackend,
    pub(super) times: Times,
}

impl Backend for TimedBackend {
    fn capacity(&self) -> Capacity {
        self.backend.capacity()
    }

    fn submit(&mut self, batch: &Batch) -> Result<StepId> {
        self.backend.submit(batch)
    }

    fn signals(&mut self, step: StepId, out: &mut [Signals]) -> Result<()> {
        self.backend.signals(step, out)?;
        self.times.add(self.backend.take_times());
        Ok(())
    }

    fn attention(&mut self, step: StepId, asks: &[Slot], out: &mut [AttentionSignals]) -> Result<()> {
        self.backend.attention(step, asks, out)
    }

    fn candidates(&mut self, step: StepId, asks: &[(Slot, u16)], out: &mut Candidates) -> Result<()> {
        self.backend.candidates(step, asks, out)
    }

    fn draw(&mut self, step: StepId, draws: &[Draw<'_>], out: &mut [Drawn]) -> Result<()> {
        self.backend.draw(step, draws, out)
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<()> {
        self.backend.copy_blocks(copies)
    }

    fn logits(&self, step: StepId, slot: Slot) -> Result<Vec<f32>> {
        self.backend.logits(step, slot)
    }
}
