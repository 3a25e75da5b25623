//! What a model learned: its tensors by role, each in the type it is stored in, still on disk.

use crate::Tensor;

/// The tensors of one layer.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// (hidden)
    pub attn_norm: Tensor,
    /// (n_heads * head_dim, hidden)
    pub q: Tensor,
    /// (n_kv_heads * head_dim, hidden)
    pub k: Tensor,
    /// (n_kv_heads * head_dim, hidden)
    pub v: Tensor,
    /// (n_heads * head_dim), qwen2
    pub q_bias: Option<Tensor>,
    /// (n_kv_heads * head_dim), qwen2
    pub k_bias: Option<Tensor>,
    /// (n_kv_heads * head_dim), qwen2
    pub v_bias: Option<Tensor>,
    /// (head_dim), qwen3
    pub q_norm: Option<Tensor>,
    /// (head_dim), qwen3
    pub k_norm: Option<Tensor>,
    /// (hidden, n_heads * head_dim)
    pub o: Tensor,
    /// (hidden)
    pub ffn_norm: Tensor,
    /// (intermediate, hidden)
    pub gate: Tensor,
    /// (intermediate, hidden)
    pub up: Tensor,
    /// (hidden, intermediate)
    pub down: Tensor,
}

/// All tensors of a model, each demanded by name, shape and type.
#[derive(Debug, Clone)]
pub struct Weights {
    /// (vocab, hidden)
    pub embedding: Tensor,
    /// (n_layers)
    pub layers: Vec<LayerWeights>,
    /// (hidden)
    pub final_norm: Tensor,
    /// (vocab, hidden); none when the head is the embedding.
    pub head: Option<Tensor>,
}
