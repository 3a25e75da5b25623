//! Kernels of 512-bit vectors: one lane a row of the group, up to twelve tokens at once in registers, each
//! activation broadcast from memory, where one group meets it by the instruction that multiplies it.
//!
//! Twelve tokens need 12 sums of f32 and 12 of integers, and so do six tokens that meet two groups; the other eight
//! registers hold weights, scales and constants. One token and twelve run the same code, so an output has one order of
//! operations.
//!
//! Methods that open weights are inlined by force into functions that have the instructions; a closure in one of
//! them would be a function without, and the call of each of its instructions a call indeed.

// Loops over constant indices of several arrays are what the compiler unrolls into registers.
#![allow(clippy::needless_range_loop)]

mod brains;
mod float;
mod int8;
mod opened;
pub(super) mod peak;
mod round;
mod tiles;
mod weights;

#[cfg(test)]
pub(super) use int8::select_for as select_int8;
#[cfg(test)]
pub(super) use round::sum_of_halves;
pub(super) use round::{write_int8, write_pairs};
pub(crate) use tiles::is_available as has_tiles;

use super::activations::Form;
use super::kernels::Kernel;
use entropix_model::DType;

/// Most tokens of a tile.
const TILE: usize = 12;

pub(super) fn select(dtype: DType, form: Form) -> Kernel {
    match form {
        Form::F32 | Form::Rounded => float::select(dtype),
        Form::Int8 => int8::select(dtype),
        Form::Pairs => brains::select(dtype),
    }
}

/// As [`select`], with AMX tiles where they pay.
pub(super) fn select_tiles(dtype: DType, form: Form) -> Kernel {
    match form {
        Form::Int8 => tiles::select(dtype),
        other => select(dtype, other),
    }
}

/// Calls `$f::<.., n>` for the `n` in 1..=12 at hand.
macro_rules! with_tokens {
    ($n:expr, $f:ident::<$weights:ty>($($argument:expr),*)) => {
        match $n {
            1 => $f::<$weights, 1>($($argument),*),
            2 => $f::<$weights, 2>($($argument),*),
            3 => $f::<$weights, 3>($($argument),*),
            4 => $f::<$weights, 4>($($argument),*),
            5 => $f::<$weights, 5>($($argument),*),
            6 => $f::<$weights, 6>($($argument),*),
            7 => $f::<$weights, 7>($($argument),*),
            8 => $f::<$weights, 8>($($argument),*),
            9 => $f::<$weights, 9>($($argument),*),
            10 => $f::<$weights, 10>($($argument),*),
            11 => $f::<$weights, 11>($($argument),*),
            12 => $f::<$weights, 12>($($argument),*),
            n => unreachable!("a tile of {n} tokens"),
        }
    };
}
use with_tokens;

/// As `with_tokens` for the sizes of [`few_sizes`], where the code of twelve would be large and gain little.
macro_rules! with_few_sizes {
    ($n:expr, $f:ident::<$weights:ty>($($argument:expr),*)) => {
        match $n {
            1 => $f::<$weights, 1>($($argument),*),
            2 => $f::<$weights, 2>($($argument),*),
            3 => $f::<$weights, 3>($($argument),*),
            4 => $f::<$weights, 4>($($argument),*),
            8 => $f::<$weights, 8>($($argument),*),
            12 => $f::<$weights, 12>($($argument),*),
            n => unreachable!("a tile of {n} tokens"),
        }
    };
}
use with_few_sizes;

/// Tokens to take of `n` at hand.
#[inline(always)]
fn few_sizes(n: usize) -> usize {
    match n {
        12.. => 12,
        8..12 => 8,
        4..8 => 4,
        n => n,
    }
}
