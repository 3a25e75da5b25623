//! Attention of a few neighbouring tokens, all query heads of one key-value head, one split of positions.

use super::micro::{scores, weigh};
use super::softmax::Softmax;
use super::{SPLIT, TILE_QUERIES};
use crate::cache::{Element, LayerPages, PANEL};
use crate::simd::{LANES, Lanes};
use entropix_model::BlockId;

/// Neighbouring tokens of one row and one key-value head.
pub(super) struct Tile<'a, E> {
    pub(super) pages: &'a LayerPages<'a, E>,
    /// The row's block table.
    pub(super) blocks: &'a [BlockId],
    pub(super) kv_head: usize,
    /// Query heads of the key-value head.
    pub(super) group: usize,
    /// Position of the first token.
    pub(super) position: usize,
    pub(super) n_tokens: usize,
    /// Queries of the first token, already scaled by 1 / sqrt(head_dim): head after head, `stride` numbers
    /// from one token to the next.
    pub(super) queries: &'a [f32],
    pub(super) stride: usize,
}

/// What the queries of a tile know so far, query after query: tokens, and heads of the group within a token.
#[derive(Debug)]
pub(super) struct Sums {
    /// (queries)
    pub(super) softmax: Vec<Softmax>,
    /// (queries, value_vectors * 16) values weighted in the frame of the softmax.
    pub(super) values: Vec<f32>,
}

impl Sums {
    pub(super) fn new(queries: usize, value_vectors: usize) -> Self {
        Self { softmax: vec![Softmax::NONE; queries], values: vec![0.0; queries * value_vectors * LANES] }
    }

    pub(super) fn clear(&mut self) {
        self.softmax.fill(Softmax::NONE);
        self.values.fill(0.0);
    }
}

/// Room of one thread.
#[derive(Debug)]
pub(super) struct SplitScratch {
    /// (queries, SPLIT) scores, then weights.
    scores: Vec<[f32; SPLIT]>,
    /// Of the split alone.
    pub(super) sums: Sums,
}

impl SplitScratch {
    pub(super) fn new(group: usize, value_vectors: usize) -> Self {
        let queries = TILE_QUERIES.max(group);
        Self { scores: vec![[0.0; SPLIT]; queries], sums: Sums::new(queries, value_vectors) }
    }
}

