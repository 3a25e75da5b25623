//! The forward pass of llama, qwen2 and qwen3, one token at a time.

use super::attention::{HeadAttention, attend};
use super::ops::{linear, rms_norm, rope, swiglu};
use entropix_model::{Checkpoint, ModelConfig, Result, Tensor, TokenId};

/// All weights of a model as f32.
#[derive(Debug, Clone)]
pub struct Model {
    /// Dimensions and constants.
    pub config: ModelConfig,
    /// (vocab, hidden)
    embedding: Vec<f32>,
    /// (n_layers)
    layers: Vec<Layer>,
    /// (hidden)
    final_norm: Vec<f32>,
    /// (vocab, hidden); none when tied.
    head: Option<Vec<f32>>,
}

#[derive(Debug, Clone)]
struct Layer {
    attn_norm: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    q_bias: Option<Vec<f32>>,
    k_bias: Option<Vec<f32>>,
    v_bias: Option<Vec<f32>>,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    o: Vec<f32>,
    ffn_norm: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
}

/// What one position gave.
#[derive(Debug, Clone, Default)]
pub struct Position {
    /// (vocab); empty when it was not wanted.
    pub logits: Vec<f32>,
    /// (n_layers, n_heads) attention rows.
    pub attention: Vec<Vec<HeadAttention>>,
}

impl Model {
    /// Reads all weights.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self> {
        let optional = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::read_f32).transpose();
        let weights = &checkpoint.weights;
        let mut layers = Vec::new();
        for layer in &weights.layers {
            layers.push(Layer {
                attn_norm: layer.attn_norm.read_f32()?,
                q: layer.q.read_f32()?,
                k: layer.k.read_f32()?,
                v: layer.v.read_f32()?,
                q_bias: optional(&layer.q_bias)?,
                k_bias: optional(&layer.k_bias)?,
                v_bias: optional(&layer.v_bias)?,
                q_norm: optional(&layer.q_norm)?,
                k_norm: optional(&layer.k_norm)?,
                o: layer.o.read_f32()?,
                ffn_norm: layer.ffn_norm.read_f32()?,
                gate: layer.gate.read_f32()?,
                up: layer.up.read_f32()?,
                down: layer.down.read_f32()?,
            });
        }
        Ok(Self {
            config: checkpoint.config.clone(),
            embedding: weights.embedding.read_f32()?,
            layers,
            final_norm: weights.final_norm.read_f32()?,
            head: optional(&weights.head)?,
        })
    }

    /// Every position of a text, from an empty cache.
    pub fn forward_all(&self, tokens: &[TokenId]) -> Vec<Position> {
        let cache = vec![vec![0.0; tokens.len() * self.config.kv_size()]; self.config.n_layers];
        let (mut keys, mut values) = (cache.clone(), cache);
        let places: Vec<usize> = (0..tokens.len()).collect();
        tokens
            .iter()
            .enumerate()
            .map(|(i, &token)| self.forward(token, &places[..=i], &mut keys, &mut values, true))
            .collect()
    }

    /// One token. `places[p]` is where position p lies in the cache, the last being the token's own, which is
    /// written; `keys` and `values` are (n_layers) of (places, kv_size).
    pub fn forward(
        &self,
        token: TokenId,
        places: &[usize],
        keys: &mut [Vec<f32>],
        values: &mut [Vec<f32>],
        want_logits: bool,
    ) -> Position {
        let c = &self.config;
        let (own, position) = (places[places.len() - 1], places.len() - 1);
        let kv_size = c.kv_size();
        let mut x = self.embedding[token as usize * c.hidden_size..][..c.hidden_size].to_vec();
        let mut attention = Vec::new();
        for ((layer, keys), values) in self.layers.iter().zip(keys).zip(values) {
            let normed = rms_norm(&x, &layer.attn_norm, c.rms_norm_eps);
            let mut q = linear(&layer.q, layer.q_bias.as_deref(), &normed);
            let mut k = linear(&layer.k, layer.k_bias.as_deref(), &normed);
            let v = linear(&layer.v, layer.v_bias.as_deref(), &normed);
            for (all, norm) in [(&mut q, &layer.q_norm), (&mut k, &layer.k_norm)] {
                for head in all.chunks_exact_mut(c.head_dim) {
                    if let Some(norm) = norm {
                        head.copy_from_slice(&rms_norm(head, norm, c.rms_norm_eps));
                    }
                    rope(head, position, &c.rope);
                }
            }
            keys[own * kv_size..][..kv_size].copy_from_slice(&k);
            values[own * kv_size..][..kv_size].copy_from_slice(&v);

            let mut attended = Vec::with_capacity(c.q_size());
            let mut rows = Vec::new();
            for (head, q) in q.chunks_exact(c.head_dim).enumerate() {
                let at = head / c.group_size() * c.head_dim;
                let of = |cache: &'_ [f32], place: usize| -> Vec<f32> {
                    cache[place * kv_size + at..][..c.head_dim].to_vec()
                };
                let ks: Vec<Vec<f32>> = places.iter().map(|&p| of(keys, p)).collect();
                let vs: Vec<Vec<f32>> = places.iter().map(|&p| of(values, p)).collect();
                let (out, row) = attend(q, ks.iter().map(Vec::as_slice), vs.iter().map(Vec::as_slice));
                attended.extend(out);
                rows.push(row);
            }
            attention.push(rows);
            add(&mut x, &linear(&layer.o, None, &attended));

            let normed = rms_norm(&x, &layer.ffn_norm, c.rms_norm_eps);
            let gated = swiglu(&linear(&layer.gate, None, &normed), &linear(&layer.up, None, &normed));
            add(&mut x, &linear(&layer.down, None, &gated));
        }
        let logits = if want_logits {
            let normed = rms_norm(&x, &self.final_norm, c.rms_norm_eps);
            linear(self.head.as_ref().unwrap_or(&self.embedding), None, &normed)
        } else {
            Vec::new()
        };
        Position { logits, attention }
    }
}

fn add(x: &mut [f32], more: &[f32]) {
    for (x, more) in x.iter_mut().zip(more) {
        *x += more;
    }
}
