//! What a model learned: named tensors in the types they are stored in, still on disk.

use crate::Result;

/// How numbers are stored. The quantised types are the blocks of ggml (`ggml-common.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum DType {
    /// IEEE 754 single.
    F32,
    /// IEEE 754 half.
    F16,
    /// The upper half of a single.
    BF16,
    /// 32 values: f16 scale d, 4-bit q; x = d (q - 8).
    Q4_0,
    /// 32 values: f16 d, f16 m, 4-bit q; x = d q + m.
    Q4_1,
    /// 32 values: f16 d, 5-bit q; x = d (q - 16).
    Q5_0,
    /// 32 values: f16 d, f16 m, 5-bit q; x = d q + m.
    Q5_1,
    /// 32 values: f16 d, 8-bit q; x = d q.
    Q8_0,
    /// 256 values in 8 blocks of 32 with 6-bit scales and minima.
    Q4_K,
    /// 256 values in 8 blocks of 32 with 6-bit scales and minima, 5-bit q.
    Q5_K,
    /// 256 values in 16 blocks of 16 with 8-bit scales, 6-bit q.
    Q6_K,
}

impl DType {
    /// (values a block, bytes a block).
    pub fn block(self) -> (usize, usize) {
        match self {
            DType::F32 => (1, 4),
            DType::F16 | DType::BF16 => (1, 2),
            DType::Q4_0 => (32, 18),
            DType::Q4_1 => (32, 20),
            DType::Q5_0 => (32, 22),
            DType::Q5_1 => (32, 24),
            DType::Q8_0 => (32, 34),
            DType::Q4_K => (256, 144),
            DType::Q5_K => (256, 176),
            DType::Q6_K => (256, 210),
        }
    }
}

/// A named tensor of a checkpoint: shape and type are known, the bytes are read when asked for.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The name in the file, for messages.
    pub name: String,
    /// How the numbers are stored.
    pub dtype: DType,
    /// Rows (outputs); 1 for a vector.
    pub n_rows: usize,
    /// Columns (inputs), contiguous; a multiple of the block.
    pub n_cols: usize,
    // where it lies: file handle and offset (filled in by the readers)
}

impl Tensor {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        let (values, bytes) = self.dtype.block();
        self.n_cols / values * bytes
    }

    /// Reads the stored bytes, (n_rows, row_bytes), row-major. A copy on the heap: a file that shrinks
    /// meanwhile is an error, never a signal.
    pub fn read(&self) -> Result<Vec<u8>> {
        unreachable!("written together with the readers")
    }
}

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
