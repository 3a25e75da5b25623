//! Sixteen lanes in plain Rust, which the compiler makes vectors of as it can.

use super::{LANES, Lanes};
use half::f16;

/// Sixteen f32 in an array.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self.0;
        for (a, b) in out.iter_mut().zip(other.0) {
            *a = f(*a, b);
        }
        Self(out)
    }
}

/// What `f16::to_f32` gives, without its table of cases.
#[inline(always)]
fn widen(half: u16) -> f32 {
    // The magnitude moved to where f32 has it is too small by 2^112, also where the half is subnormal.
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    // Infinities and NaN became numbers of 65,536 and more.
    let special = if magnitude >= 65_536.0 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | u32::from(half >> 15) << 31)
}

impl Lanes for Portable {
    const ACCUMULATORS: usize = 4;
    const FUSED: bool = false;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn load_f16(from: &[u16; LANES]) -> Self {
        Self(from.map(widen))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn store_f16(self, to: &mut [u16; LANES]) {
        *to = self.0.map(|x| f16::from_f32(x).to_bits());
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        self.mul(b).add(c)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    #[inline(always)]
    fn scale_exponent(self, shifted: Self) -> Self {
        self.zip(shifted, |a, s| f32::from_bits(a.to_bits().wrapping_add(s.to_bits() << 23)))
    }

    #[inline(always)]
    fn zero_where_less(self, x: Self, least: Self) -> Self {
        let mut out = self.0;
        for (i, out) in out.iter_mut().enumerate() {
            *out = if x.0[i] < least.0[i] { 0.0 } else { *out };
        }
        Self(out)
    }

    #[inline(always)]
    fn equal(self, other: Self) -> u16 {
        self.0.iter().zip(other.0).rev().fold(0, |mask, (&a, b)| mask << 1 | u16::from(a == b))
    }

    #[inline(always)]
    fn first(self, n: usize, other: Self) -> Self {
        let mut out = self.0;
        for (i, out) in out.iter_mut().enumerate() {
            *out = if i < n { *out } else { other.0[i] };
        }
        Self(out)
    }
}
