//! Causal attention with shared key-value heads over the paged cache.
//!
//! Softmax runs online over splits of 256 positions at fixed places, and every split over panels of 16 in
//! order. The same splits are used whether a token is decoded or prefilled, alone or with its neighbours, by
//! one thread or several, so its result has the same bits however it came to be computed. (Online softmax:
//! arXiv 1805.02867; splits that are merged: flash-decoding.)
#![allow(unsafe_code)]

mod micro;
mod next;
mod signals;
mod softmax;
mod tile;

#[cfg(test)]
mod tests;

pub(crate) use next::NextKeys;
pub(crate) use signals::{HeadSignals, SignalSums, attend_with_signals};

use crate::cache::{Element, LayerPages};
use crate::memory::Zeroed;
use crate::shared::Shared;
use crate::simd::{Family, Kernel, LANES, Lanes, dispatch};
use entropix_model::{BlockId, Result};
use softmax::Softmax;
use tile::{SplitScratch, Sums, Tile};

/// Positions whose softmax is computed in one frame.
pub(crate) const SPLIT: usize = 256;
/// Queries that share what is loaded from the cache.
const TILE_QUERIES: usize = 24;

/// Neighbouring tokens of one row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'a> {
    /// The row's block table.
    pub(crate) blocks: &'a [BlockId],
    /// Position of the first token.
    pub(crate) position: usize,
    /// Which row of the queries the first token has.
    pub(crate) first: usize,
    /// Which row of the results.
    pub(crate) out: usize,
    pub(crate) n_tokens: usize,
    /// What the same thread reads after it.
    pub(crate) next: Option<NextKeys<'a>>,
}

impl<'a> Span<'a> {
    /// The keys of a split of a key-value head.
    pub(crate) fn keys(&self, kv_head: usize, split: usize) -> NextKeys<'a> {
        let first = split * SPLIT;
        let n = (self.position + self.n_tokens - first).min(SPLIT);
        NextKeys { blocks: self.blocks, kv_head, first, n }
    }
}

/// Queries and results of a layer.
pub(crate) struct Queries<'a> {
    /// (tokens, stride), each row starting with (n_heads, head_dim) queries scaled by 1 / sqrt(head_dim).
    pub(crate) queries: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) n_heads: usize,
    /// (tokens, n_heads * head_dim)
    pub(crate) out: Shared<'a, f32>,
}

/// How many neighbouring tokens are best computed together.
pub(crate) fn tile_tokens(group: usize) -> usize {
    (TILE_QUERIES / group).clamp(1, 16)
}

/// Splits of a context of `n` positions.
pub(crate) fn n_splits(n: usize) -> usize {
    n.div_ceil(SPLIT)
}

/// Room of one thread.
#[derive(Debug)]
pub(crate) struct Scratch {
    split: SplitScratch,
    sums: Sums,
    signals: signals::Rows,
}

impl Scratch {
    /// For contexts of at most `max_context` positions.
    ///
    /// # Errors
    /// When there is no memory.
    pub(crate) fn new(
        n_heads: usize,
        n_kv_heads: usize,
        head_dim: usize,
        max_context: usize,
    ) -> Result<Self> {
        let (group, vectors) = (n_heads / n_kv_heads, head_dim.div_ceil(LANES));
        Ok(Self {
            split: SplitScratch::new(group, vectors)?,
            sums: Sums::new(TILE_QUERIES.max(group), vectors)?,
            signals: signals::Rows::new(n_heads, max_context),
        })
    }

    /// Bytes of one thread's room.
    pub(crate) fn n_bytes(n_heads: usize, n_kv_heads: usize, head_dim: usize, max_context: usize) -> usize {
        let queries = TILE_QUERIES.max(n_heads / n_kv_heads);
        let sums = head_dim.next_multiple_of(LANES) * size_of::<f32>() + size_of::<Softmax>();
        queries * (SPLIT * size_of::<f32>() + 2 * sums) + n_heads * max_context * size_of::<f32>()
    }
}

struct AttendSpan<'a, E> {
    pages: &'a LayerPages<'a, E>,
    span: Span<'a>,
    queries: &'a Queries<'a>,
    scratch: &'a mut Scratch,
}

