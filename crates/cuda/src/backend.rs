//! The CUDA device behind the seam.

use crate::driver::{Driver, Found, Graph};
use crate::forward::{Forward, Shape};
use crate::ops;
use crate::options::{PASSING_ASKS, Sizes};
use crate::rooms::{MOST_COPIES, Rooms, key_parts_bytes};
use crate::step::StepPlan;
use crate::weights::Model;
use entropix_model::{
    AttentionSignals, Backend, Batch, BlockCopy, Candidates, Capacity, Class, Draw, Drawn, Error, MemoryPlan,
    Result, Signals, Slot, StepId,
};
use std::collections::HashMap;

pub(crate) mod ablation;
mod choices;
mod open;
mod recorded;
pub(crate) mod timing;

/// Runs a model on one CUDA device.
#[derive(Debug)]
pub struct CudaBackend {
    driver: Driver,
    nvrtc: Option<(u32, u32)>,
    model: Model,
    rooms: Rooms,
    sizes: Sizes,
    plan: StepPlan,
    capacity: Capacity,
    memory: MemoryPlan,
    replays: bool,
    /// Recorded steps, and when each was used last.
    graphs: HashMap<Shape, (Graph, StepId)>,
    /// As many as the device has had memory for.
    most_graphs: usize,
    step: StepId,
    /// Whether the answers of the step have arrived.
    has_answers: bool,
    bytes: Vec<u8>,
    /// Whether a timed step has filled the cache.
    has_noise: bool,
}

impl CudaBackend {
    /// The device.
    pub fn device(&self) -> &Found {
        self.driver.found()
    }

    /// The version of NVRTC that compiled the kernels; none when they are those that nvcc compiled with this program. Another
    /// compiler may round otherwise.
    pub fn nvrtc(&self) -> Option<(u32, u32)> {
        self.nvrtc
    }

    /// The version of cuBLASLt that long steps take their products by; none where all are our own.
    pub fn cublaslt(&self) -> Option<(u32, u32, u32)> {
        self.driver.blas()
    }

    /// What was planned of its memory.
    pub fn memory(&self) -> MemoryPlan {
        self.memory
    }

    fn check_step(&self, step: StepId) {
        assert_eq!(step, self.step, "only the last step can be asked");
    }

    /// The kept row of an ask.
    fn kept(&self, slot: Slot) -> u32 {
        let asks = self.plan.n_asks;
        let place = self.plan.places.get(slot as usize);
        let place = *place.unwrap_or_else(|| panic!("ask {slot} of a step with {asks}"));
        assert!((place as usize) < self.plan.n_kept, "ask {slot} did not keep its logits");
        place
    }

    fn forward(&self) -> Forward<'_> {
        let Self { model, sizes, rooms, plan, .. } = self;
        Forward { model, sizes, rooms, sections: &plan.sections, fast: None, measures: true }
    }

    /// Waits for the step's records.
    fn answers(&mut self) -> Result<()> {
        self.driver.enter()?;
        if !self.has_answers {
            self.driver.wait()?;
            self.has_answers = true;
        }
        Ok(())
    }

    /// Reads `n` values of what arrived, from byte `first` on.
    fn arrived<T: bytemuck::AnyBitPattern>(&mut self, first: usize, n: usize) -> impl Iterator<Item = T> {
        self.bytes.resize(n * size_of::<T>(), 0);
        self.rooms.answers.read(first, &mut self.bytes);
        self.bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned)
    }
}

impl Backend for CudaBackend {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn submit(&mut self, batch: &Batch) -> Result<StepId> {
        self.driver.enter()?;
        self.step.0 += 1;
        self.has_answers = false;
        self.plan.make(batch, &self.capacity, &self.sizes);
        let wanted = 4 * self.plan.n_attention * self.plan.key_parts;
        if wanted > key_parts_bytes(&self.sizes) {
            return Err(Error::new(
                Class::Temp,
                "AttentionRoom",
                format!(
                    "attention signals of {} positions at once want {wanted} bytes, {} are planned; open with fewer rows",
                    self.plan.n_attention,
                    key_parts_bytes(&self.sizes)
                ),
            ));
        }
        let words = bytemuck::cast_slice(&self.plan.words[..self.plan.used]);
        self.driver.write(self.rooms.inputs, 0, words)?;
        self.driver.write(self.rooms.tables, 0, bytemuck::cast_slice(&batch.blocks))?;
        self.queue_step()?;
        let passing = self.plan.passing();
        for number in 0..passing.len().div_ceil(PASSING_ASKS) {
            self.forward().passing(number, passing.start, &mut |launch| self.driver.launch(&launch))?;
        }
        let (signals, attention) =
            (self.plan.n_asks * size_of::<Signals>(), self.plan.n_attention * size_of::<AttentionSignals>());
        self.driver.read(self.rooms.signals, 0, signals, &self.rooms.answers, 0)?;
        self.driver.read(self.rooms.attention, 0, attention, &self.rooms.answers, signals)?;
        Ok(self.step)
    }

