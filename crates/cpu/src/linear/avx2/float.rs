//! f32 activations: weights are opened to f32, exactly, and multiplied one column after the other.

use super::weights::{self, Weights};
use super::{LANES, TILE, with_tokens};
use crate::linear::ROW_GROUP;
use crate::linear::activations::{Form, PANEL};
use crate::linear::kernels::{Job, Kernel};
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

/// Eight rows of weights that open to the four columns of a quad, (4, 8 rows).
trait Columns: Copy {
    /// What is the same for all quads of a block.
    type Scales: Copy;

    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self;
    unsafe fn scales(self, block: usize) -> Self::Scales;
    unsafe fn quad<const QUAD: usize>(self, block: usize, scales: Self::Scales) -> [__m256; 4];
}

#[derive(Clone, Copy)]
struct Singles(*const u8);

impl Columns for Singles {
    type Scales = ();

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout, half: usize) -> Self {
        Self(group.wrapping_add(half * LANES * 4))
    }

    #[inline(always)]
    unsafe fn scales(self, _: usize) {}

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize, (): ()) -> [__m256; 4] {
        let first = self.0.wrapping_add((block * BLOCK + QUAD * 4) * ROW_GROUP * 4);
        // SAFETY: the group holds these columns; inlined where the instructions are there.
        std::array::from_fn(|i| unsafe { _mm256_load_ps(first.add(i * ROW_GROUP * 4).cast()) })
    }
}

#[derive(Clone, Copy)]
struct Halves(*const u8);

impl Columns for Halves {
    type Scales = ();

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout, half: usize) -> Self {
        Self(group.wrapping_add(half * LANES * 2))
    }

    #[inline(always)]
    unsafe fn scales(self, _: usize) {}

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize, (): ()) -> [__m256; 4] {
        let first = self.0.wrapping_add((block * BLOCK + QUAD * 4) * ROW_GROUP * 2);
        // SAFETY: the group holds these columns; inlined where the instructions are there.
        std::array::from_fn(|i| unsafe {
            _mm256_cvtph_ps(_mm_load_si128(first.add(i * ROW_GROUP * 2).cast()))
        })
    }
}

#[derive(Clone, Copy)]
struct Brains(*const u8);

impl Columns for Brains {
    type Scales = ();

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout, half: usize) -> Self {
        Self(group.wrapping_add(half * LANES * 4))
    }

    #[inline(always)]
    unsafe fn scales(self, _: usize) {}

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize, (): ()) -> [__m256; 4] {
        let first = self.0.wrapping_add((block * BLOCK + QUAD * 4) * ROW_GROUP * 2);
        // SAFETY: the group holds these columns; inlined where the instructions are there.
        unsafe {
            let pairs = [0, 1].map(|i| _mm256_load_si256(first.add(i * ROW_GROUP * 4).cast()));
            let upper = _mm256_set1_epi32(0xffff_0000u32 as i32);
            std::array::from_fn(|i| {
                let place = PAIR_ORDER[i];
                let pair = pairs[place / 2];
                _mm256_castsi256_ps(match place % 2 {
                    0 => _mm256_slli_epi32::<16>(pair),
                    _ => _mm256_and_si256(pair, upper),
                })
            })
        }
    }
}

/// A quantised type: w = d q + m with one rounding, where d q is exact; signed types have m = -d offset, which
/// makes the sum exact too.
#[derive(Clone, Copy)]
struct Opened<W>(W);

impl<W: Weights> Columns for Opened<W> {
    type Scales = ([__m256; 2], [__m256; 2]);

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self {
        // SAFETY: passed on.
        Self(unsafe { W::new(group, layout, half) })
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> Self::Scales {
        // SAFETY: passed on.
        unsafe {
            let (d, m) = self.0.scales(block);
            let offset = |d| _mm256_mul_ps(d, _mm256_set1_ps(-((1 << (W::BITS - 1)) as f32)));
            (d, if W::SIGNED { [offset(d[0]), offset(d[1])] } else { [m; 2] })
        }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize, (d, m): Self::Scales) -> [__m256; 4] {
        // SAFETY: passed on.
        unsafe {
            let numbers = self.0.quad::<QUAD>(block);
            let byte = _mm256_set1_epi32(0xff);
            let columns = [
                _mm256_and_si256(numbers, byte),
                _mm256_and_si256(_mm256_srli_epi32::<8>(numbers), byte),
                _mm256_and_si256(_mm256_srli_epi32::<16>(numbers), byte),
                _mm256_srli_epi32::<24>(numbers),
            ];
            columns.map(|q| _mm256_fmadd_ps(_mm256_cvtepi32_ps(q), d[QUAD / 4], m[QUAD / 4]))
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<C: Columns>(job: &Job) {
    for i in 0..job.n_groups {
        let (group, out) = job.group(i);
        job.for_each_tile(
            Form::F32,
            |n| n.min(TILE),
            |panel, n, to| {
                let out = out.wrapping_add(to);
                // SAFETY: the job's promise; tiles and groups stay within it.
                unsafe { with_tokens!(n, tile::<C>(job, group, panel, out)) }
            },
        );
    }
}

const TOKEN: usize = Form::F32.token_bytes();

/// One group times T tokens; both halves at once, since a sum waits for the one before it.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<C: Columns, const T: usize>(job: &Job, group: *const u8, panel: *const u8, out: *mut f32) {
    // SAFETY: the job's promise holds for the group, for T <= PANEL tokens from `panel` on and for T rows of
    // `out`.
    unsafe {
        let halves: [C; 2] = std::array::from_fn(|half| C::new(group, &job.layout, half));
        let mut sums = [[_mm256_setzero_ps(); T]; 2];
        for block in 0..job.layout.n_blocks {
            let first = panel.add(block * PANEL * TOKEN);
            let tokens: [*const u8; T] = std::array::from_fn(|t| first.add(t * TOKEN));
            let scales = halves.map(|half| half.scales(block));
            macro_rules! quad {
                ($quad:literal) => {
                    for half in 0..2 {
                        let columns = halves[half].quad::<$quad>(block, scales[half]);
                        for i in 0..4 {
                            for t in 0..T {
                                let x = tokens[t].add(4 * (4 * $quad + i)).cast::<f32>().read_unaligned();
                                sums[half][t] = _mm256_fmadd_ps(columns[i], _mm256_set1_ps(x), sums[half][t]);
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
        for half in 0..2 {
            for t in 0..T {
                _mm256_storeu_ps(out.add(t * job.stride + half * LANES), sums[half][t]);
            }
        }
    }
}
