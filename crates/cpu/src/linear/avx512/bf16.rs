//! bf16 activations: dot products of pairs (`vdpbf16ps`, exact products summed in f32).
//!
//! The numbers of quantised types have at most 8 bits, so they are bf16 without loss: a block's dot product is
//! taken of the numbers and its scale applied to the sum, `sum += m sx` where there are minima, then
//! `sum += d dot`.

use super::opened::{Brains, FEWEST_TILES, with_scratch};
use super::weights::{self, Weights};
use super::{TILE, few_sizes, with_few_sizes};
use crate::linear::ROW_GROUP;
use crate::linear::activations::{Form, PANEL};
use crate::linear::kernels::{Ahead, Job, Kernel};
use crate::linear::layout::{BLOCK, GroupLayout};
use entropix_model::DType;
use std::arch::x86_64::*;

pub(super) fn select(dtype: DType) -> Kernel {
    match dtype {
        DType::BF16 => run::<Stored>,
        DType::Q4_0 => run::<Widened<weights::Q4_0>>,
        DType::Q4_1 => run::<Widened<weights::Q4_1>>,
        DType::Q5_0 => run::<Widened<weights::Q5_0>>,
        DType::Q5_1 => run::<Widened<weights::Q5_1>>,
        DType::Q8_0 => run::<Widened<weights::Q8_0>>,
        DType::Q4_K => run::<Widened<weights::Q4_K>>,
        DType::Q5_K => run::<Widened<weights::Q5_K>>,
        DType::Q6_K => run::<Widened<weights::Q6_K>>,
        DType::F32 | DType::F16 => panic!("{dtype} weights meet no bf16 activations"),
    }
}

/// Weights as pairs of bf16. `scales` and `quad` are as in [`Weights`].
pub(super) trait Pairs: Copy {
    /// Whether blocks have scales; without them dot products run on over the blocks.
    const SCALED: bool;
    /// Whether there are minima.
    const MIN: bool;
    /// Whether the halves of a block have scales of their own.
    const HALVES: bool;

    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self;
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512);
    /// (2, 16 rows, 2): columns 0 and 2, then 1 and 3 of a quad.
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> [__m512i; 2];
}

#[derive(Clone, Copy)]
struct Stored(*const u8);

