//! 8-bit activations: integer dot products of a block (`vpdpbusd`, exact in any order), folded into f32 in
//! the order of the blocks: `sum += m sx` where there are minima, then `sum += dot (d dx)`, each a fused
//! multiply-add.
//!
//! Many tokens meet two groups at once where the first-level cache has room for both: an activation is then loaded once for
//! 32 rows, which is what limits processors that start two dot products a cycle. Elsewhere they meet one group, with a table of
//! multiples of its scales.
#![allow(unsafe_code)]

use super::opened::{FEWEST_TABLED, FEWEST_TILES, Opened, Opening, RUN};
use super::weights::{self, Packed, Weights};
use super::{TILE, with_few_sizes, with_tokens};
use crate::features::Core;
use crate::linear::ROW_GROUP;
use crate::linear::activations::Form;
use crate::linear::kernels::{Ahead, Job, Kernel, Run};
use crate::linear::layout::BLOCK;
use crate::linear::memory::with_scratch;
use entropix_model::DType;
use std::arch::x86_64::*;
use std::cell::Cell;

/// The first-level cache from which two groups at once pay: they and the tokens they meet take 48 KB.
const PAIR_BYTES: usize = 48 << 10;

pub(super) fn select(dtype: DType) -> Kernel {
    if Core::here().first_level_bytes >= PAIR_BYTES {
        select_for::<true>(dtype)
    } else {
        select_for::<false>(dtype)
    }
}

