//! The CUDA device behind the seam.

use crate::driver::{CublasLt, Driver, Found, Graph};
use crate::forward::{Forward, Shape};
use crate::kernels;
use crate::ops;
use crate::options::{CudaOptions, PASSING_ASKS, Sizes, plan};
use crate::rooms::{MOST_COPIES, Rooms, key_parts_bytes};
use crate::step::{StepPlan, narrow};
use crate::weights::{Model, Progress};
use entropix_model::{
    AttentionSignals, Backend, Batch, BlockCopy, Candidates, Capacity, Checkpoint, Class, Draw, Drawn, Error,
    MemoryPlan, Result, Signals, Slot, StepId,
};
use std::collections::HashMap;

mod choices;
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
    graphs: HashMap<Shape, Graph>,
    step: StepId,
    /// Whether the answers of the step have arrived.
    has_answers: bool,
    bytes: Vec<u8>,
}

impl CudaBackend {
    /// Opens a device, uploads a checkpoint and claims all memory.
    ///
    /// # Errors
    /// As [`crate::probe`] and, with [`CudaOptions::fast`], [`CublasLt::find`]; `KernelImage` and `KernelCompile` of [`Class::Unsupported`] when no kernels are to be had that run there;
    /// [`Class::Usage`] for options out of range, [`Class::Unsupported`] for shapes that no kernel
    /// computes, [`Class::Temp`] with the table of what was wanted when the device has no memory for it, and whatever reading
    /// the tensors gives.
    pub fn open(checkpoint: &Checkpoint, options: &CudaOptions) -> Result<Self> {
        Self::open_with_progress(checkpoint, options, &|_| {})
    }

    /// As [`CudaBackend::open`], telling how far it is.
    ///
    /// # Errors
    /// As for [`CudaBackend::open`].
    pub fn open_with_progress(
        checkpoint: &Checkpoint,
        options: &CudaOptions,
        progress: &Progress<'_>,
    ) -> Result<Self> {
        let config = &checkpoint.config;
        options.check(config)?;
        let sizes = Sizes::of(config, options);
        let memory = plan(config, &checkpoint.weights, options);
        let mut driver = Driver::open(options.ordinal, options.patience)?;
        // What it claims for itself is in no plan.
        if options.fast.is_some() {
            let library = CublasLt::find(driver.found().driver)?;
            driver.take_blas(library)?;
        }
        let free = driver.free_memory()?;
        let refuse = |driver: &Driver, free: usize| {
            let message = format!(
                "{} has {:.1} MiB free, {:.1} MiB are wanted; open with fewer blocks, rows or tokens, or take a smaller model. Wanted:\n{memory}",
                driver.found(),
                free as f64 / f64::from(1 << 20),
                memory.total() as f64 / f64::from(1 << 20)
            );
            Error::new(Class::Temp, "OutOfMemory", message)
        };
        if memory.total() > free as u64 {
            return Err(refuse(&driver, free));
        }
        let with_table = |driver: &Driver, error: Error| match error.code {
            "OutOfMemory" => refuse(driver, free),
            _ => error,
        };
        let (weights, cache) = (&checkpoint.weights, options.cache.as_deref());
        let nvrtc = match kernels::load(&mut driver, &sizes, weights, cache, progress) {
            Ok(nvrtc) => nvrtc,
            Err(error) => return Err(with_table(&driver, error)),
        };
        let rooms = match Rooms::allocate(&mut driver, &sizes) {
            Ok(rooms) => rooms,
            Err(error) => return Err(with_table(&driver, error)),
        };
        let model = match Model::upload(checkpoint, &mut driver, progress) {
            Ok(model) => model,
            Err(error) => return Err(with_table(&driver, error)),
        };
        let mut backend = Self {
            plan: StepPlan::new(&sizes),
            capacity: options.capacity(config),
            driver,
            nvrtc,
            model,
            rooms,
            sizes,
            memory,
            replays: options.graphs,
            graphs: HashMap::new(),
            step: StepId(0),
            has_answers: false,
            bytes: Vec::new(),
        };
        if let Some(least) = options.fast {
            backend.warm_up(least)?;
        }
        Ok(backend)
    }

