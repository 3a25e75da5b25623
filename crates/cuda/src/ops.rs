//! One function an operation: checks shapes, picks kernel and grid, and gives the launch. Counts that change from
//! step to step lie in device memory (`n_*` pointers); what is passed by value is fixed for a captured graph.

use crate::launch::{Arguments, Launch, Pointer};
use crate::pack::{Format, TILE_ROWS, gated_rows};

/// What a product does with its sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Writes them, f32.
    Store,
    /// Adds them to the residual stream, f32.
    Add,
    /// Of interleaved gate and up rows: silu(gate) * up, bf16.
    Gated,
}

/// Which of the kernels that give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Blocks of 16 rows x 8 tokens.
    N8,
    /// Blocks of 32 rows x 32 tokens.
    N32,
    /// Blocks of 256 rows x 64 tokens.
    Wide,
}

impl Width {
    /// The width for a launch of at most `tokens` tokens. Only speed depends on it.
    pub fn of(tokens: u32) -> Self {
        match tokens {
            0..=16 => Width::N8,
            17..=96 => Width::N32,
            _ => Width::Wide,
        }
    }

    /// (kernel suffix, tokens a block, rows a block, dynamic shared memory): matmul.cuh.
    fn shape(self) -> (&'static str, u32, u32, u32) {
        match self {
            Width::N8 => ("n8", 8, 16, 0),
            Width::N32 => ("n32", 32, 32, 0),
            Width::Wide => ("wide", 64, 256, 3 * 64 * 160 + 256 * 64 * 4),
        }
    }
}

/// A weight matrix on the device.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// How it is packed.
    pub format: Format,
    /// The packed bytes, 16-byte aligned.
    pub at: Pointer,
    /// Outputs; of a gated product, packed rows ([`gated_rows`]).
    pub n_rows: u32,
    /// Inputs.
    pub n_cols: u32,
}

impl Weights {
    /// Packed rows of a gated product of `n` gates.
    pub fn rows_of_gates(n: usize) -> u32 {
        u32_of(gated_rows(n))
    }
}

fn u32_of(n: usize) -> u32 {
    u32::try_from(n).expect("shapes fit 32 bits")
}

/// Y = X W^T for at most `most_tokens` rows of `x` (n_tokens, n_cols) bf16. `out` is (n_tokens, stride): f32, or bf16 when
/// gated; `n_tokens` points at how many rows there are.
pub fn matmul(
    w: Weights,
    x: Pointer,
    out: Pointer,
    stride: u32,
    n_tokens: Pointer,
    most_tokens: u32,
    product: Product,
    width: Width,
) -> Launch {
    assert!(w.n_cols.is_multiple_of(8), "a product over {} columns; a multiple of 8 is needed", w.n_cols);
    assert!(w.n_rows > 0 && most_tokens > 0, "an empty product: {} rows, {most_tokens} tokens", w.n_rows);
    if product == Product::Gated {
        assert!(
            w.n_rows.is_multiple_of(TILE_ROWS as u32),
            "{} rows of gate and up are no whole tiles",
            w.n_rows
        );
    }
    let (suffix, tokens, rows, shared) = width.shape();
    let (y, h) = if product == Product::Gated { (Pointer(0), out) } else { (out, Pointer(0)) };
    Launch {
        kernel: format!("matmul_{}_{suffix}", w.format.name()),
        grid: [most_tokens.div_ceil(tokens), w.n_rows.div_ceil(rows), 1],
        block: 256,
        shared,
        arguments: Arguments::default()
            .with(w.at)
            .with(x)
            .with(y)
            .with(h)
            .with(n_tokens)
            .with(w.n_rows)
            .with(w.n_cols)
            .with(stride)
            .with(product as u32),
    }
}

