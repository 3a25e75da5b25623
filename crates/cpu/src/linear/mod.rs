//! Matrix products: activations (n_tokens, n_cols) times a weight matrix (n_rows, n_cols), transposed.
//!
//! One set of kernels serves a single token and a whole prompt: a tile of up to twelve tokens lives in
//! registers while the weights of sixteen rows stream by, and what happens to one output (the order of its
//! additions, every rounding) is the same in a tile of one and of twelve. So a product has the same bits
//! whatever the batch, the tiling and the number of threads, and no kernel is chosen by the shape.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod beside;
mod kernels;
mod layout;
mod matrix;
mod memory;
mod packing;
mod portable;
#[cfg(test)]
mod tests;

pub use activations::{Activations, Forms};
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::has_tiles;
pub use beside::Beside;
pub(crate) use kernels::{dot_products, pair_products};
pub use matrix::{Matrix, Part, Upcoming};

/// Rows of a matrix that are computed together: ranges of rows start and end at multiples of it.
pub const ROW_GROUP: usize = 16;

/// What the activations are rounded to before they meet the weights. Weights are always used as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Activations stay f32.
    Exact,
    /// Activations are rounded to bf16; products and sums are f32. (`vdpbf16ps` is two fused multiply-adds that flush
    /// subnormal numbers. On Zen 4 it takes as long as one, on Sapphire Rapids four times as long, so the family with
    /// tiles does without.)
    Bf16,
    /// Activations that meet quantised weights are rounded to 8 bits in blocks of 32 with one f32 scale. Weights
    /// that are not quantised (F32, F16, BF16) keep f32 activations.
    Int8,
}
