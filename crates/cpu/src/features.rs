//! Which of the kernel families this machine can run.

use crate::linear::Precision;

/// A family of kernels. All families compute the same thing; each has its own bits (`Amx` has those of `Avx512`, and so
/// has `Avx512Bf16` but for activations in bf16), and one family gives the same bits whatever the batch, the tiling or the
/// number of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelPath {
    /// Plain Rust, for every processor.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
    /// The same with dot products of bf16 pairs, for activations in bf16.
    Avx512Bf16,
    /// `Avx512` with AMX tiles of 8-bit integers, for products of many tokens.
    Amx,
}

impl KernelPath {
    /// Every family, the plainest first.
    pub const ALL: [KernelPath; 5] =
        [KernelPath::Portable, KernelPath::Avx2, KernelPath::Avx512, KernelPath::Avx512Bf16, KernelPath::Amx];

    /// The best family of this machine.
    pub fn detect() -> Self {
        Self::available().into_iter().next_back().unwrap_or(KernelPath::Portable)
    }

    /// The plainest of the best families for a precision: where two have the same bits, results need not tell them
    /// apart.
    pub fn best_for(precision: Precision) -> Self {
        match Self::detect() {
            KernelPath::Avx512Bf16 if precision != Precision::Bf16 => KernelPath::Avx512,
            best => best,
        }
    }

    /// The families this machine can run, the plainest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|path| path.is_available()).collect()
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            KernelPath::Portable => true,
            #[cfg(target_arch = "x86_64")]
            KernelPath::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            KernelPath::Avx512 => {
                KernelPath::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            KernelPath::Avx512Bf16 => {
                KernelPath::Avx512.is_available() && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(target_arch = "x86_64")]
            KernelPath::Amx => KernelPath::Avx512.is_available() && crate::linear::has_tiles(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The name users write: `portable`, `avx2`, `avx512`, `avx512bf16` or `amx`.
    pub fn name(self) -> &'static str {
        match self {
            KernelPath::Portable => "portable",
            KernelPath::Avx2 => "avx2",
            KernelPath::Avx512 => "avx512",
            KernelPath::Avx512Bf16 => "avx512bf16",
            KernelPath::Amx => "amx",
        }
    }
}

impl std::fmt::Display for KernelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for KernelPath {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|path| path.name() == name).ok_or_else(|| {
            format!("unknown kernel path {name:?}: known are portable, avx2, avx512, avx512bf16 and amx")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for path in KernelPath::ALL {
            assert_eq!(path.name().parse(), Ok(path));
        }
        assert!("sse9".parse::<KernelPath>().unwrap_err().contains("avx512"));
    }

    #[test]
    fn the_detected_family_is_the_best_available() {
        let available = KernelPath::available();
        assert_eq!(available[0], KernelPath::Portable);
        assert!(available.iter().all(|path| *path <= KernelPath::detect()));
        assert_eq!(KernelPath::best_for(Precision::Bf16), KernelPath::detect());
        for precision in [Precision::Int8, Precision::Exact] {
            let best = KernelPath::best_for(precision);
            assert!(best.is_available() && best != KernelPath::Avx512Bf16, "{precision:?}: {best}");
            assert!(best == KernelPath::detect() || KernelPath::detect() == KernelPath::Avx512Bf16);
        }
    }
}
