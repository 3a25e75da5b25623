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

/// What of the processor the kernels' choices depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Core {
    /// Bytes of its first-level data cache; 0 where it does not say.
    pub(crate) first_level_bytes: usize,
    /// Whether memory that is asked for during products costs them nothing. On a Zen 4 a job gained 3 % by it; on an Emerald
    /// Rapids, whose cores wait for fewer lines of a farther third level, 32 rows lost 20 %. So AMD's do, and others do not.
    pub(crate) loads_beside_products: bool,
}

impl Core {
    /// Of this machine.
    pub(crate) fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            // To ask takes tens of microseconds on a virtual machine.
            static CORE: std::sync::OnceLock<Core> = std::sync::OnceLock::new();
            *CORE.get_or_init(|| {
                Core::of_x86(|leaf, n| {
                    let told = std::arch::x86_64::__cpuid_count(leaf, n);
                    [told.eax, told.ebx, told.ecx, told.edx]
                })
            })
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::default()
    }

    /// What `cpuid(leaf, n)`, {eax, ebx, ecx, edx}, tells. Intel's leaf 4 lists the caches and is empty on AMD's processors,
    /// whose leaf 0x8000_0005 has the first level; virtual machines give Intel's an answer there that means nothing, so it
    /// comes second.
    #[cfg(target_arch = "x86_64")]
    fn of_x86(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> Self {
        let field = |bits: u32, at: u32, n: u32| (bits >> at & ((1 << n) - 1)) as usize;
        let listed = || {
            let caches = (0..16).map(|n| cpuid(4, n)).take_while(|[eax, ..]| field(*eax, 0, 5) != 0);
            // A data cache is of type 1.
            let first = caches.into_iter().find(|[eax, ..]| (field(*eax, 0, 5), field(*eax, 5, 3)) == (1, 1));
            first.map(|[_, ebx, sets, _]| {
                let (ways, partitions, line) = (field(ebx, 22, 10), field(ebx, 12, 10), field(ebx, 0, 12));
                (ways + 1) * (partitions + 1) * (line + 1) * (sets as usize + 1)
            })
        };
        let has = |leaf: u32| cpuid(leaf & 0x8000_0000, 0)[0] >= leaf;
        let amd = || has(0x8000_0005).then(|| field(cpuid(0x8000_0005, 0)[2], 24, 8) * 1024);
        let [_, b, c, d] = cpuid(0, 0);
        Self {
            first_level_bytes: if has(4) { listed() } else { None }.or_else(amd).unwrap_or(0),
            loads_beside_products: [b, d, c].map(u32::to_le_bytes).concat() == b"AuthenticAMD",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What processors tell: {eax, ebx, ecx, edx} by leaf and number.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_core_is_read_as_its_maker_writes_it() {
        let name = |text: &[u8; 12]| {
            let [b, d, c] = [0, 4, 8].map(|at| u32::from_le_bytes(std::array::from_fn(|i| text[at + i])));
            [0x20, b, c, d]
        };
        let (intel, amd_s) = (name(b"GenuineIntel"), name(b"AuthenticAMD"));
        const EXTENDED: [u32; 4] = [0x8000_0008, 0, 0, 0];
        // 48 KB of 12 ways and 64 sets; an instruction cache of 32 KB before it.
        const INSTRUCTIONS: [u32; 4] = [0x22, 0x01c0_003f, 63, 0];
        const DATA: [u32; 4] = [0x21, 0x02c0_003f, 63, 0];
        const NONE: [u32; 4] = [0; 4];
        // AMD's leaf: KB in the highest bits.
        let amd = |kib: u32| [0, 0, kib << 24 | 0x0008_0140, 0];
        type Leaf = ((u32, u32), [u32; 4]);
        let core = |leaves: &[Leaf]| {
            Core::of_x86(|leaf, n| {
                leaves.iter().find(|(at, _)| *at == (leaf, n)).map_or(NONE, |(_, told)| *told)
            })
        };
        let of =
            |maker, more: &[Leaf]| core(&[&[((0, 0), maker), ((0x8000_0000, 0), EXTENDED)], more].concat());
        let told =
            |kib: usize, loads_beside_products| Core { first_level_bytes: kib << 10, loads_beside_products };
        assert_eq!(of(intel, &[((4, 0), INSTRUCTIONS), ((4, 1), DATA)]), told(48, false));
        assert_eq!(of(amd_s, &[((0x8000_0005, 0), amd(32))]), told(32, true));
        let virtual_machine = [((4, 0), DATA), ((0x8000_0005, 0), amd(64))];
        assert_eq!(of(intel, &virtual_machine), told(48, false), "with an answer that only AMD's give");
        assert_eq!(core(&[((0, 0), [3, 0, 0, 0]), ((4, 0), DATA)]), told(0, false), "too old to have leaf 4");
        assert_eq!(of(intel, &[((4, 0), INSTRUCTIONS)]), told(0, false), "no data cache");
    }

    // Linux reads it from other leaves than we do on AMD's processors, and from the same on Intel's.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn the_first_level_cache_is_as_large_as_linux_says() {
        let caches = std::path::Path::new("/sys/devices/system/cpu/cpu0/cache");
        let read = |index: u32, what: &str| {
            std::fs::read_to_string(caches.join(format!("index{index}/{what}"))).unwrap_or_default()
        };
        let first = (0..8).find(|&i| read(i, "level").trim() == "1" && read(i, "type").trim() == "Data");
        let told = first.and_then(|i| read(i, "size").trim().strip_suffix('K')?.parse::<usize>().ok());
        match told {
            Some(kib) => assert_eq!(Core::here().first_level_bytes, kib << 10),
            // A machine that hides its caches from Linux: no core has another size.
            None => {
                assert!(matches!(Core::here().first_level_bytes >> 10, 0 | 8..=512), "{:?}", Core::here())
            }
        }
    }

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
