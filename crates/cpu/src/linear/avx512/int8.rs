//! 8-bit activations: integer dot products of a block (`vpdpbusd`, exact in any order), folded into f32 in
//! the order of the blocks: `sum += m sx` where there are minima, then `sum += dot (d dx)`, each a fused
//! multiply-add.
#![allow(unsafe_code)]

use super::opened::{FEWEST_TABLED, FEWEST_TILES, Opened, Opening, RUN};
use super::weights::{self, Packed, Weights};
use super::{TILE, with_few_sizes, with_tokens};
use crate::linear::activations::Form;
use crate::linear::kernels::{Ahead, Job, Kernel, Run};
use crate::linear::layout::BLOCK;
use crate::linear::memory::with_scratch;
use entropix_model::DType;
use std::arch::x86_64::*;
use std::cell::Cell;

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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run<W: Packed>(job: &Job<'_>) {
    let n_tiles = job.tokens.len().div_ceil(TILE);
    let is_tabled = job.tokens.len() >= FEWEST_TABLED;
    // SAFETY: the job's promise.
    unsafe {
        if n_tiles >= FEWEST_TILES {
            return match (W::SIGNED, W::HALVES) {
                (true, true) => run_opened::<W, true, true, false>(job),
                (true, _) if is_tabled => run_opened::<W, true, false, true>(job),
                (true, _) => run_opened::<W, true, false, false>(job),
                (false, _) if is_tabled => run_opened::<W, false, false, true>(job),
                (false, _) => run_opened::<W, false, false, false>(job),
            };
        }
    }
    let whole = Run::whole(&job.layout);
    for i in 0..job.n_groups {
        let (group, out) = job.group(i);
        let mut ahead = Ahead::new(job, i, 1, n_tiles);
        job.for_each_tile(
            Form::Int8,
            |n| if n > TILE { PANEL / 2 } else { n },
            |panel, n, to| {
                let out = out.wrapping_add(to);
                // SAFETY: the job's promise; tiles and groups stay within it.
                unsafe {
                    let weights = W::new(group, &job.layout);
                    with_tokens!(n, tile::<W>(job, whole, weights, panel, out, &mut ahead))
                }
            },
        );
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn run_opened<W: Packed, const SIGNED: bool, const HALVES: bool, const TABLE: bool>(job: &Job<'_>) {
    // The first tokens of a panel open the weights for the others.
    let (within, at_hand) = (job.tokens.start % PANEL, job.tokens.len());
    let n_first = if within.is_multiple_of(FIRST) && at_hand > FIRST { FIRST } else { 0 };
    let others = job.after(n_first);
    with_scratch(RUN * Opened::<SIGNED, HALVES, TABLE>::BLOCK, |scratch| {
        for i in 0..job.n_groups {
            let (group, out) = job.group(i);
            let mut ahead = Ahead::new(job, i, 1, FEWEST_TILES);
            for run in Run::each(&job.layout, RUN) {
                let is_odd = Cell::new(false);
                // SAFETY: the job's promise, and scratch memory of the size asked for.
                unsafe {
                    let weights = W::new(group, &job.layout);
                    let opening = Opening::<W, TABLE>::new(weights, run, scratch, &is_odd);
                    if n_first == FIRST {
                        let panel = run.panel(job.panel_of(Form::Int8, job.tokens.start), Form::Int8);
                        tile::<Opening<'_, W, TABLE>, FIRST>(job, run, opening, panel, out, &mut ahead);
                    } else {
                        opening.open(run.n_blocks);
                    }
                    let (out, ahead) = (others.group(i).1, &mut ahead);
                    if TABLE && is_odd.get() {
                        Opening::<W, false>::new(weights, run, scratch, &is_odd).open(run.n_blocks);
                        many_tiles(&others, run, Opened::<SIGNED, HALVES, false>::new(scratch), out, ahead);
                    } else {
                        many_tiles(&others, run, Opened::<SIGNED, HALVES, TABLE>::new(scratch), out, ahead);
                    }
                }
            }
        }
    });
}

/// One opened run of a group times all tokens; the same code for all types that open alike.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn many_tiles<W: Weights>(job: &Job<'_>, run: Run, weights: W, out: *mut f32, ahead: &mut Ahead<'_>) {
    job.for_each_tile(Form::Int8, few_halves, |panel, n, to| {
        let (panel, out) = (run.panel(panel, Form::Int8), out.wrapping_add(to));
        // SAFETY: the job's promise; tiles and groups stay within it.
        unsafe { with_few_sizes!(n, tile::<W>(job, run, weights, panel, out, ahead)) }
    });
}

/// A run of opened weights times a few tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn few<W: Weights>(
    job: &Job<'_>,
    run: Run,
    weights: W,
    panel: *const u8,
    out: *mut f32,
    n: usize,
    ahead: &mut Ahead<'_>,
) {
    // SAFETY: passed on.
    unsafe { with_tokens!(n, tile::<W>(job, run, weights, panel, out, ahead)) }
}