impl<E: Element> Kernel for AttendSpan<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { pages, span, queries, scratch } = self;
        let (n_heads, n_splits) = (pages.geometry.n_kv_heads, n_splits(span.position + span.n_tokens));
        for kv_head in 0..n_heads {
            let tile = queries.tile(pages, span, kv_head);
            scratch.sums.clear();
            for split in 0..n_splits {
                let next = match (kv_head + 1 < n_heads, split + 1 < n_splits) {
                    (_, true) => Some(span.keys(kv_head, split + 1)),
                    (true, false) => Some(span.keys(kv_head + 1, 0)),
                    (false, false) => span.next,
                };
                // SAFETY: nobody writes the cache during attention.
                unsafe { tile.split::<L, false>(split, next, &mut scratch.split, |_, _| {}) };
                merge::<L, false>(tile.n_queries(), &mut scratch.sums, &scratch.split.sums);
            }
            // SAFETY: the span's rows of `out` are this call's alone.
            unsafe { queries.finish::<L, E>(&tile, span, &scratch.sums) };
        }
    }
}

/// Attention of a span, all heads.
///
/// # Safety
/// Nobody may write the cache, and nobody else may touch the span's rows of `queries.out` meanwhile.
pub(crate) unsafe fn attend_span<E: Element>(
    family: Family,
    pages: &LayerPages<'_, E>,
    span: Span<'_>,
    queries: &Queries<'_>,
    scratch: &mut Scratch,
) {
    assert!(span.n_tokens * (queries.n_heads / pages.geometry.n_kv_heads) <= scratch.sums.softmax.len());
    dispatch(family, AttendSpan { pages, span, queries, scratch });
}

struct AttendSplit<'a, E> {
    pages: &'a LayerPages<'a, E>,
    span: Span<'a>,
    kv_head: usize,
    split: usize,
    queries: &'a Queries<'a>,
    scratch: &'a mut Scratch,
    part: PartMut<'a>,
}

impl<E: Element> Kernel for AttendSplit<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let tile = self.queries.tile(self.pages, self.span, self.kv_head);
        // SAFETY: nobody writes the cache during attention.
        unsafe { tile.split::<L, false>(self.split, self.span.next, &mut self.scratch.split, |_, _| {}) };
        let sums = &self.scratch.split.sums;
        self.part.softmax.copy_from_slice(&sums.softmax[..self.part.softmax.len()]);
        self.part.values.copy_from_slice(&sums.values[..self.part.values.len()]);
    }
}

/// What the splits of a few tokens left, for [`merge_parts`].
#[derive(Debug)]
pub(crate) struct Parts {
    /// (slots, group)
    softmax: Vec<Softmax>,
    /// (slots, group, value_vectors * 16)
    values: Zeroed<f32>,
    group: usize,
    width: usize,
}

/// One slot of [`Parts`].
pub(crate) struct PartMut<'a> {
    softmax: &'a mut [Softmax],
    values: &'a mut [f32],
}

impl Parts {
    /// A slot holds one split of one token and one key-value head.
    ///
    /// # Errors
    /// When there is no memory.
    pub(crate) fn new(slots: usize, group: usize, head_dim: usize) -> Result<Self> {
        let width = head_dim.next_multiple_of(LANES);
        Ok(Self {
            softmax: vec![Softmax::NONE; slots * group],
            values: Zeroed::new(slots * group * width, "parts of attention")?,
            group,
            width,
        })
    }

    /// Bytes of one slot.
    pub(crate) fn slot_bytes(group: usize, head_dim: usize) -> usize {
        group * (head_dim.next_multiple_of(LANES) * size_of::<f32>() + size_of::<Softmax>())
    }

    pub(crate) fn share(&mut self) -> SharedParts<'_> {
        SharedParts {
            softmax: Shared::new(&mut self.softmax),
            values: Shared::new(&mut self.values),
            group: self.group,
            width: self.width,
        }
    }
}

/// Slots for several threads.
pub(crate) struct SharedParts<'a> {
    softmax: Shared<'a, Softmax>,
    values: Shared<'a, f32>,
    group: usize,
    width: usize,
}

impl<'a> SharedParts<'a> {
    /// # Safety
    /// Nobody else may touch this slot while the result lives.
    pub(crate) unsafe fn slot(&self, slot: usize) -> PartMut<'a> {
        let n = self.group * self.width;
        // SAFETY: promised by the caller.
        unsafe {
            PartMut {
                softmax: self.softmax.part(slot * self.group..(slot + 1) * self.group),
                values: self.values.part(slot * n..(slot + 1) * n),
            }
        }
    }
}

