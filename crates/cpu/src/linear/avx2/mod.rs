//! Kernels of 256-bit vectors: eight lanes, so a group is two halves of eight rows; up to four tokens at once.
//! They fold in the same order as the 512-bit kernels and give the same bits for f32 and 8-bit activations.
#![allow(unsafe_code)]
// Loops over constant indices of several arrays are what the compiler unrolls into registers.
#![allow(clippy::needless_range_loop)]

mod float;
mod int8;
mod round;
mod weights;

pub(super) use round::write_int8;

use super::activations::Form;
use super::kernels::Kernel;
use entropix_model::DType;

/// Most tokens of a tile.
const TILE: usize = 4;
/// Rows of half a group.
const LANES: usize = 8;

pub(super) fn select(dtype: DType, form: Form) -> Kernel {
    match form {
        Form::F32 | Form::Rounded => float::select(dtype),
        Form::Int8 => int8::select(dtype),
        Form::Pairs => unreachable!("pairs of bf16 are for vdpbf16ps"),
    }
}

/// Calls `$f::<.., n>` for the `n` in 1..=4 at hand.
macro_rules! with_tokens {
    ($n:expr, $f:ident::<$weights:ty>($($argument:expr),*)) => {
        match $n {
            1 => $f::<$weights, 1>($($argument),*),
            2 => $f::<$weights, 2>($($argument),*),
            3 => $f::<$weights, 3>($($argument),*),
            4 => $f::<$weights, 4>($($argument),*),
            n => unreachable!("a tile of {n} tokens"),
        }
    };
}
use with_tokens;

/// `loops` times some `vpmaddubsw` and addition, as the kernels multiply 4-bit numbers; returns the operations (a
/// multiply-add is two).
#[target_feature(enable = "avx2")]
pub(super) fn dot_products(loops: usize) -> f64 {
    use std::arch::x86_64::*;
    const CHAINS: usize = 8;
    let mut sums = [_mm256_setzero_si256(); CHAINS];
    let (a, b) = std::hint::black_box((_mm256_set1_epi8(1), _mm256_set1_epi8(2)));
    for _ in 0..loops {
        for sum in &mut sums {
            // SAFETY: no instructions; keeps the products from being taken out of the loop.
            unsafe { std::arch::asm!("", options(nomem, nostack, preserves_flags)) };
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(a, b));
        }
    }
    std::hint::black_box(sums);
    (loops * CHAINS * 8 * 4 * 2) as f64
}