impl<E: Element> Tile<'_, E> {
    pub(super) fn n_queries(&self) -> usize {
        self.n_tokens * self.group
    }

    /// How many positions of split `split` the `i`-th query sees.
    fn seen(&self, split: usize, i: usize) -> usize {
        (self.position + i / self.group + 1).saturating_sub(split * SPLIT).min(SPLIT)
    }

    /// Computes one split into `scratch.sums`. With SIGNALS the softmax carries its moments, and
    /// `kept(query, scores)` is shown the scores before they become weights.
    ///
    /// # Safety
    /// Nobody may write the row's cache meanwhile.
    #[inline(always)]
    pub(super) unsafe fn split<L: Lanes, const SIGNALS: bool>(
        &self,
        split: usize,
        scratch: &mut SplitScratch,
        mut kept: impl FnMut(usize, &[f32]),
    ) {
        let n = self.n_queries();
        let most = self.seen(split, n - 1);
        // SAFETY: promised by the caller.
        unsafe { self.scores::<L>(split, most.div_ceil(PANEL), &mut scratch.scores) };
        let SplitScratch { scores, sums } = scratch;
        for (i, scores) in scores[..n].iter_mut().enumerate() {
            let seen = self.seen(split, i);
            if SIGNALS {
                kept(i, &scores[..seen]);
            }
            sums.softmax[i] =
                if seen == 0 { Softmax::NONE } else { Softmax::of_scores::<L, SIGNALS>(scores, seen) };
        }
        let width = self.pages.geometry.value_vectors() * LANES;
        sums.values[..n * width].fill(0.0);
        // SAFETY: promised by the caller.
        unsafe { self.weigh::<L>(split, scores, &mut sums.values) };
    }

    /// # Safety
    /// As for [`Tile::split`].
    #[inline(always)]
    unsafe fn scores<L: Lanes>(&self, split: usize, n_panels: usize, out: &mut [[f32; SPLIT]]) {
        let n = self.n_queries();
        let mut first = 0;
        while first < n {
            let left = n - first;
            // SAFETY: `first + Q` queries exist, and `n_panels` panels fit the split.
            unsafe {
                first += match L::ACCUMULATORS {
                    16.. if left >= 8 => self.score_rows::<L, 8, 2>(split, first, n_panels, out),
                    16.. if left >= 4 => self.score_rows::<L, 4, 4>(split, first, n_panels, out),
                    16.. if left == 3 => self.score_rows::<L, 3, 4>(split, first, n_panels, out),
                    16.. if left == 2 => self.score_rows::<L, 2, 4>(split, first, n_panels, out),
                    _ if left >= 4 => self.score_rows::<L, 4, 1>(split, first, n_panels, out),
                    _ if left >= 2 => self.score_rows::<L, 2, 2>(split, first, n_panels, out),
                    _ => self.score_rows::<L, 1, 4>(split, first, n_panels, out),
                };
            }
        }
    }

    /// Scores of Q queries with all panels; returns Q.
    ///
    /// # Safety
    /// As for [`Tile::split`]; `first + Q` may not exceed the queries, nor `n_panels` the split.
    #[inline(always)]
    unsafe fn score_rows<L: Lanes, const Q: usize, const W: usize>(
        &self,
        split: usize,
        first: usize,
        n_panels: usize,
        out: &mut [[f32; SPLIT]],
    ) -> usize {
        let g = self.pages.geometry;
        let queries: [*const f32; Q] = std::array::from_fn(|i| {
            let (token, head) = ((first + i) / self.group, (first + i) % self.group);
            let at = token * self.stride + head * g.head_dim;
            self.queries[at..at + g.head_dim].as_ptr()
        });
        let rows = &mut out[first..first + Q];
        let outs: [*mut f32; Q] = std::array::from_fn(|i| rows[i].as_mut_ptr());
        // SAFETY: nobody writes the cache, by the contract of the caller.
        let keys = |panel: usize| unsafe {
            self.pages.keys(g.panel(self.blocks, split * SPLIT + panel * PANEL, self.kv_head))
        };
        let mut panel = 0;
        while panel < n_panels {
            let to = outs.map(|row| row.wrapping_add(panel * PANEL));
            // SAFETY: the queries were sliced to head_dim; panels fit the rows of SPLIT scores.
            unsafe {
                if panel + W <= n_panels {
                    scores::<L, E, Q, W>(queries, std::array::from_fn(|w| keys(panel + w)), g.head_dim, to);
                    panel += W;
                } else {
                    scores::<L, E, Q, 1>(queries, [keys(panel)], g.head_dim, to);
                    panel += 1;
                }
            }
        }
        Q
    }

    /// # Safety
    /// As for [`Tile::split`].
    #[inline(always)]
    unsafe fn weigh<L: Lanes>(&self, split: usize, weights: &[[f32; SPLIT]], out: &mut [f32]) {
        let n = self.n_queries();
        let mut first = 0;
        while first < n {
            let left = n - first;
            // SAFETY: `first + Q` queries exist.
            unsafe {
                first += match L::ACCUMULATORS {
                    16.. if left >= 8 => self.weigh_rows::<L, 8, 2>(split, first, weights, out),
                    16.. if left >= 4 => self.weigh_rows::<L, 4, 4>(split, first, weights, out),
                    16.. if left == 3 => self.weigh_rows::<L, 3, 4>(split, first, weights, out),
                    16.. if left == 2 => self.weigh_rows::<L, 2, 4>(split, first, weights, out),
                    _ if left >= 4 => self.weigh_rows::<L, 4, 1>(split, first, weights, out),
                    _ if left >= 2 => self.weigh_rows::<L, 2, 2>(split, first, weights, out),
                    _ => self.weigh_rows::<L, 1, 4>(split, first, weights, out),
                };
            }
        }
    }

    /// Weighted values of Q queries; returns Q.
    ///
    /// # Safety
    /// As for [`Tile::split`]; `first + Q` may not exceed the queries.
    #[inline(always)]
    unsafe fn weigh_rows<L: Lanes, const Q: usize, const W: usize>(
        &self,
        split: usize,
        first: usize,
        weights: &[[f32; SPLIT]],
        out: &mut [f32],
    ) -> usize {
        let g = self.pages.geometry;
        let vectors = g.value_vectors();
        let rows = &weights[first..first + Q];
        let weights: [*const f32; Q] = std::array::from_fn(|i| rows[i].as_ptr());
        let rows = &mut out[first * vectors * LANES..(first + Q) * vectors * LANES];
        let outs: [*mut f32; Q] = std::array::from_fn(|i| rows[i * vectors * LANES..].as_mut_ptr());
        // SAFETY: nobody writes the cache, by the contract of the caller.
        let values = |panel: usize| unsafe {
            self.pages.values(g.panel(self.blocks, split * SPLIT + panel * PANEL, self.kv_head))
        };
        // What all see together, then what the later tokens see alone: 0 times a value that a query must not
        // see would be NaN when that value is.
        let common = self.seen(split, first);
        let mut vector = 0;
        while vector < vectors {
            let to = outs.map(|row| row.wrapping_add(vector * LANES));
            // SAFETY: the rows hold SPLIT weights and `vectors` vectors.
            unsafe {
                if vector + W <= vectors {
                    weigh::<L, E, Q, W>(weights, values, vectors, vector, (0, common), to);
                    vector += W;
                } else {
                    weigh::<L, E, Q, 1>(weights, values, vectors, vector, (0, common), to);
                    vector += 1;
                }
            }
        }
        for i in 0..Q {
            let rest = (common, self.seen(split, first + i));
            for vector in 0..if rest.1 > common { vectors } else { 0 } {
                let to = [outs[i].wrapping_add(vector * LANES)];
                // SAFETY: as above.
                unsafe { weigh::<L, E, 1, 1>([weights[i]], values, vectors, vector, rest, to) };
            }
        }
        Q
    }
}
