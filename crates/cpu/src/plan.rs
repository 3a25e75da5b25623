//! What a batch means for the kernels: which tokens are attended together, by whom, and which go on after the
//! last layer.

use crate::attention::{n_splits, tile_tokens};
use entropix_model::{Batch, Capacity};
use std::ops::Range;

/// Neighbouring tokens of one row that are attended together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpanPlan {
    /// The row's block table in the batch.
    pub(crate) blocks: Range<usize>,
    /// Position of the first token.
    pub(crate) position: usize,
    /// Its index among the tokens of the batch.
    pub(crate) token: usize,
    /// Its index among the results: of all tokens, or in the last layer of those that are asked about.
    pub(crate) out: usize,
    pub(crate) n_tokens: usize,
    /// Its number among the asks that want attention signals.
    pub(crate) signals: Option<usize>,
}

/// One piece of work of the attention region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttentionTask {
    /// A whole span.
    Span(usize),
    /// One split of one key-value head of a span of one token.
    Split { span: usize, kv_head: usize, split: usize, slot: usize },
}

/// Spans of a layer and the tasks that compute them.
#[derive(Debug, Default)]
pub(crate) struct Attending {
    pub(crate) spans: Vec<SpanPlan>,
    pub(crate) tasks: Vec<AttentionTask>,
    /// (span, its first slot) of the spans that are computed split by split.
    pub(crate) apart: Vec<(usize, usize)>,
}

/// The batch as the kernels see it; reused from step to step.
#[derive(Debug, Default)]
pub(crate) struct StepPlan {
    /// (n_tokens) the position of each token.
    pub(crate) positions: Vec<usize>,
    /// (n_tokens) the row of each token.
    pub(crate) rows: Vec<usize>,
    /// (n_asks) the token each ask is about, rising.
    pub(crate) asked: Vec<usize>,
    /// (n_asks) where its logits are kept, if they are.
    pub(crate) kept: Vec<Option<usize>>,
    /// (n_asks) its number among those that want attention signals.
    pub(crate) signals: Vec<Option<usize>>,
    pub(crate) n_kept: usize,
    /// (wanted) the context length of each ask that wants attention signals.
    pub(crate) contexts: Vec<usize>,
    /// Every layer but the last: all tokens.
    pub(crate) all: Attending,
    /// The last layer: what is asked about.
    pub(crate) last: Attending,
}

/// What the plan of a batch depends on besides the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) capacity: Capacity,
    pub(crate) n_kv_heads: usize,
    pub(crate) group: usize,
    pub(crate) n_threads: usize,
    /// Slots for splits.
    pub(crate) n_slots: usize,
}

impl StepPlan {
    /// Replaces the plan by that of a batch.
    ///
    /// # Panics
    /// When the batch exceeds the capacity or contradicts itself.
    pub(crate) fn make(&mut self, batch: &Batch, limits: &Limits) {
        batch.check(&limits.capacity);
        for list in [&mut self.positions, &mut self.rows, &mut self.asked, &mut self.contexts] {
            list.clear();
        }
        self.kept.clear();
        self.signals.clear();
        self.n_kept = 0;
        self.all.clear();
        self.last.clear();
        for (number, row) in batch.rows.iter().enumerate() {
            self.positions.extend(row.start..row.start + row.tokens.len());
            self.rows.extend(std::iter::repeat_n(number, row.tokens.len()));
            let first_ask = self.asked.len();
            for ask in &batch.asks[row.asks.clone()] {
                self.asked.push(row.tokens.start + ask.index);
                self.kept.push(ask.keep_logits.then_some(self.n_kept));
                self.n_kept += usize::from(ask.keep_logits);
                self.signals.push(ask.attention.then_some(self.contexts.len()));
                if ask.attention {
                    self.contexts.push(row.start + ask.index + 1);
                }
            }
            let span = |token: usize, out: usize, signals: Option<usize>| SpanPlan {
                blocks: row.blocks.clone(),
                position: row.start + token - row.tokens.start,
                token,
                out,
                n_tokens: 1,
                signals,
            };
            let most = tile_tokens(limits.group);
            let mut asks = first_ask..self.asked.len();
            for token in row.tokens.clone() {
                let slot = asks.clone().next().filter(|&slot| self.asked[slot] == token);
                let signals = slot.and_then(|slot| self.signals[slot]);
                self.all.push(span(token, token, signals), most);
                if let Some(slot) = slot {
                    asks.next();
                    self.last.push(span(token, slot, signals), most);
                }
            }
        }
        self.all.deal(limits);
        self.last.deal(limits);
    }
}

impl Attending {
    fn clear(&mut self) {
        self.spans.clear();
        self.tasks.clear();
        self.apart.clear();
    }