/// x (n_tokens, hidden) f32 = rows of the embedding.
pub fn embed(w: Weights, tokens: Pointer, x: Pointer, n_tokens: Pointer, most_tokens: u32) -> Launch {
    Launch {
        kernel: format!("embed_{}", w.format.name()),
        grid: [most_tokens, 1, 1],
        block: 128,
        shared: 0,
        arguments: Arguments::default()
            .with(w.at)
            .with(tokens)
            .with(x)
            .with(n_tokens)
            .with(w.n_rows)
            .with(w.n_cols),
    }
}

/// out (n_rows, hidden) bf16 = RMS norm of rows of x; `rows` null for all of them in order.
pub fn rms_norm(
    x: Pointer,
    weight: Pointer,
    rows: Pointer,
    out: Pointer,
    n_rows: Pointer,
    most_rows: u32,
    hidden: u32,
    eps: f32,
) -> Launch {
    assert!(hidden.is_multiple_of(4), "a norm over {hidden} components; a multiple of 4 is needed");
    Launch {
        kernel: "rms_norm".into(),
        grid: [most_rows, 1, 1],
        block: 256,
        shared: 0,
        arguments: Arguments::default()
            .with(x)
            .with(weight)
            .with(rows)
            .with(out)
            .with(n_rows)
            .with(hidden)
            .with(eps),
    }
}

/// Heads and cache of a model, as attention needs them.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Components a head; one of [`Heads::SIZES`].
    pub head_dim: u32,
    /// Positions a cache block.
    pub block_size: u32,
}

impl Heads {
    /// Head sizes that have attention kernels.
    pub const SIZES: [u32; 6] = [16, 32, 64, 80, 96, 128];

    fn check(&self) {
        assert!(
            Self::SIZES.contains(&self.head_dim),
            "heads of {}; there are kernels for {:?}",
            self.head_dim,
            Self::SIZES
        );
        assert!(
            self.n_heads.is_multiple_of(self.n_kv_heads),
            "{} heads over {} of keys",
            self.n_heads,
            self.n_kv_heads
        );
    }

    /// Bytes of one layer of the cache, (n_blocks, n_kv_heads, k|v, block_size, head_dim) bf16.
    pub fn cache_bytes(&self, n_blocks: usize) -> usize {
        n_blocks * (self.n_kv_heads * 2 * self.block_size * self.head_dim) as usize * 2
    }

    fn scale(&self) -> f32 {
        (1.0 / f64::from(self.head_dim).sqrt()) as f32
    }
}

/// Where [`rope_store`] reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct RopeInputs {
    /// (n_tokens, (n_heads + 2 n_kv_heads) head_dim) f32.
    pub qkv: Pointer,
    /// The same width, f32, or null.
    pub bias: Pointer,
    /// (head_dim) f32, or null.
    pub q_norm: Pointer,
    /// (head_dim) f32, or null.
    pub k_norm: Pointer,
    /// (head_dim / 2) f64: radians a position over pi.
    pub half_turns: Pointer,
    /// (n_tokens)
    pub positions: Pointer,
    /// (n_tokens) block * block_size + offset.
    pub slots: Pointer,
    /// Whether pairs are neighbours (GGUF of the llama family).
    pub adjacent: bool,
    /// Of the norms of heads.
    pub eps: f32,
}

/// Bias, head norms, rotation; q (n_tokens, n_heads, head_dim) bf16 and one layer's cache slots.
pub fn rope_store(
    from: RopeInputs,
    q: Pointer,
    cache: Pointer,
    n_tokens: Pointer,
    most_tokens: u32,
    heads: Heads,
) -> Launch {
    heads.check();
    Launch {
        kernel: "rope_store".into(),
        grid: [most_tokens, (heads.n_heads + 2 * heads.n_kv_heads).div_ceil(8), 1],
        block: 256,
        shared: 0,
        arguments: Arguments::default()
            .with(from.qkv)
            .with(from.bias)
            .with(from.q_norm)
            .with(from.k_norm)
            .with(from.half_turns)
            .with(from.positions)
            .with(from.slots)
            .with(q)
            .with(cache)
            .with(n_tokens)
            .with(heads.n_heads)
            .with(heads.n_kv_heads)
            .with(heads.head_dim)
            .with(heads.block_size)
            .with(u32::from(from.adjacent))
            .with(from.eps),
    }
}

