//! What a caller asks of the engine.

use crate::{Parameters, Policy, philox};
use entropix_model::TokenId;
use std::{fmt, sync::Arc};

/// Names a request inside one engine; given by [`crate::Engine::submit`], rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a request for its random numbers: the same key, seed and prompt draw the same tokens in any
/// batch, order or run. Two requests of one job should have two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey(pub u64);

impl RequestKey {
    /// The key of an identifier given by the user.
    pub fn of_id(id: &str) -> Self {
        Self(philox::hash64(id.as_bytes()))
    }

    /// The key of a request without an identifier: its content, and how many requests of the same
    /// content came before it.
    pub fn of_content(content: &[u8], occurrence: u64) -> Self {
        Self(philox::hash64(&[content, &[0], &occurrence.to_le_bytes()].concat()))
    }
}

/// One unit of work.
#[derive(Debug)]
pub struct Request {
    /// What its random numbers are keyed by.
    pub key: RequestKey,
    /// The tokens it starts from; at least one.
    pub prompt: Vec<TokenId>,
    /// What to do with them.
    pub work: Work,
}

/// What to do with a prompt.
#[derive(Debug)]
pub enum Work {
    /// Continue it.
    Generate(Box<Generate>),
    /// Say how likely it was: one [`crate::Event::Scored`] a position.
    Score {
        /// Whether attention signals are wanted too.
        attention: bool,
    },
}

/// How to continue a prompt.
pub struct Generate {
    /// The request's own parameters; they win over the policy's.
    pub parameters: Parameters,
    /// Who decides each token.
    pub policy: Arc<dyn Policy>,
    /// Sees every token and may end the answer, e.g. at a stop string.
    pub watcher: Option<Box<dyn Watcher>>,
}

impl fmt::Debug for Generate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generate")
            .field("parameters", &self.parameters)
            .field("policy", &self.policy.name())
            .field("watcher", &self.watcher.is_some())
            .finish()
    }
}

/// What a [`Watcher`] says to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Go on.
    Continue,
    /// The answer ends with this token.
    Stop,
}

/// Watches the tokens of one continuation on behalf of somebody who knows text.
pub trait Watcher: Send {
    /// Sees the next token of the output, the end token included. A [`Watch::Stop`] before
    /// [`Parameters::min_tokens`] is not obeyed.
    fn watch(&mut self, token: TokenId) -> Watch;

    /// A watcher in the same state, for another continuation of the same text.
    fn clone_box(&self) -> Box<dyn Watcher>;
}
