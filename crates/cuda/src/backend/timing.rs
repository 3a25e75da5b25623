//! What each operation of a step takes: how much shorter the step is without it.
//!
//! A step is recorded with all its launches and without those of one kind, and both are replayed in turn. So every kernel is
//! measured where it runs: it meets the caches as the launches before it left them, and what a launch costs besides counts.
//! Nothing is computed with the results, and which launches are there changes no other's work.

use super::CudaBackend;
use super::ablation::Ablation;
use crate::driver::Graph;
use crate::launch::Launch;
use crate::ops::SPLIT;
use entropix_model::random::splitmix64;
use entropix_model::{Ask, Backend, Batch, BlockId, Class, Error, Result, Signals};
use half::bf16;
use std::time::{Duration, Instant};

/// A measurement lasts this long at least; waiting for it takes some microseconds.
const LEAST: Duration = Duration::from_millis(20);
/// Replays of one recording at most.
const MOST_REPLAYS: u32 = 1000;
/// Measurements of each; the median counts.
const ROUNDS: usize = 5;
/// Random bytes that the cache is filled with, over and over.
const NOISE_BYTES: usize = 4 << 20;

/// A step to be taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedStep {
    /// Sequences.
    pub rows: usize,
    /// New tokens of each: 1 is a decode step.
    pub tokens: usize,
    /// Positions that the last token of each sees.
    pub context: usize,
}

/// One kind of launches of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationTime {
    /// The kernel's entry point.
    pub kernel: String,
    /// The matrix it multiplies with: `qkv`, `o`, `gate_up` or `down`; empty for other operations.
    pub part: &'static str,
    /// Blocks of a launch.
    pub grid: [u32; 3],
    /// Launches of it in a step.
    pub launches: usize,
    /// Bytes that a launch must read and write at least.
    pub bytes: u64,
    /// Seconds that the step is shorter without it, by its launches: median, least and most of the measurements. A kernel
    /// that takes no longer than the clock's noise may come out below 0.
    pub seconds: [f64; 3],
}

/// A step and its parts.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTime {
    /// Seconds of the whole step, recorded for exactly these rows and replayed, without the host's part: median, least and
    /// most.
    pub seconds: [f64; 3],
    /// Its operations in the order of their first launches.
    pub operations: Vec<OperationTime>,
    /// What signals and draws cost, of decode steps.
    pub ablations: Vec<Ablation>,
}

