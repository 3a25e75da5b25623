//! Attention of a few neighbouring tokens, all query heads of one key-value head, one split of positions.
#![allow(unsafe_code)]

use super::micro::{scores, weigh};
use super::next::NextKeys;
use super::softmax::Softmax;
use super::{SPLIT, TILE_QUERIES};
use crate::cache::{Element, LayerPages, PANEL};
use crate::memory::Zeroed;
use crate::simd::{LANES, Lanes, prefetch};
use entropix_model::{BlockId, Result};

/// Panels of values that are weighed while as many of the keys that come next are loaded.
const PANELS_AHEAD: usize = 4;
/// From so many queries on, panels in half precision are widened once for all of them.
const MANY_QUERIES: usize = 8;
/// Panels that are widened at a time: what they take stays in the first-level cache. The sums of values go to memory
/// and back once a time.
const WIDENED_KEYS: usize = 2;
const WIDENED_VALUES: usize = 4;

/// What the room is for. On cache lines: a vector that lies across two of them costs two accesses.
const WHAT: &str = "the attention of a thread";

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
    pub(super) values: Zeroed<f32>,
}

impl Sums {
    pub(super) fn new(queries: usize, value_vectors: usize) -> Result<Self> {
        let values = Zeroed::new(queries * value_vectors * LANES, WHAT)?;
        Ok(Self { softmax: vec![Softmax::NONE; queries], values })
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
    scores: Zeroed<[f32; SPLIT]>,
    /// (4, vectors of a panel of keys or values) panels in f32.
    widened: Zeroed<[f32; LANES]>,
    /// Of the split alone.
    pub(super) sums: Sums,
}

impl SplitScratch {
    pub(super) fn new(group: usize, value_vectors: usize) -> Result<Self> {
        let queries = TILE_QUERIES.max(group);
        Ok(Self {
            scores: Zeroed::new(queries, WHAT)?,
            widened: Zeroed::new(WIDENED_VALUES * PANEL * value_vectors, WHAT)?,
            sums: Sums::new(queries, value_vectors)?,
        })
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

    /// The keys of a panel of a split.
    ///
    /// # Safety
    /// As for [`Tile::split`].
    #[inline(always)]
    unsafe fn keys(&self, split: usize, panel: usize) -> &[[E; LANES]] {
        let at = self.pages.geometry.panel(self.blocks, split * SPLIT + panel * PANEL, self.kv_head);
        // SAFETY: nobody writes the cache, by the contract of the caller.
        unsafe { self.pages.keys(at) }
    }

    /// The values of a panel of a split.
    ///
    /// # Safety
    /// As for [`Tile::split`].
    #[inline(always)]
    unsafe fn values(&self, split: usize, panel: usize) -> &[[E; LANES]] {
        let at = self.pages.geometry.panel(self.blocks, split * SPLIT + panel * PANEL, self.kv_head);
        // SAFETY: nobody writes the cache, by the contract of the caller.
        unsafe { self.pages.values(at) }
    }

    /// Computes one split into `scratch.sums`; `next` is what comes after it. With SIGNALS the softmax carries its moments, and
    /// `kept(query, scores)` is shown the scores before they become weights.
    ///
    /// # Safety
    /// Nobody may write the row's cache meanwhile.
    #[inline(always)]
    pub(super) unsafe fn split<L: Lanes, const SIGNALS: bool>(
        &self,
        split: usize,
        next: Option<NextKeys<'_>>,
        scratch: &mut SplitScratch,
        mut kept: impl FnMut(usize, &[f32]),
    ) {
        let SplitScratch { scores, widened, sums } = scratch;
        let n = self.n_queries();
        let n_panels = self.seen(split, n - 1).div_ceil(PANEL);
        let width = self.pages.geometry.value_vectors() * LANES;
        let is_widened = n >= MANY_QUERIES && size_of::<E>() < size_of::<f32>();
        // SAFETY: promised by the caller.
        unsafe {
            if is_widened {
                self.score_widened::<L>(split, n_panels, widened, scores);
            } else if L::ACCUMULATORS >= 16 {
                self.score_stored::<L, 4>(split, n_panels, scores);
            } else {
                self.score_stored::<L, 2>(split, n_panels, scores);
            }
        }
        for (i, scores) in scores[..n].iter_mut().enumerate() {
            let seen = self.seen(split, i);
            if SIGNALS {
                kept(i, &scores[..seen]);
            }
            sums.softmax[i] =
                if seen == 0 { Softmax::NONE } else { Softmax::of_scores::<L, SIGNALS>(scores, seen) };
        }
        sums.values[..n * width].fill(0.0);
        // SAFETY: promised by the caller.
        unsafe {
            if is_widened {
                self.weigh_widened::<L>(split, n_panels, widened, scores, &mut sums.values);
            } else {
                let mut panels: [&[[E; LANES]]; PANELS_AHEAD] = [&[]; PANELS_AHEAD];
                for first in (0..n_panels).step_by(PANELS_AHEAD) {
                    if let Some(next) = &next {
                        next.prefetch(self.pages, first..first + PANELS_AHEAD);
                    }
                    let some = PANELS_AHEAD.min(n_panels - first);
                    for (i, values) in panels[..some].iter_mut().enumerate() {
                        *values = self.values(split, first + i);
                    }
                    self.weigh_panels::<L, E>(split, &panels[..some], first, scores, &mut sums.values);
                }
            }
        }
    }

    /// # Safety
    /// As for [`Tile::split`].
    #[inline(always)]
    unsafe fn score_stored<L: Lanes, const W: usize>(
        &self,
        split: usize,
        n_panels: usize,
        out: &mut [[f32; SPLIT]],
    ) {
        let mut panel = 0;
        while panel < n_panels {
            let some = W.min(n_panels - panel);
            let mut keys: [&[[E; LANES]]; W] = [&[]; W];
            // SAFETY: promised by the caller.
            unsafe {
                for (i, keys) in keys[..some].iter_mut().enumerate() {
                    // A decoded token meets its cache cold, and wants the values as soon as it has the scores.
                    prefetch(self.values(split, panel + i));
                    *keys = self.keys(split, panel + i);
                }
                if some == W {
                    self.score_panels::<L, E, W>(keys, panel, out);
                } else {
                    for (i, keys) in keys[..some].iter().enumerate() {
                        self.score_panels::<L, E, 1>([keys], panel + i, out);
                    }
                }
            }
            panel += some;
        }
    }

    /// # Safety
    /// As for [`Tile::split`].
    #[inline(always)]
    unsafe fn score_widened<L: Lanes>(
        &self,
        split: usize,
        n_panels: usize,
        room: &mut [[f32; LANES]],
        out: &mut [[f32; SPLIT]],
    ) {
        let n = self.pages.geometry.key_panel();
        let (first, second) = room[..2 * n].split_at_mut(n);
        let mut panel = 0;
        while panel < n_panels {
            // SAFETY: promised by the caller.
            unsafe {
                widen::<L, E>(self.keys(split, panel), first);
                if panel + 1 < n_panels {
                    widen::<L, E>(self.keys(split, panel + 1), second);
                    self.score_panels::<L, f32, WIDENED_KEYS>([first, second], panel, out);
                } else {
                    self.score_panels::<L, f32, 1>([first], panel, out);
                }
            }
            panel += WIDENED_KEYS;
        }
    }

    /// Scores of all queries with W panels, the first of them the split's `panel`-th.
    ///
    /// # Safety
    /// As for [`Tile::split`].
    #[inline(always)]
    unsafe fn score_panels<L: Lanes, K: Element, const W: usize>(
        &self,
        keys: [&[[K; LANES]]; W],
        panel: usize,
        out: &mut [[f32; SPLIT]],
    ) {
        let most = L::ACCUMULATORS / W;
        let mut first = 0;
        while first < self.n_queries() {
            let left = (self.n_queries() - first).min(most);
            // SAFETY: `first + Q` queries exist.
            unsafe {
                first += match left {
                    8.. => self.score_rows::<L, K, 8, W>(keys, first, panel, out),
                    4.. => self.score_rows::<L, K, 4, W>(keys, first, panel, out),
                    3 => self.score_rows::<L, K, 3, W>(keys, first, panel, out),
                    2 => self.score_rows::<L, K, 2, W>(keys, first, panel, out),
                    _ => self.score_rows::<L, K, 1, W>(keys, first, panel, out),
                };
            }
        }
    }

    /// Scores of Q queries; returns Q.
    ///
    /// # Safety
    /// `first + Q` may not exceed the queries.
    #[inline(always)]
    unsafe fn score_rows<L: Lanes, K: Element, const Q: usize, const W: usize>(
        &self,
        keys: [&[[K; LANES]]; W],
        first: usize,
        panel: usize,
        out: &mut [[f32; SPLIT]],
    ) -> usize {
        let head_dim = self.pages.geometry.head_dim;
        let rows = &mut out[first..first + Q];
        let (mut queries, mut outs) = ([std::ptr::null(); Q], [std::ptr::null_mut(); Q]);
        for i in 0..Q {
            let (token, head) = ((first + i) / self.group, (first + i) % self.group);
            let at = token * self.stride + head * head_dim;
            queries[i] = self.queries[at..at + head_dim].as_ptr();
            outs[i] = rows[i][panel * PANEL..(panel + W) * PANEL].as_mut_ptr();
        }
        // SAFETY: the slices above are as long as is promised.
        unsafe { scores::<L, K, Q, W>(queries, keys, head_dim, outs) };
        Q
    }

    /// # Safety
    /// As for [`Tile::split`].
    #[inline(always)]
    unsafe fn weigh_widened<L: Lanes>(
        &self,
        split: usize,
        n_panels: usize,
        room: &mut [[f32; LANES]],
        weights: &[[f32; SPLIT]],
        out: &mut [f32],
    ) {
        let n = self.pages.geometry.value_panel();
        let mut panel = 0;
        while panel < n_panels {
            let some = WIDENED_VALUES.min(n_panels - panel);
            for (i, to) in room.chunks_exact_mut(n).take(some).enumerate() {
                // SAFETY: promised by the caller.
                widen::<L, E>(unsafe { self.values(split, panel + i) }, to);
            }
            let mut panels: [&[[f32; LANES]]; WIDENED_VALUES] = [&[]; WIDENED_VALUES];
            panels.iter_mut().zip(room.chunks_exact(n)).for_each(|(panel, from)| *panel = from);
            // SAFETY: promised by the caller.
            unsafe { self.weigh_panels::<L, f32>(split, &panels[..some], panel, weights, out) };
            panel += some;
        }
    }

    /// Adds the values of some panels, the first of them the split's `panel`-th, to the outputs of all queries.
    ///
    /// # Safety
    /// As for [`Tile::split`].
    #[inline(always)]
    unsafe fn weigh_panels<L: Lanes, K: Element>(
        &self,
        split: usize,
        values: &[&[[K; LANES]]],
        panel: usize,
        weights: &[[f32; SPLIT]],
        out: &mut [f32],
    ) {
        let mut first = 0;
        while first < self.n_queries() {
            let left = self.n_queries() - first;
            // SAFETY: `first + Q` queries exist.
            unsafe {
                first += match (L::ACCUMULATORS, left) {
                    (16.., 8..) => self.weigh_rows::<L, K, 8, 2>(split, values, first, panel, weights, out),
                    (16.., 4..) => self.weigh_rows::<L, K, 4, 4>(split, values, first, panel, weights, out),
                    (16.., 3) => self.weigh_rows::<L, K, 3, 4>(split, values, first, panel, weights, out),
                    (16.., 2) => self.weigh_rows::<L, K, 2, 4>(split, values, first, panel, weights, out),
                    (_, 4..) => self.weigh_rows::<L, K, 4, 1>(split, values, first, panel, weights, out),
                    (_, 2..) => self.weigh_rows::<L, K, 2, 2>(split, values, first, panel, weights, out),
                    _ => self.weigh_rows::<L, K, 1, 4>(split, values, first, panel, weights, out),
                };
            }
        }
    }

    /// Weighted values of Q queries; returns Q.
    ///
    /// # Safety
    /// `first + Q` may not exceed the queries.
    #[inline(always)]
    unsafe fn weigh_rows<L: Lanes, K: Element, const Q: usize, const W: usize>(
        &self,
        split: usize,
        values: &[&[[K; LANES]]],
        first: usize,
        panel: usize,
        weights: &[[f32; SPLIT]],
        out: &mut [f32],
    ) -> usize {
        let vectors = self.pages.geometry.value_vectors();
        let rows = &mut out[first * vectors * LANES..(first + Q) * vectors * LANES];
        let (mut from, mut outs) = ([std::ptr::null(); Q], [std::ptr::null_mut(); Q]);
        for i in 0..Q {
            from[i] = weights[first + i][panel * PANEL..].as_ptr();
            outs[i] = rows[i * vectors * LANES..].as_mut_ptr();
        }
        // What all see together, then what the later tokens see alone: 0 times a value that a query must not
        // see would be NaN when that value is.
        let here = |i: usize| self.seen(split, i).saturating_sub(panel * PANEL).min(values.len() * PANEL);
        let common = (0, here(first));
        let mut vector = 0;
        while vector < vectors {
            // SAFETY: the rows hold weights for all panels, and `vectors` vectors.
            unsafe {
                let to = outs.map(|row: *mut f32| row.wrapping_add(vector * LANES));
                if vector + W <= vectors {
                    weigh::<L, K, Q, W>(from, values, vectors, vector, common, to);
                    vector += W;
                } else {
                    weigh::<L, K, Q, 1>(from, values, vectors, vector, common, to);
                    vector += 1;
                }
            }
        }
        for i in 0..Q {
            let rest = (common.1, here(first + i));
            if rest.1 <= rest.0 {
                continue;
            }
            let mut vector = 0;
            while vector < vectors {
                let to = [outs[i].wrapping_add(vector * LANES)];
                // SAFETY: as above.
                unsafe {
                    if vector + 4 <= vectors {
                        weigh::<L, K, 1, 4>([from[i]], values, vectors, vector, rest, to);
                        vector += 4;
                    } else {
                        weigh::<L, K, 1, 1>([from[i]], values, vectors, vector, rest, to);
                        vector += 1;
                    }
                }
            }
        }
        Q
    }
}

/// A panel in f32.
#[inline(always)]
fn widen<L: Lanes, E: Element>(from: &[[E; LANES]], to: &mut [[f32; LANES]]) {
    for (from, to) in from.iter().zip(to) {
        E::load::<L>(from).store(to);
    }
}
