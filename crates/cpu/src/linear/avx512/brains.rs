//! bf16 activations: dot products of pairs (`vdpbf16ps`: two multiply-adds, in f32).
//!
//! The numbers of quantised weights have at most 8 bits, which bf16 holds exactly: those of a block are multiplied first
//! and folded into f32 in the order of the blocks, as 8-bit activations are. BF16 weights are multiplied as they are.
#![allow(unsafe_code)]

use super::int8::few_halves;
use super::weights::{self, Packed};
use super::with_few_sizes;
use crate::linear::ROW_GROUP;
use crate::linear::activations::Form;
use crate::linear::kernels::{Ahead, Job, Kernel, Run};
use crate::linear::layout::{BLOCK, GroupLayout};
use crate::linear::memory::with_scratch;
use entropix_model::DType;
use std::arch::x86_64::*;

pub(super) fn select(dtype: DType) -> Kernel {
    match dtype {
        DType::BF16 => run::<Stored>,
        DType::Q4_0 => run_opened::<weights::Q4_0>,
        DType::Q4_1 => run_opened::<weights::Q4_1>,
        DType::Q5_0 => run_opened::<weights::Q5_0>,
        DType::Q5_1 => run_opened::<weights::Q5_1>,
        DType::Q8_0 => run_opened::<weights::Q8_0>,
        DType::Q4_K => run_opened::<weights::Q4_K>,
        DType::Q5_K => run_opened::<weights::Q5_K>,
        DType::Q6_K => run_opened::<weights::Q6_K>,
        DType::F32 | DType::F16 => panic!("{dtype} weights are more than bf16 holds"),
    }
}

/// Weights as pairs of columns, (16 rows, 2) bf16 a vector.
trait Pairs: Copy {
    /// Whether a block has scales; the next two say nothing without.
    const IS_SCALED: bool;
    /// Whether there are no minima.
    const SIGNED: bool;
    /// Whether the two halves of a block have scales of their own.
    const HALVES: bool;

    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self;

    /// The two pairs of quad `QUAD` of a block.
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> [__m512i; 2];

    /// As [`Weights::scales`]; zeros without.
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512);
}

/// BF16, which is packed in pairs.
#[derive(Clone, Copy)]
struct Stored(*const u8);

impl Pairs for Stored {
    const IS_SCALED: bool = false;
    const SIGNED: bool = true;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout) -> Self {
        Self(group)
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> [__m512i; 2] {
        let first = self.0.wrapping_add((block * BLOCK + QUAD * 4) * ROW_GROUP * 2);
        // SAFETY: the group holds these columns; inlined where the instructions are there.
        unsafe { [_mm512_load_si512(first.cast()), _mm512_load_si512(first.add(VECTOR).cast())] }
    }

    #[inline(always)]
    unsafe fn scales(self, _: usize) -> ([__m512; 2], __m512) {
        // SAFETY: inlined where the instructions are there.
        unsafe { ([_mm512_setzero_ps(); 2], _mm512_setzero_ps()) }
    }
}

/// The numbers of a quantised type, turned into bf16.
#[derive(Clone, Copy)]
struct Numbers<W>(W);

/// What a left-aligned number of some bits is in bf16, by its bits.
#[repr(align(64))]
struct Table([u16; 64]);

impl Table {
    const fn new(bits: u32, signed: bool) -> Self {
        let mut table = [0; 64];
        let mut i = 0;
        while bits < 8 && i < 1 << bits {
            let number = ((i as u32) << (8 - bits)) as i32 - if signed { 128 } else { 0 };
            // Eight bits at the most: the lower half of the float is zero.
            table[i] = ((number as f32).to_bits() >> 16) as u16;
            i += 1;
        }
        Self(table)
    }
}

impl<W: Packed> Numbers<W> {
    const TABLE: &'static Table = &Table::new(W::BITS, W::SIGNED);

