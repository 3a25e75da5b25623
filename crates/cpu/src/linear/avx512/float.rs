//! f32 activations: weights are opened to f32, exactly, and multiplied one column after the other.

use super::weights::{self, Weights};
use super::{TILE, few_sizes, with_few_sizes};
use crate::linear::ROW_GROUP;
use crate::linear::activations::{Form, PANEL};
use crate::linear::kernels::{Ahead, Job, Kernel};
use crate::linear::layout::{BLOCK, GroupLayout, PAIR_ORDER};
use entropix_model::DType;
use std::arch::x86_64::*;

pub(super) fn select(dtype: DType) -> Kernel {
    match dtype {
        DType::F32 => run::<Singles>,
        DType::F16 => run::<Halves>,
        DType::BF16 => run::<Brains>,
        DType::Q4_0 => run::<Opened<weights::Q4_0>>,
        DType::Q4_1 => run::<Opened<weights::Q4_1>>,
        DType::Q5_0 => run::<Opened<weights::Q5_0>>,
        DType::Q5_1 => run::<Opened<weights::Q5_1>>,
        DType::Q8_0 => run::<Opened<weights::Q8_0>>,
        DType::Q4_K => run::<Opened<weights::Q4_K>>,
        DType::Q5_K => run::<Opened<weights::Q5_K>>,
        DType::Q6_K => run::<Opened<weights::Q6_K>>,
    }
}

/// Weights that open to the four columns of a quad, (4, 16 rows).
trait Columns: Copy {
    /// What is the same for all quads of a block.
    type Scales: Copy;

    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self;
    unsafe fn scales(self, block: usize) -> Self::Scales;
    unsafe fn quad<const QUAD: usize>(self, block: usize, scales: Self::Scales) -> [__m512; 4];
}

#[derive(Clone, Copy)]
struct Singles(*const u8);

impl Columns for Singles {
    type Scales = ();

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout) -> Self {
        Self(group)
    }

    #[inline(always)]
    unsafe fn scales(self, _: usize) {}

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize, (): ()) -> [__m512; 4] {
        let first = self.0.wrapping_add((block * BLOCK + QUAD * 4) * ROW_GROUP * 4);
        // SAFETY: the group holds these columns; inlined where the instructions are there.
        std::array::from_fn(|i| unsafe { _mm512_load_ps(first.add(i * ROW_GROUP * 4).cast()) })
    }
}

#[derive(Clone, Copy)]
struct Halves(*const u8);

impl Columns for Halves {
    type Scales = ();

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout) -> Self {
        Self(group)
    }

    #[inline(always)]
    unsafe fn scales(self, _: usize) {}

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize, (): ()) -> [__m512; 4] {
        let first = self.0.wrapping_add((block * BLOCK + QUAD * 4) * ROW_GROUP * 2);
        // SAFETY: the group holds these columns; inlined where the instructions are there.
        std::array::from_fn(|i| unsafe {
            _mm512_cvtph_ps(_mm256_load_si256(first.add(i * ROW_GROUP * 2).cast()))
        })
    }
}

#[derive(Clone, Copy)]
struct Brains(*const u8);

impl Columns for Brains {
    type Scales = ();

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout) -> Self {
        Self(group)
    }

    #[inline(always)]
    unsafe fn scales(self, _: usize) {}

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize, (): ()) -> [__m512; 4] {
        let first = self.0.wrapping_add((block * BLOCK + QUAD * 4) * ROW_GROUP * 2);
        // SAFETY: the group holds these columns; inlined where the instructions are there.
        unsafe {
            let pairs = [0, 1].map(|i| _mm512_load_si512(first.add(i * ROW_GROUP * 4).cast()));
            let upper = _mm512_set1_epi32(0xffff_0000u32 as i32);
            std::array::from_fn(|i| {
                let place = PAIR_ORDER[i];
                let pair = pairs[place / 2];
                _mm512_castsi512_ps(match place % 2 {
                    0 => _mm512_slli_epi32::<16>(pair),
                    _ => _mm512_and_si512(pair, upper),
                })
            })
        }
    }
}

/// A quantised type: w = d q + m with one rounding, where d q is exact; signed types have m = -128 d, which
/// makes the sum exact too.
#[derive(Clone, Copy)]
struct Opened<W>(W);

