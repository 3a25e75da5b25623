//! Opening a device: what is wanted of its memory is told before any of it is claimed.

use super::CudaBackend;
use crate::driver::{Claims, CublasLt, Driver};
use crate::kernels;
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
        let free = driver.free_memory()?;
        let mut claims = Claims::default();
        let pieces = weights::pieces(&checkpoint.weights).into_iter().chain(Rooms::pieces(&sizes)?);
        pieces.for_each(|bytes| claims.add(bytes));
        let refuse = |driver: &Driver, ended: &str| {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let message = format!(
                "{} has {:.1} MiB free, {:.1} MiB are wanted: {:.1} in the pieces that its driver hands out, {:.1} to be left for \
                 itself{ended}; open with fewer blocks, rows or tokens, or take a smaller model. Wanted:\n{memory}",
                driver.found(),
                mib(free as u64),
                mib(claims.total() + LEFT_BYTES),
                mib(claims.total()),
                mib(LEFT_BYTES),
            );
            Error::new(Class::Temp, "OutOfMemory", message)
        };
        if claims.total() + LEFT_BYTES > free as u64 {
            return Err(refuse(&driver, ""));
        }
        let with_table = |driver: &Driver, error: Error| match error.code {
            "OutOfMemory" => {
                let claimed = driver.claims().total() as f64 / f64::from(1 << 20);
                let ended = format!(
                    "; {claimed:.1} MiB were claimed when there was no more: something else takes it too, or the driver takes more \
                     for itself"
                );
                refuse(driver, &ended)
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
        };
        if let Some(least) = options.fast {
            backend.warm_up(least)?;
        }
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