    fn signals(&mut self, step: StepId, out: &mut [Signals]) -> Result<()> {
        self.check_step(step);
        assert_eq!(out.len(), self.plan.n_asks, "one record an ask");
        self.answers()?;
        let records: Vec<Signals> = self.arrived(0, out.len()).collect();
        for (out, &place) in out.iter_mut().zip(&self.plan.places) {
            *out = records[place as usize];
        }
        Ok(())
    }

    fn attention(&mut self, step: StepId, asks: &[Slot], out: &mut [AttentionSignals]) -> Result<()> {
        self.check_step(step);
        assert_eq!(asks.len(), out.len(), "one record an ask");
        self.answers()?;
        let first = self.plan.n_asks * size_of::<Signals>();
        let records: Vec<AttentionSignals> = self.arrived(first, self.plan.n_attention).collect();
        for (out, &slot) in out.iter_mut().zip(asks) {
            let number = self.plan.attention.get(slot as usize).copied().flatten();
            let number = number.unwrap_or_else(|| panic!("ask {slot} did not ask for attention signals"));
            *out = records[number as usize];
        }
        Ok(())
    }

    fn candidates(&mut self, step: StepId, asks: &[(Slot, u16)], out: &mut Candidates) -> Result<()> {
        self.choose(step, &[], &mut [], asks, out)
    }

    fn draw(&mut self, step: StepId, draws: &[Draw<'_>], out: &mut [Drawn]) -> Result<()> {
        self.choose(step, draws, out, &[], &mut Candidates::default())
    }

    fn choose(
        &mut self,
        step: StepId,
        draws: &[Draw<'_>],
        drawn: &mut [Drawn],
        asks: &[(Slot, u16)],
        lists: &mut Candidates,
    ) -> Result<()> {
        self.check_step(step);
        assert_eq!(draws.len(), drawn.len(), "one result a draw");
        self.driver.enter()?;
        lists.clear();
        let mut done = 0;
        let mut asks = asks.chunks(self.sizes.max_kept.max(1));
        loop {
            let n = self.queue_draws(&draws[done..])?;
            let listed = asks.next().map(|asks| self.queue_candidates(asks)).transpose()?;
            if n == 0 && listed.is_none() {
                return Ok(());
            }
            self.driver.wait()?;
            self.take_draws(&mut drawn[done..done + n]);
            if let Some(listed) = listed {
                self.take_candidates(listed, lists);
            }
            done += n;
        }
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<()> {
        let Capacity { n_blocks, block_size, .. } = self.capacity;
        self.driver.enter()?;
        let mut rest = copies;
        while !rest.is_empty() {
            let n = independent(rest).min(MOST_COPIES);
            let mut words = vec![0u32; 4];
            for copy in &rest[..n] {
                assert!(
                    (copy.from as usize) < n_blocks
                        && (copy.to as usize) < n_blocks
                        && copy.tokens <= block_size,
                    "{copy:?} in a cache of {n_blocks} blocks of {block_size}"
                );
                if copy.from != copy.to {
                    words.extend([copy.from, copy.to, copy.tokens as u32]);
                    words[0] += 1;
                }
            }
            if words[0] > 0 {
                let rooms = &self.rooms;
                self.driver.write(rooms.copies, 0, bytemuck::cast_slice(&words))?;
                let (cache, list, count) =
                    (rooms.cache.pointer(), rooms.copies.offset(16), rooms.copies.pointer());
                let (layers, blocks) = (self.sizes.n_layers as u32, n_blocks as u32);
                let heads = self.sizes.heads;
                self.driver.launch(&ops::copy_blocks(cache, list, count, words[0], layers, blocks, heads))?;
            }
            rest = &rest[n..];
        }
        Ok(())
    }

    fn logits(&self, step: StepId, slot: Slot) -> Result<Vec<f32>> {
        self.check_step(step);
        let row = self.kept(slot) as usize;
        self.driver.enter()?;
        let mut logits = vec![0f32; self.sizes.vocab];
        self.driver.fetch(
            self.rooms.logits,
            4 * row * self.sizes.stride,
            bytemuck::cast_slice_mut(&mut logits),
        )?;
        Ok(logits)
    }
}

/// How many of the first copies touch no block that an earlier one of them writes, and write none that it reads: those
/// can be made at once.
fn independent(copies: &[BlockCopy]) -> usize {
    let clash = |a: &BlockCopy, b: &BlockCopy| a.to == b.from || a.to == b.to || a.from == b.to;
    (1..copies.len()).find(|&n| copies[..n].iter().any(|a| clash(a, &copies[n]))).unwrap_or(copies.len())
}
