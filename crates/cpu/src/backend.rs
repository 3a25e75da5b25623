//! The CPU behind the seam.
#![allow(unsafe_code)]

use crate::cache::{Geometry, Pages};
use crate::features::KernelPath;
use crate::forward::Step;
use crate::linear::Precision;
use crate::memory::Zeroed;
use crate::options::{CpuOptions, MAX_CANDIDATES, max_context, n_slots, plan};
use crate::plan::{Limits, StepPlan};
use crate::pool::Pool;
use crate::shared::Shared;
use crate::simd::Family;
use crate::times::StepTimes;
use crate::weights::{Model, Progress};
use crate::workspace::Workspace;
use entropix_model::sampling;
use entropix_model::{
    AttentionSignals, Backend, Batch, BlockCopy, Candidates, Capacity, Checkpoint, Class, Draw, Drawn, Error,
    Result, Signals, Slot, StepId,
};
use std::time::Instant;

/// The cache in the element type of the precision.
#[derive(Debug)]
enum Cache {
    F32(Pages<f32>),
    F16(Pages<u16>),
}

/// Runs a model on the processors of this machine.
#[derive(Debug)]
pub struct CpuBackend {
    model: Model,
    family: Family,
    pool: Pool,
    cache: Cache,
    work: Workspace,
    plan: StepPlan,
    limits: Limits,
    step: StepId,
    times: StepTimes,
    #[cfg(test)]
    is_batch_dependent: bool,
}

/// What is allocated in small pieces beside the plan, at most.
const HEADROOM: usize = 64 << 20;

/// Whether there is room for so many bytes, asked at once and given back: a piece refused later on would be the end
/// of the process.
fn probe(n_bytes: usize) -> Result<()> {
    Zeroed::<u8>::new(n_bytes, "the model, its cache and its workspace").map(drop)
}

#[cfg(test)]
impl CpuBackend {
    /// Plants a fault for the tests to find: sums whose order depends on the batch.
    pub(crate) fn make_batch_dependent(&mut self) {
        self.is_batch_dependent = true;
    }
}

impl CpuBackend {
    /// Reads a checkpoint and claims all memory.
    ///
    /// # Errors
    /// [`Class::Usage`] for options out of range, [`Class::Unsupported`] for a kernel path this machine has
    /// not, [`Class::Temp`] with the table of what was wanted when there is no memory, and whatever reading the
    /// tensors gives.
    pub fn open(checkpoint: &Checkpoint, options: &CpuOptions) -> Result<Self> {
        Self::open_with_progress(checkpoint, options, &|_, _| {})
    }

    /// As [`CpuBackend::open`], telling how far reading is.
    ///
    /// # Errors
    /// As for [`CpuBackend::open`].
    pub fn open_with_progress(
        checkpoint: &Checkpoint,
        options: &CpuOptions,
        progress: &Progress<'_>,
    ) -> Result<Self> {
        options.check()?;
        let config = &checkpoint.config;
        let family = Family::of(options.kernel_path());
        let n_threads = options.n_threads();
        let pool = Pool::new(n_threads).map_err(|error| {
            Error::new(Class::Temp, "Threads", format!("cannot start {n_threads} threads: {error}"))
        })?;
        let with_table = |error: Error| match error.code {
            "OutOfMemory" => {
                let table = plan(config, &checkpoint.weights, options);
                let remedy = "open with fewer blocks or rows, or take a smaller model";
                Error { message: format!("{}; {remedy}. Wanted:\n{table}", error.message), ..error }
            }
            _ => error,
        };
        let wanted = plan(config, &checkpoint.weights, options).total() as usize;
        probe(wanted.saturating_add(HEADROOM)).map_err(with_table)?;
        let geometry = Geometry::new(config, options.n_blocks, options.block_size);
        let cache = match options.precision {
            Precision::Exact => Pages::new(geometry).map(Cache::F32),
            Precision::Bf16 | Precision::Int8 => Pages::new(geometry).map(Cache::F16),
        };
        let cache = cache.map_err(with_table)?;
        let model =
            Model::open(checkpoint, options.precision, family.path(), &pool, progress).map_err(with_table)?;
        let work = Workspace::new(&model, options, family, n_threads).map_err(with_table)?;
        let capacity = Capacity {
            n_blocks: options.n_blocks,
            block_size: options.block_size,
            max_rows: options.max_rows,
            max_tokens: options.max_tokens,
            max_kept: options.max_kept,
            max_candidates: MAX_CANDIDATES,
            vocab_size: config.vocab_size,
            max_context: max_context(config, options),
        };
        let limits = Limits {
            capacity,
            n_kv_heads: config.n_kv_heads,
            group: config.group_size(),
            n_threads,
            n_slots: n_slots(config, options),
        };
        Ok(Self {
            model,
            family,
            pool,
            cache,
            work,
            plan: StepPlan::default(),
            limits,
            step: StepId(0),
            times: StepTimes::default(),
            #[cfg(test)]
            is_batch_dependent: false,
        })
    }

    /// The kernel family in use.
    pub fn kernel_path(&self) -> KernelPath {
        self.family.path()
    }

    /// Threads in use.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// Bytes of the packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.model.n_bytes()
    }

    /// Where the time of all steps since the last call went.
    pub fn take_times(&mut self) -> StepTimes {
        std::mem::take(&mut self.times)
    }

    fn check_step(&self, step: StepId) {
        assert_eq!(step, self.step, "only the last step can be asked");
    }

    /// The kept row of an ask.
    fn kept(&self, slot: Slot) -> &[f32] {
        kept(&self.plan, &self.work, self.model.head.n_rows(), self.limits.capacity.vocab_size, slot)
    }
}

