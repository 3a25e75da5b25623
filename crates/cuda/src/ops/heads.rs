//! Heads, their rotation, and the cache they lie in.

use super::bytes;
use crate::launch::{Arguments, Launch, Pointer};
use std::fmt;
use std::str::FromStr;

/// How keys and values lie in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvType {
    /// 16 bits, the range of f32.
    #[default]
    Bf16,
    /// 16 bits, three more of precision; a component beyond 65,504 is infinite and its row fails. Queries are f16 too.
    F16,
    /// 8 bits a component, and an f32 scale for each vector: the largest |component| is 127.
    Int8,
}

impl KvType {
    /// All of them.
    pub const ALL: [KvType; 3] = [KvType::Bf16, KvType::F16, KvType::Int8];

    /// What kernels and options call it.
    pub fn name(self) -> &'static str {
        match self {
            KvType::Bf16 => "bf16",
            KvType::F16 => "f16",
            KvType::Int8 => "int8",
        }
    }

    /// Bytes of a vector of so many components, without its scale.
    pub fn vector_bytes(self, head_dim: u32) -> u32 {
        match self {
            KvType::Bf16 | KvType::F16 => 2 * head_dim,
            KvType::Int8 => head_dim,
        }
    }

    /// Bytes of the scale of a vector.
    pub fn scale_bytes(self) -> u32 {
        match self {
            KvType::Bf16 | KvType::F16 => 0,
            KvType::Int8 => 4,
        }
    }
}

impl FromStr for KvType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kv| kv.name() == text);
        found.ok_or_else(|| format!("is {text:?}; it must be bf16, f16 or int8"))
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Heads and cache of a model, as attention needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Components a head; one of [`Heads::SIZES`].
    pub head_dim: u32,
    /// Positions a cache block, a multiple of 16.
    pub block_size: u32,
    /// Type of the cache.
    pub kv: KvType,
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

    /// Bytes of a key or value of one head, its scale included.
    pub fn vector_bytes(&self) -> u32 {
        self.kv.vector_bytes(self.head_dim) + self.kv.scale_bytes()
    }

    /// Bytes of a position in one layer of the cache.
    pub fn position_bytes(&self) -> usize {
        (self.n_kv_heads * 2 * self.vector_bytes()) as usize
    }

    /// Bytes of one layer of the cache: (n_blocks, n_kv_heads, k|v) planes of block_size vectors, then their scales.
    pub fn cache_bytes(&self, n_blocks: usize) -> usize {
        n_blocks * self.block_size as usize * self.position_bytes()
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

/// Bias, head norms, rotation; q (n_tokens, n_heads, head_dim) bf16, f16 with a cache in f16, and one layer's cache slots.
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
        kernel: format!("rope_store_{}", heads.kv.name()),
        part: "",
        grid: [most_tokens, (heads.n_heads + 2 * heads.n_kv_heads).div_ceil(8), 1],
        block: 256,
        shared: 0,
        bytes: bytes([most_tokens, heads.head_dim, heads.n_heads * (4 + 2)])
            + bytes([most_tokens, 2 * heads.n_kv_heads, heads.head_dim * 4 + heads.vector_bytes()]),
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
        part: "",
        grid: [most_copies, n_layers * planes, 1],
        block: 128,
        shared: 0,
        bytes: bytes([most_copies, n_layers * planes, heads.block_size * heads.vector_bytes(), 2]),
        arguments: Arguments::default()
            .with(cache)
            .with(copies)
            .with(n_copies)
            .with(n_blocks)
            .with(planes)
            .with(heads.block_size)
            .with(heads.kv.vector_bytes(heads.head_dim))
            .with(heads.kv.scale_bytes()),
    }
}