/// One split of one token (a span of one) and one key-value head.
///
/// # Safety
/// Nobody may write the cache meanwhile.
pub(crate) unsafe fn attend_split<E: Element>(
    family: Family,
    pages: &LayerPages<'_, E>,
    span: Span<'_>,
    (kv_head, split): (usize, usize),
    queries: &Queries<'_>,
    scratch: &mut Scratch,
    part: PartMut<'_>,
) {
    assert_eq!(span.n_tokens, 1, "tokens of a split attended alone");
    dispatch(family, AttendSplit { pages, span, kv_head, split, queries, scratch, part });
}

struct MergeParts<'a, E> {
    pages: &'a LayerPages<'a, E>,
    span: Span<'a>,
    queries: &'a Queries<'a>,
    scratch: &'a mut Scratch,
    parts: &'a Parts,
    first_slot: usize,
}

impl<E: Element> Kernel for MergeParts<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { pages, span, queries, scratch, parts, first_slot } = self;
        let (group, width) = (parts.group, parts.width);
        let n_splits = n_splits(span.position + 1);
        for kv_head in 0..pages.geometry.n_kv_heads {
            scratch.sums.clear();
            for split in 0..n_splits {
                let first = (first_slot + kv_head * n_splits + split) * group;
                for i in 0..group {
                    let row = i * width..(i + 1) * width;
                    let part = (first + i) * width..(first + i + 1) * width;
                    scratch.sums.softmax[i].merge::<L, false>(
                        &mut scratch.sums.values[row],
                        &parts.softmax[first + i],
                        &parts.values[part],
                    );
                }
            }
            let tile = queries.tile(pages, span, kv_head);
            // SAFETY: the span's row of `out` is this call's alone.
            unsafe { queries.finish::<L, E>(&tile, span, &scratch.sums) };
        }
    }
}

/// Puts the splits of one token together: slots `first_slot..` hold (n_kv_heads, n_splits).
///
/// # Safety
/// Nobody else may touch the token's row of `queries.out` meanwhile.
pub(crate) unsafe fn merge_parts<E: Element>(
    family: Family,
    pages: &LayerPages<'_, E>,
    span: Span<'_>,
    queries: &Queries<'_>,
    scratch: &mut Scratch,
    parts: &Parts,
    first_slot: usize,
) {
    assert_eq!(span.n_tokens, 1, "tokens whose splits are merged");
    dispatch(family, MergeParts { pages, span, queries, scratch, parts, first_slot });
}

/// Adds a split of `n` queries to what they know.
#[inline(always)]
fn merge<L: Lanes, const SIGNALS: bool>(n: usize, all: &mut Sums, split: &Sums) {
    let width = all.values.len() / all.softmax.len();
    for i in 0..n {
        // A query that saw nothing of the split has nothing to add, not even a rounding.
        if split.softmax[i].sum != 0.0 {
            let row = i * width..(i + 1) * width;
            let values = &mut all.values[row.clone()];
            all.softmax[i].merge::<L, SIGNALS>(values, &split.softmax[i], &split.values[row]);
        }
    }
}

impl<'a> Queries<'a> {
    fn tile<E: Element>(
        &'a self,
        pages: &'a LayerPages<'a, E>,
        span: Span<'a>,
        kv_head: usize,
    ) -> Tile<'a, E> {
        let g = pages.geometry;
        let group = self.n_heads / g.n_kv_heads;
        Tile {
            pages,
            blocks: span.blocks,
            kv_head,
            group,
            position: span.position,
            n_tokens: span.n_tokens,
            queries: &self.queries[span.first * self.stride + kv_head * group * g.head_dim..],
            stride: self.stride,
        }
    }

    /// Divides by the sums and writes the heads of a tile.
    ///
    /// # Safety
    /// Nobody else may touch the span's rows of `out` meanwhile.
    #[inline(always)]
    unsafe fn finish<L: Lanes, E: Element>(&self, tile: &Tile<'_, E>, span: Span<'_>, sums: &Sums) {
        let g = tile.pages.geometry;
        let width = g.value_vectors() * LANES;
        for i in 0..tile.n_queries() {
            let (token, head) = (i / tile.group, i % tile.group + tile.kv_head * tile.group);
            let first = ((span.out + token) * self.n_heads + head) * g.head_dim;
            // SAFETY: promised by the caller.
            let out = unsafe { self.out.part(first..first + g.head_dim) };
            let scale = 1.0 / sums.softmax[i].sum;
            for (out, x) in out.iter_mut().zip(&sums.values[i * width..]) {
                *out = x * scale;
            }
        }
    }
}