/// Packed query rows a tile.
pub const TILE_QUERIES: usize = 16;
/// Keys a split.
pub const SPLIT: usize = 256;

/// 16 packed query rows of one sequence: `Tile` of attend.cuh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Tile {
    /// The sequence's first new token, in the batch.
    pub first_token: u32,
    /// New tokens of the sequence.
    pub n_tokens: u32,
    /// Position of its first new token.
    pub start: u32,
    /// Where its block table begins.
    pub table: u32,
    /// Packed row (token * group + head of the group) of the tile's first query.
    pub first_row: u32,
    /// Where its parts begin, in splits.
    pub part: u32,
}

impl Tile {
    /// Appends the tiles of one sequence, `first_token..first_token + n_tokens` of the batch; returns the parts used so far.
    pub fn push_all(
        out: &mut Vec<Tile>,
        group: usize,
        first_token: u32,
        n_tokens: u32,
        start: u32,
        table: u32,
        mut part: u32,
    ) -> u32 {
        for first_row in (0..n_tokens as usize * group).step_by(TILE_QUERIES) {
            out.push(Tile { first_token, n_tokens, start, table, first_row: u32_of(first_row), part });
            let last = ((first_row + TILE_QUERIES - 1) / group).min(n_tokens as usize - 1);
            part += u32_of((start as usize + last + 1).div_ceil(SPLIT));
        }
        part
    }

    /// Its 24 bytes.
    pub fn to_words(self) -> [u32; 6] {
        [self.first_token, self.n_tokens, self.start, self.table, self.first_row, self.part]
    }
}

/// Where attention reads and writes.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttendBuffers {
    /// (n_tokens, n_heads, head_dim) bf16.
    pub q: Pointer,
    /// One layer.
    pub cache: Pointer,
    /// Block tables of all sequences.
    pub tables: Pointer,
    /// (n_tiles) [`Tile`].
    pub tiles: Pointer,
    /// (1)
    pub n_tiles: Pointer,
    /// (parts, n_kv_heads, 16, head_dim + 8) f32; decoding only.
    pub parts: Pointer,
    /// (n_tokens, n_heads, head_dim) bf16.
    pub out: Pointer,
    /// (n_tokens, n_heads, 4) f32.
    pub stats: Pointer,
}

/// Attention of few queries over long contexts: a block a split, then the merge. The same bits as [`attend_prefill`].
pub fn attend_decode(b: AttendBuffers, most_tiles: u32, most_splits: u32, heads: Heads) -> [Launch; 2] {
    heads.check();
    let decode = Launch {
        kernel: format!("attend_decode_{}", heads.head_dim),
        grid: [most_tiles, heads.n_kv_heads, most_splits],
        block: 128,
        shared: 0,
        arguments: Arguments::default()
            .with(b.q)
            .with(b.cache)
            .with(b.tables)
            .with(b.tiles)
            .with(b.parts)
            .with(b.n_tiles)
            .with(heads.n_heads)
            .with(heads.n_kv_heads)
            .with(heads.block_size)
            .with(heads.scale()),
    };
    let merge = Launch {
        kernel: format!("attend_merge_{}", heads.head_dim),
        grid: [most_tiles, heads.n_kv_heads, 1],
        block: 128,
        shared: 0,
        arguments: Arguments::default()
            .with(b.parts)
            .with(b.tiles)
            .with(b.out)
            .with(b.stats)
            .with(b.n_tiles)
            .with(heads.n_heads)
            .with(heads.n_kv_heads),
    };
    [decode, merge]
}

