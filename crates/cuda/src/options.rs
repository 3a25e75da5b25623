//! What a backend is opened with, and the memory that costs, before anything is allocated.

use crate::ops::{CHUNK, Heads, KvType, SPLIT, TILE_QUERIES};
use crate::rooms::scratch_bytes;
use crate::weights::packed_bytes;
use entropix_model::{Capacity, Class, Error, MemoryPlan, ModelConfig, Result, Weights};
use std::path::PathBuf;
use std::time::Duration;

/// Most candidates an ask; the width of a list on the device.
pub(crate) const MAX_CANDIDATES: usize = 256;
/// Asks that keep no logits are reduced so many at a time.
pub(crate) const PASSING_ASKS: usize = 64;
/// Most bytes for the parts of decoding attention, unless a single row needs more.
const PARTS_BYTES: usize = 256 << 20;
/// What the grids of the head have room for, blocks of 128 along y, and more than any tokenizer has.
const MOST_VOCABULARY: usize = 1 << 20;

/// Tokens of a step from which on products by cuBLASLt should pay ([`CudaOptions::fast`]). To unpack a weight for them moves 4
/// bytes, 1 ps at 4 TB/s; they take 2 fs less a weight and token if they run at 700 TFLOP/s and ours at 400. Estimates: nobody
/// has measured it.
pub const FAST_TOKENS: usize = 512;
/// What cuBLASLt may work in.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Recorded steps that are kept; one more takes the place of the one that was not used for longest.
pub(crate) const MOST_GRAPHS: usize = 64;
/// Device memory that is left over for what the driver takes of itself: the kernels' code and recorded steps, taken to need a
/// mebibyte each. An estimate: nobody has measured it.
pub(crate) const LEFT_BYTES: u64 = 128 << 20;

/// How to run a model on a CUDA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaOptions {
    /// Which device.
    pub ordinal: u32,
    /// Blocks of the cache.
    pub n_blocks: usize,
    /// Positions a block, a multiple of 16.
    pub block_size: usize,
    /// Type of keys and values in the cache.
    pub kv_type: KvType,
    /// Most rows a step.
    pub max_rows: usize,
    /// Most tokens a step.
    pub max_tokens: usize,
    /// Most asks a step that keep their logits.
    pub max_kept: usize,
    /// Whether decode steps are recorded once and replayed. The bits are the same.
    pub graphs: bool,
    /// From so many tokens on, steps with prompts take the products of the layers by cuBLASLt, from weights that are rounded to
    /// bf16 once more. Then the bits of a request depend on what it is computed with. None: never, and the library is not
    /// looked for.
    pub fast: Option<usize>,
    /// How long a step may take before the device is given up.
    pub patience: Duration,
    /// The folder that keeps kernels which had to be compiled (in `kernels`); none keeps nothing.
    pub cache: Option<PathBuf>,
}

impl Default for CudaOptions {
    /// Device 0, 16,384 positions of bf16 in blocks of 16, 64 rows and 2,048 tokens a step, no cuBLASLt, two minutes of patience,
    /// no cache of kernels.
    fn default() -> Self {
        Self {
            ordinal: 0,
            n_blocks: 1024,
            block_size: 16,
            kv_type: KvType::default(),
            max_rows: 64,
            max_tokens: 2048,
            max_kept: 64,
            graphs: true,
            fast: None,
            patience: Duration::from_secs(120),
            cache: None,
        }
    }
}

impl CudaOptions {
    pub(crate) fn check(&self, config: &ModelConfig) -> Result<()> {
        for (name, value, least, most) in [
            ("n_blocks (--kv-blocks)", self.n_blocks, 1, 1 << 28),
            ("block_size", self.block_size, 16, 1 << 12),
            ("max_rows (-b)", self.max_rows, 1, 1 << 16),
            ("max_tokens", self.max_tokens, 1, 1 << 16),
            ("max_kept", self.max_kept, 0, 1 << 16),
        ] {
            if value < least || value > most {
                let message = format!("{name} is {value}; it must be from {least} to {most}");
                return Err(Error::new(Class::Usage, "CudaOptions", message));
            }
        }
        if !self.block_size.is_multiple_of(16) {
            let message = format!("block_size is {}; it must be a multiple of 16", self.block_size);
            return Err(Error::new(Class::Usage, "CudaOptions", message));
        }
        let refuse = |what: String| Err(Error::unsupported("Shape", format!("{what}; use --device cpu")));
        if u32::try_from(config.head_dim).map_or(true, |size| !Heads::SIZES.contains(&size)) {
            return refuse(format!(
                "heads have {} components; the CUDA kernels know {:?}",
                config.head_dim,
                Heads::SIZES
            ));
        }
        for (name, width) in [
            ("hidden size", config.hidden_size),
            ("attention's width", config.q_size()),
            ("intermediate size", config.intermediate_size),
        ] {
            if !width.is_multiple_of(8) {
                return refuse(format!("the {name} is {width}; the CUDA kernels need a multiple of 8"));
            }
        }
        if config.vocab_size > MOST_VOCABULARY {
            return refuse(format!(
                "the vocabulary has {} tokens; the CUDA kernels know at most {MOST_VOCABULARY}",
                config.vocab_size
            ));
        }
        Ok(())
    }

