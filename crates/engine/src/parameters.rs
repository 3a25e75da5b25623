//! The sampling parameters of a request, checked.

use entropix_model::TokenId;

/// Sampling parameters of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// Used in every draw instead of the policy's value; 0 makes every draw greedy. 0..=100.
    pub temperature: Option<f32>,
    /// Used in every draw instead of the policy's value; 0 keeps all.
    pub top_k: Option<u32>,
    /// Used in every draw instead of the policy's value; above 0, at most 1.
    pub top_p: Option<f32>,
    /// Used in every draw instead of the policy's value; 0..=1.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens in prompt or output
    /// (CTRL, arXiv 1909.05858); 1 is off. 0.01..=100.
    pub repetition_penalty: f32,
    /// Taken from a token's logit once for each time it is in the output; -2..=2.
    pub frequency_penalty: f32,
    /// Taken from a token's logit when it is in the output; -2..=2.
    pub presence_penalty: f32,
    /// Added to logits, in nats, -100..=100; minus infinity bans. No token twice.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// The key of the random numbers.
    pub seed: u64,
    /// Tokens that end the answer besides [`crate::TokenClass::End`].
    pub stop_tokens: Vec<TokenId>,
    /// Most tokens of the output, the end token and injected ones included; none is as many as the context
    /// holds. With 0 the request ends at once.
    pub max_tokens: Option<usize>,
    /// No token ends the answer before this many.
    pub min_tokens: usize,
    /// [`crate::TokenClass::End`] ends nothing; `stop_tokens` still do.
    pub ignore_eos: bool,
    /// How many of the likeliest tokens to report at each position; at most
    /// [`entropix_model::Capacity::max_candidates`].
    pub logprobs: u16,
    /// How many answers; they share the prompt's cache blocks.
    pub n: u32,
    /// Whether attention signals are wanted in the events. They are computed when the policy needs them
    /// all the same.
    pub attention: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            stop_tokens: Vec::new(),
            max_tokens: None,
            min_tokens: 0,
            ignore_eos: false,
            logprobs: 0,
            n: 1,
            attention: false,
        }
    }
}
