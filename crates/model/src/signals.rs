//! What a backend says about a row's next-token distribution: a few numbers, never the logits.
#![forbid(unsafe_code)]

use crate::TokenId;
use bytemuck::{Pod, Zeroable};

/// Whether a row's logits were numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All logits were finite or minus infinity, at least one finite.
    Ok,
    /// A NaN, a plus infinity, or no finite logit at all: the other fields mean nothing.
    NotFinite,
}

/// A token and its log-probability.
#[derive(Debug, Clone, Copy, PartialEq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Candidate {
    /// The token.
    pub token: TokenId,
    /// ln p at temperature 1, before any edit, in nats.
    pub logprob: f32,
}

/// The uncertainty of one position: the whole next-token distribution `p = softmax(z)` at temperature 1,
/// before any penalty, in a few words.
#[derive(Debug, Clone, Copy, PartialEq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Signals {
    /// H = -sum p ln p, in nats.
    pub entropy: f32,
    /// V = sum p (ln p + H)^2, the variance of the surprisal, in nats squared.
    pub varentropy: f32,
    /// sum p^2; its inverse is the effective number of choices.
    pub collision: f32,
    /// ln sum exp z, in nats.
    pub log_z: f32,
    /// Standard deviation (population) of the finite logits, in nats.
    pub logit_std: f32,
    /// ln p of [`crate::Ask::target`], in nats; NaN when no target was named.
    pub target_logprob: f32,
    /// The two most probable tokens, the likelier first, ties to the lower id.
    pub best: [Candidate; 2],
    status: u32,
}

const _: () = assert!(size_of::<Signals>() <= 64, "a host reads at most 64 bytes an ask");

impl Signals {
    /// The record of a row whose logits were not numbers.
    pub fn not_finite() -> Self {
        Self { status: 1, ..Self::default() }
    }

    /// Whether the numbers may be used.
    pub fn status(&self) -> Status {
        if self.status == 0 { Status::Ok } else { Status::NotFinite }
    }
}

/// How the model's attention was spread at one position, over the true context length n = position + 1.
///
/// `a` is an attention row (softmax of the scores `s = q.k / sqrt(head_dim)`), `h` its entropy in nats.
#[derive(Debug, Clone, Copy, PartialEq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AttentionSignals {
    /// Mean over the heads of the last layer of h = -sum a ln a, in nats.
    pub entropy: f32,
    /// h / ln n, mean over all layers and heads, 0 to 1; 0 at n = 1.
    pub entropy_rel: f32,
    /// Mean over the heads of the last layer of the variance of -ln a under a, in nats squared.
    pub varentropy: f32,
    /// Population variance of h over the heads of the last layer, in nats squared.
    /// (The entropix family calls this "attention varentropy".)
    pub head_spread: f32,
    /// Mean over heads and the n keys of |a_h - mean_h a|, last layer. (The family's "agreement".)
    pub head_disagreement: f32,
    /// Mean over heads and the n keys of |s|, last layer. (The family's "interaction strength".)
    pub interaction: f32,
}

const _: () = assert!(size_of::<AttentionSignals>() <= 32);

/// The k best tokens of some asks, one list after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Candidates {
    entries: Vec<Candidate>,
    ends: Vec<usize>,
}

impl Candidates {
    /// Forgets all lists and keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.ends.clear();
    }

    /// Appends one list, the likeliest first, ties to the lower id.
    pub fn push(&mut self, list: impl IntoIterator<Item = Candidate>) {
        self.entries.extend(list);
        self.ends.push(self.entries.len());
    }

    /// The list of the `i`-th ask of the call that filled this.
    pub fn list(&self, i: usize) -> &[Candidate] {
        let first = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.entries[first..self.ends[i]]
    }

    /// How many lists there are.
    pub fn n_lists(&self) -> usize {
        self.ends.len()
    }
}
