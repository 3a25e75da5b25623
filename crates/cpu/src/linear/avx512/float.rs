//! f32 activations: weights are opened to f32, exactly, and multiplied one column after the other. For more than
//! a few tokens a group is opened once into memory that stays in the cache.
#![allow(unsafe_code)]

use super::weights::{self, Packed};
use super::{few_sizes, with_few_sizes};
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
        unsafe {
            [
                _mm512_load_ps(first.cast()),
                _mm512_load_ps(first.add(ROW_GROUP * 4).cast()),
                _mm512_load_ps(first.add(ROW_GROUP * 8).cast()),
                _mm512_load_ps(first.add(ROW_GROUP * 12).cast()),
            ]
        }
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
        unsafe {
            [
                _mm512_cvtph_ps(_mm256_load_si256(first.cast())),
                _mm512_cvtph_ps(_mm256_load_si256(first.add(ROW_GROUP * 2).cast())),
                _mm512_cvtph_ps(_mm256_load_si256(first.add(ROW_GROUP * 4).cast())),
                _mm512_cvtph_ps(_mm256_load_si256(first.add(ROW_GROUP * 6).cast())),
            ]
        }
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
            let first_pair = _mm512_load_si512(first.cast());
            let second_pair = _mm512_load_si512(first.add(ROW_GROUP * 4).cast());
            let upper = _mm512_set1_epi32(0xffff_0000u32 as i32);
            [
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(first_pair)),
                _mm512_castsi512_ps(_mm512_and_si512(first_pair, upper)),
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(second_pair)),
                _mm512_castsi512_ps(_mm512_and_si512(second_pair, upper)),
            ]
        }
    }
}

/// A quantised type: w = d q + m with one rounding, where d q is exact; signed types have m = -128 d, which
/// makes the sum exact too.
#[derive(Clone, Copy)]
struct Opened<W>(W);

impl<W: Packed> Columns for Opened<W> {
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
            if !W::SIGNED {
                return (d, [m; 2]);
            }
            let offset = _mm512_set1_ps(-128.0);
            (d, [_mm512_mul_ps(d[0], offset), _mm512_mul_ps(d[1], offset)])
        }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize, (d, m): Self::Scales) -> [__m512; 4] {
        // SAFETY: passed on.
        unsafe {
            let numbers = self.0.quad::<QUAD>(block);
            let byte = _mm512_set1_epi32(0xff);
            let (d, m) = (d[QUAD / 4], m[QUAD / 4]);
            let columns = [
                _mm512_cvtepi32_ps(_mm512_and_si512(numbers, byte)),
                _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<8>(numbers), byte)),
                _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<16>(numbers), byte)),
                _mm512_cvtepi32_ps(_mm512_srli_epi32::<24>(numbers)),
            ];
            [
                _mm512_fmadd_ps(columns[0], d, m),
                _mm512_fmadd_ps(columns[1], d, m),
                _mm512_fmadd_ps(columns[2], d, m),
                _mm512_fmadd_ps(columns[3], d, m),
            ]
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
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

/// Most tokens for which groups are not opened first: several at once, since with few tokens a sum waits for the
/// one before it.
const FEW_TOKENS: usize = 3;
/// Groups computed together then.
const FEW: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn few_tokens<C: Columns>(job: &Job<'_>) {
    let (whole, n_tiles) = (Run::whole(&job.layout), job.tokens.len());
    let mut i = 0;
    while i < job.n_groups {
        let together = if job.n_groups - i >= FEW { FEW } else { 1 };
        let (group, out) = job.group(i);
        let mut ahead = Ahead::new(job, i, together, n_tiles);
        job.for_each_tile(
            Form::F32,
            |n| n.min(FEW_TOKENS),
            |panel, n, to| {
                let out = out.wrapping_add(to);
                // SAFETY: the job's promise; tiles and groups stay within it.
                unsafe {
                    match (together, n) {
                        (FEW, 1) => tile::<C, FEW, 1>(job, whole, group, panel, out, &mut ahead),
                        (FEW, 2) => tile::<C, FEW, 2>(job, whole, group, panel, out, &mut ahead),
                        (FEW, 3) => tile::<C, FEW, 3>(job, whole, group, panel, out, &mut ahead),
                        (_, 1) => tile::<C, 1, 1>(job, whole, group, panel, out, &mut ahead),
                        (_, 2) => tile::<C, 1, 2>(job, whole, group, panel, out, &mut ahead),
                        (_, 3) => tile::<C, 1, 3>(job, whole, group, panel, out, &mut ahead),
                        _ => unreachable!("a tile of {n} tokens"),
                    }
                }
            },
        );
        i += together;
    }
}

