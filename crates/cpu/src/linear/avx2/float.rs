//! f32 activations: weights are opened to f32, exactly, and multiplied one column after the other. For more than
//! a few tokens a group is opened once into memory that stays in the cache.
#![allow(unsafe_code)]

use super::weights::{self, Weights};
use super::{LANES, TILE, with_tokens};
use crate::linear::ROW_GROUP;
use crate::linear::activations::Form;
use crate::linear::kernels::{Ahead, Job, Kernel, Run};
use crate::linear::layout::{BLOCK, GroupLayout};
use crate::linear::memory::with_scratch;
use entropix_model::DType;
use std::arch::x86_64::*;

pub(super) fn select(dtype: DType) -> Kernel {
    match dtype {
        DType::F32 => run_singles,
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
        unsafe {
            [
                _mm256_load_ps(first.cast()),
                _mm256_load_ps(first.add(ROW_GROUP * 4).cast()),
                _mm256_load_ps(first.add(ROW_GROUP * 8).cast()),
                _mm256_load_ps(first.add(ROW_GROUP * 12).cast()),
            ]
        }
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
        unsafe {
            [
                _mm256_cvtph_ps(_mm_load_si128(first.cast())),
                _mm256_cvtph_ps(_mm_load_si128(first.add(ROW_GROUP * 2).cast())),
                _mm256_cvtph_ps(_mm_load_si128(first.add(ROW_GROUP * 4).cast())),
                _mm256_cvtph_ps(_mm_load_si128(first.add(ROW_GROUP * 6).cast())),
            ]
        }
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
            let first_pair = _mm256_load_si256(first.cast());
            let second_pair = _mm256_load_si256(first.add(ROW_GROUP * 4).cast());
            let upper = _mm256_set1_epi32(0xffff_0000u32 as i32);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(first_pair)),
                _mm256_castsi256_ps(_mm256_and_si256(first_pair, upper)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(second_pair)),
                _mm256_castsi256_ps(_mm256_and_si256(second_pair, upper)),
            ]
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
            if !W::SIGNED {
                return (d, [m; 2]);
            }
            let offset = _mm256_set1_ps(-((1 << (W::BITS - 1)) as f32));
            (d, [_mm256_mul_ps(d[0], offset), _mm256_mul_ps(d[1], offset)])
        }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize, (d, m): Self::Scales) -> [__m256; 4] {
        // SAFETY: passed on.
        unsafe {
            let numbers = self.0.quad::<QUAD>(block);
            let byte = _mm256_set1_epi32(0xff);
            let (d, m) = (d[QUAD / 4], m[QUAD / 4]);
            let columns = [
                _mm256_cvtepi32_ps(_mm256_and_si256(numbers, byte)),
                _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32::<8>(numbers), byte)),
                _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32::<16>(numbers), byte)),
                _mm256_cvtepi32_ps(_mm256_srli_epi32::<24>(numbers)),
            ];
            [
                _mm256_fmadd_ps(columns[0], d, m),
                _mm256_fmadd_ps(columns[1], d, m),
                _mm256_fmadd_ps(columns[2], d, m),
                _mm256_fmadd_ps(columns[3], d, m),
            ]
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run<C: Columns>(job: &Job<'_>) {
    if job.tokens.len() <= FEW_TOKENS {
        // SAFETY: the job's promise.
        return unsafe { few_tokens::<C>(job) };
    }
    with_scratch(RUN * BLOCK * ROW_GROUP * size_of::<f32>(), |scratch| {
        for i in 0..job.n_groups {
            let (group, out) = job.group(i);
            let mut ahead = Ahead::new(job, i, 1, 1);
            for run in Run::each(&job.layout, RUN) {
                // SAFETY: the job's promise, and scratch memory of the size asked for.
                unsafe {
                    open::<C>(job, run, group, scratch, &mut ahead);
                    many_tokens(job, run, scratch, out);
                }
            }
        }
    });
}

/// F32 weights need no opening.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run_singles(job: &Job<'_>) {
    if job.tokens.len() <= FEW_TOKENS {
        // SAFETY: the job's promise.
        return unsafe { few_tokens::<Singles>(job) };
    }
    for i in 0..job.n_groups {
        let (group, out) = job.group(i);
        for run in Run::each(&job.layout, RUN) {
            let group = group.wrapping_add(run.start * BLOCK * ROW_GROUP * size_of::<f32>());
            // SAFETY: the job's promise.
            unsafe { many_tokens(job, run, group, out) };
        }
    }
}

