//! Opening a device: what is wanted of its memory is told before any of it is claimed.

use super::CudaBackend;
use crate::driver::{Claims, CublasLt, Driver};
use crate::kernels;
use crate::ops::KvType;
use crate::options::{CudaOptions, LEFT_BYTES, MOST_GRAPHS, Sizes, plan};
use crate::rooms::Rooms;
use crate::step::{StepPlan, narrow};
use crate::weights::{self, Model, Progress};
use entropix_model::{Backend, Batch, Capacity, Checkpoint, Class, Error, Result, StepId};
use std::collections::HashMap;

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
        let free = driver.free_memory()? as u64;
        let claims = claims(checkpoint, options)?;
        let refuse = |driver: &Driver, why: String| {
            let message = format!(
                "{} has {:.1} MiB free, {:.1} MiB are wanted: {:.1} in the pieces that its driver hands out, {:.1} to be left for \
                 itself{why}. Wanted:\n{memory}",
                driver.found(),
                mib(free),
                mib(claims.total() + LEFT_BYTES),
                mib(claims.total()),
                mib(LEFT_BYTES),
            );
            Error::new(Class::Temp, "DeviceMemory", message)
        };
        let lacking = (claims.total() + LEFT_BYTES).saturating_sub(free);
        if lacking > 0 {
            let why =
                format!("; {:.1} MiB are lacking: {}", mib(lacking), advice(checkpoint, options, free)?);
            return Err(refuse(&driver, why));
        }
        let with_table = |driver: &Driver, error: Error| match error.code {
            "DeviceMemory" => {
                let claimed = mib(driver.claims().total());
                let why = format!(
                    "; {claimed:.1} MiB were claimed when there was no more: something else takes it too, or the driver takes more \
                     for itself; end what else uses it, or ask for less"
                );
                refuse(driver, why)
            }
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
            most_graphs: MOST_GRAPHS,
            step: StepId(0),
            has_answers: false,
            bytes: Vec::new(),
            has_noise: false,
        };
        if let Some(least) = options.fast {
            backend.warm_up(least)?;
        }
        backend.driver.seal();
        Ok(backend)
    }

    /// Takes the shortest and the longest step that cuBLASLt has a part in: what it loads for them needs memory and may fail,
    /// better now than amid work.
    fn warm_up(&mut self, least: usize) -> Result<()> {
        let Capacity { n_blocks, block_size, max_rows, max_tokens, max_context, .. } = self.capacity;
        // Rows of whole blocks, as many and so as short as they may be: only how many tokens there are counts.
        let fewest = max_tokens.div_ceil(max_rows).max(2).next_multiple_of(block_size);
        let of_row = fewest.min(max_context);
        let per_row = of_row.div_ceil(block_size);
        let most = max_tokens.min(of_row * max_rows.min(n_blocks / per_row));
        let least = least.max(2);
        for n in if least < most { vec![least, most] } else { vec![most] } {
            if n < least {
                return Ok(());
            }
            let mut batch = Batch::default();
            for (row, first) in (0..n).step_by(of_row).enumerate() {
                let blocks: Vec<u32> = (narrow(row * per_row)..).take(per_row).collect();
                batch.push(&vec![0; of_row.min(n - first)], 0, &blocks, &[]);
            }
            self.submit(&batch)?;
            self.answers()?;
        }
        Ok(())
    }
}

/// What opening takes of the device's memory.
fn claims(checkpoint: &Checkpoint, options: &CudaOptions) -> Result<Claims> {
    let mut claims = Claims::default();
    let rooms = Rooms::pieces(&Sizes::of(&checkpoint.config, options))?;
    weights::pieces(&checkpoint.weights).into_iter().chain(rooms).for_each(|bytes| claims.add(bytes));
    Ok(claims)
}

/// What would fit into `free` bytes: less of one thing, else less of everything that can be less. Which flags lower what only the
/// caller knows.
fn advice(checkpoint: &Checkpoint, options: &CudaOptions, free: u64) -> Result<String> {
    let fits = |options: &CudaOptions| -> Result<bool> {
        Ok(claims(checkpoint, options)?.total() + LEFT_BYTES <= free)
    };
    let with_blocks = |options: &CudaOptions| -> Result<Option<usize>> {
        most(options.n_blocks, |n_blocks| fits(&CudaOptions { n_blocks, ..options.clone() }))
    };
    let with_rows = |rows: usize| {
        // As many tokens as rows are a step that only decodes.
        let follow = options.max_tokens == options.max_rows;
        let tokens = if follow { rows.max(CudaOptions::default().max_tokens) } else { options.max_tokens };
        let (max_tokens, max_kept) = (tokens.min(options.max_tokens), rows.min(options.max_kept));
        CudaOptions { max_rows: rows, max_tokens, max_kept, ..options.clone() }
    };
    let int8 = CudaOptions { kv_type: KvType::Int8, ..options.clone() };
    let positions = |blocks: usize| format!("{blocks} blocks ({} positions)", blocks * options.block_size);
    let mut ways = Vec::new();
    if let Some(blocks) = with_blocks(options)? {
        ways.push(format!("with {} instead of {}", positions(blocks), options.n_blocks));
    }
    if let Some(rows) = most(options.max_rows, |rows| fits(&with_rows(rows)))? {
        ways.push(format!("with {rows} rows instead of {}", options.max_rows));
    }
    if int8 != *options && fits(&int8)? {
        ways.push("with the cache in int8".into());
    }
    if options.fast.is_some() && fits(&CudaOptions { fast: None, ..options.clone() })? {
        ways.push("without --fast".into());
    }
    if !ways.is_empty() {
        return Ok(format!("it fits {}", ways.join(", or ")));
    }
    let least = CudaOptions { kv_type: KvType::Int8, fast: None, ..with_rows(1) };
    Ok(match with_blocks(&least)? {
        Some(blocks) => {
            let fast = if options.fast.is_some() { ", without --fast" } else { "" };
            format!("it fits with 1 row, the cache in int8 and {} together{fast}", positions(blocks))
        }
        None => format!(
            "neither fewer blocks nor fewer rows would do beside the weights and the activations of {} tokens; end what else uses the \
             device, or take a smaller model or one in fewer bits",
            options.max_tokens
        ),
    })
}

/// The most of 1 to `n` that fits, where less fits too.
fn most(n: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<Option<usize>> {
    let (mut fitting, mut failing) = (0, n + 1);
    while failing > fitting + 1 {
        let middle = fitting + (failing - fitting) / 2;
        if fits(middle)? { fitting = middle } else { failing = middle }
    }
    Ok((fitting > 0).then_some(fitting))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
