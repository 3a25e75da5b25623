//! Made-up requests, as plain data that can be run by the engine and by the plain loop.

use super::{Judge, scripted};
use crate::{Generate, Parameters, Request, RequestKey, Watch, Watcher, Work};
use entropix_model::{Capacity, TokenId};
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) prompt: Vec<TokenId>,
    pub(super) scores: bool,
    pub(super) parameters: Parameters,
    pub(super) attention: bool,
    pub(super) stops: bool,
    /// Ends the answer when the last two tokens add up to this.
    pub(super) watch_sum: Option<TokenId>,
    pub(super) arrives: usize,
    pub(super) cancelled: Option<usize>,
}

impl Asked {
    pub(super) fn policy(&self) -> Judge {
        Judge::new(self.attention, self.stops)
    }

    pub(super) fn watcher(&self) -> Option<PairSum> {
        self.watch_sum.map(|sum| PairSum { sum, last: None })
    }

    /// As request number `i` of a job.
    pub(super) fn request(&self, i: usize) -> Request {
        let work = if self.scores {
            Work::Score { attention: self.attention }
        } else {
            Work::Generate(Box::new(Generate {
                parameters: self.parameters.clone(),
                policy: Arc::new(self.policy()),
                watcher: self.watcher().map(|watcher| Box::new(watcher) as Box<dyn Watcher>),
            }))
        };
        Request { key: RequestKey(i as u64 * 77), prompt: self.prompt.clone(), work }
    }
}

/// Stops when two tokens in a row add up to something: a state that must follow its continuation.
#[derive(Debug, Clone)]
pub(super) struct PairSum {
    sum: TokenId,
    last: Option<TokenId>,
}

impl Watcher for PairSum {
    fn watch(&mut self, token: TokenId) -> Watch {
        let last = self.last.replace(token);
        if last.is_some_and(|last| last + token == self.sum) { Watch::Stop } else { Watch::Continue }
    }

    fn clone_box(&self) -> Box<dyn Watcher> {
        Box::new(self.clone())
    }
}

/// An engine and what it is asked.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) capacity: Capacity,
    pub(super) prefill_chunk: usize,
    pub(super) watermark: usize,
    pub(super) prefix_sharing: bool,
    pub(super) hash_bits: u64,
    pub(super) requests: Vec<Asked>,
}

fn parameters() -> impl Strategy<Value = Parameters> {
    let token = || 0..scripted::VOCAB as TokenId;
    let overrides = (
        prop::option::weighted(0.2, prop::sample::select(vec![0.0f32, 0.3, 1.0, 2.0])),
        prop::option::weighted(0.1, 0u32..6),
        prop::option::weighted(0.1, 0.3f32..1.0),
        prop::option::weighted(0.1, 0.0f32..0.4),
    );
    let penalties = (
        prop::sample::select(vec![1.0f32, 1.0, 1.0, 1.3]),
        prop::sample::select(vec![0.0f32, 0.0, 0.0, 0.4]),
        prop::sample::select(vec![0.0f32, 0.0, 0.0, -0.5]),
        prop::collection::btree_map(token(), -2i8..4, 0..2),
    );
    let ends = (0usize..4, any::<bool>(), prop::collection::vec(token(), 0..2));
    (overrides, penalties, ends, 1usize..14, 0u64..4, 0u16..5, prop::sample::select(vec![1u32, 1, 1, 2, 4]))
        .prop_map(
            |(overrides, penalties, (min_tokens, ignore_eos, stop_tokens), max_tokens, seed, logprobs, n)| {
                let (temperature, top_k, top_p, min_p) = overrides;
                let (repetition_penalty, frequency_penalty, presence_penalty, bias) = penalties;
                Parameters {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    repetition_penalty,
                    frequency_penalty,
                    presence_penalty,
                    logit_bias: bias.into_iter().map(|(token, bias)| (token, f32::from(bias))).collect(),
                    seed,
                    stop_tokens,
                    max_tokens: Some(max_tokens),
                    min_tokens: min_tokens.min(max_tokens),
                    ignore_eos,
                    logprobs,
                    n,
                    attention: false,
                    raw_events: false,
                }
            },
        )
}

/// Prompts that often begin alike, of up to 24 tokens.
fn prompt() -> impl Strategy<Value = Vec<TokenId>> {
    let tail = prop::collection::vec(0..scripted::VOCAB as TokenId, 0..6);
    (0u32..3, 0u32..18, tail).prop_map(|(family, shared, tail)| {
        let head = (0..shared).map(|i| (i * 7 + family * 5 + 1) % scripted::VOCAB as TokenId);
        let mut prompt: Vec<TokenId> = head.chain(tail).collect();
        if prompt.is_empty() {
            prompt.push(2);
        }
        prompt
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let flags = (prop::bool::weighted(0.2), any::<bool>(), any::<bool>());
    (
        prompt(),
        parameters(),
        flags,
        prop::option::weighted(0.3, 10u32..40),
        0usize..10,
        prop::option::weighted(0.1, 0usize..20),
    )
        .prop_map(
            |(prompt, mut parameters, (scores, attention, stops), watch_sum, arrives, cancelled)| {
                // Now and then the events want attention that the policy does not look at.
                parameters.attention = parameters.seed == 3;
                Asked { prompt, scores, parameters, attention, stops, watch_sum, arrives, cancelled }
            },
        )
}

pub(super) fn job() -> impl Strategy<Value = Job> {
    let sizes = (prop::sample::select(vec![1usize, 2, 4, 5]), 0usize..8, 1usize..9, 0usize..20);
    let bits = prop::sample::select(vec![u64::MAX, u64::MAX, 3, 0]);
    let requests = prop::collection::vec(asked(), 1..9);
    (sizes, 1usize..9, 0usize..4, any::<bool>(), bits, requests).prop_map(
        |(
            (block_size, spare_blocks, max_rows, spare_tokens),
            prefill_chunk,
            watermark,
            prefix_sharing,
            hash_bits,
            requests,
        )| {
            // The longest prompt and answer fit, sometimes just so.
            let length = |asked: &Asked| asked.prompt.len() + asked.parameters.max_tokens.unwrap_or(0);
            let max_context = requests.iter().map(length).max().unwrap_or(1);
            let capacity = Capacity {
                n_blocks: max_context.div_ceil(block_size) + spare_blocks,
                block_size,
                max_rows,
                max_tokens: max_rows + spare_tokens,
                max_kept: max_rows,
                max_candidates: 8,
                vocab_size: scripted::VOCAB,
                max_context,
            };
            Job { capacity, prefill_chunk, watermark, prefix_sharing, hash_bits, requests }
        },
    )
}
