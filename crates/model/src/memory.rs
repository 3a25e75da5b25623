//! What a backend takes of its memory, before anything is allocated.
#![forbid(unsafe_code)]

/// Bytes a backend will take, by what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryPlan {
    /// The weights, at about the width they are stored in.
    pub weights: u64,
    /// Keys and values of all blocks.
    pub cache: u64,
    /// Of these, what one position takes.
    pub cache_per_position: u64,
    /// Activations of the most tokens of a step.
    pub activations: u64,
    /// Logits of the most asks that keep them.
    pub logits: u64,
    /// Room for partial results.
    pub scratch: u64,
}

impl MemoryPlan {
    /// All together.
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.activations + self.logits + self.scratch
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, bytes) in [
            ("weights", self.weights),
            ("cache", self.cache),
            ("activations", self.activations),
            ("logits", self.logits),
            ("scratch", self.scratch),
            ("total", self.total()),
        ] {
            writeln!(f, "{name:<12}{:>10.1} MiB", bytes as f64 / (1 << 20) as f64)?;
        }
        write!(f, "{:<12}{:>10.1} KiB", "a position", self.cache_per_position as f64 / 1024.0)
    }
}