impl<W: Weights> Columns for Opened<W> {
    type Scales = ([__m512; 2], [__m512; 2]);

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self {
        // SAFETY: passed on.
        Self(unsafe { W::new(group, layout) })
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> Self::Scales {
        // SAFETY: passed on.
        unsafe {
            let (d, m) = self.0.scales(block);
            let offset = |d| _mm512_mul_ps(d, _mm512_set1_ps(-128.0));
            (d, if W::SIGNED { [offset(d[0]), offset(d[1])] } else { [m; 2] })
        }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize, (d, m): Self::Scales) -> [__m512; 4] {
        // SAFETY: passed on.
        unsafe {
            let numbers = self.0.quad::<QUAD>(block);
            let byte = _mm512_set1_epi32(0xff);
            let columns = [
                _mm512_and_si512(numbers, byte),
                _mm512_and_si512(_mm512_srli_epi32::<8>(numbers), byte),
                _mm512_and_si512(_mm512_srli_epi32::<16>(numbers), byte),
                _mm512_srli_epi32::<24>(numbers),
            ];
            columns.map(|q| _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), d[QUAD / 4], m[QUAD / 4]))
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn run<C: Columns>(job: &Job) {
    let n_tiles = job.tokens.len().div_ceil(TILE);
    let mut i = 0;
    while i < job.n_groups {
        // With few tokens a sum waits for the one before it; several groups at once fill the time.
        let together = if job.tokens.len() <= 3 && job.n_groups - i >= FEW { FEW } else { 1 };
        let (group, out) = job.group(i);
        let mut ahead = Ahead::new(job, i, together, n_tiles);
        job.for_each_tile(Form::F32, few_sizes, |panel, n, to| {
            let out = out.wrapping_add(to);
            // SAFETY: the job's promise; tiles and groups stay within it.
            unsafe {
                match (together, n) {
                    (FEW, 1) => tile::<C, FEW, 1>(job, group, panel, out, &mut ahead),
                    (FEW, 2) => tile::<C, FEW, 2>(job, group, panel, out, &mut ahead),
                    (FEW, 3) => tile::<C, FEW, 3>(job, group, panel, out, &mut ahead),
                    _ => with_few_sizes!(n, one_group::<C>(job, group, panel, out, &mut ahead)),
                }
            }
        });
        i += together;
    }
}

/// Groups computed together for up to three tokens.
const FEW: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn one_group<C: Columns, const T: usize>(
    job: &Job,
    group: *const u8,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead,
) {
    // SAFETY: passed on.
    unsafe { tile::<C, 1, T>(job, group, panel, out, ahead) }
}

const TOKEN: usize = Form::F32.token_bytes();

/// G groups times T tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn tile<C: Columns, const G: usize, const T: usize>(
    job: &Job,
    group: *const u8,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead,
) {
    // SAFETY: the job's promise holds for G groups, for T tokens from `panel` on and for T rows of `out`.
    unsafe {
        let groups: [C; G] = std::array::from_fn(|g| C::new(group.add(g * job.layout.n_bytes), &job.layout));
        let mut sums = [[_mm512_setzero_ps(); T]; G];
        for block in 0..job.layout.n_blocks {
            ahead.step();
            let first = panel.add(block * PANEL * TOKEN);
            let tokens: [*const u8; T] =
                std::array::from_fn(|t| first.add(t / PANEL * job.panel_stride + t % PANEL * TOKEN));
            let scales: [C::Scales; G] = std::array::from_fn(|g| groups[g].scales(block));
            macro_rules! quad {
                ($quad:literal) => {
                    for g in 0..G {
                        let columns = groups[g].quad::<$quad>(block, scales[g]);
                        for i in 0..4 {
                            for t in 0..T {
                                let x = tokens[t].add(4 * (4 * $quad + i)).cast::<f32>().read_unaligned();
                                sums[g][t] = _mm512_fmadd_ps(columns[i], _mm512_set1_ps(x), sums[g][t]);
                            }
                        }
                    }
                };
            }
            quad!(0);
            quad!(1);
            quad!(2);
            quad!(3);
            quad!(4);
            quad!(5);
            quad!(6);
            quad!(7);
        }
        for g in 0..G {
            for t in 0..T {
                _mm512_storeu_ps(out.add(t * job.stride + g * ROW_GROUP), sums[g][t]);
            }
        }
    }
}