/// Attention of many queries: a warp a tile, all splits.
pub fn attend_prefill(b: AttendBuffers, most_tiles: u32, heads: Heads) -> Launch {
    heads.check();
    Launch {
        kernel: format!("attend_prefill_{}", heads.head_dim),
        grid: [most_tiles.div_ceil(4), heads.n_kv_heads, 1],
        block: 128,
        shared: 0,
        arguments: Arguments::default()
            .with(b.q)
            .with(b.cache)
            .with(b.tables)
            .with(b.tiles)
            .with(b.out)
            .with(b.stats)
            .with(b.n_tiles)
            .with(heads.n_heads)
            .with(heads.n_kv_heads)
            .with(heads.block_size)
            .with(heads.scale()),
    }
}

/// Where attention signals are gathered.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttentionSignalBuffers {
    /// (n_asks) {token of the batch, keys it sees, where its block table begins}, u32 each.
    pub asks: Pointer,
    /// (1)
    pub n_asks: Pointer,
    /// (n_asks, most_parts) f32.
    pub parts: Pointer,
    /// (n_asks) f32.
    pub relative: Pointer,
    /// (n_asks, 6) f32: `AttentionSignals`.
    pub records: Pointer,
    /// Parts of 64 keys the longest context may have.
    pub most_parts: u32,
}

/// How far apart the heads of the last layer look.
pub fn attention_disagreement(
    a: AttendBuffers,
    s: AttentionSignalBuffers,
    most_asks: u32,
    heads: Heads,
) -> Launch {
    Launch {
        kernel: "attention_disagreement".into(),
        grid: [most_asks, s.most_parts, 1],
        block: 64,
        shared: heads.n_heads * 64 * 4,
        arguments: Arguments::default()
            .with(a.q)
            .with(a.cache)
            .with(a.tables)
            .with(a.stats)
            .with(s.asks)
            .with(s.parts)
            .with(s.n_asks)
            .with(heads.n_heads)
            .with(heads.n_kv_heads)
            .with(heads.head_dim)
            .with(heads.block_size)
            .with(s.most_parts)
            .with(heads.scale()),
    }
}

/// Adds a layer to the attention signals; the last one writes the records.
pub fn attention_signals(
    stats: Pointer,
    s: AttentionSignalBuffers,
    most_asks: u32,
    n_heads: u32,
    layer: u32,
    n_layers: u32,
) -> Launch {
    Launch {
        kernel: "attention_signals".into(),
        grid: [most_asks, 1, 1],
        block: 32,
        shared: 0,
        arguments: Arguments::default()
            .with(stats)
            .with(s.asks)
            .with(s.parts)
            .with(s.relative)
            .with(s.records)
            .with(s.n_asks)
            .with(n_heads)
            .with(s.most_parts)
            .with(layer)
            .with(n_layers),
    }
}

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

/// Draws from whole distributions.
pub fn draw(b: LogitBuffers, d: DrawBuffers, most_draws: u32) -> Launch {
    let shared = b.n_chunks() * 12 + b.vocab.div_ceil(32) * 4;
    assert!(
        shared <= 200 << 10,
        "a vocabulary of {} needs {shared} bytes of shared memory to draw from",
        b.vocab
    );
    Launch {
        kernel: "draw".into(),
        grid: [most_draws, 1, 1],
        block: 1024,
        shared,
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

/// Copies the first tokens of cache blocks, all layers; `copies` is (n_copies) {from, to, tokens} u32.
pub fn copy_blocks(
    cache: Pointer,
    copies: Pointer,
    n_copies: Pointer,
    most_copies: u32,
    n_layers: u32,
    n_blocks: u32,
    heads: Heads,
) -> Launch {
    let planes = heads.n_kv_heads * 2;
    Launch {
        kernel: "copy_blocks".into(),
        grid: [most_copies, n_layers * planes, 1],
        block: 128,
        shared: 0,
        arguments: Arguments::default()
            .with(cache)
            .with(copies)
            .with(n_copies)
            .with(n_blocks)
            .with(planes)
            .with(heads.block_size)
            .with(heads.head_dim),
    }
}
