//! The tokens of a model as bytes: what each stands for in a text, and what kind it is.
#![deny(clippy::arithmetic_side_effects)]

use super::limits;
use entropix_model::{Error, Result, TokenId};
use std::collections::{HashMap, HashSet};

/// What a token is for. The numbers of GGUF's `tokenizer.ggml.token_type` are in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// A piece of text (1).
    Normal,
    /// Stands for what cannot be encoded (2).
    Unknown,
    /// Steers the model, never text (3); `special` in a tokenizer.json.
    Control,
    /// A piece of text that is found before anything else (4); added but not special in a tokenizer.json.
    UserDefined,
    /// A place filler; no text (5).
    Unused,
    /// One byte of a sentencepiece vocabulary (6).
    Byte,
}

/// The tokens of a vocabulary, dense from 0.
#[derive(Debug, Clone, Default)]
pub(super) struct Vocabulary {
    /// (n_tokens) as stored in the file.
    names: Vec<Box<str>>,
    /// (n_tokens) the bytes of the text a token stands for; none for control, unknown and unused tokens.
    bytes: Vec<Box<[u8]>>,
    /// (n_tokens)
    kinds: Vec<TokenKind>,
    ids: HashMap<Box<str>, TokenId>,
}

/// How the stored form of a token spells its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Each byte is one character of GPT-2's table.
    ByteLevel,
    /// UTF-8 with U+2581 for the blank; byte tokens are `<0xHH>`.
    Sentencepiece,
}

impl Vocabulary {
    /// From the tokens as stored and their kinds, both (n_tokens). Of two tokens stored alike the later one is
    /// found by name.
    pub(super) fn new(names: Vec<String>, kinds: Vec<TokenKind>, spelling: Spelling) -> Result<Self> {
        assert_eq!(names.len(), kinds.len(), "one kind a token");
        if names.len() > limits::TOKENS {
            return Err(Error::model(
                "Tokenizer",
                format!("the vocabulary has {} tokens; at most {} are read", names.len(), limits::TOKENS),
            ));
        }
        let mut vocabulary = Self {
            names: Vec::with_capacity(names.len()),
            bytes: Vec::with_capacity(names.len()),
            kinds,
            ids: HashMap::with_capacity(names.len()),
        };
        let table = byte_of_char();
        for (id, name) in names.into_iter().enumerate() {
            if name.len() > limits::TOKEN_BYTES {
                return Err(Error::model(
                    "Tokenizer",
                    format!("token {id} has {} bytes; at most {} are read", name.len(), limits::TOKEN_BYTES),
                ));
            }
            let bytes: Box<[u8]> = match vocabulary.kinds[id] {
                TokenKind::Control | TokenKind::Unknown | TokenKind::Unused => Box::default(),
                TokenKind::UserDefined => name.as_bytes().into(),
                TokenKind::Byte => Box::new([byte_token(&name).ok_or_else(|| {
                    Error::model(
                        "Tokenizer",
                        format!("token {id} is marked as a byte but is stored as {name:?}; `<0x00>` to `<0xFF>` are bytes"),
                    )
                })?]),
                TokenKind::Normal => match spelling {
                    // A token with a character outside the table stands for itself, as in the tokenizers crate.
                    Spelling::ByteLevel => name
                        .chars()
                        .map(|c| table.get(&c).copied())
                        .collect::<Option<Vec<u8>>>()
                        .unwrap_or_else(|| name.as_bytes().to_vec())
                        .into(),
                    Spelling::Sentencepiece => name.replace('\u{2581}', " ").into_bytes().into(),
                },
            };
            let name: Box<str> = name.into();
            vocabulary.ids.insert(name.clone(), id as TokenId);
            vocabulary.names.push(name);
            vocabulary.bytes.push(bytes);
        }
        Ok(vocabulary)
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn id(&self, name: &str) -> Option<TokenId> {
        self.ids.get(name).copied()
    }

    pub(super) fn name(&self, id: TokenId) -> Option<&str> {
        self.names.get(id as usize).map(|name| &**name)
    }

    pub(super) fn bytes(&self, id: TokenId) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], |bytes| bytes)
    }

    pub(super) fn kind(&self, id: TokenId) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Most bytes of a text that one token can stand for; none where some byte has no token, so that text may
    /// vanish.
    pub(super) fn longest(&self) -> Option<usize> {
        let singles: HashSet<u8> = self.bytes.iter().filter(|bytes| bytes.len() == 1).map(|b| b[0]).collect();
        // 0xF5 to 0xFF, 0xC0 and 0xC1 are in no UTF-8.
        let all = (0..=0xf4u8).all(|byte| matches!(byte, 0xc0 | 0xc1) || singles.contains(&byte));
        let longest =
            self.bytes.iter().map(|b| b.len()).chain(self.names.iter().map(|name| name.len())).max();
        longest.filter(|_| all)
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = (TokenId, &str, TokenKind)> {
        self.names
            .iter()
            .zip(&self.kinds)
            .enumerate()
            .map(|(id, (name, kind))| (id as TokenId, &**name, *kind))
    }
}

/// The byte that a token stored as `<0xHH>` stands for; exactly two hexadecimal digits.
pub(super) fn byte_token(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    let two = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    two.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// GPT-2's table (`bytes_to_unicode` of openai/gpt-2): printable Latin-1 stands for itself, the other 68 bytes
/// for U+0100 and up, in byte order.
fn byte_of_char() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut table = HashMap::with_capacity(256);
    let mut others = '\u{100}'..='\u{1ff}';
    for byte in 0..=255u8 {
        let c = if printable(byte) { char::from(byte) } else { others.next().expect("68 of 256") };
        table.insert(c, byte);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a shifted table: the crate's own alphabet must map onto all 256 bytes, and to the same ones.
    #[test]
    fn the_byte_table_is_that_of_the_tokenizers_crate() {
        use tokenizers::{PreTokenizedString, PreTokenizer, pre_tokenizers::byte_level::ByteLevel};
        let table = byte_of_char();
        let alphabet = ByteLevel::alphabet();
        assert_eq!(alphabet.len(), 256);
        assert!(alphabet.iter().all(|c| table.contains_key(c)));
        let text = "aé\u{0}\u{7f}\u{a0}\u{ad} \n日本🦀";
        let mut pieces = PreTokenizedString::from(text);
        ByteLevel::new(false, true, false).pre_tokenize(&mut pieces).unwrap();
        let spelled: String = pieces
            .get_splits(tokenizers::OffsetReferential::Normalized, tokenizers::OffsetType::None)
            .iter()
            .map(|(piece, ..)| *piece)
            .collect();
        let bytes: Vec<u8> = spelled.chars().map(|c| table[&c]).collect();
        assert_eq!(bytes, text.as_bytes());
    }

    /// A sign or a space inside the digits must not pass (`from_str_radix` takes a plus).
    #[test]
    fn byte_tokens_have_exactly_two_digits() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0xff>"), Some(255));
        for bad in ["<0x-1>", "<0x+1>", "<0x1>", "<0x123>", "<0x>", "0x0A", "<0xG0>", "<0x 1>", ""] {
            assert_eq!(byte_token(bad), None, "{bad}");
        }
    }
}
