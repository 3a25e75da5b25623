//! A model's weights, packed for the kernels.

use crate::features::KernelPath;
use crate::linear::{Forms, Matrix, Part, Precision};
use crate::memory::Arena;
use crate::pool::Pool;
use entropix_model::quant::{DType, dequantise};
use entropix_model::{Checkpoint, LayerWeights, ModelConfig, Result, RopeLayout, Tensor, TokenId};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// One layer. RoPE pairs are always halves here: rows of q and k that come in adjacent pairs are reordered.
#[derive(Debug)]
pub(crate) struct Layer {
    /// (hidden)
    pub(crate) attn_norm: Vec<f32>,
    /// (q, k and v rows, hidden): parts 0, 1 and 2.
    pub(crate) qkv: Matrix,
    /// (q_size), (kv_size), (kv_size)
    pub(crate) biases: [Option<Vec<f32>>; 3],
    /// (head_dim)
    pub(crate) q_norm: Option<Vec<f32>>,
    /// (head_dim)
    pub(crate) k_norm: Option<Vec<f32>>,
    /// (hidden, q_size)
    pub(crate) o: Matrix,
    /// (hidden)
    pub(crate) ffn_norm: Vec<f32>,
    /// (gate and up rows, hidden): parts 0 and 1.
    pub(crate) gate_up: Matrix,
    /// (hidden, intermediate)
    pub(crate) down: Matrix,
}

/// Where token embeddings are read.
#[derive(Debug)]
enum Embedding {
    /// The rows of the head.
    Tied,
    /// (vocab, hidden) as stored.
    Stored { dtype: DType, bytes: Vec<u8> },
}

/// All weights.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) layers: Vec<Layer>,
    /// (hidden)
    pub(crate) final_norm: Vec<f32>,
    /// (vocab, hidden)
    pub(crate) head: Matrix,
    embedding: Embedding,
}

/// Told (bytes packed, bytes in all) from any thread.
pub type Progress<'a> = dyn Fn(u64, u64) + Sync + 'a;

impl Model {
    /// Reads and packs everything, several matrices at a time.
    ///
    /// # Errors
    /// When a tensor cannot be read or there is no memory.
    pub(crate) fn open(
        checkpoint: &Checkpoint,
        precision: Precision,
        path: KernelPath,
        pool: &Pool,
        progress: &Progress<'_>,
    ) -> Result<Self> {
        let config = &checkpoint.config;
        let weights = &checkpoint.weights;
        let order = pair_order(config);
        let head = weights.head.as_ref().unwrap_or(&weights.embedding);

        // The head is by far the largest, so it goes first; then (layer, which matrix).
        let jobs: Vec<Job<'_>> = std::iter::once(Job { parts: vec![Part::new(head)], tensors: vec![head] })
            .chain(weights.layers.iter().flat_map(|layer| matrices(layer, order.as_deref())))
            .collect();
        let total: u64 = jobs.iter().map(Job::bytes).sum();
        let n_bytes = jobs.iter().map(|job| Matrix::packed_bytes(&job.parts)).sum();
        let arena = Arena::new(n_bytes, "the weights")?;
        let done = AtomicU64::new(0);
        let slots: Vec<Mutex<Option<Result<Matrix>>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
        pool.run(jobs.len(), &|i, _| {
            let matrix = Matrix::pack_into(&arena, &jobs[i].parts, precision, path);
            *slots[i].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(matrix);
            let bytes = jobs[i].bytes();
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        });
        let mut packed = slots.into_iter().map(|slot| {
            slot.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).expect("every job ran")
        });
        let mut next = || packed.next().expect("one matrix a job");