impl CudaBackend {
    /// Takes a step apart and measures its operations. Whatever the cache held is lost.
    ///
    /// # Errors
    /// `Usage` for a step that the backend was not opened for, and whatever the device fails in.
    pub fn time_step(&mut self, step: TimedStep) -> Result<StepTime> {
        let batch = self.timed_batch(step, false)?;
        if !self.has_noise {
            self.fill_cache()?;
            self.has_noise = true;
        }
        // The first step warms up, and leaves its inputs where the launches find them.
        let submitted = self.submit(&batch)?;
        self.signals(submitted, &mut vec![Signals::default(); step.rows])?;
        let launches = self.forward().launches(self.exact_shape())?;
        let mut kinds: Vec<Vec<&Launch>> = Vec::new();
        for launch in &launches {
            match kinds.iter_mut().find(|kind| is_alike(kind[0], launch)) {
                Some(kind) => kind.push(launch),
                None => kinds.push(vec![launch]),
            }
        }
        let whole = self.record(launches.iter())?;
        let replays = self.replays_of(whole)?;
        let mut all = Vec::with_capacity(ROUNDS * kinds.len());
        let mut operations = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let rest = self.record(launches.iter().filter(|launch| !is_alike(kind[0], launch)))?;
            let mut seconds = Vec::with_capacity(ROUNDS);
            for _ in 0..ROUNDS {
                let (with, without) = (self.replay(whole, replays)?, self.replay(rest, replays)?);
                all.push(with);
                seconds.push((with - without) / kind.len() as f64);
            }
            self.driver.release(rest)?;
            let Launch { kernel, part, grid, bytes, .. } = kind[0].clone();
            operations.push(OperationTime {
                kernel,
                part,
                grid,
                launches: kind.len(),
                bytes,
                seconds: spread(seconds),
            });
        }
        self.driver.release(whole)?;
        let seconds = spread(all);
        let ablations = if step.tokens == 1 { self.ablations(step)? } else { Vec::new() };
        Ok(StepTime { seconds, operations, ablations })
    }

    /// Rows that each ask about their last token, about its `attention` too, and see `context` positions, in blocks that lie in
    /// disorder.
    pub(super) fn timed_batch(&self, step: TimedStep, attention: bool) -> Result<Batch> {
        let capacity = self.capacity();
        let TimedStep { rows, tokens, context } = step;
        let per_row = context.div_ceil(capacity.block_size);
        let fits = (1..=capacity.max_rows).contains(&rows)
            && (1..=context).contains(&tokens)
            && rows * tokens <= capacity.max_tokens
            && rows <= capacity.max_kept
            && context <= capacity.max_context
            && rows * per_row <= capacity.n_blocks;
        if !fits {
            let message = format!("a step of {step:?} is beyond {capacity:?}");
            return Err(Error::new(Class::Usage, "TimedStep", message));
        }
        // A stride that shares no factor with the number of blocks meets each of them once.
        let n = rows * per_row;
        let stride = (n * 5 / 8 + 1..).find(|stride| gcd(*stride, n) == 1).expect("a prime is near");
        let blocks: Vec<BlockId> = (0..n).map(|i| (i * stride % n) as BlockId).collect();
        let mut batch = Batch::default();
        for row in 0..rows {
            let first = row * tokens;
            let ids: Vec<u32> =
                (first..first + tokens).map(|i| (i * 7919 % capacity.vocab_size) as u32).collect();
            let ask = Ask { index: tokens - 1, target: None, attention, keep_logits: true };
            batch.push(&ids, context - tokens, &blocks[row * per_row..(row + 1) * per_row], &[ask]);
        }
        Ok(batch)
    }

    /// Fills the cache with random bf16 from -2 to 2: their bytes are such numbers in f16 too, and scales in f32.
    fn fill_cache(&mut self) -> Result<()> {
        self.driver.enter()?;
        let mut state = 0;
        let mut number = || bf16::from_f32((splitmix64(&mut state) >> 40) as f32 / (1 << 22) as f32 - 2.0);
        let noise: Vec<u8> = (0..NOISE_BYTES / 2).flat_map(|_| number().to_le_bytes()).collect();
        let total = self.sizes.cache_bytes();
        for first in (0..total).step_by(NOISE_BYTES) {
            self.driver.write(self.rooms.cache, first, &noise[..NOISE_BYTES.min(total - first)])?;
        }
        self.driver.wait()
    }

    /// Records launches.
    pub(super) fn record<'l>(&mut self, mut launches: impl Iterator<Item = &'l Launch>) -> Result<Graph> {
        self.driver.enter()?;
        self.driver.capture(|driver| launches.try_for_each(|launch| driver.launch(launch)))
    }

    /// How many replays last long enough to be measured; warms up.
    pub(super) fn replays_of(&self, graph: Graph) -> Result<u32> {
        self.replay(graph, 1)?;
        let replays = (LEAST.as_secs_f64() / self.replay(graph, 3)?.max(1e-9)).ceil();
        Ok(replays.clamp(1.0, f64::from(MOST_REPLAYS)) as u32)
    }

    /// Seconds of a launch by itself, recorded and replayed: median, least and most.
    pub(super) fn time_alone(&mut self, launch: &Launch) -> Result<[f64; 3]> {
        let graph = self.record([launch].into_iter())?;
        let replays = self.replays_of(graph)?;
        let seconds = (0..ROUNDS).map(|_| self.replay(graph, replays)).collect::<Result<_>>()?;
        self.driver.release(graph)?;
        Ok(spread(seconds))
    }

    /// Seconds of one replay, of so many in a row.
    pub(super) fn replay(&self, graph: Graph, replays: u32) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..replays {
            self.driver.replay(graph)?;
        }
        // A nap would be measured too.
        self.driver.wait_awake()?;
        Ok(start.elapsed().as_secs_f64() / f64::from(replays))
    }
}

/// Median, least and most.
pub(super) fn spread(mut seconds: Vec<f64>) -> [f64; 3] {
    seconds.sort_by(f64::total_cmp);
    [seconds[seconds.len() / 2], seconds[0], seconds[seconds.len() - 1]]
}

/// Whether two launches do the same to other data.
fn is_alike(a: &Launch, b: &Launch) -> bool {
    (&a.kernel, a.part, a.grid, a.bytes, a.shared) == (&b.kernel, b.part, b.grid, b.bytes, b.shared)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Positions, rounded up to what attention is cut into: the bytes that an operation counts are exact there.
pub fn whole_splits(context: usize) -> usize {
    context.next_multiple_of(SPLIT)
}
