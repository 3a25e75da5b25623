//! Products of weights and activations.

use super::bytes;
use crate::launch::{Arguments, Launch, Pointer};
use crate::pack::{Format, TILE_ROWS, UNIT_COLS};

/// What a product does with its sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Writes them, f32.
    Store,
    /// Adds them to the residual stream, f32.
    Add,
    /// Of interleaved gate and up rows: silu(gate) * up, bf16.
    Gated,
}

/// Which of the kernels that give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Blocks of 16 rows x 8 tokens.
    N8,
    /// Blocks of 32 rows x 32 tokens.
    N32,
    /// Blocks of 256 rows x 64 tokens.
    Wide,
}

impl Width {
    /// The width for a launch of at most `tokens` tokens. Only speed depends on it.
    pub fn of(tokens: u32) -> Self {
        match tokens {
            0..=16 => Width::N8,
            17..=96 => Width::N32,
            _ => Width::Wide,
        }
    }

    /// Bytes of dynamic shared memory it takes.
    pub fn shared(self) -> u32 {
        self.shape().3
    }

    /// (kernel suffix, tokens a block, rows a block, dynamic shared memory): matmul.cuh.
    fn shape(self) -> (&'static str, u32, u32, u32) {
        match self {
            Width::N8 => ("n8", 8, 16, 0),
            Width::N32 => ("n32", 32, 32, 0),
            Width::Wide => ("wide", 64, 256, 3 * 64 * 160 + 256 * 64 * 4),
        }
    }
}

/// A weight matrix on the device.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// How it is packed.
    pub format: Format,
    /// The packed bytes, 16-byte aligned.
    pub at: Pointer,
    /// Outputs; of a gated product, packed rows ([`crate::pack::gated_rows`]).
    pub n_rows: u32,
    /// Inputs.
    pub n_cols: u32,
}

/// Y = X W^T for at most `most_tokens` rows of `x` (n_tokens, n_cols) bf16. `out` is (n_tokens, stride): f32, or bf16 when
/// gated; `n_tokens` points at how many rows there are.
pub fn matmul(
    w: Weights,
    x: Pointer,
    out: Pointer,
    stride: u32,
    n_tokens: Pointer,
    most_tokens: u32,
    product: Product,
    width: Width,
) -> Launch {
    assert!(w.n_cols.is_multiple_of(8), "a product over {} columns; a multiple of 8 is needed", w.n_cols);
    assert!(w.n_rows > 0 && most_tokens > 0, "an empty product: {} rows, {most_tokens} tokens", w.n_rows);
    if product == Product::Gated {
        assert!(
            w.n_rows.is_multiple_of(TILE_ROWS as u32),
            "{} rows of gate and up are no whole tiles",
            w.n_rows
        );
    }
    let (suffix, tokens, rows, shared) = width.shape();
    let (y, h) = if product == Product::Gated { (Pointer(0), out) } else { (out, Pointer(0)) };
    Launch {
        kernel: format!("matmul_{}_{suffix}", w.format.name()),
        part: "",
        grid: [most_tokens.div_ceil(tokens), w.n_rows.div_ceil(rows), 1],
        block: 256,
        shared,
        bytes: w.format.packed_bytes(w.n_rows as usize, w.n_cols as usize) as u64
            + bytes([most_tokens, w.n_cols, 2])
            + match product {
                Product::Store => bytes([most_tokens, w.n_rows, 4]),
                Product::Add => bytes([most_tokens, w.n_rows, 4 + 4]),
                Product::Gated => bytes([most_tokens, w.n_rows / 2, 2]),
            },
        arguments: Arguments::default()
            .with(w.at)
            .with(x)
            .with(y)
            .with(h)
            .with(n_tokens)
            .with(w.n_rows)
            .with(w.n_cols)
            .with(stride)
            .with(product as u32),
    }
}

/// out (n_rows, n_cols) bf16 = the matrix row by row, for products of another library.
pub fn unpack(w: Weights, out: Pointer) -> Launch {
    const WARPS: usize = 8;
    assert!(w.n_cols.is_multiple_of(8), "{} columns; a multiple of 8 is needed", w.n_cols);
    let (units, tiles) = ((w.n_cols as usize).div_ceil(UNIT_COLS), w.n_rows.div_ceil(TILE_ROWS as u32));
    Launch {
        kernel: format!("unpack_{}", w.format.name()),
        part: "",
        grid: [units.div_ceil(WARPS) as u32, tiles, 1],
        block: 256,
        shared: 0,
        bytes: w.format.packed_bytes(w.n_rows as usize, w.n_cols as usize) as u64
            + bytes([w.n_rows, w.n_cols, 2]),
        arguments: Arguments::default().with(w.at).with(out).with(w.n_rows).with(w.n_cols),
    }
}

/// h (n_tokens, n) bf16 = silu(gate) * up of y (n_tokens, 2 n) f32, whose columns are interleaved as
/// [`crate::pack::gated_row`] says.
pub fn swiglu(y: Pointer, h: Pointer, n_tokens: Pointer, most_tokens: u32, n: u32) -> Launch {
    assert!(n.is_multiple_of(8), "{n} gates; a multiple of 8 is needed");
    Launch {
        kernel: "swiglu_rows".into(),
        part: "",
        grid: [most_tokens, 1, 1],
        block: 256,
        shared: 0,
        bytes: bytes([most_tokens, n, 2 * 4 + 2]),
        arguments: Arguments::default().with(y).with(h).with(n_tokens).with(n),
    }
}