fn kept<'a>(plan: &StepPlan, work: &'a Workspace, stride: usize, vocab_size: usize, slot: Slot) -> &'a [f32] {
    let asks = plan.kept.len();
    let row = plan.kept.get(slot as usize).unwrap_or_else(|| panic!("ask {slot} of a step with {asks}"));
    let row = row.unwrap_or_else(|| panic!("ask {slot} did not keep its logits"));
    &work.logits[row * stride..][..vocab_size]
}

impl Backend for CpuBackend {
    fn capacity(&self) -> Capacity {
        self.limits.capacity
    }

    fn submit(&mut self, batch: &Batch) -> Result<StepId> {
        let start = Instant::now();
        self.step.0 += 1;
        self.plan.make(batch, &self.limits);
        self.work.prepare_signals(self.plan.contexts.len(), self.model.config.n_heads);
        let step = Step {
            model: &self.model,
            family: self.family,
            pool: &self.pool,
            plan: &self.plan,
            batch,
            #[cfg(test)]
            is_batch_dependent: self.is_batch_dependent,
        };
        let times = &mut self.times;
        match &mut self.cache {
            Cache::F32(pages) => step.layers(pages, &mut self.work, times),
            Cache::F16(pages) => step.layers(pages, &mut self.work, times),
        }
        step.head(&mut self.work, times);
        times.total += start.elapsed().as_nanos() as u64;
        Ok(self.step)
    }

    fn signals(&mut self, step: StepId, out: &mut [Signals]) -> Result<()> {
        self.check_step(step);
        out.copy_from_slice(&self.work.signals);
        Ok(())
    }

    fn attention(&mut self, step: StepId, asks: &[Slot], out: &mut [AttentionSignals]) -> Result<()> {
        self.check_step(step);
        assert_eq!(asks.len(), out.len(), "one record an ask");
        for (out, &slot) in out.iter_mut().zip(asks) {
            let number = self.plan.signals.get(slot as usize).copied().flatten();
            let number = number.unwrap_or_else(|| panic!("ask {slot} did not ask for attention signals"));
            *out = self.work.attention_signals[number];
        }
        Ok(())
    }

    fn candidates(&mut self, step: StepId, asks: &[(Slot, u16)], out: &mut Candidates) -> Result<()> {
        self.check_step(step);
        let (stride, vocab_size) = (self.model.head.n_rows(), self.limits.capacity.vocab_size);
        let mut threads = std::mem::take(&mut self.work.threads);
        let mut lists = std::mem::take(&mut self.work.lists);
        lists.resize_with(lists.len().max(asks.len()), Candidates::default);
        let (rooms, to) = (Shared::new(&mut threads), Shared::new(&mut lists));
        let (plan, work) = (&self.plan, &self.work);
        self.pool.run(asks.len(), &|i, thread| {
            let (slot, k) = asks[i];
            let k = usize::from(k).min(MAX_CANDIDATES);
            let logits = kept(plan, work, stride, vocab_size, slot);
            // SAFETY: tasks of one thread do not overlap, and every list has one task.
            let (room, list) = unsafe { (rooms.at(thread), to.at(i)) };
            list.clear();
            sampling::candidates(logits, &work.signals[slot as usize], k, &mut room.draw, list);
        });
        out.clear();
        for list in &lists[..asks.len()] {
            out.push(list.list(0).iter().copied());
        }
        (self.work.threads, self.work.lists) = (threads, lists);
        Ok(())
    }

    fn draw(&mut self, step: StepId, draws: &[Draw<'_>], out: &mut [Drawn]) -> Result<()> {
        self.check_step(step);
        assert_eq!(draws.len(), out.len(), "one result a draw");
        let (stride, vocab_size) = (self.model.head.n_rows(), self.limits.capacity.vocab_size);
        let mut threads = std::mem::take(&mut self.work.threads);
        let (rooms, to) = (Shared::new(&mut threads), Shared::new(out));
        let (plan, work) = (&self.plan, &self.work);
        self.pool.run(draws.len(), &|i, thread| {
            let draw = &draws[i];
            let logits = kept(plan, work, stride, vocab_size, draw.slot);
            // SAFETY: tasks of one thread do not overlap, and every draw has one task.
            let (room, drawn) = unsafe { (rooms.at(thread), to.at(i)) };
            *drawn = sampling::draw(logits, &work.signals[draw.slot as usize], draw, &mut room.draw);
        });
        self.work.threads = threads;
        Ok(())
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<()> {
        let Capacity { n_blocks, block_size, .. } = self.limits.capacity;
        for &copy in copies {
            assert!(
                (copy.from as usize) < n_blocks && (copy.to as usize) < n_blocks && copy.tokens <= block_size,
                "{copy:?} in a cache of {n_blocks} blocks of {block_size}"
            );
            if copy.from != copy.to {
                match &mut self.cache {
                    Cache::F32(pages) => pages.copy(copy),
                    Cache::F16(pages) => pages.copy(copy),
                }
            }
        }
        Ok(())
    }

    fn logits(&self, step: StepId, slot: Slot) -> Result<Vec<f32>> {
        self.check_step(step);
        Ok(self.kept(slot).to_vec())
    }
}
