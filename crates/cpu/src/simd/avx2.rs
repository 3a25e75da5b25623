//! Sixteen lanes in two registers of AVX2.
//!
//! Every method is inlined into a function that [`super::dispatch`] calls only where AVX2, FMA and F16C are
//! there; the `unsafe` blocks say so by "dispatched".
#![allow(unsafe_code)]

use super::{LANES, Lanes};
use std::arch::x86_64::*;

/// Sixteen f32 in two registers.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

/// Sixteen ones, sixteen zeros: the window that starts at 16 - n is a mask of the first n lanes.
static MASKS: [i32; 2 * LANES] = {
    let mut masks = [0; 2 * LANES];
    let mut i = 0;
    while i < LANES {
        masks[i] = -1;
        i += 1;
    }
    masks
};

macro_rules! both {
    ($op:ident, $a:expr, $b:expr) => {
        // SAFETY: dispatched.
        unsafe { Self($op($a.0, $b.0), $op($a.1, $b.1)) }
    };
}

impl Lanes for Avx2 {
    const ACCUMULATORS: usize = 4;
    const FUSED: bool = true;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: dispatched.
        let x = unsafe { _mm256_set1_ps(x) };
        Self(x, x)
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: dispatched; both halves are within the array.
        unsafe { Self(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn load_f16(from: &[u16; LANES]) -> Self {
        // SAFETY: dispatched; both halves are within the array.
        unsafe {
            let half = |i| _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().add(i).cast()));
            Self(half(0), half(8))
        }
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: dispatched; both halves are within the array.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), self.0);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), self.1);
        }
    }

    #[inline(always)]
    fn store_f16(self, to: &mut [u16; LANES]) {
        // SAFETY: dispatched; both halves are within the array.
        unsafe {
            let half = |x| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm_storeu_si128(to.as_mut_ptr().cast(), half(self.0));
            _mm_storeu_si128(to.as_mut_ptr().add(8).cast(), half(self.1));
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        both!(_mm256_add_ps, self, other)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        both!(_mm256_sub_ps, self, other)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        both!(_mm256_mul_ps, self, other)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        both!(_mm256_div_ps, self, other)
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: dispatched.
        unsafe { Self(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        both!(_mm256_max_ps, self, other)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        both!(_mm256_min_ps, self, other)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        let sign = Self::splat(-0.0);
        both!(_mm256_andnot_ps, sign, self)
    }

    #[inline(always)]
    fn scale_exponent(self, shifted: Self) -> Self {
        // SAFETY: dispatched.
        unsafe {
            let scale = |a, s| {
                let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(s));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent))
            };
            Self(scale(self.0, shifted.0), scale(self.1, shifted.1))
        }
    }

    #[inline(always)]
    fn zero_where_less(self, x: Self, least: Self) -> Self {
        // SAFETY: dispatched.
        unsafe {
            let clear = |a, x, least| _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, least), a);
            Self(clear(self.0, x.0, least.0), clear(self.1, x.1, least.1))
        }
    }

    #[inline(always)]
    fn equal(self, other: Self) -> u16 {
        // SAFETY: dispatched.
        unsafe {
            let mask = |a, b| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b)) as u16;
            mask(self.0, other.0) | mask(self.1, other.1) << 8
        }
    }

    #[inline(always)]
    fn first(self, n: usize, other: Self) -> Self {
        let n = n.min(LANES);
        // SAFETY: dispatched; a window of 16 that starts at most 16 after the start is within the table.
        unsafe {
            let window = MASKS.as_ptr().add(LANES - n).cast::<f32>();
            let (a, b) = (_mm256_loadu_ps(window), _mm256_loadu_ps(window.add(8)));
            Self(_mm256_blendv_ps(other.0, self.0, a), _mm256_blendv_ps(other.1, self.1, b))
        }
    }
}
