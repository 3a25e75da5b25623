//! What a batch means for the kernels, as the words that are copied to the device before a step.

use crate::ops::{SPLIT, TILE_QUERIES, Tile};
use crate::options::{PASSING_ASKS, Sizes};
use entropix_model::{Batch, Capacity};
use std::ops::Range;

/// Stands for no token.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// Where everything of a step's input lies, in words. The places never change, so a recorded step can be replayed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sections {
    /// {tokens, decode tiles, prefill tiles, kept asks, asks for attention}, then the passing asks, 64 by 64.
    pub(crate) counts: usize,
    pub(crate) tokens: usize,
    pub(crate) positions: usize,
    /// Where each token's keys and values go.
    pub(crate) slots: usize,
    /// (n_asks) in the order of places: kept asks first, then passing ones.
    pub(crate) ask_tokens: usize,
    pub(crate) targets: usize,
    /// (n_attention) {token, keys, block table}.
    pub(crate) attention: usize,
    pub(crate) decode_tiles: usize,
    pub(crate) prefill_tiles: usize,
    pub(crate) total: usize,
}

/// Indices of `Sections::counts`.
pub(crate) const N_TOKENS: usize = 0;
pub(crate) const N_DECODE: usize = 1;
pub(crate) const N_PREFILL: usize = 2;
pub(crate) const N_KEPT: usize = 3;
pub(crate) const N_ATTENTION: usize = 4;
pub(crate) const N_PASSING: usize = 5;

impl Sections {
    pub(crate) fn of(sizes: &Sizes) -> Self {
        let group = (sizes.heads.n_heads / sizes.heads.n_kv_heads) as usize;
        let t = sizes.max_tokens;
        let mut next = 0;
        let mut take = |words: usize| {
            let at = next;
            next = (next + words).next_multiple_of(4);
            at
        };
        Self {
            counts: take(N_PASSING + t.div_ceil(PASSING_ASKS)),
            tokens: take(t),
            positions: take(t),
            slots: take(t),
            ask_tokens: take(t),
            targets: take(t),
            attention: take(3 * t),
            decode_tiles: take(6 * sizes.max_rows * group.div_ceil(TILE_QUERIES)),
            prefill_tiles: take(6 * ((t * group).div_ceil(TILE_QUERIES) + sizes.max_rows)),
            total: next,
        }
    }
}

/// A step as the host plans it; reused from step to step.
#[derive(Debug)]
pub(crate) struct StepPlan {
    pub(crate) sections: Sections,
    /// (sections.total)
    pub(crate) words: Vec<u32>,
    /// How many of them matter.
    pub(crate) used: usize,
    pub(crate) n_tokens: usize,
    pub(crate) n_rows: usize,
    pub(crate) n_decode: usize,
    pub(crate) n_prefill: usize,
    /// Splits of the longest context that is decoded.
    pub(crate) splits: usize,
    /// Parts of 64 keys of the longest context whose attention is asked about.
    pub(crate) key_parts: usize,
    pub(crate) n_asks: usize,
    pub(crate) n_kept: usize,
    pub(crate) n_attention: usize,
    /// (n_asks) where the ask's record and logits are; those below `n_kept` keep their logits.
    pub(crate) places: Vec<u32>,
    /// (n_asks) its number among those that want attention signals.
    pub(crate) attention: Vec<Option<u32>>,
    decode: Vec<Tile>,
    prefill: Vec<Tile>,
}

/// A planned size as kernels take it.
pub(crate) fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("planned sizes and checked batches fit 32 bits")
}

impl StepPlan {
    pub(crate) fn new(sizes: &Sizes) -> Self {
        let sections = Sections::of(sizes);
        Self {
            sections,
            words: vec![0; sections.total],
            used: 0,
            n_tokens: 0,
            n_rows: 0,
            n_decode: 0,
            n_prefill: 0,
            splits: 0,
            key_parts: 0,
            n_asks: 0,
            n_kept: 0,
            n_attention: 0,
            places: Vec::new(),
            attention: Vec::new(),
            decode: Vec::new(),
            prefill: Vec::new(),
        }
    }

    /// Asks whose logits do not stay.
    pub(crate) fn passing(&self) -> Range<usize> {
        self.n_kept..self.n_asks
    }

