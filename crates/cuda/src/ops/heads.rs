//! Heads, their rotation, and the cache they lie in.

use super::bytes;
use crate::launch::{Arguments, Launch, Pointer};

/// Heads and cache of a model, as attention needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Components a head; one of [`Heads::SIZES`].
    pub head_dim: u32,
    /// Positions a cache block.
    pub block_size: u32,
}

impl Heads {
    /// Head sizes that have attention kernels.
    pub const SIZES: [u32; 6] = [16, 32, 64, 80, 96, 128];

    pub(super) fn check(&self) {
        assert!(
            Self::SIZES.contains(&self.head_dim),
            "heads of {}; there are kernels for {:?}",
            self.head_dim,
            Self::SIZES
        );
        assert!(
            self.n_heads.is_multiple_of(self.n_kv_heads),
            "{} heads over {} of keys",
            self.n_heads,
            self.n_kv_heads
        );
    }

    /// Bytes of one layer of the cache, (n_blocks, n_kv_heads, k|v, block_size, head_dim) bf16.
    pub fn cache_bytes(&self, n_blocks: usize) -> usize {
        n_blocks * (self.n_kv_heads * 2 * self.block_size * self.head_dim) as usize * 2
    }

    pub(super) fn scale(&self) -> f32 {
        (1.0 / f64::from(self.head_dim).sqrt()) as f32
    }
}

/// Where [`rope_store`] reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct RopeInputs {
    /// (n_tokens, (n_heads + 2 n_kv_heads) head_dim) f32.
    pub qkv: Pointer,
    /// The same width, f32, or null.
    pub bias: Pointer,
    /// (head_dim) f32, or null.
    pub q_norm: Pointer,
    /// (head_dim) f32, or null.
    pub k_norm: Pointer,
    /// (head_dim / 2) f64: radians a position over pi.
    pub half_turns: Pointer,
    /// (n_tokens)
    pub positions: Pointer,
    /// (n_tokens) block * block_size + offset.
    pub slots: Pointer,
    /// Whether pairs are neighbours (GGUF of the llama family).
    pub adjacent: bool,
    /// Of the norms of heads.
    pub eps: f32,
}

/// Bias, head norms, rotation; q (n_tokens, n_heads, head_dim) bf16 and one layer's cache slots.
pub fn rope_store(
    from: RopeInputs,
    q: Pointer,
    cache: Pointer,
    n_tokens: Pointer,
    most_tokens: u32,
    heads: Heads,
) -> Launch {
    heads.check();
    Launch {
        kernel: "rope_store".into(),
        grid: [most_tokens, (heads.n_heads + 2 * heads.n_kv_heads).div_ceil(8), 1],
        block: 256,
        shared: 0,
        bytes: bytes([most_tokens, heads.head_dim, heads.n_heads * (4 + 2) + 2 * heads.n_kv_heads * (4 + 2)]),
        arguments: Arguments::default()
            .with(from.qkv)
            .with(from.bias)
            .with(from.q_norm)
            .with(from.k_norm)
            .with(from.half_turns)
            .with(from.positions)
            .with(from.slots)
            .with(q)
            .with(cache)
            .with(n_tokens)
            .with(heads.n_heads)
            .with(heads.n_kv_heads)
            .with(heads.head_dim)
            .with(heads.block_size)
            .with(u32::from(from.adjacent))
            .with(from.eps),
    }
}

/// Copies the first tokens of cache blocks, all layers; `copies` is (n_copies) {from, to, tokens} u32.
pub fn copy_blocks(
    cache: Pointer,
    copies: Pointer,
    n_copies: Pointer,
    most_copies: u32,
    n_layers: u32,
    n_blocks: u32,
    heads: Heads,
) -> Launch {
    let planes = heads.n_kv_heads * 2;
    Launch {
        kernel: "copy_blocks".into(),
        grid: [most_copies, n_layers * planes, 1],
        block: 128,
        shared: 0,
        bytes: bytes([most_copies, n_layers * planes, heads.block_size * heads.head_dim, 2 + 2]),
        arguments: Arguments::default()
            .with(cache)
            .with(copies)
            .with(n_copies)
            .with(n_blocks)
            .with(planes)
            .with(heads.block_size)
            .with(heads.head_dim),
    }
}
