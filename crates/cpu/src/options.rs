//! What a backend is opened with, and the memory that costs, before anything is allocated.

use crate::attention;
use crate::cache::{Geometry, PANEL};
use crate::features::KernelPath;
use crate::limits;
use crate::linear::Precision;
use entropix_model::{Class, Error, LayerWeights, MemoryPlan, ModelConfig, Result, Tensor, Weights};

/// Asks whose logits the head computes together.
pub(crate) const HEAD_ASKS: usize = 64;
/// Most candidates an ask.
pub(crate) const MAX_CANDIDATES: usize = limits::CANDIDATES;
/// Tokens and rows of one task of a product.
pub(crate) const TASK_TOKENS: usize = 96;
pub(crate) const TASK_ROWS: usize = 128;
/// Most bytes for splits of long contexts that several threads share.
const PARTS_BYTES: usize = 16 << 20;

/// How to run a model on the CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads, the caller's among them; 0 takes one for each processor.
    pub threads: usize,
    /// What activations are rounded to; `Exact` also keeps the cache in f32, the others in f16.
    pub precision: Precision,
    /// The kernel family; the best of this machine when none.
    pub kernel_path: Option<KernelPath>,
    /// Blocks of the cache.
    pub n_blocks: usize,
    /// Positions a block, a multiple of 16.
    pub block_size: usize,
    /// Most rows a step.
    pub max_rows: usize,
    /// Most tokens a step.
    pub max_tokens: usize,
    /// Most asks a step that keep their logits.
    pub max_kept: usize,
}

impl Default for CpuOptions {
    /// All processors, 8-bit activations, 16,384 positions in blocks of 16, 64 rows and 512 tokens a step.
    fn default() -> Self {
        Self {
            threads: 0,
            precision: Precision::Int8,
            kernel_path: None,
            n_blocks: 1024,
            block_size: 16,
            max_rows: 64,
            max_tokens: 512,
            max_kept: 64,
        }
    }
}

impl CpuOptions {
    /// Threads with 0 resolved.
    pub fn n_threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let usage = |name: &str, value: usize, limit: &str| {
            let message = format!("{name} is {value}; it must be {limit}");
            Err(Error::new(Class::Usage, "CpuOptions", message))
        };
        let most = [
            ("threads (-t)", self.threads, limits::THREADS),
            ("n_blocks (--kv-blocks)", self.n_blocks, limits::KV_BLOCKS),
            ("block_size", self.block_size, limits::BLOCK_SIZE),
            ("max_rows (-b)", self.max_rows, limits::ROWS),
            ("max_tokens", self.max_tokens, limits::STEP_TOKENS),
            ("max_kept", self.max_kept, limits::STEP_TOKENS),
        ];
        for (name, value, most) in most {
            if value > most {
                return usage(name, value, &format!("at most {most}"));
            }
        }
        for (name, value) in
            [("n_blocks", self.n_blocks), ("max_rows", self.max_rows), ("max_tokens", self.max_tokens)]
        {
            if value == 0 {
                return usage(name, value, "at least 1");
            }
        }
        if self.block_size == 0 || !self.block_size.is_multiple_of(PANEL) {
            return usage("block_size", self.block_size, "a multiple of 16");
        }
        match self.kernel_path {
            Some(path) if !path.is_available() => Err(Error::unsupported(
                "KernelPath",
                format!(
                    "this machine cannot run the {path} kernels; the best it has is {}",
                    KernelPath::detect()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The kernels that are asked for, or the best.
    pub(crate) fn kernel_path(&self) -> KernelPath {
        self.kernel_path.unwrap_or_else(|| KernelPath::best_for(self.precision))
    }

    /// Bytes of a number in the cache.
    fn cache_width(&self) -> usize {
        if self.precision == Precision::Exact { 4 } else { 2 }
    }
}

/// Most positions of one sequence: what the model was made for, or what the cache holds if that is less.
pub(crate) fn max_context(config: &ModelConfig, options: &CpuOptions) -> usize {
    config.max_context.min(options.n_blocks.saturating_mul(options.block_size))
}

/// Slots for splits that several threads share.
pub(crate) fn n_slots(config: &ModelConfig, options: &CpuOptions) -> usize {
    let tokens = (4 * options.n_threads()).min(options.max_tokens);
    let wanted = tokens * config.n_kv_heads * attention::n_splits(max_context(config, options));
    wanted.min(PARTS_BYTES / attention::Parts::slot_bytes(config.group_size(), config.head_dim))
}

/// What [`crate::CpuBackend::open`] will take. Pages that are never written cost nothing, so a cache that
/// stays half empty takes half.
pub fn plan(config: &ModelConfig, weights: &Weights, options: &CpuOptions) -> MemoryPlan {
    let c = config;
    let tokens = options.max_tokens as u64;
    let geometry = Geometry::new(c, 1, PANEL);
    let position = (geometry.n_bytes(options.cache_width()) / PANEL) as u64;
    // Per token in f32: the residual stream, q k v and attended; and the inputs of products, at most f32 as
    // well.
    let wide = (c.hidden_size + 2 * c.q_size() + 2 * c.kv_size()) as u64;
    let inputs = (c.hidden_size + c.q_size() + c.intermediate_size) as u64;
    let threads = options.n_threads() as u64;
    let attention =
        attention::Scratch::n_bytes(c.n_heads, c.n_kv_heads, c.head_dim, max_context(c, options)) as u64;
    let slots = n_slots(c, options) * attention::Parts::slot_bytes(c.group_size(), c.head_dim);
    let task = (2 * TASK_TOKENS * TASK_ROWS).max(HEAD_ASKS * crate::moments::TILE) as u64;
    MemoryPlan {
        weights: weights_bytes(weights),
        cache: position * (options.n_blocks * options.block_size) as u64,
        cache_per_position: position,
        activations: 4 * tokens * (wide + inputs + c.head_dim as u64),
        logits: 4 * (options.max_kept * c.vocab_size.next_multiple_of(16)) as u64,
        scratch: threads * (attention + 4 * task + 37 * c.vocab_size as u64) + slots as u64,
    }
}

fn weights_bytes(weights: &Weights) -> u64 {
    let all = |layer: &LayerWeights| -> u64 {
        let tensors = [
            &layer.attn_norm,
            &layer.q,
            &layer.k,
            &layer.v,
            &layer.o,
            &layer.ffn_norm,
            &layer.gate,
            &layer.up,
            &layer.down,
        ];
        let optional =
            [&layer.q_bias, &layer.k_bias, &layer.v_bias, &layer.q_norm, &layer.k_norm].into_iter().flatten();
        tensors.into_iter().chain(optional).map(bytes).sum()
    };
    fn bytes(tensor: &Tensor) -> u64 {
        tensor.n_bytes() as u64
    }
    bytes(&weights.embedding)
        + bytes(&weights.final_norm)
        + weights.head.as_ref().map_or(0, bytes)
        + weights.layers.iter().map(all).sum::<u64>()
}