/// Writes a run of a group as one of F32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn open<C: Columns>(job: &Job<'_>, run: Run, group: *const u8, to: *mut u8, ahead: &mut Ahead<'_>) {
    // SAFETY: the job's promise; `to` has room for the run.
    unsafe {
        let columns = C::new(group, &job.layout);
        for i in 0..run.n_blocks {
            ahead.step();
            let block = run.start + i;
            let to = to.cast::<f32>().add(i * BLOCK * ROW_GROUP);
            macro_rules! quads {
                ($($quad:literal)*) => {
                    $(
                        let opened = columns.quad::<$quad>(block, columns.scales(block));
                        _mm512_store_ps(to.add(4 * $quad * ROW_GROUP), opened[0]);
                        _mm512_store_ps(to.add((4 * $quad + 1) * ROW_GROUP), opened[1]);
                        _mm512_store_ps(to.add((4 * $quad + 2) * ROW_GROUP), opened[2]);
                        _mm512_store_ps(to.add((4 * $quad + 3) * ROW_GROUP), opened[3]);
                    )*
                };
            }
            quads!(0 1 2 3 4 5 6 7);
        }
    }
}

/// A run of a group of F32, which starts at `group`, times all tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn many_tokens(job: &Job<'_>, run: Run, group: *const u8, out: *mut f32) {
    let mut ahead = Ahead::nothing();
    job.for_each_tile(Form::F32, few_sizes, |panel, n, to| {
        let (panel, out) = (run.panel(panel, Form::F32), out.wrapping_add(to));
        // SAFETY: the job's promise; tiles and groups stay within it.
        unsafe { with_few_sizes!(n, singles::<Singles>(job, run, group, panel, out, &mut ahead)) }
    });
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn singles<C: Columns, const T: usize>(
    job: &Job<'_>,
    run: Run,
    group: *const u8,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead<'_>,
) {
    // SAFETY: passed on.
    unsafe { tile::<C, 1, T>(job, run, group, panel, out, ahead) }
}

/// Blocks of a run: 16 KB of opened weights.
const RUN: usize = 8;

const TOKEN: usize = Form::F32.token_bytes();
const PANEL: usize = Form::F32.panel();

/// A run of G groups times T tokens. `group` (if it is one) and `panel` start with the run's first block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn tile<C: Columns, const G: usize, const T: usize>(
    job: &Job<'_>,
    run: Run,
    group: *const u8,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead<'_>,
) {
    // SAFETY: the job's promise holds for G groups, for T tokens from `panel` on and for T rows of `out`.
    unsafe {
        let groups: [C; G] = std::array::from_fn(|g| C::new(group.add(g * job.layout.n_bytes), &job.layout));
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
            // Written out by columns: the compiler unrolls one loop over the tokens, but not a nest of them.
            macro_rules! column {
                ($g:expr, $columns:expr, $at:expr, $i:literal) => {
                    for t in 0..T {
                        let x = tokens[t].add(4 * ($at + $i)).cast::<f32>().read_unaligned();
                        sums[$g][t] = _mm512_fmadd_ps($columns[$i], _mm512_set1_ps(x), sums[$g][t]);
                    }
                };
            }
            macro_rules! quad {
                ($quad:literal) => {
                    for g in 0..G {
                        let columns = groups[g].quad::<$quad>(block, groups[g].scales(block));
                        column!(g, columns, 4 * $quad, 0);
                        column!(g, columns, 4 * $quad, 1);
                        column!(g, columns, 4 * $quad, 2);
                        column!(g, columns, 4 * $quad, 3);
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