    /// 32 bf16 from as many left-aligned numbers, one in the lower half of each 16 bits.
    #[inline(always)]
    unsafe fn brains(numbers: __m512i) -> __m512i {
        let table: *const u16 = Self::TABLE.0.as_ptr();
        // SAFETY: the table has two vectors; inlined where the instructions are there.
        unsafe {
            match W::BITS {
                4 => {
                    _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(numbers), _mm512_load_si512(table.cast()))
                }
                5 => {
                    _mm512_permutexvar_epi16(_mm512_srli_epi16::<3>(numbers), _mm512_load_si512(table.cast()))
                }
                6 => _mm512_permutex2var_epi16(
                    _mm512_load_si512(table.cast()),
                    _mm512_srli_epi16::<2>(numbers),
                    _mm512_load_si512(table.add(32).cast()),
                ),
                _ => {
                    let offset = _mm512_set1_epi32(if W::SIGNED { 128 } else { 0 });
                    let first = _mm512_and_si512(numbers, _mm512_set1_epi32(0xffff));
                    let second = _mm512_srli_epi32::<16>(numbers);
                    let first = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_sub_epi32(first, offset)));
                    let second = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_sub_epi32(second, offset)));
                    _mm512_or_si512(_mm512_srli_epi32::<16>(first), second)
                }
            }
        }
    }
}