    pub(crate) fn capacity(&self, config: &ModelConfig) -> Capacity {
        Capacity {
            n_blocks: self.n_blocks,
            block_size: self.block_size,
            max_rows: self.max_rows,
            max_tokens: self.max_tokens,
            max_kept: self.max_kept,
            max_candidates: MAX_CANDIDATES,
            vocab_size: config.vocab_size,
            max_context: config.max_context.min(self.n_blocks.saturating_mul(self.block_size)),
        }
    }
}

/// Sizes of everything on the device, in elements unless they say bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) heads: Heads,
    pub(crate) hidden: usize,
    pub(crate) q: usize,
    pub(crate) qkv: usize,
    pub(crate) intermediate: usize,
    pub(crate) n_layers: usize,
    pub(crate) vocab: usize,
    /// Floats a row of logits.
    pub(crate) stride: usize,
    pub(crate) max_tokens: usize,
    pub(crate) max_rows: usize,
    pub(crate) max_kept: usize,
    pub(crate) n_blocks: usize,
    /// Parts of decoding attention.
    pub(crate) parts: usize,
    /// Parts of 64 keys the longest context has.
    pub(crate) key_parts: usize,
    /// Block numbers in the tables of a step.
    pub(crate) tables: usize,
    pub(crate) edits: usize,
    pub(crate) coins: usize,
    pub(crate) draws: usize,
    /// [`CudaOptions::fast`].
    pub(crate) fast: Option<usize>,
}

impl Sizes {
    pub(crate) fn of(config: &ModelConfig, options: &CudaOptions) -> Self {
        let narrow = |n: usize| u32::try_from(n).expect("checked dimensions fit 32 bits");
        let heads = Heads {
            n_heads: narrow(config.n_heads),
            n_kv_heads: narrow(config.n_kv_heads),
            head_dim: narrow(config.head_dim),
            block_size: narrow(options.block_size),
            kv: options.kv_type,
        };
        let context = options.capacity(config).max_context;
        let tiles = config.group_size().div_ceil(TILE_QUERIES);
        let of_row = tiles * context.div_ceil(SPLIT);
        let affordable = PARTS_BYTES / part_bytes(&heads);
        Self {
            heads,
            hidden: config.hidden_size,
            q: config.q_size(),
            qkv: config.q_size() + 2 * config.kv_size(),
            intermediate: config.intermediate_size,
            n_layers: config.n_layers,
            vocab: config.vocab_size,
            stride: config.vocab_size.next_multiple_of(4),
            max_tokens: options.max_tokens,
            max_rows: options.max_rows,
            max_kept: options.max_kept,
            n_blocks: options.n_blocks,
            parts: (options.max_rows * of_row).min(affordable).max(of_row),
            key_parts: context.div_ceil(64),
            tables: options.max_rows * (context.div_ceil(options.block_size) + 1),
            edits: config.vocab_size.max(1 << 14),
            coins: 1 << 12,
            draws: options.max_kept.max(1),
            fast: options.fast,
        }
    }

    /// Bytes of the rooms of products by cuBLASLt: the largest matrix of a layer in bf16, its workspace, and gate and up of
    /// all tokens in f32.
    pub(crate) fn fast_bytes(&self) -> [usize; 3] {
        let largest = self.hidden * self.qkv.max(2 * self.intermediate);
        [2 * largest, WORKSPACE_BYTES, 4 * self.max_tokens * 2 * self.intermediate]
    }

    pub(crate) fn part_bytes(&self) -> usize {
        self.parts * part_bytes(&self.heads)
    }

    /// Rows of logits: those that stay, and those that pass.
    pub(crate) fn logit_rows(&self) -> usize {
        self.max_kept + PASSING_ASKS
    }

    pub(crate) fn cache_bytes(&self) -> usize {
        self.n_layers * self.heads.cache_bytes(self.n_blocks)
    }

    /// Chunks of a row of logits.
    pub(crate) fn n_chunks(&self) -> usize {
        self.vocab.div_ceil(CHUNK)
    }

    /// Words of a mask of the vocabulary.
    pub(crate) fn mask_words(&self) -> usize {
        self.vocab.div_ceil(32)
    }

    fn activation_bytes(&self) -> usize {
        let heads = self.heads.n_heads as usize;
        self.max_tokens
            * (4 * (self.hidden + self.qkv + 4 * heads) + 2 * (self.hidden + 2 * self.q + self.intermediate))
    }
}

fn part_bytes(heads: &Heads) -> usize {
    heads.n_kv_heads as usize * TILE_QUERIES * (heads.head_dim as usize + 8) * 4
}

/// What [`crate::CudaBackend::open`] will take of the device's memory. The driver hands it out in larger pieces, and takes some
/// besides.
pub fn plan(config: &ModelConfig, weights: &Weights, options: &CudaOptions) -> MemoryPlan {
    let sizes = Sizes::of(config, options);
    MemoryPlan {
        weights: packed_bytes(weights) as u64,
        cache: sizes.cache_bytes() as u64,
        cache_per_position: (sizes.n_layers * sizes.heads.position_bytes()) as u64,
        activations: sizes.activation_bytes() as u64,
        logits: (4 * sizes.logit_rows() * sizes.stride) as u64,
        scratch: scratch_bytes(&sizes) as u64,
    }
}
