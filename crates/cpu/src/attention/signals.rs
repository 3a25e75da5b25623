//! What the attention of one token says about the model's uncertainty.
#![allow(unsafe_code)]

use super::{Queries, Scratch, Span, merge, n_splits};
use crate::cache::{Element, LayerPages};
use crate::simd::{Family, Kernel, LANES, Lanes, dispatch, exp};
use entropix_model::AttentionSignals;

/// Scores of all heads of one token, kept for the last layer.
#[derive(Debug)]
pub(super) struct Rows {
    /// (n_heads, max_context)
    scores: Vec<f32>,
    max_context: usize,
    /// (n_heads) the largest score and the sum of the weights in its frame.
    frames: Vec<(f32, f32)>,
}

impl Rows {
    pub(super) fn new(n_heads: usize, max_context: usize) -> Self {
        let max_context = max_context.next_multiple_of(LANES);
        Self { scores: vec![0.0; n_heads * max_context], max_context, frames: vec![(0.0, 0.0); n_heads] }
    }

    /// Mean over heads and the n positions of |a_h - mean_h a|.
    #[inline(always)]
    fn disagreement<L: Lanes>(&mut self, n: usize) -> f64 {
        let n_heads = self.frames.len();
        let inverse = L::splat(1.0 / n_heads as f32);
        let mut total = 0.0;
        for first in (0..n).step_by(LANES) {
            let mut sum = L::splat(0.0);
            for (head, &(max, weights)) in self.frames.iter().enumerate() {
                let row = &mut self.scores[head * self.max_context + first..][..LANES];
                let row: &mut [f32; LANES] = row.try_into().expect("rows are whole vectors");
                let a = exp(L::load(row).sub(L::splat(max))).mul(L::splat(1.0 / weights));
                let a = a.first(n - first, L::splat(0.0));
                a.store(row);
                sum = sum.add(a);
            }
            let mean = sum.mul(inverse);
            let mut off = L::splat(0.0);
            for head in 0..n_heads {
                let row = &self.scores[head * self.max_context + first..][..LANES];
                let row: &[f32; LANES] = row.try_into().expect("rows are whole vectors");
                off = off.add(L::load(row).sub(mean).abs());
            }
            total += f64::from(off.sum());
        }
        total / (n_heads * n) as f64
    }
}

/// What one head of one token says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HeadSignals {
    /// Entropy of the attention row, in nats.
    pub(crate) entropy: f64,
    /// Its varentropy, in nats squared.
    pub(crate) varentropy: f64,
    /// sum |s| over the positions.
    pub(crate) magnitude: f64,
}

struct AttendWithSignals<'a, E> {
    pages: &'a LayerPages<'a, E>,
    span: Span<'a>,
    queries: &'a Queries<'a>,
    scratch: &'a mut Scratch,
    heads: &'a mut [HeadSignals],
    disagreement: Option<&'a mut f64>,
}

impl<E: Element> Kernel for AttendWithSignals<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { pages, span, queries, scratch, heads, disagreement } = self;
        let Scratch { split: room, sums, signals } = scratch;
        let n = span.position + 1;
        for kv_head in 0..pages.geometry.n_kv_heads {
            let tile = queries.tile(pages, span, kv_head);
            sums.clear();
            for split in 0..n_splits(n) {
                let keep = |query: usize, scores: &[f32]| {
                    if disagreement.is_some() {
                        let row = (kv_head * tile.group + query) * signals.max_context;
                        signals.scores[row + split * super::SPLIT..][..scores.len()].copy_from_slice(scores);
                    }
                };
                // SAFETY: nobody writes the cache during attention.
                unsafe { tile.split::<L, true>(split, None, room, keep) };
                merge::<L, true>(tile.n_queries(), sums, &room.sums);
            }
            // SAFETY: the span's row of `out` is this call's alone.
            unsafe { queries.finish::<L, E>(&tile, span, sums) };
            for (i, softmax) in sums.softmax[..tile.group].iter().enumerate() {
                let head = kv_head * tile.group + i;
                let (entropy, varentropy) = softmax.entropy_varentropy();
                heads[head] = HeadSignals { entropy, varentropy, magnitude: softmax.moments.magnitude };
                signals.frames[head] = (softmax.max, softmax.sum);
            }
        }
        if let Some(disagreement) = disagreement {
            *disagreement = signals.disagreement::<L>(n);
        }
    }
}

/// As [`super::attend_span`] for one token, with the signals of its heads, (n_heads), and on request the
/// disagreement among them. The attention itself has the same bits.
///
/// # Safety
/// As for [`super::attend_span`].
pub(crate) unsafe fn attend_with_signals<E: Element>(
    family: Family,
    pages: &LayerPages<'_, E>,
    span: Span<'_>,
    queries: &Queries<'_>,
    scratch: &mut Scratch,
    heads: &mut [HeadSignals],
    disagreement: Option<&mut f64>,
) {
    assert_eq!(span.n_tokens, 1, "tokens whose signals are taken at a time");
    assert_eq!(heads.len(), queries.n_heads, "heads with signals");
    assert!(span.position < scratch.signals.max_context, "position {} has no room", span.position);
    dispatch(family, AttendWithSignals { pages, span, queries, scratch, heads, disagreement });
}

/// Gathers the signals of one ask over the layers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SignalSums {
    relative: f64,
    n_rows: usize,
}

impl SignalSums {
    /// Adds the heads of one layer at a context of n positions.
    pub(crate) fn add(&mut self, heads: &[HeadSignals], n: usize) {
        let whole = (n as f64).ln();
        for head in heads {
            self.relative += if n > 1 { head.entropy / whole } else { 0.0 };
        }
        self.n_rows += heads.len();
    }

    /// The record, given the heads of the last layer, already added.
    pub(crate) fn finish(self, heads: &[HeadSignals], disagreement: f64, n: usize) -> AttentionSignals {
        let count = heads.len() as f64;
        let mean = |f: &dyn Fn(&HeadSignals) -> f64| heads.iter().map(f).sum::<f64>() / count;
        let entropy = mean(&|h| h.entropy);
        AttentionSignals {
            entropy: entropy as f32,
            entropy_rel: (self.relative / self.n_rows as f64) as f32,
            varentropy: mean(&|h| h.varentropy) as f32,
            head_spread: mean(&|h| (h.entropy - entropy).powi(2)) as f32,
            head_disagreement: disagreement as f32,
            interaction: (mean(&|h| h.magnitude) / n as f64) as f32,
        }
    }
}
