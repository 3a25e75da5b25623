//! What is let in: everything that could never be run is refused here, by name.

use super::Engine;
use crate::parameters::demand;
use crate::sequence::Sequence;
use crate::{Done, FinishReason, Generate, Parameters, Request, RequestId, Usage, Work};
use entropix_model::{Error, Result, TokenId};

impl Engine {
    pub(super) fn admit(&mut self, id: RequestId, request: Request) -> Result<()> {
        let Request { key, prompt, work } = request;
        self.check_tokens("prompt", &prompt)?;
        if prompt.is_empty() {
            return Err(Error::data("EmptyPrompt", "the prompt has no tokens; at least one is needed"));
        }
        match work {
            Work::Score { attention } => {
                self.check_length(prompt.len(), 0)?;
                self.scheduler.enqueue(Sequence::score(id, prompt, attention));
            }
            Work::Generate(generate) => {
                let max_tokens = self.check_generate(&prompt, &generate)?;
                if max_tokens == 0 {
                    self.finish_at_once(id, &generate.parameters, prompt.len());
                    return Ok(());
                }
                let classes = &self.options.classes;
                self.scheduler.enqueue(Sequence::generate(id, key, prompt, *generate, max_tokens, classes));
            }
        }
        Ok(())
    }

    /// The most tokens of the output.
    fn check_generate(&self, prompt: &[TokenId], generate: &Generate) -> Result<usize> {
        let parameters = &generate.parameters;
        parameters.check(self.capacity.max_candidates)?;
        self.check_tokens("stop_token_ids", &parameters.stop_tokens)?;
        parameters.logit_bias.iter().try_for_each(|&(token, _)| self.check_tokens("logit_bias", &[token]))?;
        for phrase in generate.policy.phrases() {
            self.check_tokens("a phrase of the policy", &phrase.tokens)?;
            if phrase.tokens.is_empty() {
                return Err(Error::data(
                    "EmptyPhrase",
                    format!("policy {}: an empty phrase", generate.policy.name()),
                ));
            }
        }
        let max_tokens = match parameters.max_tokens {
            Some(max_tokens) => max_tokens,
            None => self.context_limit.saturating_sub(prompt.len()).max(1),
        };
        self.check_length(prompt.len(), max_tokens)?;
        let min_tokens = parameters.min_tokens;
        demand(
            "min_tokens",
            min_tokens,
            min_tokens <= max_tokens,
            &format!("at most max_tokens, {max_tokens}"),
        )?;
        Ok(max_tokens)
    }

    fn check_length(&self, n_prompt: usize, max_tokens: usize) -> Result<()> {
        let limit = self.context_limit;
        if n_prompt.saturating_add(max_tokens) <= limit {
            return Ok(());
        }
        let raise = match self.capacity.n_blocks.saturating_mul(self.capacity.block_size) {
            held if held <= limit => "give the KV cache more blocks",
            _ => "raise the context",
        };
        let message = match max_tokens {
            0 | 1 => {
                format!("{n_prompt} tokens do not fit into a context of {limit}; shorten the text or {raise}")
            }
            _ => format!(
                "a prompt of {n_prompt} tokens and max_tokens {max_tokens} do not fit into a context of {limit}; \
                 shorten the prompt, lower max_tokens or {raise}"
            ),
        };
        Err(Error::data("TooLong", message))
    }

    fn check_tokens(&self, place: &str, tokens: &[TokenId]) -> Result<()> {
        let n = self.capacity.vocab_size;
        match tokens.iter().find(|&&token| token as usize >= n) {
            None => Ok(()),
            Some(token) => Err(Error::data(
                "TokenOutOfRange",
                format!("{place}: token {token} is not in the vocabulary of {n}"),
            )),
        }
    }

    fn finish_at_once(&mut self, request: RequestId, parameters: &Parameters, prompt_tokens: usize) {
        let usage = Usage { prompt_tokens, ..Usage::default() };
        let done = |choice| Done { request, choice, finish: FinishReason::Length, reason: None, usage };
        self.done_at_once.extend((0..parameters.n).map(done));
    }
}
