//! How each stored type is opened into registers, half a group at a time. The methods are inlined into kernels
//! that have the instructions.
#![allow(unsafe_code)]

use super::LANES;
use crate::linear::ROW_GROUP;
use crate::linear::layout::{GroupLayout, MIN_BYTES, PLAIN_BYTES, SUPER_HALVES_BYTES, SUPER_MIN_BYTES};
use std::arch::x86_64::*;

/// Eight rows of a group of a quantised type.
pub(super) trait Weights: Copy {
    /// Whether numbers have an offset and no minima.
    const SIGNED: bool;
    /// Whether the two halves of a block have scales of their own.
    const HALVES: bool;
    /// Bits of a number.
    const BITS: u32;

    /// # Safety
    /// `group` holds a group of this type and layout; the processor has AVX2, FMA, F16C.
    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self;

    /// Quad `QUAD` of block `block`: (8 rows, 4 columns) numbers, right-aligned in their bytes; those of 8 bits
    /// plus 128.
    ///
    /// # Safety
    /// `block` is one of the layout's.
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m256i;

    /// The scales of a block: d of each half of the block (equal without HALVES), and m (zero where SIGNED).
    ///
    /// # Safety
    /// `block` is one of the layout's.
    unsafe fn scales(self, block: usize) -> ([__m256; 2], __m256);
}

/// The planes of numbers.
pub(super) trait Quants: Copy {
    const BITS: u32;

    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self;
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m256i;
}

/// The plane of scales.
pub(super) trait Scales: Copy {
    const SIGNED: bool;
    const HALVES: bool;

    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self;
    unsafe fn scales(self, block: usize) -> ([__m256; 2], __m256);
}

/// Numbers and scales.
#[derive(Clone, Copy)]
pub(super) struct Planes<Q, S>(Q, S);

impl<Q: Quants, S: Scales> Weights for Planes<Q, S> {
    const SIGNED: bool = S::SIGNED;
    const HALVES: bool = S::HALVES;
    const BITS: u32 = Q::BITS;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self {
        // SAFETY: passed on.
        unsafe { Self(Q::new(group, layout, half), S::new(group, layout, half)) }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m256i {
        // SAFETY: passed on.
        unsafe { self.0.quad::<QUAD>(block) }
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m256; 2], __m256) {
        // SAFETY: passed on.
        unsafe { self.1.scales(block) }
    }
}

pub(super) type Q4_0 = Planes<Nibbles, Plain>;
pub(super) type Q4_1 = Planes<Nibbles, Min>;
pub(super) type Q5_0 = Planes<FiveBits, Plain>;
pub(super) type Q5_1 = Planes<FiveBits, Min>;
pub(super) type Q8_0 = Planes<Bytes, Plain>;
#[allow(non_camel_case_types)]
pub(super) type Q4_K = Planes<Nibbles, SuperMin>;
#[allow(non_camel_case_types)]
pub(super) type Q5_K = Planes<FiveBits, SuperMin>;
#[allow(non_camel_case_types)]
pub(super) type Q6_K = Planes<SixBits, SuperHalves>;

#[derive(Clone, Copy)]
pub(super) struct Nibbles(*const u8);

