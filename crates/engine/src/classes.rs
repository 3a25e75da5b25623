//! What kinds of token there are, for an engine that knows no text.

use entropix_model::TokenId;

/// A kind of token; a token may be of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TokenClass {
    /// Ends the answer (EOS, end of turn).
    End = 1,
    /// A control token, never text.
    Special = 2,
    /// Ends a sentence.
    SentenceEnd = 4,
    /// Starts a sentence.
    SentenceStart = 8,
    /// Holds a line break.
    Newline = 16,
    /// Holds a decimal digit.
    Digit = 32,
}

impl TokenClass {
    /// All of them with their names in policy files.
    pub const ALL: [(TokenClass, &'static str); 6] = [
        (TokenClass::End, "end"),
        (TokenClass::Special, "special"),
        (TokenClass::SentenceEnd, "sentence_end"),
        (TokenClass::SentenceStart, "sentence_start"),
        (TokenClass::Newline, "newline"),
        (TokenClass::Digit, "digit"),
    ];
}

/// The classes of every token of a vocabulary, made once from the tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClasses {
    /// (vocab_size) one bit a [`TokenClass`].
    bits: Vec<u8>,
    /// The tokens of [`TokenClass::End`], rising.
    ends: Vec<TokenId>,
}

impl TokenClasses {
    /// A table in which no token has a class.
    pub fn new(vocab_size: usize) -> Self {
        Self { bits: vec![0; vocab_size], ends: Vec::new() }
    }

    /// Puts `token` into `class`. A token outside the vocabulary is left out.
    pub fn add(&mut self, token: TokenId, class: TokenClass) {
        let Some(bits) = self.bits.get_mut(token as usize) else { return };
        *bits |= class as u8;
        if class == TokenClass::End
            && let Err(place) = self.ends.binary_search(&token)
        {
            self.ends.insert(place, token);
        }
    }

    /// Whether `token` is of `class`.
    pub fn is(&self, token: TokenId, class: TokenClass) -> bool {
        self.bits.get(token as usize).is_some_and(|bits| bits & class as u8 != 0)
    }

    /// The tokens that end an answer, rising.
    pub fn ends(&self) -> &[TokenId] {
        &self.ends
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.bits.len()
    }
}
