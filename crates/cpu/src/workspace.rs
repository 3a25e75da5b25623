//! Every buffer of a step, allocated once.

use crate::attention::{HeadSignals, Parts, Scratch, SignalSums};
use crate::linear::{Activations, Beside};
use crate::memory::Zeroed;
use crate::moments::{Floor, TILE, TileMoments};
use crate::options::{CpuOptions, HEAD_ASKS, TASK_ROWS, TASK_TOKENS, max_context, n_slots};
use crate::simd::Family;
use crate::weights::Model;
use entropix_model::sampling::DrawScratch;
use entropix_model::{AttentionSignals, Candidates, Result, Signals};

/// Room of one thread.
#[derive(Debug)]
pub(crate) struct ThreadRoom {
    pub(crate) attention: Scratch,
    /// (2, TASK_TOKENS, TASK_ROWS) products on their way, or (HEAD_ASKS, TILE) logits that nobody keeps.
    pub(crate) products: Zeroed<f32>,
    /// (hidden) one token's normalised activations.
    pub(crate) row: Vec<f32>,
    pub(crate) draw: DrawScratch,
    /// (HEAD_ASKS) what this thread has seen of the logits of each ask.
    pub(crate) floors: Vec<Floor>,
    /// Nanoseconds this thread spent on signals in the current step.
    pub(crate) signals_ns: u64,
}

/// All of a step, for at most `max_tokens` tokens (T), `max_kept` kept rows of logits.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// (T, hidden) the residual stream.
    pub(crate) x: Zeroed<f32>,
    /// (T, qkv_stride)
    pub(crate) qkv: Zeroed<f32>,
    /// Rows of the q k v matrix.
    pub(crate) qkv_stride: usize,
    /// (T, q_size)
    pub(crate) attended: Zeroed<f32>,
    /// (T, head_dim / 2) of each token's position.
    pub(crate) cos: Zeroed<f32>,
    pub(crate) sin: Zeroed<f32>,
    /// (T, hidden), (T, q_size), (T, intermediate), (HEAD_ASKS, hidden): inputs of the products.
    pub(crate) normed_in: Activations,
    pub(crate) attended_in: Activations,
    pub(crate) gated_in: Activations,
    pub(crate) head_in: Activations,
    /// (max_kept, rows of the head)
    pub(crate) logits: Zeroed<f32>,
    /// (HEAD_ASKS, tiles of the vocabulary)
    pub(crate) tiles: Vec<TileMoments>,
    /// (HEAD_ASKS) the logits of targets.
    pub(crate) targets: Vec<f32>,
    /// (asks of the step)
    pub(crate) signals: Vec<Signals>,
    /// (asks that want attention signals)
    pub(crate) attention_signals: Vec<AttentionSignals>,
    pub(crate) signal_sums: Vec<SignalSums>,
    /// (asks that want attention signals, n_heads)
    pub(crate) heads: Vec<HeadSignals>,
    /// (asks that want attention signals)
    pub(crate) disagreements: Vec<f64>,
    /// Splits of long contexts.
    pub(crate) parts: Parts,
    /// (threads)
    pub(crate) threads: Vec<ThreadRoom>,
    /// (threads) what each reads of the cache in the next layer.
    pub(crate) besides: Vec<Beside>,
    /// (asks of a call) candidates before they are put in order.
    pub(crate) lists: Vec<Candidates>,
}

impl Workspace {
    pub(crate) fn new(model: &Model, options: &CpuOptions, family: Family, n_threads: usize) -> Result<Self> {
        let c = &model.config;
        let t = options.max_tokens;
        let path = family.path();
        let qkv_rows = model.layers.iter().map(|layer| layer.qkv.n_rows()).max().unwrap_or(0);
        let [normed, attended, gated, head] = model.forms();
        let context = max_context(c, options);
        let thread = || {
            Result::Ok(ThreadRoom {
                attention: Scratch::new(c.n_heads, c.n_kv_heads, c.head_dim, context)?,
                products: Zeroed::new((2 * TASK_TOKENS * TASK_ROWS).max(HEAD_ASKS * TILE), "products")?,
                row: vec![0.0; c.hidden_size],
                draw: DrawScratch::for_vocabulary(c.vocab_size),
                floors: vec![Floor::NONE; HEAD_ASKS],
                signals_ns: 0,
            })
        };
        let n_tiles = c.vocab_size.div_ceil(TILE);
        Ok(Self {
            x: Zeroed::new(t * c.hidden_size, "the residual stream")?,
            qkv: Zeroed::new(t * qkv_rows, "queries, keys and values")?,
            qkv_stride: qkv_rows,
            attended: Zeroed::new(t * c.q_size(), "attention")?,
            cos: Zeroed::new(t * c.head_dim / 2, "rotary angles")?,
            sin: Zeroed::new(t * c.head_dim / 2, "rotary angles")?,
            normed_in: Activations::new(t, c.hidden_size, normed, path),
            attended_in: Activations::new(t, c.q_size(), attended, path),
            gated_in: Activations::new(t, c.intermediate_size, gated, path),
            head_in: Activations::new(HEAD_ASKS, c.hidden_size, head, path),
            logits: Zeroed::new(options.max_kept * model.head.n_rows(), "logits")?,
            tiles: vec![TileMoments::NONE; HEAD_ASKS * n_tiles],
            targets: vec![0.0; HEAD_ASKS],
            signals: Vec::with_capacity(t),
            attention_signals: Vec::new(),
            signal_sums: Vec::new(),
            heads: Vec::new(),
            disagreements: Vec::new(),
            parts: Parts::new(n_slots(c, options), c.group_size(), c.head_dim)?,
            threads: (0..n_threads).map(|_| thread()).collect::<Result<_>>()?,
            besides: std::iter::repeat_with(Beside::default).take(n_threads).collect(),
            lists: Vec::new(),
        })
    }
}

impl Workspace {
    /// Room for the attention signals of `n` asks, cleared; grows once to what steps need.
    pub(crate) fn prepare_signals(&mut self, n: usize, n_heads: usize) {
        self.signal_sums.clear();
        self.signal_sums.resize(n, SignalSums::default());
        self.attention_signals.resize(n, AttentionSignals::default());
        self.heads.resize(n * n_heads, HeadSignals::default());
        self.disagreements.resize(n, 0.0);
    }
}