    /// Appends a token, to the last span if it is its neighbour.
    fn push(&mut self, new: SpanPlan, most: usize) {
        if let Some(last) = self.spans.last_mut() {
            let is_next = last.token + last.n_tokens == new.token
                && last.position + last.n_tokens == new.position
                && last.blocks == new.blocks;
            if is_next && last.n_tokens < most && last.signals.is_none() && new.signals.is_none() {
                last.n_tokens += 1;
                return;
            }
        }
        self.spans.push(new);
    }

    /// Cuts the spans into tasks: whole spans when there are enough of them for the threads, else single
    /// tokens are computed split by split. The results have the same bits either way.
    fn deal(&mut self, limits: &Limits) {
        let is_enough = limits.n_threads == 1 || self.spans.len() >= 3 * limits.n_threads;
        let mut slot = 0;
        for (i, span) in self.spans.iter().enumerate() {
            let n_splits = n_splits(span.position + 1);
            let slots = limits.n_kv_heads * n_splits;
            let is_whole = is_enough
                || span.n_tokens > 1
                || span.signals.is_some()
                || slots == 1
                || slot + slots > limits.n_slots;
            if is_whole {
                self.tasks.push(AttentionTask::Span(i));
                continue;
            }
            self.apart.push((i, slot));
            for kv_head in 0..limits.n_kv_heads {
                for split in 0..n_splits {
                    let slot = slot + kv_head * n_splits + split;
                    self.tasks.push(AttentionTask::Split { span: i, kv_head, split, slot });
                }
            }
            slot += slots;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use entropix_model::Ask;

    fn limits(n_threads: usize) -> Limits {
        let capacity = Capacity {
            n_blocks: 100,
            block_size: 16,
            max_rows: 8,
            max_tokens: 64,
            max_kept: 8,
            max_candidates: 256,
            vocab_size: 50,
            max_context: 1600,
        };
        Limits { capacity, n_kv_heads: 3, group: 3, n_threads, n_slots: 30 }
    }

    fn ask(index: usize, attention: bool) -> Ask {
        Ask { index, target: None, attention, keep_logits: !attention }
    }

    #[test]
    fn every_token_is_attended_once_and_asked_tokens_in_the_last_layer() {
        let mut batch = Batch::default();
        let blocks: Vec<u32> = (0..40).collect();
        batch.push(&[1; 21], 300, &blocks, &[ask(3, false), ask(4, false), ask(9, true), ask(20, false)]);
        batch.push(&[2], 600, &blocks, &[ask(0, false)]);
        batch.push(&[3; 2], 0, &blocks[..1], &[]);
        for n_threads in [1, 2, 8] {
            let mut plan = StepPlan::default();
            plan.make(&batch, &limits(n_threads));
            let tokens = |a: &Attending| -> Vec<(usize, usize, usize)> {
                let each = |s: &SpanPlan| {
                    let (token, position, out) = (s.token, s.position, s.out);
                    (0..s.n_tokens).map(move |i| (token + i, position + i, out + i))
                };
                a.spans.iter().flat_map(each).collect()
            };
            let position = |t: usize| {
                if t < 21 {
                    300 + t
                } else if t == 21 {
                    600
                } else {
                    t - 22
                }
            };
            let all: Vec<_> = (0..24).map(|t| (t, position(t), t)).collect();
            assert_eq!(tokens(&plan.all), all);
            let last: Vec<_> =
                [3, 4, 9, 20, 21].into_iter().enumerate().map(|(out, t)| (t, position(t), out)).collect();
            assert_eq!(tokens(&plan.last), last);
            assert_eq!(plan.contexts, [310]);
            assert_eq!(plan.kept, [Some(0), Some(1), None, Some(2), Some(3)]);
            let flagged: Vec<_> = plan.all.spans.iter().filter(|s| s.signals.is_some()).collect();
            assert!(flagged.len() == 1 && flagged[0].n_tokens == 1 && flagged[0].token == 9);
            for a in [&plan.all, &plan.last] {
                let mut seen = vec![0; a.spans.len()];
                let mut slots = std::collections::BTreeSet::new();
                for task in &a.tasks {
                    match *task {
                        AttentionTask::Span(span) => seen[span] += 100,
                        AttentionTask::Split { span, slot, .. } => {
                            seen[span] += 1;
                            assert!(slot < 30 && slots.insert(slot), "slot {slot} twice or too far");
                        }
                    }
                }
                for (span, &n) in a.spans.iter().zip(&seen) {
                    assert!(n == 100 || n == 3 * n_splits(span.position + 1), "a span computed {n} times");
                }
            }
        }
    }
}