/// The kernel that takes two groups at once, or one. Both give the same bits.
pub(in crate::linear) fn select_for<const PAIRS: bool>(dtype: DType) -> Kernel {
    match dtype {
        DType::Q4_0 => run::<weights::Q4_0, PAIRS>,
        DType::Q4_1 => run::<weights::Q4_1, PAIRS>,
        DType::Q5_0 => run::<weights::Q5_0, PAIRS>,
        DType::Q5_1 => run::<weights::Q5_1, PAIRS>,
        DType::Q8_0 => run::<weights::Q8_0, PAIRS>,
        DType::Q4_K => run::<weights::Q4_K, PAIRS>,
        DType::Q5_K => run::<weights::Q5_K, PAIRS>,
        DType::Q6_K => run::<weights::Q6_K, PAIRS>,
        DType::F32 | DType::F16 | DType::BF16 => panic!("{dtype} weights meet no 8-bit activations"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run<W: Packed, const PAIRS: bool>(job: &Job<'_>) {
    let n_tiles = job.tokens.len().div_ceil(TILE);
    if n_tiles >= FEWEST_TILES {
        let n_paired = if PAIRS { job.n_groups / 2 * 2 } else { 0 };
        let (pairs, others) = (job.of_groups(0..n_paired), job.of_groups(n_paired..job.n_groups));
        let is_tabled = job.tokens.len() >= FEWEST_TABLED;
        // SAFETY: the job's promise, for some of its groups.
        unsafe {
            if n_paired > 0 {
                match (W::SIGNED, W::HALVES) {
                    (true, true) => run_pairs::<W, true, true>(&pairs),
                    (true, _) => run_pairs::<W, true, false>(&pairs),
                    (false, _) => run_pairs::<W, false, false>(&pairs),
                }
            }
            if others.n_groups > 0 {
                match (W::SIGNED, W::HALVES) {
                    (true, true) => run_opened::<W, true, true, false>(&others),
                    (true, _) if is_tabled => run_opened::<W, true, false, true>(&others),
                    (true, _) => run_opened::<W, true, false, false>(&others),
                    (false, _) if is_tabled => run_opened::<W, false, false, true>(&others),
                    (false, _) => run_opened::<W, false, false, false>(&others),
                }
            }
        }
        return;
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
                    with_tokens!(n, single::<W>(job, whole, weights, panel, out, &mut ahead))
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
                        single::<Opening<'_, W, TABLE>, FIRST>(job, run, opening, panel, out, &mut ahead);
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
        unsafe { with_few_sizes!(n, single::<W>(job, run, weights, panel, out, ahead)) }
    });
}

/// An even number of groups, two at a time, opened without multiples: with them a group takes as much room as two without.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn run_pairs<W: Packed, const SIGNED: bool, const HALVES: bool>(job: &Job<'_>) {
    let n_first = if job.tokens.start.is_multiple_of(PANEL) { FIRST_OF_PAIR } else { 0 };
    let others = job.after(n_first);
    let of_group = RUN * Opened::<SIGNED, HALVES, false>::BLOCK;
    with_scratch(2 * of_group, |scratch| {
        for i in (0..job.n_groups).step_by(2) {
            let [a, b] = [i, i + 1].map(|i| job.group(i));
            let mut ahead = Ahead::new(job, i, 2, FEWEST_TILES);
            for run in Run::each(&job.layout, RUN) {
                let is_odd = Cell::new(false);
                // SAFETY: the job's promise, and scratch memory of the size asked for.
                unsafe {
                    let opening = [(a.0, scratch), (b.0, scratch.add(of_group))].map(|(group, to)| {
                        Opening::<W, false>::new(W::new(group, &job.layout), run, to, &is_odd)
                    });
                    if n_first > 0 {
                        let panel = run.panel(job.panel_of(Form::Int8, job.tokens.start), Form::Int8);
                        tile::<_, 2, FIRST_OF_PAIR>(job, run, opening, panel, a.1, &mut ahead);
                    } else {
                        opening[0].open(run.n_blocks);
                        opening[1].open(run.n_blocks);
                    }
                    let opened =
                        [scratch, scratch.add(of_group)].map(|at| Opened::<SIGNED, HALVES, false>::new(at));
                    many_pairs(&others, run, opened, others.group(i).1, &mut ahead);
                }
            }
        }
    });
}

/// One opened run of two groups times all tokens. A panel of sixteen is three tiles.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn many_pairs<W: Weights>(
    job: &Job<'_>,
    run: Run,
    weights: [W; 2],
    out: *mut f32,
    ahead: &mut Ahead<'_>,
) {
    let tokens = |n: usize| {
        let n = n.min(PANEL);
        n.div_ceil(n.div_ceil(FIRST_OF_PAIR))
    };
    job.for_each_tile(Form::Int8, tokens, |panel, n, to| {
        let (panel, out) = (run.panel(panel, Form::Int8), out.wrapping_add(to));
        // SAFETY: the job's promise; tiles and groups stay within it.
        unsafe {
            match n {
                1 => tile::<W, 2, 1>(job, run, weights, panel, out, ahead),
                2 => tile::<W, 2, 2>(job, run, weights, panel, out, ahead),
                3 => tile::<W, 2, 3>(job, run, weights, panel, out, ahead),
                4 => tile::<W, 2, 4>(job, run, weights, panel, out, ahead),
                5 => tile::<W, 2, 5>(job, run, weights, panel, out, ahead),
                6 => tile::<W, 2, 6>(job, run, weights, panel, out, ahead),
                n => unreachable!("a tile of {n} tokens"),
            }
        }
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
    unsafe { with_tokens!(n, single::<W>(job, run, weights, panel, out, ahead)) }
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
/// Tokens of a tile of two groups: so many that sums, dot products, weights and an activation fill the registers.
const FIRST_OF_PAIR: usize = 6;

/// A run of one group times T tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn single<W: Weights, const T: usize>(
    job: &Job<'_>,
    run: Run,
    weights: W,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead<'_>,
) {
    // SAFETY: passed on.
    unsafe { tile::<W, 1, T>(job, run, [weights], panel, out, ahead) }
}

/// A run of G neighbouring groups times T tokens. `weights` and `panel` start with the run's first block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn tile<W: Weights, const G: usize, const T: usize>(
    job: &Job<'_>,
    run: Run,
    weights: [W; G],
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead<'_>,
) {
    // SAFETY: the job's promise holds for the weights, for T tokens from `panel` on and for the G groups of T rows of `out`.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); T]; G];
        if run.start > 0 {
            for g in 0..G {
                for t in 0..T {
                    sums[g][t] = _mm512_loadu_ps(out.add(t * job.stride + g * ROW_GROUP));
                }
            }
        }
        for block in 0..run.n_blocks {
            ahead.step();
            let first = panel.add(block * PANEL * TOKEN);
            let tokens: [*const u8; T] =
                std::array::from_fn(|t| first.add(t / PANEL * job.panel_stride + t % PANEL * TOKEN));
            let mut d = [[_mm512_setzero_ps(); 2]; G];
            let mut m = [_mm512_setzero_ps(); G];
            for g in 0..G {
                (d[g], m[g]) = weights[g].scales(block);
            }
            let mut dots = [[_mm512_setzero_si512(); T]; G];
            let offset =
                |token: *const u8, at: usize| _mm512_set1_epi32(token.add(at).cast::<i32>().read_unaligned());
            macro_rules! start {
                ($x:expr) => {
                    for t in 0..T {
                        let x = $x(tokens[t]);
                        for g in 0..G {
                            dots[g][t] = x;
                        }
                    }
                };
            }
            macro_rules! quad {
                ($quad:literal) => {
                    let mut w = [_mm512_setzero_si512(); G];
                    for g in 0..G {
                        w[g] = weights[g].quad::<$quad>(block);
                    }
                    for t in 0..T {
                        let x = offset(tokens[t], 4 * $quad);
                        for g in 0..G {
                            dots[g][t] = _mm512_dpbusd_epi32(dots[g][t], w[g], x);
                        }
                    }
                };
            }
            macro_rules! fold {
                ($half:literal) => {
                    for t in 0..T {
                        for g in 0..G {
                            let scale = weights[g].scale(block, d[g][$half], tokens[t]);
                            sums[g][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[g][t]), scale, sums[g][t]);
                        }
                    }
                };
            }
            if W::SIGNED {
                start!(|token| offset(token, if W::HALVES { BLOCK + 12 } else { BLOCK + 8 }));
            } else {
                for t in 0..T {
                    let sx = _mm512_set1_ps(tokens[t].add(BLOCK + 4).cast::<f32>().read_unaligned());
                    for g in 0..G {
                        sums[g][t] = _mm512_fmadd_ps(m[g], sx, sums[g][t]);
                    }
                }
            }
            quad!(0);
            quad!(1);
            quad!(2);
            quad!(3);
            if W::HALVES {
                fold!(0);
                start!(|token| _mm512_sub_epi32(offset(token, BLOCK + 8), offset(token, BLOCK + 12)));
            }
            quad!(4);
            quad!(5);
            quad!(6);
            quad!(7);
            fold!(1);
        }
        for g in 0..G {
            for t in 0..T {
                _mm512_storeu_ps(out.add(t * job.stride + g * ROW_GROUP), sums[g][t]);
            }
        }
    }
}
