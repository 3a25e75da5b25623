//! Sixteen f32 at a time, the same source for every kernel family.
//!
//! A kernel is written once against [`Lanes`] and compiled for each family by [`dispatch`]. Sixteen lanes are
//! sixteen lanes everywhere (one register of AVX-512, two of AVX2, an array in plain Rust), so the order of
//! additions does not depend on the family; only fused multiply-adds, which plain Rust has not, differ.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use crate::features::KernelPath;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen f32. Methods of the x86 families may only run where [`dispatch`] put them.
pub(crate) trait Lanes: Copy {
    /// How many vectors of sums an inner loop should keep in registers.
    const ACCUMULATORS: usize;
    /// Whether [`Lanes::fma`] rounds once.
    const FUSED: bool;

    fn splat(x: f32) -> Self;
    fn load(from: &[f32; LANES]) -> Self;
    /// From IEEE half precision.
    fn load_f16(from: &[u16; LANES]) -> Self;
    fn store(self, to: &mut [f32; LANES]);
    /// To IEEE half precision, to the nearest, ties to even.
    fn store_f16(self, to: &mut [u16; LANES]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// self * b + c; rounded once on AVX2 and AVX-512, twice in plain Rust.
    fn fma(self, b: Self, c: Self) -> Self;
    /// The larger; `other` when one is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller; `other` when one is NaN.
    fn min(self, other: Self) -> Self;
    fn abs(self) -> Self;
    /// Adds the low bits of `shifted` to the exponents: self * 2^k for shifted = 1.5 * 2^23 + k.
    fn scale_exponent(self, shifted: Self) -> Self;
    /// self, but 0 where x < least.
    fn zero_where_less(self, x: Self, least: Self) -> Self;
    /// A bit a lane, the first lane's the lowest: set where both are equal.
    fn equal(self, other: Self) -> u16;
    /// self in the first n lanes, `other` in the rest.
    fn first(self, n: usize, other: Self) -> Self;

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut array = [0.0; LANES];
        self.store(&mut array);
        array
    }

    /// All lanes together: halves are added to each other until one number is left.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut a = self.to_array();
        let mut n = LANES / 2;
        while n > 0 {
            for i in 0..n {
                a[i] += a[i + n];
            }
            n /= 2;
        }
        a[0]
    }

    /// The largest lane; NaN may be passed over.
    #[inline(always)]
    fn largest(self) -> f32 {
        let mut a = self.to_array();
        let mut n = LANES / 2;
        while n > 0 {
            for i in 0..n {
                a[i] = if a[i] > a[i + n] { a[i] } else { a[i + n] };
            }
            n /= 2;
        }
        a[0]
    }
}

/// e^x within 2 units in the last place, for x <= 88; 0 below -87, NaN for NaN (Cephes `expf`).
#[inline(always)]
pub(crate) fn exp<L: Lanes>(x: L) -> L {
    exp_above_minus_87(x).zero_where_less(x, L::splat(-87.0))
}

/// 2^x within 2 units in the last place, for -126 <= x <= 0; 1 at 0. The polynomial is the one of its degree whose
/// largest relative error within half of 0 is least, 9.2e-8, of those that are 1 at 0.
#[inline(always)]
#[allow(clippy::approx_constant)] // The polynomial's first coefficient is not ln 2.
pub(crate) fn exp2<L: Lanes>(x: L) -> L {
    // As in `exp_above_minus_87`, but what is left over is exact.
    let shift = L::splat(12_582_912.0);
    let shifted = x.add(shift);
    let r = x.sub(shifted.sub(shift));
    let mut p = L::splat(1.326_472_7e-3);
    for c in [9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
        p = p.fma(r, L::splat(c));
    }
    p.scale_exponent(shifted)
}

/// [`exp`] for whom x >= -87 is known.
#[inline(always)]
pub(crate) fn exp_above_minus_87<L: Lanes>(x: L) -> L {
    // Adding 1.5 * 2^23 rounds to a whole number, which then lies in the low bits.
    let shift = L::splat(12_582_912.0);
    let shifted = x.fma(L::splat(std::f32::consts::LOG2_E), shift);
    let k = shifted.sub(shift);
    let r = k.fma(L::splat(-0.693_359_4), x);
    let r = k.fma(L::splat(2.121_944_4e-4), r);
    let mut p = L::splat(1.987_569_1e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 5.0e-1] {
        p = p.fma(r, L::splat(c));
    }
    p.fma(r.mul(r), r).add(L::splat(1.0)).scale_exponent(shifted)
}

/// Starts to load a slice into the second-level cache (the first is no larger than what a split is read from); does nothing where there is no such instruction.
#[inline(always)]
pub(crate) fn prefetch<T>(slice: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in slice.chunks(64 / size_of::<T>().clamp(1, 64)) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch has no effect a program can see, and every x86-64 processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slice;
}

/// Something to compute with the lanes of a family.
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, or it is compiled without the family's instructions.
    fn run<L: Lanes>(self) -> Self::Output;
}

/// A kernel family that this machine was seen to have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family(KernelPath);

impl Family {
    /// # Panics
    /// When this machine cannot run `path`.
    pub(crate) fn of(path: KernelPath) -> Self {
        assert!(path.is_available(), "the {path} kernels cannot run on this machine");
        Self(path)
    }

    pub(crate) fn path(self) -> KernelPath {
        self.0
    }
}

/// Runs a kernel with the lanes of a family.
#[inline]
pub(crate) fn dispatch<K: Kernel>(family: Family, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<avx2::Avx2>()
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run::<avx512::Avx512>()
        }
        match family.0 {
            KernelPath::Portable => kernel.run::<portable::Portable>(),
            // SAFETY: the machine has the instructions, or there were no such `Family`.
            KernelPath::Avx2 => unsafe { avx2(kernel) },
            // SAFETY: as above.
            KernelPath::Avx512 | KernelPath::Avx512Bf16 | KernelPath::Amx => unsafe { avx512(kernel) },
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    kernel.run::<portable::Portable>()
}

#[cfg(test)]
mod tests;