        let head = next()?;
        let mut layers = Vec::with_capacity(weights.layers.len());
        for layer in &weights.layers {
            let [qkv, o, gate_up, down] = [next()?, next()?, next()?, next()?];
            let paired = |tensor: &Option<Tensor>| -> Result<Option<Vec<f32>>> {
                let Some(tensor) = tensor else { return Ok(None) };
                let stored = tensor.read_f32()?;
                Ok(Some(match &order {
                    None => stored,
                    Some(order) => (0..stored.len()).map(|i| stored[order(i)]).collect(),
                }))
            };
            let v_bias = layer.v_bias.as_ref().map(Tensor::read_f32).transpose()?;
            layers.push(Layer {
                attn_norm: layer.attn_norm.read_f32()?,
                qkv,
                biases: [paired(&layer.q_bias)?, paired(&layer.k_bias)?, v_bias],
                q_norm: paired(&layer.q_norm)?,
                k_norm: paired(&layer.k_norm)?,
                o,
                ffn_norm: layer.ffn_norm.read_f32()?,
                gate_up,
                down,
            });
        }
        let embedding = match &weights.head {
            None => Embedding::Tied,
            Some(_) => Embedding::Stored { dtype: weights.embedding.dtype, bytes: weights.embedding.read()? },
        };
        let final_norm = weights.final_norm.read_f32()?;
        Ok(Self { config: config.clone(), layers, final_norm, head, embedding })
    }

    /// Writes the embedding of a token, (hidden).
    pub(crate) fn embed(&self, token: TokenId, out: &mut [f32]) {
        let vocab_size = self.config.vocab_size;
        assert!((token as usize) < vocab_size, "token {token} of a vocabulary of {vocab_size}");
        match &self.embedding {
            Embedding::Tied => self.head.dequantise_row(token as usize, out),
            Embedding::Stored { dtype, bytes } => {
                let width = bytes.len() / vocab_size;
                dequantise(*dtype, &bytes[token as usize * width..][..width], out);
            }
        }
    }

    /// The forms of activations each product of a layer reads: q k v, o, gate and up, down; and the head's.
    pub(crate) fn forms(&self) -> [Forms; 4] {
        let of = |which: &dyn Fn(&Layer) -> &Matrix| Forms::of(self.layers.iter().map(which));
        [
            of(&|layer| &layer.qkv).and(of(&|layer| &layer.gate_up)),
            of(&|layer| &layer.o),
            of(&|layer| &layer.down),
            self.head.forms(),
        ]
    }

    /// Bytes of all weights in memory.
    pub(crate) fn n_bytes(&self) -> usize {
        let stored = match &self.embedding {
            Embedding::Tied => 0,
            Embedding::Stored { bytes, .. } => bytes.len(),
        };
        let matrices =
            |layer: &Layer| [&layer.qkv, &layer.o, &layer.gate_up, &layer.down].map(Matrix::n_bytes);
        let layers: usize = self.layers.iter().flat_map(matrices).sum();
        stored + self.head.n_bytes() + layers
    }
}

/// One matrix to pack.
struct Job<'a> {
    parts: Vec<Part<'a>>,
    tensors: Vec<&'a Tensor>,
}

impl Job<'_> {
    fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.n_bytes() as u64).sum()
    }
}

type Order = dyn Fn(usize) -> usize + Sync;

/// The matrices of a layer in the order of [`Layer`].
fn matrices<'a>(layer: &'a LayerWeights, order: Option<&'a Order>) -> [Job<'a>; 4] {
    let plain = |tensors: Vec<&'a Tensor>| Job {
        parts: tensors.iter().map(|tensor| Part::new(tensor)).collect(),
        tensors,
    };
    let paired = |tensor: &'a Tensor| match order {
        None => Part::new(tensor),
        Some(order) => Part::reordered(tensor, order),
    };
    let qkv = Job {
        parts: vec![paired(&layer.q), paired(&layer.k), Part::new(&layer.v)],
        tensors: vec![&layer.q, &layer.k, &layer.v],
    };
    [qkv, plain(vec![&layer.o]), plain(vec![&layer.gate, &layer.up]), plain(vec![&layer.down])]
}

/// Which stored component comes `i`-th once pairs are halves; none when they are stored so. Attention does not
/// change when the components of q and k are reordered alike.
fn pair_order(config: &ModelConfig) -> Option<Box<Order>> {
    let (head_dim, half) = (config.head_dim, config.head_dim / 2);
    match config.rope.layout {
        RopeLayout::Halves => None,
        RopeLayout::Adjacent => Some(Box::new(move |i| {
            let (head, within) = (i / head_dim, i % head_dim);
            head * head_dim + if within < half { 2 * within } else { 2 * (within - half) + 1 }
        })),
    }
}
