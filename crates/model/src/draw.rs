//! One order to draw a token: edits, filters, coins. The order of operations is part of the type's
//! meaning, so that every backend draws the same token.
#![forbid(unsafe_code)]

use crate::{Slot, TokenId};

/// How hot to draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Temperature {
    /// The most probable token after the edits; filters and coins are not looked at.
    Greedy,
    /// p is proportional to exp(z / T), T > 0.
    Fixed(f32),
    /// The T at which the edited distribution's entropy over the full vocabulary is this, in nats: Newton
    /// on H(T) from T = 1, at most 8 steps (dH/dT = V/T).
    TargetEntropy(f32),
}

/// What may be drawn. Applied in the order of the fields, each on what the last one left, renormalised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filters {
    /// First of all.
    pub temperature: Temperature,
    /// The k most probable, ties to the lower id; 0 keeps all.
    pub top_k: u32,
    /// The smallest prefix, largest first, whose mass reaches this; 1 keeps all.
    pub top_p: f32,
    /// p >= min_p x the largest p; 0 keeps all.
    pub min_p: f32,
    /// z >= max - n sigma, sigma over the whole vocabulary's unedited finite logits (arXiv 2411.07641); the same
    /// tokens at every temperature. Infinity keeps all.
    pub top_n_sigma: f32,
    /// p >= sum p^2 (arXiv 2509.23234).
    pub p_less: bool,
}

impl Default for Filters {
    /// Temperature 1, nothing left out.
    fn default() -> Self {
        Self {
            temperature: Temperature::Fixed(1.0),
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            top_n_sigma: f32::INFINITY,
            p_less: false,
        }
    }
}

/// A change of one token's logit before everything else: repetition penalty, then bias.
///
/// `z' = (z > 0 ? z / penalty : z * penalty) + bias` (the penalty of CTRL, arXiv 1909.05858).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edit {
    /// The token.
    pub token: TokenId,
    /// 1 leaves the logit as it is.
    pub penalty: f32,
    /// In nats; minus infinity bans the token.
    pub bias: f32,
}

/// A set of allowed tokens, one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    /// (ceil(vocabulary / 64)) bit `t % 64` of word `t / 64` is set when token t is allowed.
    pub words: Vec<u64>,
}

impl TokenMask {
    /// A mask of `vocab_size` tokens that allows none.
    pub fn none(vocab_size: usize) -> Self {
        Self { words: vec![0; vocab_size.div_ceil(64)] }
    }

    /// Allows `token`.
    pub fn allow(&mut self, token: TokenId) {
        self.words[token as usize / 64] |= 1 << (token % 64);
    }

    /// Whether `token` is allowed.
    pub fn allows(&self, token: TokenId) -> bool {
        self.words.get(token as usize / 64).is_some_and(|w| w >> (token % 64) & 1 == 1)
    }
}

/// 64 random bits of a counter-based generator; backends hold no randomness of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coin(pub u64);

impl Coin {
    /// In [0, 1), from the upper 53 bits.
    pub fn unit(self) -> f64 {
        (self.0 >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// Draw one token from the logits of an ask.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// Which ask of the step; it must have kept its logits.
    pub slot: Slot,
    /// What may be drawn.
    pub filters: Filters,
    /// Changes to single logits, rising by token, no token twice.
    pub edits: &'a [Edit],
    /// Tokens outside it are never drawn.
    pub mask: Option<&'a TokenMask>,
    /// One draw a coin, by inverse CDF in token-id order over the kept set; of several draws the one that
    /// is most probable at temperature 1 wins, ties to the earlier coin. Greedy needs none.
    pub coins: &'a [Coin],
}

/// What was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The token, or none when edits and mask left nothing to draw.
    pub token: Option<TokenId>,
    /// Its ln p at temperature 1 before any edit, in nats.
    pub logprob: f32,
    /// The temperature that was used; 0 for greedy.
    pub temperature: f32,
}
