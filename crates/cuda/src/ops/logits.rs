//! Signals, candidates and draws from logits.

use super::bytes;
use crate::launch::{Arguments, Launch, Pointer};

/// Logits and what is derived from them.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogitBuffers {
    /// (n_asks, stride) f32.
    pub logits: Pointer,
    /// (n_asks, ceil(vocab / 4096), 16) f32.
    pub parts: Pointer,
    /// (n_asks, ceil(vocab / 128)) f32.
    pub maxima: Pointer,
    /// (n_asks) `Signals`.
    pub signals: Pointer,
    /// (1)
    pub n_asks: Pointer,
    /// Tokens of the vocabulary.
    pub vocab: u32,
    /// Floats a row, a multiple of 4.
    pub stride: u32,
}

impl LogitBuffers {
    /// Tiles of a row.
    pub fn n_tiles(&self) -> u32 {
        self.vocab.div_ceil(4096)
    }

    /// Chunks of a row.
    pub fn n_chunks(&self) -> u32 {
        self.vocab.div_ceil(128)
    }
}

/// H, V, collision, log Z, the spread of the logits, the two best, the target: one read of the logits.
pub fn signals(b: LogitBuffers, targets: Pointer, most_asks: u32) -> [Launch; 2] {
    assert!(
        b.stride.is_multiple_of(4) && b.stride >= b.vocab,
        "rows of {} floats for {} logits",
        b.stride,
        b.vocab
    );
    let tiles = Launch {
        kernel: "signals_tiles".into(),
        grid: [b.n_tiles(), most_asks, 1],
        block: 256,
        shared: 0,
        bytes: bytes([most_asks, b.vocab, 4]),
        arguments: Arguments::default()
            .with(b.logits)
            .with(b.parts)
            .with(b.maxima)
            .with(b.n_asks)
            .with(b.vocab)
            .with(b.stride),
    };
    let merge = Launch {
        kernel: "signals_merge".into(),
        grid: [most_asks, 1, 1],
        block: 256,
        shared: 0,
        bytes: bytes([most_asks, b.n_tiles(), 64]),
        arguments: Arguments::default()
            .with(b.logits)
            .with(b.parts)
            .with(b.maxima)
            .with(targets)
            .with(b.signals)
            .with(b.n_asks)
            .with(b.vocab)
            .with(b.stride),
    };
    [tiles, merge]
}

/// The k best of each (slot, k) of `wanted`: `list` (n_wanted, 256) {token, ln p}, `counts` (n_wanted).
pub fn candidates(
    b: LogitBuffers,
    wanted: Pointer,
    list: Pointer,
    counts: Pointer,
    n_wanted: Pointer,
    most_wanted: u32,
) -> Launch {
    Launch {
        kernel: "candidates".into(),
        grid: [most_wanted, 1, 1],
        block: 256,
        shared: 0,
        bytes: bytes([most_wanted, b.n_chunks(), 4]),
        arguments: Arguments::default()
            .with(b.logits)
            .with(b.maxima)
            .with(b.signals)
            .with(wanted)
            .with(list)
            .with(counts)
            .with(n_wanted)
            .with(b.vocab)
            .with(b.stride),
    }
}

/// Where draws read and write; see `kernels/draw.cu` for the records.
#[derive(Debug, Clone, Copy, Default)]
pub struct DrawBuffers {
    /// (n_draws, 16) words.
    pub orders: Pointer,
    /// {token, penalty, bias}
    pub edits: Pointer,
    /// Rows of ceil(vocab / 32) words.
    pub masks: Pointer,
    /// u64
    pub coins: Pointer,
    /// (n_draws) {token, ln p, temperature}
    pub drawn: Pointer,
    /// (1)
    pub n_draws: Pointer,
}

/// Bytes of shared memory that a draw from a vocabulary takes.
pub fn draw_shared(vocab: u32) -> u32 {
    vocab.div_ceil(128) * 12 + vocab.div_ceil(32) * 4
}

/// Draws from whole distributions.
pub fn draw(b: LogitBuffers, d: DrawBuffers, most_draws: u32) -> Launch {
    let shared = draw_shared(b.vocab);
    Launch {
        kernel: "draw".into(),
        grid: [most_draws, 1, 1],
        block: 1024,
        shared,
        bytes: bytes([most_draws, b.vocab, 4]),
        arguments: Arguments::default()
            .with(b.logits)
            .with(b.signals)
            .with(d.orders)
            .with(d.edits)
            .with(d.masks)
            .with(d.coins)
            .with(d.drawn)
            .with(d.n_draws)
            .with(b.vocab)
            .with(b.stride),
    }
}
