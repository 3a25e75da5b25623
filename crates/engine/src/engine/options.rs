//! How an engine is set up.

use crate::TokenClasses;
use crate::scheduler::StepLimits;
use entropix_model::{Capacity, Class, Error, Result, TokenMask};

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The classes of the vocabulary's tokens.
    pub classes: TokenClasses,
    /// The tokens that stand for something; rows of the embedding outside it pad its size and are never
    /// sampled. None when every row is a token.
    pub choosable: Option<TokenMask>,
    /// Most tokens of a sequence, prompt and output; none is what model and cache allow.
    pub max_context: Option<usize>,
    /// Most sequences at once; none is what the backend allows.
    pub max_rows: Option<usize>,
    /// Most tokens a step over all rows; none is what the backend allows. Running sequences come first, so
    /// what this leaves above `max_rows` is what prompts are read with.
    pub max_tokens: Option<usize>,
    /// Most prompt tokens a step of one row; none is `max_tokens`.
    pub prefill_chunk: Option<usize>,
    /// Cache blocks that must stay free when a further sequence is admitted beside running ones.
    pub watermark: usize,
    /// Whether a prompt that starts like an earlier sequence uses its blocks. Off, no request can notice by
    /// timing what others asked.
    pub prefix_sharing: bool,
    /// Most cache blocks kept for what they hold alone, the longest unused given up first, as long as others were never
    /// written; none keeps as many as there are. Where the system hands out memory when it is first written, fewer blocks
    /// are less memory, and are in the caches more often.
    pub kept_blocks: Option<usize>,
    /// While the tokens thrown away by decisions are more than this share of those told, no policy begins
    /// anything that throws away more. Which request it hits depends on the order of arrival: it is a guard
    /// against a runaway policy, off by default.
    pub extra_tokens: Option<f64>,
}

impl EngineOptions {
    /// The usual set-up.
    pub fn new(classes: TokenClasses) -> Self {
        Self {
            classes,
            choosable: None,
            max_context: None,
            max_rows: None,
            max_tokens: None,
            prefill_chunk: None,
            watermark: 1,
            prefix_sharing: true,
            kept_blocks: None,
            extra_tokens: None,
        }
    }

    /// The bounds of a step and the one limit of context.
    pub(super) fn resolve(&self, capacity: &Capacity) -> Result<(StepLimits, usize)> {
        let n_classes = self.classes.vocab_size();
        if n_classes != capacity.vocab_size {
            return Err(Error::new(
                Class::Usage,
                "TokenClasses",
                format!("token classes of {n_classes} tokens for a model of {}", capacity.vocab_size),
            ));
        }
        let at_least_one = |name: &str, asked: Option<usize>, most: usize| match asked {
            Some(0) => {
                Err(Error::new(Class::Usage, "OutOfRange", format!("{name} is 0, at least 1 is needed")))
            }
            _ if most == 0 => {
                Err(Error::new(Class::Usage, "OutOfRange", format!("the backend was opened with {name} 0")))
            }
            _ => Ok(asked.unwrap_or(most).min(most)),
        };
        let max_tokens = at_least_one("max_tokens", self.max_tokens, capacity.max_tokens)?;
        let most_rows = capacity.max_rows.min(capacity.max_kept).min(max_tokens);
        let limits = StepLimits {
            max_rows: at_least_one("max_rows", self.max_rows, most_rows)?,
            max_tokens,
            prefill_chunk: at_least_one("prefill_chunk", self.prefill_chunk, max_tokens)?,
            watermark: self.watermark,
        };
        let most_context = capacity.max_context.min(capacity.n_blocks.saturating_mul(capacity.block_size));
        Ok((limits, at_least_one("max_context", self.max_context, most_context)?))
    }
}