impl<W: Packed> Pairs for Numbers<W> {
    const IS_SCALED: bool = true;
    const SIGNED: bool = W::SIGNED;
    const HALVES: bool = W::HALVES;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self {
        // SAFETY: passed on.
        Self(unsafe { W::new(group, layout) })
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> [__m512i; 2] {
        // SAFETY: passed on; inlined where the instructions are there.
        unsafe {
            let numbers = self.0.quad::<QUAD>(block);
            // Bytes 0 and 1 of each four, and bytes 2 and 3, with zeros between.
            let lower = _mm512_set4_epi32(
                0x800d_800cu32 as i32,
                0x8009_8008u32 as i32,
                0x8005_8004u32 as i32,
                0x8001_8000u32 as i32,
            );
            let upper = _mm512_set4_epi32(
                0x800f_800eu32 as i32,
                0x800b_800au32 as i32,
                0x8007_8006u32 as i32,
                0x8003_8002u32 as i32,
            );
            [
                Self::brains(_mm512_shuffle_epi8(numbers, lower)),
                Self::brains(_mm512_shuffle_epi8(numbers, upper)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: passed on.
        unsafe { self.0.scales(block) }
    }
}

/// A run of a group turned into bf16 once for many tiles, (n_blocks, vectors): 16 pairs, d of both halves, m.
#[derive(Clone, Copy)]
struct Opened<W>(*const u8, std::marker::PhantomData<W>);

impl<W: Packed> Opened<W> {
    /// Bytes of a block.
    const BLOCK: usize = 19 * VECTOR;

    /// # Safety
    /// `group` is one of this type; `to` has room for the run on a vector boundary.
    #[inline(always)]
    unsafe fn open(group: *const u8, layout: &GroupLayout, run: Run, to: *mut u8, ahead: &mut Ahead<'_>) {
        // SAFETY: promised above.
        unsafe {
            let numbers = Numbers::<W>::new(group, layout);
            for i in 0..run.n_blocks {
                ahead.step();
                let (block, to) = (run.start + i, to.add(i * Self::BLOCK));
                macro_rules! quads {
                    ($($quad:literal)*) => {
                        $(
                            let pairs = numbers.quad::<$quad>(block);
                            _mm512_store_si512(to.add(2 * $quad * VECTOR).cast(), pairs[0]);
                            _mm512_store_si512(to.add((2 * $quad + 1) * VECTOR).cast(), pairs[1]);
                        )*
                    };
                }
                quads!(0 1 2 3 4 5 6 7);
                let (d, m) = numbers.scales(block);
                _mm512_store_ps(to.add(16 * VECTOR).cast(), d[0]);
                _mm512_store_ps(to.add(17 * VECTOR).cast(), d[1]);
                _mm512_store_ps(to.add(18 * VECTOR).cast(), m);
            }
        }
    }
}

impl<W: Packed> Pairs for Opened<W> {
    const IS_SCALED: bool = true;
    const SIGNED: bool = W::SIGNED;
    const HALVES: bool = W::HALVES;

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout) -> Self {
        Self(group, std::marker::PhantomData)
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> [__m512i; 2] {
        // SAFETY: written by `open`.
        unsafe {
            let at = self.0.add(block * Self::BLOCK + 2 * QUAD * VECTOR);
            [_mm512_load_si512(at.cast()), _mm512_load_si512(at.add(VECTOR).cast())]
        }
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: written by `open`.
        unsafe {
            let at = self.0.add(block * Self::BLOCK + 16 * VECTOR);
            let d = [_mm512_load_ps(at.cast()), _mm512_load_ps(at.add(VECTOR).cast())];
            (d, _mm512_load_ps(at.add(2 * VECTOR).cast()))
        }
    }
}

/// Bytes of a vector.
const VECTOR: usize = 64;
/// Most tokens of a tile.
const TILE: usize = 8;
/// Blocks of a run: 15 KB of opened weights.
const RUN: usize = 12;

const TOKEN: usize = Form::Pairs.token_bytes();
const PANEL: usize = Form::Pairs.panel();

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn run_opened<W: Packed>(job: &Job<'_>) {
    if job.tokens.len() <= TILE {
        // SAFETY: the job's promise.
        return unsafe { run::<Numbers<W>>(job) };
    }
    with_scratch(RUN * Opened::<W>::BLOCK, |scratch| {
        for i in 0..job.n_groups {
            let (group, out) = job.group(i);
            let mut ahead = Ahead::new(job, i, 1, 1);
            for run in Run::each(&job.layout, RUN) {
                // SAFETY: the job's promise, and scratch memory of the size asked for.
                unsafe {
                    Opened::<W>::open(group, &job.layout, run, scratch, &mut ahead);
                    tiles::<Opened<W>>(job, run, scratch, out, &mut Ahead::nothing());
                }
            }
        }
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn run<P: Pairs>(job: &Job<'_>) {
    let whole = Run::whole(&job.layout);
    for i in 0..job.n_groups {
        let (group, out) = job.group(i);
        let mut ahead = Ahead::new(job, i, 1, job.tokens.len().div_ceil(TILE));
        // SAFETY: the job's promise.
        unsafe { tiles::<P>(job, whole, group, out, &mut ahead) };
    }
}

/// A run of a group, which starts at `group`, times all tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn tiles<P: Pairs>(job: &Job<'_>, run: Run, group: *const u8, out: *mut f32, ahead: &mut Ahead<'_>) {
    job.for_each_tile(Form::Pairs, few_halves, |panel, n, to| {
        let (panel, out) = (run.panel(panel, Form::Pairs), out.wrapping_add(to));
        // SAFETY: the job's promise; tiles and groups stay within it.
        unsafe { with_few_sizes!(n, tile::<P>(job, run, group, panel, out, ahead)) }
    });
}

/// The dot product of pairs, added to `sum`.
#[inline(always)]
unsafe fn dot(sum: __m512, pairs: __m512i, x: i32) -> __m512 {
    // SAFETY: both are vectors of 32 numbers of 16 bits; inlined where the instructions are there.
    unsafe {
        let pairs = std::mem::transmute::<__m512i, __m512bh>(pairs);
        let x = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x));
        _mm512_dpbf16_ps(sum, pairs, x)
    }
}

/// A run of a group times T tokens. `group` and `panel` start with the run's first block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn tile<P: Pairs, const T: usize>(
    job: &Job<'_>,
    run: Run,
    group: *const u8,
    panel: *const u8,
    out: *mut f32,
    ahead: &mut Ahead<'_>,
) {
    // SAFETY: the job's promise holds for the group, for T tokens from `panel` on and for T rows of `out`.
    unsafe {
        let weights = P::new(group, &job.layout);
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
            let mut dots = if P::IS_SCALED { [_mm512_setzero_ps(); T] } else { sums };
            macro_rules! quad {
                ($quad:literal) => {
                    let pairs = weights.quad::<$quad>(block);
                    for t in 0..T {
                        dots[t] =
                            dot(dots[t], pairs[0], tokens[t].add(8 * $quad).cast::<i32>().read_unaligned());
                    }
                    for t in 0..T {
                        dots[t] = dot(
                            dots[t],
                            pairs[1],
                            tokens[t].add(8 * $quad + 4).cast::<i32>().read_unaligned(),
                        );
                    }
                };
            }
            if !P::SIGNED {
                for t in 0..T {
                    let sum = _mm512_set1_ps(tokens[t].add(2 * BLOCK).cast::<f32>().read_unaligned());
                    sums[t] = _mm512_fmadd_ps(m, sum, sums[t]);
                }
            }
            quad!(0);
            quad!(1);
            quad!(2);
            quad!(3);
            if P::HALVES {
                for t in 0..T {
                    sums[t] = _mm512_fmadd_ps(dots[t], d[0], sums[t]);
                    dots[t] = _mm512_setzero_ps();
                }
            }
            quad!(4);
            quad!(5);
            quad!(6);
            quad!(7);
            for t in 0..T {
                sums[t] = if P::IS_SCALED { _mm512_fmadd_ps(dots[t], d[1], sums[t]) } else { dots[t] };
            }
        }
        for t in 0..T {
            _mm512_storeu_ps(out.add(t * job.stride), sums[t]);
        }
    }
}
