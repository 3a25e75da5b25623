//! What a model learned: its tensors by role, each in the type it is stored in, still on disk.
#![forbid(unsafe_code)]

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

impl LayerWeights {
    /// Every tensor of the layer.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let Self { attn_norm, q, k, v, q_bias, k_bias, v_bias, q_norm, k_norm, o, ffn_norm, gate, up, down } =
            self;
        let always = [attn_norm, q, k, v, o, ffn_norm, gate, up, down];
        always.into_iter().chain([q_bias, k_bias, v_bias, q_norm, k_norm].into_iter().flatten())
    }
}

impl Weights {
    /// Every tensor of the model.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let ends = [&self.embedding, &self.final_norm].into_iter().chain(&self.head);
        ends.chain(self.layers.iter().flat_map(LayerWeights::tensors))
    }

    /// Bytes of all tensors as stored.
    pub fn n_bytes(&self) -> usize {
        self.tensors().map(Tensor::n_bytes).sum()
    }
}
