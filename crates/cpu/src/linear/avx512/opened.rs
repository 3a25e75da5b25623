//! Groups opened once for many tiles of tokens: what a tile would do with every block of a group, done ahead
//! and kept in the cache. The numbers are the same, so the products are.

use super::bf16::Pairs;
use super::weights::Weights;
use crate::linear::layout::{ALIGNMENT, GroupLayout};
use crate::linear::memory::AlignedBytes;
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Tiles from which opening pays.
pub(super) const FEWEST_TILES: usize = 3;

/// Bytes of a vector.
const VECTOR: usize = 64;

/// Gives `f` scratch memory of this thread, `n_bytes` on a vector boundary.
#[inline(always)]
pub(super) fn with_scratch(n_bytes: usize, f: impl FnOnce(*mut u8)) {
    thread_local! {
        static SCRATCH: RefCell<Option<AlignedBytes>> = const { RefCell::new(None) };
    }
    let taken = SCRATCH.with(|scratch| scratch.borrow_mut().take());
    let scratch = taken.filter(|scratch| scratch.len() >= n_bytes).unwrap_or_else(|| {
        let n_bytes = n_bytes.next_multiple_of(ALIGNMENT);
        AlignedBytes::zeroed(n_bytes, "an opened group of weights").unwrap_or_else(|e| panic!("{e}"))
    });
    f(scratch.as_ptr());
    SCRATCH.with(|kept| *kept.borrow_mut() = Some(scratch));
}

/// A group as (n_blocks, vectors): 8 quads of left-aligned numbers, d, then d of the second half of the block
/// or m, if there is one.
#[derive(Clone, Copy)]
pub(super) struct Bytes<const SIGNED: bool, const HALVES: bool>(*const u8);

impl<const SIGNED: bool, const HALVES: bool> Bytes<SIGNED, HALVES> {
    /// Bytes of a block.
    pub(super) const BLOCK: usize = (9 + (HALVES || !SIGNED) as usize) * VECTOR;

    /// Opens a group into `to`, n_blocks of [`Self::BLOCK`] bytes on a vector boundary.
    ///
    /// # Safety
    /// `weights` is a group of this many blocks with these constants; the instructions are there.
    #[inline(always)]
    pub(super) unsafe fn open<W: Weights>(weights: W, n_blocks: usize, to: *mut u8) {
        assert!(W::SIGNED == SIGNED && W::HALVES == HALVES, "another kind of weights");
        for block in 0..n_blocks {
            let to = to.wrapping_add(block * Self::BLOCK);
            // SAFETY: promised above.
            unsafe {
                macro_rules! quads {
                    ($($quad:literal)*) => {
                        $(_mm512_store_si512(to.add($quad * VECTOR).cast(), weights.quad::<$quad>(block));)*
                    };
                }
                quads!(0 1 2 3 4 5 6 7);
                let (d, m) = weights.scales(block);
                _mm512_store_ps(to.add(8 * VECTOR).cast(), d[0]);
                if HALVES {
                    _mm512_store_ps(to.add(9 * VECTOR).cast(), d[1]);
                } else if !SIGNED {
                    _mm512_store_ps(to.add(9 * VECTOR).cast(), m);
                }
            }
        }
    }
}

impl<const SIGNED: bool, const HALVES: bool> Weights for Bytes<SIGNED, HALVES> {
    const SIGNED: bool = SIGNED;
    const HALVES: bool = HALVES;
    const BITS: u32 = 8;

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout) -> Self {
        Self(group)
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> __m512i {
        // SAFETY: written by `open`.
        unsafe { _mm512_load_si512(self.0.add(block * Self::BLOCK + QUAD * VECTOR).cast()) }
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: written by `open`.
        unsafe {
            let at = self.0.add(block * Self::BLOCK + 8 * VECTOR);
            let d = _mm512_load_ps(at.cast());
            let second = || _mm512_load_ps(at.add(VECTOR).cast());
            match (SIGNED, HALVES) {
                (_, true) => ([d, second()], _mm512_setzero_ps()),
                (false, _) => ([d; 2], second()),
                _ => ([d; 2], _mm512_setzero_ps()),
            }
        }
    }
}

/// A group as (n_blocks, vectors): 8 quads of two vectors of bf16 pairs, then scales as in [`Bytes`].
#[derive(Clone, Copy)]
pub(super) struct Brains<const MIN: bool, const HALVES: bool>(*const u8);

impl<const MIN: bool, const HALVES: bool> Brains<MIN, HALVES> {
    /// Bytes of a block.
    pub(super) const BLOCK: usize = (17 + (HALVES || MIN) as usize) * VECTOR;

    /// Opens a group into `to`, n_blocks of [`Self::BLOCK`] bytes on a vector boundary.
    ///
    /// # Safety
    /// `weights` is a group of this many blocks with these constants; the instructions are there.
    #[inline(always)]
    pub(super) unsafe fn open<P: Pairs>(weights: P, n_blocks: usize, to: *mut u8) {
        assert!(P::SCALED && P::MIN == MIN && P::HALVES == HALVES, "another kind of weights");
        for block in 0..n_blocks {
            let to = to.wrapping_add(block * Self::BLOCK);
            // SAFETY: promised above.
            unsafe {
                macro_rules! quads {
                    ($($quad:literal)*) => {
                        $(
                            let pairs = weights.quad::<$quad>(block);
                            _mm512_store_si512(to.add(2 * $quad * VECTOR).cast(), pairs[0]);
                            _mm512_store_si512(to.add((2 * $quad + 1) * VECTOR).cast(), pairs[1]);
                        )*
                    };
                }
                quads!(0 1 2 3 4 5 6 7);
                let (d, m) = weights.scales(block);
                _mm512_store_ps(to.add(16 * VECTOR).cast(), d[0]);
                if HALVES {
                    _mm512_store_ps(to.add(17 * VECTOR).cast(), d[1]);
                } else if MIN {
                    _mm512_store_ps(to.add(17 * VECTOR).cast(), m);
                }
            }
        }
    }
}

impl<const MIN: bool, const HALVES: bool> Pairs for Brains<MIN, HALVES> {
    const SCALED: bool = true;
    const MIN: bool = MIN;
    const HALVES: bool = HALVES;

    #[inline(always)]
    unsafe fn new(group: *const u8, _: &GroupLayout) -> Self {
        Self(group)
    }

    #[inline(always)]
    unsafe fn scales(self, block: usize) -> ([__m512; 2], __m512) {
        // SAFETY: written by `open`.
        unsafe {
            let at = self.0.add(block * Self::BLOCK + 16 * VECTOR);
            let d = _mm512_load_ps(at.cast());
            let second = || _mm512_load_ps(at.add(VECTOR).cast());
            match (MIN, HALVES) {
                (_, true) => ([d, second()], _mm512_setzero_ps()),
                (true, _) => ([d; 2], second()),
                _ => ([d; 2], _mm512_setzero_ps()),
            }
        }
    }

    #[inline(always)]
    unsafe fn quad<const QUAD: usize>(self, block: usize) -> [__m512i; 2] {
        let first = self.0.wrapping_add(block * Self::BLOCK + 2 * QUAD * VECTOR);
        // SAFETY: written by `open`.
        [0, 1].map(|i| unsafe { _mm512_load_si512(first.add(i * VECTOR).cast()) })
    }
}
