//! Where the time of steps went.

use std::time::Instant;

/// Nanoseconds by the part of a step; sums over steps when added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepTimes {
    /// From the batch to ready signals.
    pub total: u64,
    /// Embeddings and rotary angles.
    pub embed: u64,
    /// Matrix products of the layers, with what is fused into them (residuals, SwiGLU).
    pub linear: u64,
    /// Norms, rounding of activations, rotary embedding, writing the cache.
    pub elementwise: u64,
    /// Attention and its signals.
    pub attention: u64,
    /// The head's product.
    pub head: u64,
    /// Entropy, varentropy and the rest of [`entropix_model::Signals`] from the logits.
    pub signals: u64,
}

impl std::ops::AddAssign for StepTimes {
    fn add_assign(&mut self, more: Self) {
        self.total += more.total;
        self.embed += more.embed;
        self.linear += more.linear;
        self.elementwise += more.elementwise;
        self.attention += more.attention;
        self.head += more.head;
        self.signals += more.signals;
    }
}

impl std::ops::Sub for StepTimes {
    type Output = Self;

    fn sub(self, less: Self) -> Self {
        Self {
            total: self.total - less.total,
            embed: self.embed - less.embed,
            linear: self.linear - less.linear,
            elementwise: self.elementwise - less.elementwise,
            attention: self.attention - less.attention,
            head: self.head - less.head,
            signals: self.signals - less.signals,
        }
    }
}

impl std::fmt::Display for StepTimes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("linear", self.linear),
            ("attention", self.attention),
            ("elementwise", self.elementwise),
            ("head", self.head),
            ("signals", self.signals),
            ("embed", self.embed),
        ];
        for (name, ns) in parts {
            write!(f, "{name} {:.1} %, ", ns as f64 * 100.0 / self.total.max(1) as f64)?;
        }
        write!(f, "in all {:.3} ms", self.total as f64 * 1e-6)
    }
}

/// Hands out the time since it was last asked.
pub(crate) struct Lap(Instant);

impl Lap {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn next(&mut self) -> u64 {
        let now = Instant::now();
        let ns = now.duration_since(self.0).as_nanos() as u64;
        self.0 = now;
        ns
    }
}
