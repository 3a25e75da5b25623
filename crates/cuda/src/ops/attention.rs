//! Paged attention and what it says about doubt.

use super::{Heads, bytes};
use crate::launch::{Arguments, Launch, Pointer};

fn u32_of(n: usize) -> u32 {
    u32::try_from(n).expect("shapes fit 32 bits")
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
    /// (n_tokens, n_heads, head_dim) bf16, f16 with a cache in f16.
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
    /// (n_tokens, n_heads, 4) f32; null where nobody asks how spread attention was: then its moments are not taken.
    pub stats: Pointer,
}

/// Bytes of the keys and values of tiles that each see so many positions.
fn keys([tiles, positions]: [u32; 2], heads: Heads) -> u64 {
    bytes([tiles, positions, heads.n_kv_heads * heads.vector_bytes(), 2])
}

/// Attention of few queries over long contexts: a block a split, then the merge. The same bits as [`attend_prefill`].
pub fn attend_decode(b: AttendBuffers, most_tiles: u32, most_splits: u32, heads: Heads) -> [Launch; 2] {
    heads.check();
    let decode = Launch {
        kernel: format!("attend_decode_{}_{}", heads.kv.name(), heads.head_dim),
        part: "",
        grid: [most_tiles, heads.n_kv_heads, most_splits],
        block: 128,
        shared: 0,
        bytes: keys([most_tiles, most_splits * SPLIT as u32], heads),
        arguments: Arguments::default()
            .with(b.q)
            .with(b.cache)
            .with(b.tables)
            .with(b.tiles)
            .with(b.parts)
            .with(b.n_tiles)
            .with(u32::from(b.stats != Pointer(0)))
            .with(heads.n_heads)
            .with(heads.n_kv_heads)
            .with(heads.block_size)
            .with(heads.scale()),
    };
    let merge = Launch {
        kernel: format!("attend_merge_{}", heads.head_dim),
        part: "",
        grid: [most_tiles, heads.n_kv_heads, 1],
        block: 128,
        shared: 0,
        bytes: bytes([most_tiles * most_splits, heads.n_heads, heads.head_dim + 5, 4])
            + bytes([
                most_tiles,
                heads.n_heads,
                2 * heads.head_dim + if b.stats == Pointer(0) { 0 } else { 16 },
            ]),
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
        kernel: format!("attend_prefill_{}_{}", heads.kv.name(), heads.head_dim),
        part: "",
        grid: [most_tiles.div_ceil(4), heads.n_kv_heads, 1],
        block: 128,
        shared: 0,
        // Queries and results, and the keys and values of the new tokens; those of earlier ones are not known here.
        bytes: bytes([most_tiles, TILE_QUERIES as u32, heads.n_kv_heads * heads.head_dim, 2 + 2])
            + keys([most_tiles, TILE_QUERIES as u32], heads) * u64::from(heads.n_kv_heads)
                / u64::from(heads.n_heads),
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
        kernel: format!("attention_disagreement_{}", heads.kv.name()),
        part: "",
        grid: [most_asks, s.most_parts, 1],
        block: 64,
        shared: heads.n_heads * 64 * 4,
        bytes: keys([most_asks, s.most_parts * 64], heads) / 2,
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
        part: "",
        grid: [most_asks, 1, 1],
        block: 32,
        shared: 0,
        bytes: bytes([most_asks, n_heads, 16]),
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
