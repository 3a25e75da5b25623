//! Text to tokens and back.

use super::bpe::Bpe;
use super::special::{AddedTokens, Segment, Special};
use super::template::Rendered;
use super::vocabulary::{TokenKind, Vocabulary};
use super::{limits, spm};
use entropix_model::{Class, Error, Result, TokenId, TokenMask};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The names of tokens that end a turn or a text in published models; llama.cpp's list, less what its own
/// comments call a hack.
pub(super) const TURN_ENDERS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<EOT>",
    "_<EOT>",
    "</s>",
    "<｜end▁of▁sentence｜>",
];

/// A model's tokenizer, from a tokenizer.json or from the tables of a GGUF file.
///
/// Encoding is a pure function of the text; tokens of a text are those of the tokenizers package and of
/// llama.cpp. Special tokens are found first, the rest is normalised, cut and merged.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    parts: Parts,
}

/// What a tokenizer is put together from.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) vocabulary: Vocabulary,
    pub(super) added: AddedTokens,
    pub(super) encoder: Encoder,
    /// Put before a prompt.
    pub(super) prefix: Vec<TokenId>,
    pub(super) bos: Option<TokenId>,
    pub(super) eos: Option<TokenId>,
    /// End an answer by what the file says.
    pub(super) ends: Vec<TokenId>,
    /// A whole text gets a blank in front when encoded, which decoding takes away.
    pub(super) blank_first: bool,
}

/// How a stretch of text without added tokens becomes tokens.
#[derive(Debug, Clone)]
pub(super) enum Encoder {
    Bpe(Box<Bpe>),
    Sentencepiece {
        pieces: spm::Pieces,
        /// A blank is put before every stretch.
        blank_first: bool,
    },
}

impl Tokenizer {
    /// The tokenizer of a checkpoint; `path` is what messages name.
    ///
    /// # Errors
    /// `Model` and `Unsupported` with the code `Tokenizer`, `NoInput` and `Io` for files that cannot be read.
    pub fn open(path: &Path, vocabulary: &entropix_model::Vocabulary) -> Result<Self> {
        match vocabulary {
            entropix_model::Vocabulary::Folder(folder) => Self::from_folder(folder),
            entropix_model::Vocabulary::Gguf(tables) => Self::from_gguf(tables).map_err(|error| Error {
                message: format!("{}: {}", path.display(), error.message),
                ..error
            }),
        }
    }

    pub(super) fn assemble(parts: Parts) -> Self {
        Self { parts }
    }

