//! What an output says in the end, so that answers can be counted.

use entropix_model::TokenId;
use std::sync::Arc;

/// Reads the answer out of the tokens of an output; equal answers are equal texts.
pub type ReadAnswer = dyn Fn(&[TokenId]) -> Option<Arc<str>> + Send + Sync;

/// How to find the answer in a text. The text is read by somebody who knows tokens
/// ([`super::PolicyFile::bind_reading`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerRule {
    /// The last number.
    LastNumber,
    /// What stands in the last `\\boxed{...}`.
    Boxed,
    /// The last match of a regular expression, its first group if it has one.
    Regex(Arc<str>),
}

impl AnswerRule {
    /// What policy files call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::LastNumber => "last_number",
            Self::Boxed => "boxed",
            Self::Regex(_) => "regex",
        }
    }
}
