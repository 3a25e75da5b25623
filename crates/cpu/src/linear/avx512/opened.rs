//! Groups opened once for many tiles of tokens: what a tile would do with every block of a group, done ahead
//! and kept in the cache. The numbers are the same, so the products are.
#![allow(unsafe_code)]

use super::weights::Weights;
use crate::linear::kernels::Run;
use crate::linear::layout::GroupLayout;
use std::arch::x86_64::*;

/// Tiles from which opening pays.
pub(super) const FEWEST_TILES: usize = 3;

/// Bytes of a vector.
const VECTOR: usize = 64;

/// Blocks of a run: 15 KB at most.
pub(super) const RUN: usize = 24;

/// A run of a group as (n_blocks, vectors): 8 quads of left-aligned numbers, d, then d of the second half of the block
/// or m, if there is one.
#[derive(Clone, Copy)]
pub(super) struct Bytes<const SIGNED: bool, const HALVES: bool>(*const u8);

impl<const SIGNED: bool, const HALVES: bool> Bytes<SIGNED, HALVES> {
    /// Bytes of a block.
    pub(super) const BLOCK: usize = (9 + (HALVES || !SIGNED) as usize) * VECTOR;

    /// Opens a run of a group into `to`, n_blocks of [`Self::BLOCK`] bytes on a vector boundary.
    ///
    /// # Safety
    /// `weights` is a group with these blocks and constants; the instructions are there.
    #[inline(always)]
    pub(super) unsafe fn open<W: Weights>(weights: W, run: Run, to: *mut u8) {
        assert!(W::SIGNED == SIGNED && W::HALVES == HALVES, "another kind of weights");
        for i in 0..run.n_blocks {
            let block = run.start + i;
            let to = to.wrapping_add(i * Self::BLOCK);
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
            if HALVES {
                ([d, _mm512_load_ps(at.add(VECTOR).cast())], _mm512_setzero_ps())
            } else if SIGNED {
                ([d; 2], _mm512_setzero_ps())
            } else {
                ([d; 2], _mm512_load_ps(at.add(VECTOR).cast()))
            }
        }
    }
}