    /// The tokens of `text`, nothing put before or after.
    ///
    /// # Errors
    /// `Data`, code `TextTooLong`, beyond 16 MiB or 500,000 blanks in a row, as given or as normalised, and when the
    /// tokenizer might make more than 96 MiB of it.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<TokenId>> {
        check_size(text)?;
        let mut out = Vec::new();
        self.append(text, special, &mut out)?;
        Ok(out)
    }

    /// What a text of `n_bytes` has at least, from the longest token alone: enough to refuse one that can never
    /// fit before it is encoded.
    pub fn fewest_tokens(&self, n_bytes: usize) -> usize {
        let shrinkage = match &self.parts.encoder {
            Encoder::Bpe(bpe) => bpe.shrinkage(),
            Encoder::Sentencepiece { .. } => Some(1),
        };
        match (shrinkage, self.parts.vocabulary.longest()) {
            (Some(shrinkage), Some(longest)) => n_bytes / (longest * shrinkage).max(1),
            _ => 0,
        }
    }

    /// The tokens of `text` as a prompt: as [`Tokenizer::encode`], with the beginning-of-text token in front if
    /// the model wants one and the text does not begin with it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str, special: Special) -> Result<Vec<TokenId>> {
        let tokens = self.encode(text, special)?;
        if tokens.starts_with(&self.parts.prefix) {
            return Ok(tokens);
        }
        Ok([self.parts.prefix.as_slice(), &tokens].concat())
    }

    /// The tokens of a rendered chat: control tokens where the template put them, never where a message did.
    /// The template says itself whether the text begins with a beginning-of-text token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<TokenId>> {
        let marked = rendered.marked();
        check_size(marked)?;
        let mut out = Vec::new();
        for segment in self.parts.added.split_controls(marked) {
            match segment {
                Segment::Token(token) => out.push(token),
                Segment::Text(range) => {
                    let text = rendered.unmark(&marked[range]);
                    self.append(&text, Special::Text, &mut out)?;
                }
            }
        }
        Ok(out)
    }

    /// Appends the tokens of `text`, which starts the whole when nothing is in `out` yet.
    fn append(&self, text: &str, special: Special, out: &mut Vec<TokenId>) -> Result<()> {
        for segment in self.parts.added.split(text, special) {
            match segment {
                Segment::Token(token) => out.push(token),
                Segment::Text(range) => self.append_plain(&text[range], out)?,
            }
        }
        Ok(())
    }

    fn append_plain(&self, text: &str, out: &mut Vec<TokenId>) -> Result<()> {
        match &self.parts.encoder {
            Encoder::Bpe(bpe) => {
                let at_start = out.is_empty();
                // The crate is trusted with the text, not with the process.
                catch_unwind(AssertUnwindSafe(|| bpe.encode(text, at_start, out))).unwrap_or_else(|_| {
                    Err(Error::new(
                        Class::Internal,
                        "Tokenizer",
                        format!("the tokenizers crate panicked on a text of {} bytes", text.len()),
                    ))
                })
            }
            Encoder::Sentencepiece { pieces, blank_first } => {
                let blank = if *blank_first { "\u{2581}" } else { "" };
                pieces.encode(&format!("{blank}{}", text.replace(' ', "\u{2581}")), out);
                Ok(())
            }
        }
    }

    /// The text that `tokens` continue another text with: their bytes, what is no UTF-8 replaced by U+FFFD.
    /// Control and unknown tokens are no text.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        String::from_utf8_lossy(&self.bytes_of(tokens)).into_owned()
    }

    /// The text that `tokens` are the whole of: as [`Tokenizer::decode`], without the blank that encoding puts
    /// in front where the model has that habit (sentencepiece).
    pub fn decode_whole(&self, tokens: &[TokenId]) -> String {
        let bytes = self.bytes_of(tokens);
        let text = if self.parts.blank_first { bytes.strip_prefix(b" ").unwrap_or(&bytes) } else { &bytes };
        String::from_utf8_lossy(text).into_owned()
    }

    fn bytes_of(&self, tokens: &[TokenId]) -> Vec<u8> {
        tokens.iter().flat_map(|token| self.token_bytes(*token)).copied().collect()
    }

    /// The bytes of the text `token` stands for; none for control, unknown and unused tokens and for numbers
    /// beyond the vocabulary.
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.parts.vocabulary.bytes(token)
    }

    /// How `token` is stored, e.g. `Ġthe`, `▁the` or `<|im_end|>`.
    pub fn token_name(&self, token: TokenId) -> Option<&str> {
        self.parts.vocabulary.name(token)
    }

    /// The token stored as `name`.
    pub fn token_id(&self, name: &str) -> Option<TokenId> {
        self.parts.vocabulary.id(name)
    }

    /// What `token` is for; none beyond the vocabulary.
    pub fn kind(&self, token: TokenId) -> Option<TokenKind> {
        self.parts.vocabulary.kind(token)
    }

    /// Whether `token` steers the model and is never text.
    pub fn is_special(&self, token: TokenId) -> bool {
        matches!(self.kind(token), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// The names of the control tokens.
    pub fn control_names(&self) -> &[String] {
        self.parts.added.controls()
    }

    /// Begins a text.
    pub fn bos(&self) -> Option<TokenId> {
        self.parts.bos
    }

    /// Ends a text.
    pub fn eos(&self) -> Option<TokenId> {
        self.parts.eos
    }

    /// What a prompt starts with.
    pub fn prefix(&self) -> &[TokenId] {
        &self.parts.prefix
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.parts.vocabulary.len()
    }

    /// Checks the vocabulary against the rows of a model's embedding. Rows may be left over (embeddings are
    /// padded); tokens may not.
    ///
    /// # Errors
    /// `Model`, code `ShapeMismatch`.
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        if self.vocab_size() > rows {
            return Err(Error::model(
                "ShapeMismatch",
                format!(
                    "the tokenizer has {} tokens but the model's embedding has {rows} rows; they belong to different models",
                    self.vocab_size()
                ),
            ));
        }
        Ok(())
    }

    /// The tokens a model of `rows` rows may choose: all of the vocabulary but its place fillers. None when that
    /// is every row.
    pub fn choosable(&self, rows: usize) -> Option<TokenMask> {
        let fits = |id: TokenId| self.kind(id).is_some_and(|kind| kind != TokenKind::Unused);
        if (0..rows as TokenId).all(fits) {
            return None;
        }
        let mut mask = TokenMask::none(rows);
        (0..rows as TokenId).filter(|id| fits(*id)).for_each(|id| mask.allow(id));
        Some(mask)
    }

    /// The tokens that end an answer, rising: what `config` says (its `eos_token_id`s), what the tokenizer's
    /// file says, and control tokens whose names end turns in published models.
    pub fn ends(&self, config: &[TokenId]) -> Vec<TokenId> {
        let named = TURN_ENDERS.iter().filter_map(|name| self.token_id(name));
        let named = named.filter(|id| self.kind(*id) == Some(TokenKind::Control));
        let mut ends: Vec<TokenId> =
            named.chain(self.parts.ends.iter().copied()).chain(config.iter().copied()).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}

/// Refuses a text, as given or as normalised, that is too long.
pub(super) fn check_size(text: &str) -> Result<()> {
    if text.len() > limits::TEXT_BYTES {
        return Err(Error::data(
            "TextTooLong",
            format!("the text has {} bytes; at most {} are encoded at once", text.len(), limits::TEXT_BYTES),
        ));
    }
    Ok(())
}
