//! Tokens to text while they come: nothing is shown that a later token could change or cut away.

use super::stops::{State, Stops};
use super::tokenizer::Tokenizer;
use entropix_engine::{Watch, Watcher};
use entropix_model::TokenId;
use std::sync::Arc;

/// Puts bytes together to characters. What cannot become one is U+FFFD, cut as `String::from_utf8_lossy` does.
#[derive(Debug, Clone, Default)]
struct Utf8 {
    /// The start of a character whose rest is to come; at most 3 bytes.
    pending: Vec<u8>,
}

impl Utf8 {
    /// Appends to `text` what `bytes` complete.
    fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(good) => {
                    text.push_str(good);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(good).expect("valid up to here"));
                    rest = bad;
                    let Some(len) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[len..];
                }
            }
        }
        self.pending = rest.to_vec();
    }

    /// Appends U+FFFD to `text` for a character that was never finished.
    fn finish(&mut self, text: &mut String) {
        if !self.pending.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}

/// Follows the tokens of one answer and finds its stop strings; what [`Stream`] and [`StopWatcher`] share, so
/// that both end at the same token.
#[derive(Debug, Clone)]
struct Search {
    tokenizer: Arc<Tokenizer>,
    stops: Stops,
    utf8: Utf8,
    state: State,
    /// Tokens to come before a stop string counts.
    immune: usize,
}

impl Search {
    /// Before the first token. A stop string that is complete before token number `min_tokens` is text.
    fn new(tokenizer: Arc<Tokenizer>, stops: Stops, min_tokens: usize) -> Self {
        let immune = min_tokens.saturating_sub(1);
        Self { tokenizer, stops, utf8: Utf8::default(), state: State::default(), immune }
    }

    /// Appends to `text`, which ends with what is held back, the text that `token` completes. Gives the place
    /// in `text` where a stop string begins.
    fn push(&mut self, token: TokenId, text: &mut String) -> Option<usize> {
        let from = text.len();
        self.utf8.push(self.tokenizer.token_bytes(token), text);
        let found = self.scan(text, from);
        let counts = self.immune == 0;
        self.immune = self.immune.saturating_sub(1);
        found.filter(|_| counts)
    }

    fn scan(&mut self, text: &str, from: usize) -> Option<usize> {
        let mut found = None;
        for (i, byte) in text.as_bytes()[from..].iter().enumerate() {
            if let Some(len) = self.stops.step(&mut self.state, *byte)
                && found.is_none()
            {
                // A watcher keeps the text of one token only: its stop strings may begin before it.
                found = Some((from + i + 1).saturating_sub(len));
            }
        }
        found
    }
}

/// The text of one answer as it grows.
///
/// The stop string that is complete first ends the text; of several complete at the same character the
/// longest. The concatenation of all that is given out is the decoded whole, cut there.
#[derive(Debug, Clone)]
pub struct Stream {
    search: Search,
    /// Text that may yet begin a stop string.
    held: String,
    stopped: bool,
}

impl Stream {
    /// Before the first token of an answer. Stop strings complete before token number `min_tokens` are text, as
    /// the engine has it.
    pub fn new(tokenizer: Arc<Tokenizer>, stops: Stops, min_tokens: usize) -> Self {
        Self { search: Search::new(tokenizer, stops, min_tokens), held: String::new(), stopped: false }
    }

    /// The text that is certain with `token`; may be empty. After a stop string nothing comes.
    pub fn push(&mut self, token: TokenId) -> String {
        if self.stopped {
            return String::new();
        }
        if let Some(at) = self.search.push(token, &mut self.held) {
            return self.stop(at);
        }
        let held = self.search.stops.held(self.search.state).min(self.held.len());
        let rest = self.held.split_off(self.held.len() - held);
        std::mem::replace(&mut self.held, rest)
    }

    /// The text that was held back, when no more tokens come. A character that was never finished is U+FFFD;
    /// that completes no stop string, as the engine has ended the answer for another reason.
    pub fn finish(&mut self) -> String {
        if !self.stopped {
            self.search.utf8.finish(&mut self.held);
        }
        std::mem::take(&mut self.held)
    }

    /// Whether a stop string ended the text.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn stop(&mut self, at: usize) -> String {
        self.stopped = true;
        self.held.truncate(at);
        std::mem::take(&mut self.held)
    }
}

/// Tells the engine at which token a stop string is complete.
#[derive(Debug, Clone)]
pub struct StopWatcher {
    search: Search,
    /// Room for the text of one token.
    text: String,
}

impl StopWatcher {
    /// Before the first token of an answer.
    pub fn new(tokenizer: Arc<Tokenizer>, stops: Stops) -> Self {
        Self { search: Search::new(tokenizer, stops, 0), text: String::new() }
    }
}

impl Watcher for StopWatcher {
    fn watch(&mut self, token: TokenId) -> Watch {
        self.text.clear();
        match self.search.push(token, &mut self.text) {
            Some(_) => Watch::Stop,
            None => Watch::Continue,
        }
    }

    fn clone_box(&self) -> Box<dyn Watcher> {
        Box::new(self.clone())
    }
}
