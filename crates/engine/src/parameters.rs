//! The sampling parameters of a request, checked.

use crate::limits::{CHOICES, STOP_TOKENS};
use entropix_model::{Error, Result, TokenId};
use std::{fmt::Display, ops::RangeInclusive};

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
    /// Whether [`crate::Event::Raw`] is wanted.
    pub raw_events: bool,
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
            raw_events: false,
        }
    }
}

impl Parameters {
    /// Whether it changes logits before they are chosen from.
    pub fn edits_logits(&self) -> bool {
        let penalties = (self.repetition_penalty, self.frequency_penalty, self.presence_penalty);
        penalties != (1.0, 0.0, 0.0) || !self.logit_bias.is_empty() || self.min_tokens > 0
    }

    /// Whether every field is within its range by itself; what depends on prompt and model is checked by
    /// [`crate::Engine::submit`].
    ///
    /// # Errors
    /// `Data`, `OutOfRange`, naming field, value and range.
    pub fn check(&self, max_candidates: usize) -> Result<()> {
        let (n, n_stops) = (self.n, self.stop_tokens.len());
        within("temperature", self.temperature.unwrap_or(1.0), 0.0..=100.0)?;
        within("min_p", self.min_p.unwrap_or(0.0), 0.0..=1.0)?;
        let top_p = self.top_p.unwrap_or(1.0);
        demand("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, at most 1")?;
        within("repetition_penalty", self.repetition_penalty, 0.01..=100.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0..=2.0)?;
        within("presence_penalty", self.presence_penalty, -2.0..=2.0)?;
        within("n", n, 1..=CHOICES)?;
        within("logprobs", usize::from(self.logprobs), 0..=max_candidates)?;
        within("the number of stop_tokens", n_stops, 0..=STOP_TOKENS)?;
        for &(_, bias) in &self.logit_bias {
            let holds = bias == f32::NEG_INFINITY || (-100.0..=100.0).contains(&bias);
            demand("logit_bias", bias, holds, "-100 to 100, or minus infinity")?;
        }
        let mut biased: Vec<TokenId> = self.logit_bias.iter().map(|&(token, _)| token).collect();
        biased.sort_unstable();
        match biased.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => Err(Error::data("OutOfRange", format!("logit_bias names token {} twice", pair[0]))),
        }
    }
}

fn within<T: PartialOrd + Display>(field: &str, value: T, range: RangeInclusive<T>) -> Result<()> {
    let holds = range.contains(&value);
    demand(field, value, holds, &format!("{} to {}", range.start(), range.end()))
}

/// The error of a parameter that is outside its range, unless it `holds`.
pub(crate) fn demand(field: &str, value: impl Display, holds: bool, allowed: &str) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::data("OutOfRange", format!("{field} is {value}; allowed is {allowed}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_field_value_and_range() {
        let p = Parameters::default;
        let bad = [
            (
                Parameters { temperature: Some(999_999.0), ..p() },
                "temperature is 999999; allowed is 0 to 100",
            ),
            (Parameters { temperature: Some(f32::NAN), ..p() }, "temperature is NaN; allowed is 0 to 100"),
            (Parameters { temperature: Some(-1.0), ..p() }, "temperature is -1; allowed is 0 to 100"),
            (Parameters { top_p: Some(0.0), ..p() }, "top_p is 0; allowed is above 0, at most 1"),
            (Parameters { top_p: Some(f32::NAN), ..p() }, "top_p is NaN; allowed is above 0, at most 1"),
            (Parameters { min_p: Some(1.5), ..p() }, "min_p is 1.5; allowed is 0 to 1"),
            (
                Parameters { repetition_penalty: 0.0, ..p() },
                "repetition_penalty is 0; allowed is 0.01 to 100",
            ),
            (Parameters { frequency_penalty: 3.0, ..p() }, "frequency_penalty is 3; allowed is -2 to 2"),
            (
                Parameters { presence_penalty: f32::INFINITY, ..p() },
                "presence_penalty is inf; allowed is -2 to 2",
            ),
            (Parameters { n: 0, ..p() }, "n is 0; allowed is 1 to 128"),
            (Parameters { n: 129, ..p() }, "n is 129; allowed is 1 to 128"),
            (Parameters { logprobs: 21, ..p() }, "logprobs is 21; allowed is 0 to 20"),
            (
                Parameters { stop_tokens: vec![0; 1025], ..p() },
                "the number of stop_tokens is 1025; allowed is 0 to 1024",
            ),
            (
                Parameters { logit_bias: vec![(3, 101.0)], ..p() },
                "logit_bias is 101; allowed is -100 to 100, or minus infinity",
            ),
            (
                Parameters { logit_bias: vec![(3, 1.0), (4, 0.0), (3, 2.0)], ..p() },
                "logit_bias names token 3 twice",
            ),
        ];
        for (parameters, message) in bad {
            let error = parameters.check(20).expect_err(message);
            assert_eq!((error.code, error.message.as_str()), ("OutOfRange", message));
        }
        let good = Parameters {
            temperature: Some(100.0),
            top_p: Some(1.0),
            min_p: Some(1.0),
            n: 128,
            logprobs: 20,
            logit_bias: vec![(3, f32::NEG_INFINITY), (1, -100.0)],
            ..p()
        };
        assert_eq!(good.check(20), Ok(()));
    }
}
