//! Groups opened once for many tiles of tokens: what a tile would do with every block of a group, done ahead
//! and kept in the cache. The numbers are the same, so the products are.
#![allow(unsafe_code)]

use super::weights::Weights;
use crate::linear::activations::{MULTIPLES, PARTS_AT};
use crate::linear::kernels::Run;
use std::arch::x86_64::*;
use std::cell::Cell;

/// Tiles from which opening pays.
pub(super) const FEWEST_TILES: usize = 3;

/// Tokens from which multiples of the scales pay.
pub(super) const FEWEST_TABLED: usize = 64;

/// Bytes of a vector.
const VECTOR: usize = 64;

/// Blocks of a run: 15 KB, 38 KB with multiples.
pub(super) const RUN: usize = 24;

/// A run of a group as (n_blocks, vectors): 8 quads of left-aligned numbers, d, then d of the second half of the block
/// or m, if there is one. With MULTIPLES of d there are sixteen in place of the one, `d (1 + k / 16)` less
/// 64 k as an integer, and then m, or NaN
/// where there is none.
#[derive(Clone, Copy)]
pub(super) struct Opened<const SIGNED: bool, const HALVES: bool, const TABLE: bool>(*const u8);

impl<const SIGNED: bool, const HALVES: bool, const TABLE: bool> Opened<SIGNED, HALVES, TABLE> {
    /// Bytes of a block.
    pub(super) const BLOCK: usize =
        (if TABLE { 9 + MULTIPLES } else { 9 + (HALVES || !SIGNED) as usize }) * VECTOR;

    /// What [`Opening`] wrote to `at`.
    pub(super) fn new(at: *const u8) -> Self {
        const { assert!(!(TABLE && HALVES), "multiples of one d a block") };
        Self(at)
    }
}

impl<const SIGNED: bool, const HALVES: bool, const TABLE: bool> Weights for Opened<SIGNED, HALVES, TABLE> {
    const SIGNED: bool = SIGNED;
    const HALVES: bool = HALVES;

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m512i {
        // SAFETY: written by `Opening`.
        unsafe { _mm512_load_si512(self.0.add(block * Self::BLOCK + QUAD * VECTOR).cast()) }
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: written by `Opening`.
        unsafe {
            let at = self.0.add(block * Self::BLOCK + 8 * VECTOR);
            let d = _mm512_load_ps(at.cast());
            let other = || _mm512_load_ps(at.add(if TABLE { MULTIPLES } else { 1 } * VECTOR).cast());
            match (SIGNED, HALVES) {
                (_, true) => ([d, other()], _mm512_setzero_ps()),
                (true, _) => ([d; 2], _mm512_setzero_ps()),
                (false, _) => ([d; 2], other()),
            }
        }
    }

    #[inline(always)]
    unsafe fn scale(self, block: usize, d: __m512, token: *const u8) -> __m512 {
        // SAFETY: written by `Opening`, for any k; a token has both parts.
        unsafe {
            if !TABLE {
                return super::weights::product(d, token);
            }
            let parts = _mm512_set1_epi32(token.add(PARTS_AT).cast::<i32>().read_unaligned());
            let offset = usize::from(token.add(PARTS_AT).cast::<u16>().read_unaligned());
            let multiple = self.0.add(block * Self::BLOCK + 8 * VECTOR + offset);
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_load_si512(multiple.cast()), parts))
        }
    }
}

/// Packed weights on their way into [`Opened`]: every block that a tile goes through is kept for the tiles to come, so
/// the first tile opens them for the others while it multiplies.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a, W, const TABLE: bool> {
    weights: W,
    /// The first block.
    start: usize,
    /// (n_blocks) blocks of [`Opened`], on a vector boundary.
    to: *mut u8,
    /// Whether a multiple is no product of [`MULTIPLES`] after all: that of zero, infinity and NaN.
    is_odd: &'a Cell<bool>,
}

impl<'a, W: Weights, const TABLE: bool> Opening<'a, W, TABLE> {
    /// Bytes of a block.
    const BLOCK: usize = match (W::SIGNED, W::HALVES) {
        (true, false) => Opened::<true, false, TABLE>::BLOCK,
        (true, true) => Opened::<true, true, TABLE>::BLOCK,
        (false, _) => Opened::<false, false, TABLE>::BLOCK,
    };

    /// A run of these weights into `to`, room for n_blocks on a vector boundary. `is_odd` becomes true when the weights
    /// cannot be opened with multiples.
    pub(super) fn new(weights: W, run: Run, to: *mut u8, is_odd: &'a Cell<bool>) -> Self {
        Self { weights, start: run.start, to, is_odd }
    }

    /// All `n_blocks`, without a tile.
    ///
    /// # Safety
    /// The weights and the room have so many; the instructions are there.
    #[inline(always)]
    pub(super) unsafe fn open(self, n_blocks: usize) {
        for block in 0..n_blocks {
            // SAFETY: promised above.
            unsafe {
                macro_rules! quads {
                    ($($quad:literal)*) => {
                        $(self.quad::<$quad>(block);)*
                    };
                }
                quads!(0 1 2 3 4 5 6 7);
                self.scales(block);
            }
        }
    }
}

impl<W: Weights, const TABLE: bool> Weights for Opening<'_, W, TABLE> {
    const SIGNED: bool = W::SIGNED;
    const HALVES: bool = W::HALVES;

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m512i {
        // SAFETY: promised by the caller; there is room.
        unsafe {
            let quad = self.weights.quad::<QUAD>(self.start + block);
            _mm512_store_si512(self.to.add(block * Self::BLOCK + QUAD * VECTOR).cast(), quad);
            quad
        }
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: promised by the caller; there is room.
        unsafe {
            let (d, m) = self.weights.scales(self.start + block);
            let to = self.to.add(block * Self::BLOCK + 8 * VECTOR);
            _mm512_store_ps(to.cast(), d[0]);
            if TABLE {
                for k in 1..MULTIPLES {
                    let by = _mm512_set1_ps(1.0 + k as f32 / MULTIPLES as f32);
                    let multiple = _mm512_castps_si512(_mm512_mul_ps(d[0], by));
                    let less = _mm512_sub_epi32(multiple, _mm512_set1_epi32((k * VECTOR) as i32));
                    _mm512_store_si512(to.add(k * VECTOR).cast(), less);
                }
                let last = if W::SIGNED { _mm512_set1_ps(f32::NAN) } else { m };
                _mm512_store_ps(to.add(MULTIPLES * VECTOR).cast(), last);
                const ODD: i32 = 0x80 | 0x10 | 0x08 | 0x04 | 0x02 | 0x01;
                self.is_odd.set(self.is_odd.get() | (_mm512_fpclass_ps_mask::<ODD>(d[0]) != 0));
            } else if W::HALVES {
                _mm512_store_ps(to.add(VECTOR).cast(), d[1]);
            } else if !W::SIGNED {
                _mm512_store_ps(to.add(VECTOR).cast(), m);
            }
            (d, m)
        }
    }
}