impl Quants for Nibbles {
    const BITS: u32 = 4;

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout, half: usize) -> Self {
        Self(group.wrapping_add(half * 4 * LANES))
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m256i {
        // SAFETY: the plane has 4 x 64 bytes a block; inlined where the instructions are there.
        unsafe {
            let both = _mm256_load_si256(self.0.add(block * 256 + QUAD % 4 * 64).cast());
            let moved = if QUAD < 4 { both } else { _mm256_srli_epi16::<4>(both) };
            _mm256_and_si256(moved, _mm256_set1_epi8(15))
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct FiveBits {
    upper: Nibbles,
    low_bits: *const u8,
}

impl Quants for FiveBits {
    const BITS: u32 = 5;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self {
        // SAFETY: passed on.
        let upper = unsafe { Nibbles::new(group, layout, half) };
        Self { upper, low_bits: group.wrapping_add(layout.low_bits + half * 4 * LANES) }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m256i {
        // SAFETY: the plane of low bits has 64 bytes a block; inlined where the instructions are there.
        unsafe {
            let low = _mm256_load_si256(self.low_bits.add(block * 64).cast());
            let low = _mm256_and_si256(shift_right::<QUAD, 1>(low), _mm256_set1_epi8(1));
            _mm256_or_si256(_mm256_slli_epi16::<1>(self.upper.quad::<QUAD>(block)), low)
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct SixBits {
    upper: Nibbles,
    low_bits: *const u8,
}

impl Quants for SixBits {
    const BITS: u32 = 6;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self {
        // SAFETY: passed on.
        let upper = unsafe { Nibbles::new(group, layout, half) };
        Self { upper, low_bits: group.wrapping_add(layout.low_bits + half * 4 * LANES) }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m256i {
        // SAFETY: the plane of low bits has 2 x 64 bytes a block; inlined where the instructions are there.
        unsafe {
            let low = _mm256_load_si256(self.low_bits.add(block * 128 + QUAD / 4 * 64).cast());
            let low = match QUAD % 4 {
                0 => low,
                1 => shift_right::<2, 1>(low),
                2 => shift_right::<4, 1>(low),
                _ => shift_right::<6, 1>(low),
            };
            let low = _mm256_and_si256(low, _mm256_set1_epi8(3));
            _mm256_or_si256(_mm256_slli_epi16::<2>(self.upper.quad::<QUAD>(block)), low)
        }
    }
}

/// Bits of a 16-bit lane moved right by N; what comes from the byte above is masked by the caller.
#[inline(always)]
unsafe fn shift_right<const N: usize, const STEP: usize>(x: __m256i) -> __m256i {
    // SAFETY: inlined where the instructions are there.
    unsafe {
        match N * STEP {
            0 => x,
            1 => _mm256_srli_epi16::<1>(x),
            2 => _mm256_srli_epi16::<2>(x),
            3 => _mm256_srli_epi16::<3>(x),
            4 => _mm256_srli_epi16::<4>(x),
            5 => _mm256_srli_epi16::<5>(x),
            6 => _mm256_srli_epi16::<6>(x),
            _ => _mm256_srli_epi16::<7>(x),
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Bytes(*const u8);

impl Quants for Bytes {
    const BITS: u32 = 8;

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout, half: usize) -> Self {
        Self(group.wrapping_add(half * 4 * LANES))
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m256i {
        // SAFETY: the plane has 8 x 64 bytes a block; inlined where the instructions are there.
        unsafe { _mm256_load_si256(self.0.add(block * 512 + QUAD * 64).cast()) }
    }
}

/// Eight f16 at `at`.
#[inline(always)]
unsafe fn halves(at: *const u8) -> __m256 {
    // SAFETY: the plane of scales holds them; inlined where the instructions are there.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

/// Eight u8 at `at`.
#[inline(always)]
unsafe fn unsigned(at: *const u8) -> __m256 {
    // SAFETY: the plane of scales holds them; inlined where the instructions are there.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast()))) }
}

/// Eight i8 at `at`.
#[inline(always)]
unsafe fn signed(at: *const u8) -> __m256 {
    // SAFETY: the plane of scales holds them; inlined where the instructions are there.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))) }
}

#[derive(Clone, Copy)]
pub(super) struct Plain(*const u8);

impl Scales for Plain {
    const SIGNED: bool = true;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self {
        Self(group.wrapping_add(layout.scales + half * 2 * LANES))
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m256; 2], __m256) {
        // SAFETY: the plane has this block.
        unsafe { ([halves(self.0.add(block * PLAIN_BYTES)); 2], _mm256_setzero_ps()) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Min(*const u8);

impl Scales for Min {
    const SIGNED: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self {
        Self(group.wrapping_add(layout.scales + half * 2 * LANES))
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m256; 2], __m256) {
        // SAFETY: the plane has this block.
        unsafe {
            let at = self.0.add(block * MIN_BYTES);
            ([halves(at); 2], halves(at.add(PLAIN_BYTES)))
        }
    }
}

/// A super-block's f16 are two bytes a row and its small numbers one, so the plane and the half are kept apart.
#[derive(Clone, Copy)]
pub(super) struct SuperMin {
    plane: *const u8,
    row: usize,
}

impl Scales for SuperMin {
    const SIGNED: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self {
        Self { plane: group.wrapping_add(layout.scales), row: half * LANES }
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m256; 2], __m256) {
        // SAFETY: the plane has this super-block. The products are exact: 11 bits times 6.
        unsafe {
            let first = self.plane.add(block / 8 * SUPER_MIN_BYTES);
            let large = first.add(2 * self.row);
            let small = first.add(MIN_BYTES + block % 8 * 2 * ROW_GROUP + self.row);
            let d = _mm256_mul_ps(halves(large), unsigned(small));
            let min = _mm256_mul_ps(halves(large.add(PLAIN_BYTES)), unsigned(small.add(ROW_GROUP)));
            ([d; 2], _mm256_xor_ps(min, _mm256_set1_ps(-0.0)))
        }
    }
}

/// As [`SuperMin`].
#[derive(Clone, Copy)]
pub(super) struct SuperHalves {
    plane: *const u8,
    row: usize,
}

impl Scales for SuperHalves {
    const SIGNED: bool = true;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout, half: usize) -> Self {
        Self { plane: group.wrapping_add(layout.scales), row: half * LANES }
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m256; 2], __m256) {
        // SAFETY: the plane has this super-block. The products are exact: 11 bits times 8.
        unsafe {
            let first = self.plane.add(block / 8 * SUPER_HALVES_BYTES);
            let small = first.add(PLAIN_BYTES + block % 8 * 2 * ROW_GROUP + self.row);
            let d = halves(first.add(2 * self.row));
            let low = _mm256_mul_ps(d, signed(small));
            let high = _mm256_mul_ps(d, signed(small.add(ROW_GROUP)));
            ([low, high], _mm256_setzero_ps())
        }
    }
}
