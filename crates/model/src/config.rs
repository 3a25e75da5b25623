//! What a model is: its architecture, dimensions and constants, validated.
#![forbid(unsafe_code)]

use crate::TokenId;

/// The transformer families this engine computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2/3/3.1/3.2, SmolLM2, Mistral.
    Llama,
    /// Qwen2, Qwen2.5: biases on q, k, v.
    Qwen2,
    /// Qwen3: RMS norms on each head of q and k.
    Qwen3,
}

/// Which components of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// (i, i + head_dim / 2): Hugging Face checkpoints, and GGUF of the qwen family.
    Halves,
    /// (2i, 2i + 1): GGUF of the llama family.
    Adjacent,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Which components turn together.
    pub layout: RopeLayout,
    /// (head_dim / 2) radians a position, with every scaling (linear, llama3, GGUF factors) already in it.
    pub inv_freq: Vec<f64>,
}

/// The dimensions and constants of a model. Everything was checked against everything else when it was
/// read, so kernels may take it at its word.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Transformer layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Components a head, even.
    pub head_dim: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Most positions the model was made for (the smaller of its context and its sliding window).
    pub max_context: usize,
    /// Added to the mean square in every RMS norm.
    pub rms_norm_eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether the LM head is the embedding.
    pub tied_head: bool,
    /// Put before a prompt when the tokenizer says so.
    pub bos_token: Option<TokenId>,
    /// Tokens that end an answer; may be empty.
    pub eos_tokens: Vec<TokenId>,
}

impl ModelConfig {
    /// Query heads a key-value head.
    pub fn group_size(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}
