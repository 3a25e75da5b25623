//! How each stored type is opened into registers. The methods are inlined into kernels that have the
//! instructions.
#![allow(unsafe_code)]

use crate::linear::ROW_GROUP;
use crate::linear::layout::{
    BLOCK, GroupLayout, MIN_BYTES, PLAIN_BYTES, SUPER_HALVES_BYTES, SUPER_MIN_BYTES,
};
use std::arch::x86_64::*;

/// Some blocks of one group of a quantised type.
pub(super) trait Weights: Copy {
    /// Whether numbers have an offset of 128 and no minima.
    const SIGNED: bool;
    /// Whether the two halves of a block have scales of their own.
    const HALVES: bool;

    /// Quad `QUAD` of block `block`: (16 rows, 4 columns) numbers, left-aligned in their bytes.
    ///
    /// # Safety
    /// `block` is one of the layout's.
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m512i;

    /// The scales of a block: d of each half (equal without HALVES), and m (zero where SIGNED), (16 rows).
    ///
    /// # Safety
    /// `block` is one of the layout's.
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512);

    /// d times dx of a token, whose block is at `token`; d is of the same block.
    ///
    /// # Safety
    /// `block` is one of the layout's, and `token` a block of 8-bit activations.
    #[inline(always)]
    unsafe fn scale(self, _block: usize, d: __m512, token: *const u8) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { product(d, token) }
    }
}

/// d times dx of a token.
#[inline(always)]
pub(super) unsafe fn product(d: __m512, token: *const u8) -> __m512 {
    // SAFETY: a token has dx; inlined where the instructions are there.
    unsafe { _mm512_mul_ps(d, _mm512_set1_ps(token.add(BLOCK).cast::<f32>().read_unaligned())) }
}

/// One group as it is packed.
pub(super) trait Packed: Weights {
    /// Bits of a number.
    const BITS: u32;

    /// # Safety
    /// `group` holds a group of this type and layout; the processor has AVX-512 F, BW, VL, DQ.
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self;
}

/// The planes of numbers.
pub(super) trait Quants: Copy {
    /// Bits of a number.
    const BITS: u32;

    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self;
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m512i;
}

/// The plane of scales.
pub(super) trait Scales: Copy {
    const SIGNED: bool;
    const HALVES: bool;

    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self;
    /// `align` is 2^-(8 - bits), by which left-aligned numbers are too large.
    unsafe fn scales(self, block: usize, align: f32) -> ([__m512; 2], __m512);
}

/// Numbers and scales.
#[derive(Clone, Copy)]
pub(super) struct Planes<Q, S>(Q, S);

impl<Q: Quants, S: Scales> Weights for Planes<Q, S> {
    const SIGNED: bool = S::SIGNED;
    const HALVES: bool = S::HALVES;

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m512i {
        // SAFETY: passed on.
        unsafe { self.0.quad::<QUAD>(block) }
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: passed on.
        unsafe { self.1.scales(block, 1.0 / (1 << (8 - Q::BITS)) as f32) }
    }
}

