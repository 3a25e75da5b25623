//! Byte-pair encoding by the tokenizers crate: normalizer, pre-tokenizer, merges by rank.

use super::components::Growth;
use super::tokenizer::check_size;
use super::{limits, patterns, vocabulary::TokenKind, vocabulary::Vocabulary};
use entropix_model::{Error, Result, TokenId};
use std::collections::HashSet;
use tokenizers::models::bpe::BPE;
use tokenizers::{
    Model, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

/// How a stretch of text becomes tokens.
#[derive(Debug, Clone)]
pub(super) struct Bpe {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    /// For a stretch that does not start the text, where that differs (`prepend_scheme` "first").
    pub(super) inner: Option<PreTokenizerWrapper>,
    model: BPE,
    /// What normalizer and pre-tokenizer may make of a stretch.
    growth: Growth,
}

/// The options of a BPE model, as tokenizer.json names them.
#[derive(Debug, Clone, Default)]
pub(super) struct BpeOptions {
    pub(super) unk_token: Option<String>,
    pub(super) fuse_unk: bool,
    pub(super) byte_fallback: bool,
    pub(super) ignore_merges: bool,
}

impl Bpe {
    /// From a vocabulary and its merges, best first. Control and unused tokens are left out of the model, and
    /// with them every merge that makes one: no text becomes a control token by being merged.
    pub(super) fn new(
        vocabulary: &Vocabulary,
        merges: Vec<(String, String)>,
        options: BpeOptions,
        normalizer: Option<NormalizerWrapper>,
        pre_tokenizer: Option<PreTokenizerWrapper>,
        inner: Option<PreTokenizerWrapper>,
        growth: Growth,
    ) -> Result<Self> {
        let hidden = |kind| matches!(kind, TokenKind::Control | TokenKind::Unused);
        let hidden_names: HashSet<&str> =
            vocabulary.tokens().filter(|(.., kind)| hidden(*kind)).map(|(_, name, _)| name).collect();
        let mut kept = Vec::with_capacity(merges.len());
        let mut joined = String::new();
        for (rank, (left, right)) in merges.into_iter().enumerate() {
            joined.clear();
            joined.push_str(&left);
            joined.push_str(&right);
            // The crate panics on a joint text longer than every token: nothing reaches it unchecked.
            if let Some(stranger) =
                [&left, &right, &joined].into_iter().find(|name| vocabulary.id(name).is_none())
            {
                return Err(Error::model(
                    "Tokenizer",
                    format!("merge {rank} ({left:?} {right:?}) names {stranger:?}, which is no token"),
                ));
            }
            if [&left, &right, &joined].into_iter().all(|name| !hidden_names.contains(name.as_str())) {
                kept.push((left, right));
            }
        }
        if let Some(unknown) = &options.unk_token
            && (vocabulary.id(unknown).is_none() || hidden_names.contains(unknown.as_str()))
        {
            return Err(Error::model(
                "Tokenizer",
                format!("the unknown token {unknown:?} is not in the vocabulary"),
            ));
        }
        let names = vocabulary
            .tokens()
            .filter(|(_, name, kind)| !hidden(*kind) && !name.is_empty())
            .map(|(_, name, _)| (name.to_owned(), vocabulary.id(name).expect("a token has an id")))
            .collect();
        let mut model = BPE::new(names, kept);
        model.unk_token = options.unk_token;
        model.fuse_unk = options.fuse_unk;
        model.byte_fallback = options.byte_fallback;
        model.ignore_merges = options.ignore_merges;
        Ok(Self { normalizer, pre_tokenizer, inner, model, growth })
    }

    /// Bytes that the normalizer may make one of; none when it may make none of any.
    pub(super) fn shrinkage(&self) -> Option<usize> {
        match &self.normalizer {
            None => Some(1),
            // A character has at most three times its bytes when it is decomposed (Unicode, UAX 15).
            Some(NormalizerWrapper::NFC(_)) => Some(3),
            Some(_) => None,
        }
    }

    /// Appends the tokens of `text`; `at_start` when nothing comes before it. Characters for which the
    /// vocabulary has neither tokens nor bytes nor an unknown token are dropped, as the tokenizers package and
    /// llama.cpp do.
    pub(super) fn encode(&self, text: &str, at_start: bool, out: &mut Vec<TokenId>) -> Result<()> {
        patterns::check_blanks(text)?;
        let most = self.growth.of(text.len());
        if most > limits::GROWN_TEXT_BYTES {
            return Err(Error::data(
                "TextTooLong",
                format!(
                    "the model's normalizer and pre-tokenizer may make {most} bytes of {} of the text; at most {} are \
                     encoded at once; shorten it",
                    text.len(),
                    limits::GROWN_TEXT_BYTES
                ),
            ));
        }
        let fault = |error: tokenizers::Error| {
            Error::new(entropix_model::Class::Internal, "Tokenizer", error.to_string())
        };
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = &self.normalizer {
            normalizer.normalize(&mut normalized).map_err(fault)?;
            // It may have made more of the text, and blanks in it.
            check_size(normalized.get())?;
            patterns::check_blanks(normalized.get())?;
        }
        let mut pieces = PreTokenizedString::from(normalized);
        let inner = self.inner.as_ref().filter(|_| !at_start);
        if let Some(pre_tokenizer) = inner.or(self.pre_tokenizer.as_ref()) {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(fault)?;
        }
        for (piece, ..) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            out.extend(self.model.tokenize(piece).map_err(fault)?.iter().map(|token| token.id));
        }
        Ok(())
    }
}
