//! Dot products of registers alone, to measure what is the most of them.
#![allow(unsafe_code)]

use super::tiles;
use std::arch::x86_64::*;
use std::hint::black_box;

/// Sums side by side.
const CHAINS: usize = 12;

/// `loops` times [`CHAINS`] `vpdpbusd` of 16 lanes and 4 columns; returns the operations (a multiply-add is two).
#[target_feature(enable = "avx512f,avx512vnni")]
pub(in crate::linear) fn vectors(loops: usize) -> f64 {
    let mut sums = [_mm512_setzero_si512(); CHAINS];
    let (a, b) = black_box((_mm512_set1_epi8(1), _mm512_set1_epi8(2)));
    for _ in 0..loops {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
        // SAFETY: no instructions; keeps the loop from being computed at once.
        unsafe { std::arch::asm!("", options(nomem, nostack, preserves_flags)) };
    }
    for sum in sums {
        black_box(_mm512_reduce_add_epi32(sum));
    }
    (loops * CHAINS * 16 * 4 * 2) as f64
}

/// The same of `vdpbf16ps` of 16 lanes and 2 columns.
///
/// # Safety
/// The machine has it.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(in crate::linear) unsafe fn pairs(loops: usize) -> f64 {
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    let (a, b) = black_box((_mm512_set1_epi32(0x3f80_3f80), _mm512_set1_epi32(0x3e80_3e80)));
    for _ in 0..loops {
        for sum in &mut sums {
            // SAFETY: both are vectors of 32 numbers of 16 bits.
            let (a, b) = unsafe {
                (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b))
            };
            *sum = _mm512_dpbf16_ps(*sum, a, b);
        }
        // SAFETY: no instructions; keeps the loop from being computed at once.
        unsafe { std::arch::asm!("", options(nomem, nostack, preserves_flags)) };
    }
    for sum in sums {
        black_box(_mm512_reduce_add_ps(sum));
    }
    (loops * CHAINS * 16 * 2 * 2) as f64
}

/// The same of tiles of 16 tokens, 16 rows and a block of 32 columns.
///
/// # Safety
/// The machine has tiles.
pub(in crate::linear) unsafe fn tiles(loops: usize) -> f64 {
    // SAFETY: promised above.
    unsafe { tiles::multiply_alone(loops) };
    (loops * 16 * 16 * 32 * 2) as f64
}