impl<Q: Quants, S: Scales> Packed for Planes<Q, S> {
    const BITS: u32 = Q::BITS;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self {
        // SAFETY: passed on.
        unsafe { Self(Q::new(group, layout), S::new(group, layout)) }
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

/// The nibble of quad `QUAD` in the upper half of each byte; the lower half is garbage for QUAD < 4 (what
/// stood below) and for the others (the other nibble): the caller masks.
#[inline(always)]
unsafe fn upper<const QUAD: usize>(quants: *const u8, block: usize) -> __m512i {
    // SAFETY: the plane has 4 vectors a block, all on vector boundaries.
    unsafe {
        let both = _mm512_load_si512(quants.add(block * 256 + QUAD % 4 * 64).cast());
        if QUAD < 4 { _mm512_slli_epi16::<4>(both) } else { both }
    }
}

/// Bits of a 16-bit lane moved left by `BY`, right if negative.
#[inline(always)]
unsafe fn shift_left<const QUAD: usize, const STEP: i32, const AT: i32>(x: __m512i) -> __m512i {
    // The bits of quad j are at STEP j and are wanted at AT.
    let by = AT - STEP * (QUAD as i32);
    // SAFETY: inlined where the instructions are there.
    unsafe {
        match by {
            -4 => _mm512_srli_epi16::<4>(x),
            -3 => _mm512_srli_epi16::<3>(x),
            -2 => _mm512_srli_epi16::<2>(x),
            -1 => _mm512_srli_epi16::<1>(x),
            0 => x,
            1 => _mm512_slli_epi16::<1>(x),
            2 => _mm512_slli_epi16::<2>(x),
            3 => _mm512_slli_epi16::<3>(x),
            _ => unreachable!(),
        }
    }
}

/// a where `mask` has ones, b elsewhere.
#[inline(always)]
unsafe fn select(mask: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: inlined where the instructions are there.
    unsafe { _mm512_ternarylogic_epi32::<0xca>(mask, a, b) }
}

#[derive(Clone, Copy)]
pub(super) struct Nibbles(*const u8);

impl Quants for Nibbles {
    const BITS: u32 = 4;

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout) -> Self {
        Self(group)
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m512i {
        // SAFETY: passed on.
        unsafe { _mm512_and_si512(upper::<QUAD>(self.0, block), _mm512_set1_epi8(0xf0u8 as i8)) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct FiveBits {
    quants: *const u8,
    low_bits: *const u8,
}

impl Quants for FiveBits {
    const BITS: u32 = 5;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self {
        Self { quants: group, low_bits: group.wrapping_add(layout.low_bits) }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m512i {
        // SAFETY: the plane of low bits has one vector a block.
        unsafe {
            let low = _mm512_load_si512(self.low_bits.add(block * 64).cast());
            let low = shift_left::<QUAD, 1, 3>(low);
            let joined = select(_mm512_set1_epi8(0xf0u8 as i8), upper::<QUAD>(self.quants, block), low);
            _mm512_and_si512(joined, _mm512_set1_epi8(0xf8u8 as i8))
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct SixBits {
    quants: *const u8,
    low_bits: *const u8,
}

impl Quants for SixBits {
    const BITS: u32 = 6;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self {
        Self { quants: group, low_bits: group.wrapping_add(layout.low_bits) }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m512i {
        // SAFETY: the plane of low bits has two vectors a block.
        unsafe {
            let low = _mm512_load_si512(self.low_bits.add(block * 128 + QUAD / 4 * 64).cast());
            let low = match QUAD % 4 {
                0 => _mm512_slli_epi16::<2>(low),
                1 => low,
                2 => _mm512_srli_epi16::<2>(low),
                _ => _mm512_srli_epi16::<4>(low),
            };
            let joined = select(_mm512_set1_epi8(0xf0u8 as i8), upper::<QUAD>(self.quants, block), low);
            _mm512_and_si512(joined, _mm512_set1_epi8(0xfcu8 as i8))
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Bytes(*const u8);

impl Quants for Bytes {
    const BITS: u32 = 8;

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout) -> Self {
        Self(group)
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m512i {
        // SAFETY: the plane has 8 vectors a block.
        unsafe { _mm512_load_si512(self.0.add(block * 512 + QUAD * 64).cast()) }
    }
}

/// Sixteen f16 at `at`.
#[inline(always)]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: the plane of scales holds them; inlined where the instructions are there.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

/// d times a power of two, which is exact; nothing for 1.
#[inline(always)]
unsafe fn aligned(d: __m512, align: f32) -> __m512 {
    // SAFETY: inlined where the instructions are there.
    unsafe { if align == 1.0 { d } else { _mm512_mul_ps(d, _mm512_set1_ps(align)) } }
}

#[derive(Clone, Copy)]
pub(super) struct Plain(*const u8);

impl Scales for Plain {
    const SIGNED: bool = true;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self {
        Self(group.wrapping_add(layout.scales))
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize, align: f32) -> ([__m512; 2], __m512) {
        // SAFETY: the plane has this block.
        unsafe {
            let d = aligned(halves(self.0.add(block * PLAIN_BYTES)), align);
            ([d; 2], _mm512_setzero_ps())
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Min(*const u8);

impl Scales for Min {
    const SIGNED: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self {
        Self(group.wrapping_add(layout.scales))
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize, align: f32) -> ([__m512; 2], __m512) {
        // SAFETY: the plane has this block.
        unsafe {
            let at = self.0.add(block * MIN_BYTES);
            ([aligned(halves(at), align); 2], halves(at.add(PLAIN_BYTES)))
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct SuperMin(*const u8);

impl Scales for SuperMin {
    const SIGNED: bool = false;
    const HALVES: bool = false;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self {
        Self(group.wrapping_add(layout.scales))
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize, align: f32) -> ([__m512; 2], __m512) {
        // SAFETY: the plane has this super-block. The products are exact: 11 bits times 6.
        unsafe {
            let first = self.0.add(block / 8 * SUPER_MIN_BYTES);
            let small = first.add(MIN_BYTES + block % 8 * 2 * ROW_GROUP);
            let d = _mm512_mul_ps(aligned(halves(first), align), small_numbers(small));
            let min = _mm512_mul_ps(halves(first.add(PLAIN_BYTES)), small_numbers(small.add(ROW_GROUP)));
            ([d; 2], _mm512_xor_ps(min, _mm512_set1_ps(-0.0)))
        }
    }
}

/// Sixteen i8 at `at`.
#[inline(always)]
unsafe fn signed_numbers(at: *const u8) -> __m512 {
    // SAFETY: the plane of scales holds sixteen bytes here; inlined where the instructions are there.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
}

/// Sixteen u8 at `at`.
#[inline(always)]
unsafe fn small_numbers(at: *const u8) -> __m512 {
    // SAFETY: the plane of scales holds sixteen bytes here; inlined where the instructions are there.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()))) }
}

#[derive(Clone, Copy)]
pub(super) struct SuperHalves(*const u8);

impl Scales for SuperHalves {
    const SIGNED: bool = true;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn new(group: *const u8, layout: &GroupLayout) -> Self {
        Self(group.wrapping_add(layout.scales))
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize, align: f32) -> ([__m512; 2], __m512) {
        // SAFETY: the plane has this super-block. The products are exact: 11 bits times 8.
        unsafe {
            let first = self.0.add(block / 8 * SUPER_HALVES_BYTES);
            let small = first.add(PLAIN_BYTES + block % 8 * 2 * ROW_GROUP);
            let d = aligned(halves(first), align);
            let low = _mm512_mul_ps(d, signed_numbers(small));
            let high = _mm512_mul_ps(d, signed_numbers(small.add(ROW_GROUP)));
            ([low, high], _mm512_setzero_ps())
        }
    }
}
