//! 8-bit activations: `vpmaddubsw` gives sums of two products in 16 bits; as many quads as cannot overflow are
//! added there before they are widened. Numbers of 8 bits give their sign to the activation.
#![allow(unsafe_code)]

use super::weights::{self, Weights};
use super::{LANES, TILE, with_tokens};
use crate::linear::activations::Form;
use crate::linear::kernels::{Ahead, Job, Kernel};
use crate::linear::layout::BLOCK;
use entropix_model::DType;
use std::arch::x86_64::*;

pub(super) fn select(dtype: DType) -> Kernel {
    match dtype {
        DType::Q4_0 => run::<weights::Q4_0>,
        DType::Q4_1 => run::<weights::Q4_1>,
        DType::Q5_0 => run::<weights::Q5_0>,
        DType::Q5_1 => run::<weights::Q5_1>,
        DType::Q8_0 => run::<weights::Q8_0>,
        DType::Q4_K => run::<weights::Q4_K>,
        DType::Q5_K => run::<weights::Q5_K>,
        DType::Q6_K => run::<weights::Q6_K>,
        DType::F32 | DType::F16 | DType::BF16 => panic!("{dtype} weights meet no 8-bit activations"),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<W: Weights>(job: &Job<'_>) {
    for i in 0..job.n_groups {
        let (group, out) = job.group(i);
        // Each tile runs twice, for each half.
        let mut ahead = Ahead::new(job, i, 1, 2 * job.tokens.len().div_ceil(TILE));
        job.for_each_tile(
            Form::Int8,
            |n| n.min(TILE),
            |panel, n, to| {
                for half in 0..2 {
                    let out = out.wrapping_add(to + half * LANES);
                    // SAFETY: the job's promise; tiles and groups stay within it.
                    unsafe {
                        let weights = W::new(group, &job.layout, half);
                        with_tokens!(n, tile::<W>(job, weights, panel, out, &mut ahead))
                    }
                }
            },
        );
    }
}

const TOKEN: usize = Form::Int8.token_bytes();
const PANEL: usize = Form::Int8.panel();

/// Half a group times T tokens.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<W: Weights, const T: usize>(
    job: &Job<'_>,
    weights: W,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead<'_>,
) {
    // SAFETY: the job's promise holds for the group, for T <= PANEL tokens from `panel` on and for T rows of
    // `out`.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); T];
        for block in 0..job.layout.n_blocks {
            ahead.step();
            let first = panel.add(block * PANEL * TOKEN);
            let tokens: [*const u8; T] = std::array::from_fn(|t| first.add(t * TOKEN));
            let (d, m) = weights.scales(block);
            let mut dots = [_mm256_setzero_si256(); T];
            let mut short = [_mm256_setzero_si256(); T];
            macro_rules! start {
                ($offset:expr) => {
                    for t in 0..T {
                        let [whole, half] = tokens[t].add(BLOCK + 8).cast::<[i32; 2]>().read_unaligned();
                        let offset: fn(i32, i32) -> i32 = $offset;
                        dots[t] = _mm256_set1_epi32(offset(whole, half) >> (8 - W::BITS));
                    }
                };
            }
            macro_rules! quad {
                ($quad:literal) => {
                    // Quads whose sums of products fit 16 bits together: 8 x 2 x 15 x 127 < 2^15, and so on.
                    let together = match W::BITS {
                        4 => 8,
                        5 => 4,
                        6 => 2,
                        _ => 1,
                    };
                    let w = weights.quad::<$quad>(block);
                    for t in 0..T {
                        let x = _mm256_set1_epi32(tokens[t].add(4 * $quad).cast::<i32>().read_unaligned());
                        let product = if W::BITS == 8 {
                            let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
                            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                        } else {
                            _mm256_maddubs_epi16(w, x)
                        };
                        short[t] =
                            if $quad % together == 0 { product } else { _mm256_add_epi16(short[t], product) };
                        if $quad % together == together - 1 {
                            let wide = _mm256_madd_epi16(short[t], _mm256_set1_epi16(1));
                            dots[t] = _mm256_add_epi32(dots[t], wide);
                        }
                    }
                };
            }
            macro_rules! fold {
                ($half:literal) => {
                    for t in 0..T {
                        let dx = _mm256_set1_ps(tokens[t].add(BLOCK).cast::<f32>().read_unaligned());
                        let scale = _mm256_mul_ps(d[$half], dx);
                        sums[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[t]), scale, sums[t]);
                    }
                };
            }
            if W::SIGNED && W::BITS < 8 {
                start!(|whole, half| if W::HALVES { half } else { whole });
            }
            if !W::SIGNED {
                for t in 0..T {
                    let sx = _mm256_set1_ps(tokens[t].add(BLOCK + 4).cast::<f32>().read_unaligned());
                    sums[t] = _mm256_fmadd_ps(m, sx, sums[t]);
                }
            }
            quad!(0);
            quad!(1);
            quad!(2);
            quad!(3);
            if W::HALVES {
                fold!(0);
                start!(|whole, half| whole - half);
            }
            quad!(4);
            quad!(5);
            quad!(6);
            quad!(7);
            fold!(1);
        }
        for t in 0..T {
            _mm256_storeu_ps(out.add(t * job.stride), sums[t]);
        }
    }
}
