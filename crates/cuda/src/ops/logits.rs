//! Logits, and signals, candidates and draws from them.

use super::{Weights, bytes};
use crate::launch::{Arguments, Launch, Pointer};

/// Logits a chunk, of which a part and a maximum are kept.
pub const CHUNK: usize = 128;
/// Bytes of a part: `ChunkPart` of kernels/logits.cuh.
pub const PART_BYTES: usize = 32;

/// Logits and what is derived from them.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogitBuffers {
    /// (n_asks, stride) f32.
    pub logits: Pointer,
    /// (n_asks, chunks, 8) f32; null where only the best token is wanted.
    pub parts: Pointer,
    /// (n_asks, chunks) f32.
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
    /// Chunks of a row.
    pub fn n_chunks(&self) -> u32 {
        self.vocab.div_ceil(CHUNK as u32)
    }

    /// Bytes of what a chunk says.
    fn chunk_bytes(&self) -> u32 {
        4 + if self.parts == Pointer(0) { 0 } else { PART_BYTES as u32 }
    }
}

/// Which of the LM head's kernels that give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadWidth {
    /// Blocks of 128 rows x 8 asks.
    N8,
    /// Blocks of 256 rows x 32 asks.
    N32,
    /// Blocks of 256 rows x 64 asks.
    N64,
}

impl HeadWidth {
    /// The width for a launch of at most `asks` asks: the narrowest that reads the weights once, if one does. Only speed
    /// depends on it.
    pub fn of(asks: u32) -> Self {
        match asks {
            0..=8 => HeadWidth::N8,
            9..=32 => HeadWidth::N32,
            _ => HeadWidth::N64,
        }
    }

    /// Bytes of dynamic shared memory it takes.
    pub fn shared(self) -> u32 {
        self.shape().3
    }

    /// (kernel suffix, asks a block, rows a block, dynamic shared memory): `HeadShape` of head.cuh.
    fn shape(self) -> (&'static str, u32, u32, u32) {
        match self {
            HeadWidth::N8 => ("n8", 8, 128, 3 * 8 * 544),
            HeadWidth::N32 => ("n32", 32, 256, 3 * 32 * 288),
            HeadWidth::N64 => ("n64", 64, 256, 64 * 132 * 4 + 256 * 64 * 4),
        }
    }
}

/// Logits, parts and maxima of at most `most_asks` rows of `x` (n_asks, n_cols) bf16: the product with the vocabulary's rows,
/// stored once, and what each chunk says, from the same registers.
pub fn head(w: Weights, x: Pointer, b: LogitBuffers, most_asks: u32, width: HeadWidth) -> Launch {
    assert!(w.n_cols.is_multiple_of(8), "a head over {} columns; a multiple of 8 is needed", w.n_cols);
    assert!(w.n_rows == b.vocab && b.vocab > 0, "{} rows of weights for {} logits", w.n_rows, b.vocab);
    assert!(
        b.stride.is_multiple_of(4) && b.stride >= b.vocab,
        "rows of {} floats for {} logits",
        b.stride,
        b.vocab
    );
    assert!(most_asks > 0, "a head for nobody");
    let (suffix, asks, rows, shared) = width.shape();
    Launch {
        kernel: format!("head_{}_{suffix}", w.format.name()),
        part: "",
        grid: [most_asks.div_ceil(asks), b.vocab.div_ceil(rows), 1],
        block: 256,
        shared,
        bytes: w.format.packed_bytes(w.n_rows as usize, w.n_cols as usize) as u64
            + bytes([most_asks, w.n_cols, 2])
            + bytes([most_asks, w.n_rows, 4])
            + bytes([most_asks, b.n_chunks(), b.chunk_bytes()]),
        arguments: Arguments::default()
            .with(w.at)
            .with(x)
            .with(b.logits)
            .with(b.parts)
            .with(b.maxima)
            .with(b.n_asks)
            .with(w.n_rows)
            .with(w.n_cols)
            .with(b.stride),
    }
}

/// H, V, collision, log Z, the spread of the logits, the two best, the target: of the parts that [`head`] left. Without parts the
/// best token alone.
pub fn signals(b: LogitBuffers, targets: Pointer, most_asks: u32) -> Launch {
    Launch {
        kernel: "signals_merge".into(),
        part: "",
        grid: [most_asks, 1, 1],
        block: 256,
        shared: 0,
        // The two best, or the best alone, are looked up in the chunks that have them.
        bytes: bytes([most_asks, b.n_chunks(), b.chunk_bytes()])
            + bytes([
                most_asks,
                b.n_chunks().min(if b.parts == Pointer::default() { 1 } else { 2 }),
                4 * CHUNK as u32,
            ]),
        arguments: Arguments::default()
            .with(b.logits)
            .with(b.parts)
            .with(b.maxima)
            .with(targets)
            .with(b.signals)
            .with(b.n_asks)
            .with(b.vocab)
            .with(b.stride),
    }
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
        part: "",
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
    vocab.div_ceil(CHUNK as u32) * 12 + vocab.div_ceil(32) * 4
}

/// Draws from whole distributions.
pub fn draw(b: LogitBuffers, d: DrawBuffers, most_draws: u32) -> Launch {
    let shared = draw_shared(b.vocab);
    Launch {
        kernel: "draw".into(),
        part: "",
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