impl Pairs for Stored {
    const SCALED: bool = false;
    const MIN: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout) -> Self {
        Self(group)
    }

    #[inline(always)]
    unsafe fn scales(self, _: usize) -> ([__m512; 2], __m512) {
        // SAFETY: inlined where the instructions are there.
        unsafe { ([_mm512_setzero_ps(); 2], _mm512_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> [__m512i; 2] {
        let first = self.0.wrapping_add((block * BLOCK + QUAD * 4) * ROW_GROUP * 2);
        // SAFETY: the group holds these columns; inlined where the instructions are there.
        [0, 1].map(|i| unsafe { _mm512_load_si512(first.add(i * ROW_GROUP * 4).cast()) })
    }
}

#[derive(Clone, Copy)]
struct Widened<W> {
    weights: W,
    /// The values of left-aligned numbers of up to 5 bits, as bf16.
    table: __m512i,
}

impl<W: Weights> Pairs for Widened<W> {
    const SCALED: bool = true;
    const MIN: bool = !W::SIGNED;
    const HALVES: bool = W::HALVES;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self {
        let table: [u16; 32] = std::array::from_fn(|i| {
            let value = 8.0 * i as f32 - if W::SIGNED { 128.0 } else { 0.0 };
            (value.to_bits() >> 16) as u16
        });
        // SAFETY: passed on; the table is 64 bytes.
        unsafe { Self { weights: W::new(group, layout), table: _mm512_loadu_si512(table.as_ptr().cast()) } }
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: passed on.
        unsafe { self.weights.scales(block) }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> [__m512i; 2] {
        // SAFETY: passed on; inlined where the instructions are there.
        unsafe {
            let numbers = self.weights.quad::<QUAD>(block);
            if W::BITS <= 5 {
                // Only the low 5 bits of an index count, so what stands above needs no mask.
                let even = _mm512_srli_epi16::<3>(numbers);
                let odd = _mm512_srli_epi16::<11>(numbers);
                return [even, odd].map(|index| _mm512_permutexvar_epi16(index, self.table));
            }
            // Longer numbers are signed in every type.
            let signed = _mm512_xor_si512(numbers, _mm512_set1_epi8(-128));
            let column = |moved| _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(moved)));
            let pair = |low, high| {
                let upper = _mm512_set1_epi32(0xffff_0000u32 as i32);
                _mm512_ternarylogic_epi32::<0xca>(upper, high, _mm512_srli_epi32::<16>(low))
            };
            [
                pair(column(_mm512_slli_epi32::<24>(signed)), column(_mm512_slli_epi32::<8>(signed))),
                pair(column(_mm512_slli_epi32::<16>(signed)), column(signed)),
            ]
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn run<P: Pairs>(job: &Job) {
    let n_tiles = job.tokens.len().div_ceil(TILE);
    if P::SCALED && n_tiles >= FEWEST_TILES {
        // SAFETY: the job's promise.
        return unsafe {
            match (P::MIN, P::HALVES) {
                (true, _) => run_opened::<P, true, false>(job),
                (false, true) => run_opened::<P, false, true>(job),
                (false, false) => run_opened::<P, false, false>(job),
            }
        };
    }
    let mut i = 0;
    while i < job.n_groups {
        // With few tokens a sum waits for the one before it; several groups at once fill the time.
        let together = if job.tokens.len() <= 2 && job.n_groups - i >= FEW { FEW } else { 1 };
        let (group, out) = job.group(i);
        let mut ahead = Ahead::new(job, i, together, n_tiles);
        job.for_each_tile(Form::Bf16, few_sizes, |panel, n, to| {
            let out = out.wrapping_add(to);
            // SAFETY: the job's promise; tiles and groups stay within it.
            unsafe {
                match (together, n) {
                    (FEW, 1) => tile::<P, FEW, 1>(job, group, panel, out, &mut ahead),
                    (FEW, 2) => tile::<P, FEW, 2>(job, group, panel, out, &mut ahead),
                    _ => with_few_sizes!(n, one_group::<P>(job, group, panel, out, &mut ahead)),
                }
            }
        });
        i += together;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn run_opened<P: Pairs, const MIN: bool, const HALVES: bool>(job: &Job) {
    let n_blocks = job.layout.n_blocks;
    with_scratch(n_blocks * Brains::<MIN, HALVES>::BLOCK, |scratch| {
        for i in 0..job.n_groups {
            let (group, out) = job.group(i);
            // SAFETY: the job's promise, and scratch memory of the size asked for.
            unsafe {
                Brains::<MIN, HALVES>::open(P::new(group, &job.layout), n_blocks, scratch);
                many_tiles::<Brains<MIN, HALVES>>(
                    job,
                    scratch,
                    out,
                    &mut Ahead::new(job, i, 1, FEWEST_TILES),
                );
            }
        }
    });
}

/// One opened group times all tokens; the same code for all types that open alike.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn many_tiles<P: Pairs>(job: &Job, group: *const u8, out: *mut f32, ahead: &mut Ahead) {
    job.for_each_tile(Form::Bf16, few_sizes, |panel, n, to| {
        let out = out.wrapping_add(to);
        // SAFETY: the job's promise; tiles and groups stay within it.
        unsafe { with_few_sizes!(n, one_group::<P>(job, group, panel, out, ahead)) }
    });
}

/// Groups computed together for up to two tokens.
const FEW: usize = 4;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn one_group<P: Pairs, const T: usize>(
    job: &Job,
    group: *const u8,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead,
) {
    // SAFETY: passed on.
    unsafe { tile::<P, 1, T>(job, group, panel, out, ahead) }
}

const TOKEN: usize = Form::Bf16.token_bytes();

/// G groups times T tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn tile<P: Pairs, const G: usize, const T: usize>(
    job: &Job,
    group: *const u8,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead,
) {
    // SAFETY: the job's promise holds for G groups, for T tokens from `panel` on and for T rows of `out`; any
    // bits are a vector of bf16.
    unsafe {
        let groups: [P; G] = std::array::from_fn(|g| P::new(group.add(g * job.layout.n_bytes), &job.layout));
        let mut sums = [[_mm512_setzero_ps(); T]; G];
        for block in 0..job.layout.n_blocks {
            ahead.step();
            let first = panel.add(block * PANEL * TOKEN);
            let tokens: [*const u8; T] =
                std::array::from_fn(|t| first.add(t / PANEL * job.panel_stride + t % PANEL * TOKEN));
            let mut dots = if P::SCALED { [[_mm512_setzero_ps(); T]; G] } else { sums };
            macro_rules! quad {
                ($quad:literal) => {
                    for g in 0..G {
                        let pairs = groups[g].quad::<$quad>(block);
                        for i in 0..2 {
                            let w: __m512bh = std::mem::transmute(pairs[i]);
                            for t in 0..T {
                                let x = tokens[t].add(8 * $quad + 4 * i).cast::<i32>().read_unaligned();
                                let x: __m512bh = std::mem::transmute(_mm512_set1_epi32(x));
                                dots[g][t] = _mm512_dpbf16_ps(dots[g][t], w, x);
                            }
                        }
                    }
                };
            }
            macro_rules! fold {
                ($half:literal) => {
                    for g in 0..G {
                        let (d, _) = groups[g].scales(block);
                        for t in 0..T {
                            sums[g][t] = _mm512_fmadd_ps(dots[g][t], d[$half], sums[g][t]);
                        }
                    }
                };
            }
            if P::MIN {
                for g in 0..G {
                    let (_, m) = groups[g].scales(block);
                    for t in 0..T {
                        let sx = _mm512_set1_ps(tokens[t].add(2 * BLOCK).cast::<f32>().read_unaligned());
                        sums[g][t] = _mm512_fmadd_ps(m, sx, sums[g][t]);
                    }
                }
            }
            quad!(0);
            quad!(1);
            quad!(2);
            quad!(3);
            if P::HALVES {
                fold!(0);
                dots = [[_mm512_setzero_ps(); T]; G];
            }
            quad!(4);
            quad!(5);
            quad!(6);
            quad!(7);
            if P::SCALED {
                fold!(1);
            } else {
                sums = dots;
            }
        }
        for g in 0..G {
            for t in 0..T {
                _mm512_storeu_ps(out.add(t * job.stride + g * ROW_GROUP), sums[g][t]);
            }
        }
    }
}
