//! The backend of a session, with the memory that its rows need.

use super::timed::{TimedBackend, Times};
use super::{Device, Processor, SessionOptions, device};
use entropix_cpu::{CpuBackend, CpuOptions, Precision, Progress};
use entropix_cuda::{CudaBackend, CudaOptions, FAST_TOKENS, Found, Opening};
use entropix_model::{Backend, Checkpoint, Class, MemoryPlan, Result};

/// Bytes the KV cache takes by default at most, unless one sequence needs more; on a device with memory of its own a
/// quarter of that.
const KV_BYTES: usize = 1 << 30;

/// On the CPU one in so many blocks is kept, once no sequence holds it, for prompts that begin alike, before untouched
/// memory is taken: a long job needs half the memory then, at the same speed.
const KEPT: usize = 4;

/// A backend and what to say of it.
pub(super) struct Opened {
    pub(super) backend: Box<dyn Backend>,
    pub(super) processor: Processor,
    pub(super) precision: Precision,
    pub(super) memory: MemoryPlan,
    /// Most blocks kept for their content alone; see [`entropix_engine::EngineOptions`].
    pub(super) kept_blocks: Option<usize>,
}

impl Opened {
    /// What the options ask for, and for [`Device::Auto`] which device was taken and why.
    pub(super) fn choose(
        checkpoint: &Checkpoint,
        options: &SessionOptions,
        times: &Times,
        progress: &Progress<'_>,
    ) -> Result<(Self, Option<String>)> {
        let SessionOptions { device, precision, kernel_path, kv_type, fast, .. } = *options;
        let (found, why) = device::choose(device, precision, kernel_path, kv_type, fast)?;
        let Some(found) = found else {
            return Ok((Self::cpu(checkpoint, options, times, progress)?, why));
        };
        match Self::cuda(checkpoint, options, &found, progress) {
            // A device is there, but no kernels that it runs or that this model needs.
            Err(error)
                if device == Device::Auto
                    && error.class == Class::Unsupported
                    && kv_type.is_none()
                    && !fast =>
            {
                Ok((Self::cpu(checkpoint, options, times, progress)?, Some(device::instead(&error))))
            }
            opened => Ok((opened?, why)),
        }
    }

    pub(super) fn cpu(
        checkpoint: &Checkpoint,
        options: &SessionOptions,
        times: &Times,
        progress: &Progress<'_>,
    ) -> Result<Self> {
        let cpu = cpu_options(checkpoint, options);
        let memory = entropix_cpu::plan(&checkpoint.config, &checkpoint.weights, &cpu);
        let backend = CpuBackend::open_with_progress(checkpoint, &cpu, progress)?;
        let processor = Processor::Cpu { kernel_path: backend.kernel_path(), n_threads: backend.n_threads() };
        let backend = Box::new(TimedBackend { backend, times: times.clone() });
        let kept_blocks = options.kv_blocks.is_none().then_some(cpu.n_blocks / KEPT);
        Ok(Self { backend, processor, precision: cpu.precision, memory, kept_blocks })
    }

    pub(super) fn cuda(
        checkpoint: &Checkpoint,
        options: &SessionOptions,
        found: &Found,
        progress: &Progress<'_>,
    ) -> Result<Self> {
        let cuda = cuda_options(checkpoint, options, found);
        let backend = CudaBackend::open_with_progress(checkpoint, &cuda, &|opening| match opening {
            Opening::Weights { done, total } => progress(done, total),
            Opening::Kernels { .. } => (options.tell)(&opening.to_string()),
        })?;
        let processor = Processor::Cuda {
            found: found.clone(),
            nvrtc: backend.nvrtc(),
            kv_type: cuda.kv_type,
            cublaslt: backend.cublaslt(),
        };
        let memory = backend.memory();
        // Its cache is claimed whole.
        let kept_blocks = None;
        Ok(Self { backend: Box::new(backend), processor, precision: Precision::Bf16, memory, kept_blocks })
    }
}

fn cpu_options(checkpoint: &Checkpoint, options: &SessionOptions) -> CpuOptions {
    let config = &checkpoint.config;
    let default = CpuOptions::default();
    let mut cpu = CpuOptions {
        threads: options.threads.unwrap_or(0),
        precision: options.precision.unwrap_or(default.precision),
        kernel_path: options.kernel_path,
        max_rows: options.max_rows,
        max_tokens: default.max_tokens.max(options.max_rows),
        max_kept: options.max_rows,
        ..default
    };
    let plan = entropix_cpu::plan(config, &checkpoint.weights, &cpu);
    cpu.n_blocks = n_blocks(checkpoint, options, cpu.block_size, plan.cache_per_position, KV_BYTES);
    cpu
}

fn cuda_options(checkpoint: &Checkpoint, options: &SessionOptions, found: &Found) -> CudaOptions {
    let config = &checkpoint.config;
    let default = CudaOptions::default();
    let mut cuda = CudaOptions {
        ordinal: found.ordinal,
        kv_type: options.kv_type.unwrap_or_default(),
        fast: options.fast.then_some(FAST_TOKENS),
        max_rows: options.max_rows,
        max_tokens: default.max_tokens.max(options.max_rows),
        max_kept: options.max_rows,
        cache: options.cache.clone(),
        patience: options.patience.unwrap_or(default.patience),
        ..default
    };
    let plan = entropix_cuda::plan(config, &checkpoint.weights, &cuda);
    let most = usize::try_from(found.memory / 4).unwrap_or(usize::MAX);
    cuda.n_blocks = n_blocks(checkpoint, options, cuda.block_size, plan.cache_per_position, most);
    cuda
}

/// The blocks asked for, or those that the rows need within `most` bytes.
fn n_blocks(
    checkpoint: &Checkpoint,
    options: &SessionOptions,
    block_size: usize,
    position_bytes: u64,
    most: usize,
) -> usize {
    let limit = checkpoint.config.max_context;
    let context = options.max_context.unwrap_or(limit).min(limit);
    let wanted = || kv_blocks(context, block_size, options.max_rows, position_bytes as usize, most);
    options.kv_blocks.unwrap_or_else(wanted)
}

/// Blocks for `max_rows` whole contexts within `most` bytes, but for one whole context at least.
fn kv_blocks(
    context: usize,
    block_size: usize,
    max_rows: usize,
    position_bytes: usize,
    most: usize,
) -> usize {
    let one = context.div_ceil(block_size);
    let affordable = most / (position_bytes * block_size).max(1);
    // One block beyond, which the engine keeps free while it admits.
    one.saturating_mul(max_rows).min(affordable).max(one) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_holds_one_context_at_least() {
        assert_eq!(kv_blocks(100, 16, 4, 1, 1 << 30), 29);
        assert_eq!(
            kv_blocks(1 << 20, 16, 4, 1 << 20, 1 << 30),
            (1 << 16) + 1,
            "one context, whatever it takes"
        );
        assert_eq!(kv_blocks(1 << 10, 16, 1 << 20, 1 << 10, 1 << 30), (1 << 16) + 1, "1 GiB");
    }
}
