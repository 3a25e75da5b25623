//! The answers to one request while they grow.

use super::choice::Choice;
use super::row::Alternatives;
use crate::text::{Stops, Stream, Tokenizer};
use entropix_engine::{Done, Token};
use std::sync::Arc;

/// The answers to one request, from its first token to its last.
pub struct Answers {
    /// (n)
    pub choices: Vec<Choice>,
    /// Whether alternatives were asked for.
    pub asked: Alternatives,
    /// How many; a trace may have had more computed.
    n_top: usize,
    /// (n) the text each choice can be said to have.
    streams: Vec<Stream>,
    /// Choices that are not finished.
    n_open: usize,
}

impl Answers {
    /// Before the first token of `n` answers, to which that many alternatives of every token were asked for.
    pub fn new(
        n: usize,
        logprobs: Option<usize>,
        tokenizer: &Arc<Tokenizer>,
        stops: &Stops,
        min_tokens: usize,
    ) -> Self {
        let stream = || Stream::new(tokenizer.clone(), stops.clone(), min_tokens);
        Self {
            choices: vec![Choice::default(); n],
            asked: if logprobs.is_some() { Alternatives::Asked } else { Alternatives::NotAsked },
            n_top: logprobs.unwrap_or(0),
            streams: (0..n).map(|_| stream()).collect(),
            n_open: n,
        }
    }

    /// Takes a token in and gives the text that is certain since the last one.
    pub fn push(&mut self, mut token: Token) -> String {
        token.top.truncate(self.n_top);
        let choice = token.choice as usize;
        // The end token is no part of the answer, even where its name would print.
        let text = if token.end { String::new() } else { self.streams[choice].push(token.token) };
        self.choices[choice].push(token, &text);
        text
    }

    /// Ends a choice; true when it was the last.
    pub fn finish(&mut self, done: Done) -> bool {
        let choice = done.choice as usize;
        let text = self.streams[choice].finish();
        self.choices[choice].finish(done, &text);
        self.n_open -= 1;
        self.n_open == 0
    }
}