    /// Replaces the plan by that of a batch.
    ///
    /// # Panics
    /// As [`Batch::check`].
    pub(crate) fn make(&mut self, batch: &Batch, capacity: &Capacity, sizes: &Sizes) {
        batch.check(capacity);
        assert!(batch.blocks.len() <= sizes.tables, "{} blocks of {}", batch.blocks.len(), sizes.tables);
        self.places.clear();
        self.attention.clear();
        self.decode.clear();
        self.prefill.clear();
        (self.splits, self.key_parts, self.n_attention) = (0, 0, 0);
        self.n_tokens = batch.tokens.len();
        self.n_rows = batch.rows.len();
        self.n_asks = batch.asks.len();
        self.n_kept = batch.asks.iter().filter(|ask| ask.keep_logits).count();
        let at = self.sections;
        self.words[at.tokens..at.tokens + self.n_tokens].copy_from_slice(&batch.tokens);
        let group = (sizes.heads.n_heads / sizes.heads.n_kv_heads) as usize;
        let (mut kept, mut passing, mut part) = (0, self.n_kept, 0);
        for row in &batch.rows {
            let table = &batch.blocks[row.blocks.clone()];
            for (i, token) in row.tokens.clone().enumerate() {
                let position = row.start + i;
                let block = table[position / capacity.block_size] as usize;
                self.words[at.positions + token] = narrow(position);
                self.words[at.slots + token] =
                    narrow(block * capacity.block_size + position % capacity.block_size);
            }
            for ask in &batch.asks[row.asks.clone()] {
                let token = row.tokens.start + ask.index;
                let next = if ask.keep_logits { &mut kept } else { &mut passing };
                self.words[at.ask_tokens + *next] = narrow(token);
                self.words[at.targets + *next] = ask.target.unwrap_or(NO_TOKEN);
                self.places.push(narrow(*next));
                *next += 1;
                self.attention.push(ask.attention.then_some(narrow(self.n_attention)));
                if ask.attention {
                    let n_keys = row.start + ask.index + 1;
                    let to = at.attention + 3 * self.n_attention;
                    self.words[to..to + 3].copy_from_slice(&[
                        narrow(token),
                        narrow(n_keys),
                        narrow(row.blocks.start),
                    ]);
                    self.n_attention += 1;
                    self.key_parts = self.key_parts.max(n_keys.div_ceil(64));
                }
            }
            let splits = (row.start + 1).div_ceil(SPLIT);
            let parts = group.div_ceil(TILE_QUERIES) * splits;
            // The two paths give the same bits; where parts would not fit, the other one is merely slower.
            let decodes = row.tokens.len() == 1 && part as usize + parts <= sizes.parts;
            let tiles = if decodes { &mut self.decode } else { &mut self.prefill };
            let (first, n, start) = (narrow(row.tokens.start), narrow(row.tokens.len()), narrow(row.start));
            let end = Tile::push_all(tiles, group, first, n, start, narrow(row.blocks.start), part);
            if decodes {
                part = end;
                self.splits = self.splits.max(splits);
            }
        }
        (self.n_decode, self.n_prefill) = (self.decode.len(), self.prefill.len());
        for (tiles, first) in [(&self.decode, at.decode_tiles), (&self.prefill, at.prefill_tiles)] {
            for (tile, to) in tiles.iter().zip(self.words[first..].chunks_exact_mut(6)) {
                to.copy_from_slice(&tile.to_words());
            }
        }
        self.used = at.prefill_tiles + 6 * self.n_prefill;
        let counts = &mut self.words[at.counts..at.tokens];
        for (i, n) in [
            (N_TOKENS, self.n_tokens),
            (N_DECODE, self.n_decode),
            (N_PREFILL, self.n_prefill),
            (N_KEPT, self.n_kept),
            (N_ATTENTION, self.n_attention),
        ] {
            counts[i] = narrow(n);
        }
        for (i, first) in (self.n_kept..self.n_asks).step_by(PASSING_ASKS).enumerate() {
            counts[N_PASSING + i] = narrow(PASSING_ASKS.min(self.n_asks - first));
        }
    }
}