    /// Takes the shortest step that cuBLASLt has a part in: what it loads for it needs memory and may fail, better now than
    /// amid work.
    fn warm_up(&mut self, least: usize) -> Result<()> {
        let Capacity { max_tokens, max_context, block_size, .. } = self.capacity;
        let n = least.max(2);
        if n > max_tokens.min(max_context) {
            return Ok(());
        }
        let blocks: Vec<u32> = (0..narrow(n.div_ceil(block_size))).collect();
        let mut batch = Batch::default();
        batch.push(&vec![0; n], 0, &blocks, &[]);
        self.submit(&batch)?;
        self.answers()
    }

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
        Forward { model, sizes, rooms, sections: &plan.sections, fast: None }
    }

    /// The step's own shape.
    fn exact_shape(&self) -> Shape {
        let p = &self.plan;
        Shape {
            tokens: narrow(p.n_tokens),
            decode_tiles: narrow(p.n_decode),
            splits: narrow(p.splits),
            prefill_tiles: narrow(p.n_prefill),
            kept: narrow(p.n_kept),
            attention: narrow(p.n_attention),
            key_parts: narrow(p.key_parts),
        }
    }

    /// The step's own shape, or for a decode step the recorded shape that holds it.
    fn shape(&self) -> (Shape, bool) {
        let (p, exact) = (&self.plan, self.exact_shape());
        if !self.replays || p.n_prefill > 0 || p.n_tokens != p.n_rows || p.n_kept > p.n_tokens {
            return (exact, false);
        }
        let tokens = bucket(p.n_tokens).min(self.sizes.max_rows).min(self.sizes.max_tokens);
        let per_row = p.n_decode / p.n_rows;
        let rounded = |n: usize, most: usize| narrow(n.next_power_of_two().min(most));
        let attention = p.n_attention > 0;
        let key_parts = rounded(p.key_parts.max(1), self.sizes.key_parts);
        let fits = tokens * key_parts as usize * 4 <= key_parts_bytes(&self.sizes);
        if attention && !fits {
            return (exact, false);
        }
        let replayed = Shape {
            tokens: narrow(tokens),
            decode_tiles: narrow(tokens * per_row),
            splits: rounded(p.splits, self.capacity.max_context.div_ceil(ops::SPLIT)),
            prefill_tiles: 0,
            kept: if p.n_kept > 0 { narrow(tokens.min(self.sizes.max_kept)) } else { 0 },
            attention: if attention { narrow(tokens) } else { 0 },
            key_parts: if attention { key_parts } else { 0 },
        };
        (replayed, true)
    }

    fn queue_step(&mut self) -> Result<()> {
        if self.plan.n_tokens == 0 {
            return Ok(());
        }
        let (shape, is_replayed) = self.shape();
        if !is_replayed {
            // Rows that decode have the same bits replayed or not.
            let has_prompt = self.plan.n_tokens > self.plan.n_rows;
            let fast = self.sizes.fast.filter(|_| has_prompt).map(|_| &self.driver);
            return Forward { fast, ..self.forward() }.step(shape, &mut |launch| self.driver.launch(&launch));
        }
        let graph = match self.graphs.get(&shape) {
            Some(&graph) => graph,
            None => {
                let Self { driver, model, sizes, rooms, plan, .. } = self;
                let forward = Forward { model, sizes, rooms, sections: &plan.sections, fast: None };
                let graph =
                    driver.capture(|driver| forward.step(shape, &mut |launch| driver.launch(&launch)))?;
                self.graphs.insert(shape, graph);
                graph
            }
        };
        self.driver.replay(graph)
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

/// Rows that share a recorded step: 1, 2, 4, 8, then steps of at most a quarter.
fn bucket(rows: usize) -> usize {
    match rows {
        0..=8 => rows.next_power_of_two(),
        _ => rows.next_multiple_of((rows.next_power_of_two() / 8).max(8)),
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