/// Most tokens for which a group is not opened first.
const FEW_TOKENS: usize = 2;

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn few_tokens<C: Columns>(job: &Job<'_>) {
    let whole = Run::whole(&job.layout);
    for i in 0..job.n_groups {
        let (group, out) = job.group(i);
        let mut ahead = Ahead::new(job, i, 1, job.tokens.len());
        job.for_each_tile(
            Form::F32,
            |n| n.min(FEW_TOKENS),
            |panel, n, to| {
                let out = out.wrapping_add(to);
                // SAFETY: the job's promise; tiles and groups stay within it.
                unsafe {
                    match n {
                        1 => tile::<C, 1>(job, whole, group, panel, out, &mut ahead),
                        2 => tile::<C, 2>(job, whole, group, panel, out, &mut ahead),
                        _ => unreachable!("a tile of {n} tokens"),
                    }
                }
            },
        );
    }
}

/// Writes a run of a group as one of F32.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn open<C: Columns>(job: &Job<'_>, run: Run, group: *const u8, to: *mut u8, ahead: &mut Ahead<'_>) {
    // SAFETY: the job's promise; `to` has room for the run.
    unsafe {
        for i in 0..run.n_blocks {
            ahead.step();
            let block = run.start + i;
            for half in 0..2 {
                let columns = C::new(group, &job.layout, half);
                let to = to.cast::<f32>().add(i * BLOCK * ROW_GROUP + half * LANES);
                macro_rules! quads {
                    ($($quad:literal)*) => {
                        $(
                            let opened = columns.quad::<$quad>(block, columns.scales(block));
                            _mm256_store_ps(to.add(4 * $quad * ROW_GROUP), opened[0]);
                            _mm256_store_ps(to.add((4 * $quad + 1) * ROW_GROUP), opened[1]);
                            _mm256_store_ps(to.add((4 * $quad + 2) * ROW_GROUP), opened[2]);
                            _mm256_store_ps(to.add((4 * $quad + 3) * ROW_GROUP), opened[3]);
                        )*
                    };
                }
                quads!(0 1 2 3 4 5 6 7);
            }
        }
    }
}

/// A run of a group of F32, which starts at `group`, times all tokens.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn many_tokens(job: &Job<'_>, run: Run, group: *const u8, out: *mut f32) {
    let mut ahead = Ahead::nothing();
    job.for_each_tile(
        Form::F32,
        |n| n.min(TILE),
        |panel, n, to| {
            let (panel, out) = (run.panel(panel, Form::F32), out.wrapping_add(to));
            // SAFETY: the job's promise; tiles and groups stay within it.
            unsafe { with_tokens!(n, tile::<Singles>(job, run, group, panel, out, &mut ahead)) }
        },
    );
}

/// Blocks of a run: 16 KB of opened weights.
const RUN: usize = 8;

const TOKEN: usize = Form::F32.token_bytes();
const PANEL: usize = Form::F32.panel();

/// A run of a group times T tokens, `group` and `panel` starting with its first block; both halves at once, since a sum waits for the one before it.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<C: Columns, const T: usize>(
    job: &Job<'_>,
    run: Run,
    group: *const u8,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead<'_>,
) {
    // SAFETY: the job's promise holds for the group, for T <= PANEL tokens from `panel` on and for T rows of
    // `out`.
    unsafe {
        let halves: [C; 2] = std::array::from_fn(|half| C::new(group, &job.layout, half));
        let mut sums = [[_mm256_setzero_ps(); T]; 2];
        if run.start > 0 {
            for half in 0..2 {
                for t in 0..T {
                    sums[half][t] = _mm256_loadu_ps(out.add(t * job.stride + half * LANES));
                }
            }
        }
        for block in 0..run.n_blocks {
            ahead.step();
            let first = panel.add(block * PANEL * TOKEN);
            let tokens: [*const u8; T] = std::array::from_fn(|t| first.add(t * TOKEN));
            // Written out by columns: the compiler unrolls one loop over the tokens, but not a nest of them.
            macro_rules! column {
                ($half:expr, $columns:expr, $at:expr, $i:literal) => {
                    for t in 0..T {
                        let x = tokens[t].add(4 * ($at + $i)).cast::<f32>().read_unaligned();
                        sums[$half][t] = _mm256_fmadd_ps($columns[$i], _mm256_set1_ps(x), sums[$half][t]);
                    }
                };
            }
            macro_rules! quad {
                ($quad:literal) => {
                    for half in 0..2 {
                        let columns = halves[half].quad::<$quad>(block, halves[half].scales(block));
                        column!(half, columns, 4 * $quad, 0);
                        column!(half, columns, 4 * $quad, 1);
                        column!(half, columns, 4 * $quad, 2);
                        column!(half, columns, 4 * $quad, 3);
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