/// Tokens to take of `n` at hand: a panel has two tiles of eight.
#[inline(always)]
pub(super) fn few_halves(n: usize) -> usize {
    match n {
        8.. => 8,
        4..8 => 4,
        n => n,
    }
}

const TOKEN: usize = Form::Int8.token_bytes();
const PANEL: usize = Form::Int8.panel();
/// Tokens of the tile that opens weights.
const FIRST: usize = PANEL / 2;

/// A run of a group times T tokens. `weights` and `panel` start with the run's first block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn tile<W: Weights, const T: usize>(
    job: &Job<'_>,
    run: Run,
    weights: W,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead<'_>,
) {
    // SAFETY: the job's promise holds for the weights, for T tokens from `panel` on and for T rows of `out`.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); T];
        if run.start > 0 {
            for t in 0..T {
                sums[t] = _mm512_loadu_ps(out.add(t * job.stride));
            }
        }
        for block in 0..run.n_blocks {
            ahead.step();
            let first = panel.add(block * PANEL * TOKEN);
            let tokens: [*const u8; T] =
                std::array::from_fn(|t| first.add(t / PANEL * job.panel_stride + t % PANEL * TOKEN));
            let (d, m) = weights.scales(block);
            let mut dots = [_mm512_setzero_si512(); T];
            let offset =
                |token: *const u8, at: usize| _mm512_set1_epi32(token.add(at).cast::<i32>().read_unaligned());
            macro_rules! start {
                ($at:expr) => {
                    for t in 0..T {
                        dots[t] = offset(tokens[t], $at);
                    }
                };
            }
            macro_rules! quad {
                ($quad:literal) => {
                    let w = weights.quad::<$quad>(block);
                    for t in 0..T {
                        let x = tokens[t].add(4 * $quad).cast::<i32>().read_unaligned();
                        dots[t] = _mm512_dpbusd_epi32(dots[t], w, _mm512_set1_epi32(x));
                    }
                };
            }
            macro_rules! fold {
                ($half:literal) => {
                    for t in 0..T {
                        let scale = weights.scale(block, d[$half], tokens[t]);
                        sums[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[t]), scale, sums[t]);
                    }
                };
            }
            if W::SIGNED {
                start!(if W::HALVES { BLOCK + 12 } else { BLOCK + 8 });
            } else {
                for t in 0..T {
                    let sx = _mm512_set1_ps(tokens[t].add(BLOCK + 4).cast::<f32>().read_unaligned());
                    sums[t] = _mm512_fmadd_ps(m, sx, sums[t]);
                }
            }
            quad!(0);
            quad!(1);
            quad!(2);
            quad!(3);
            if W::HALVES {
                fold!(0);
                for t in 0..T {
                    dots[t] = _mm512_sub_epi32(offset(tokens[t], BLOCK + 8), offset(tokens[t], BLOCK + 12));
                }
            }
            quad!(4);
            quad!(5);
            quad!(6);
            quad!(7);
            fold!(1);
        }
        for t in 0..T {
            _mm512_storeu_ps(out.add(t * job.stride), sums[t]);
        }
    }
}
