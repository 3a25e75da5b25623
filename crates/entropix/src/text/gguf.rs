//! A tokenizer from the tables inside a GGUF file.
#![deny(clippy::arithmetic_side_effects)]

use super::bpe::{Bpe, BpeOptions};
use super::components::Growth;
use super::special::AddedTokens;
use super::tokenizer::{Encoder, Parts, TURN_ENDERS, Tokenizer};
use super::vocabulary::{Spelling, TokenKind, Vocabulary};
use super::{patterns, spm};
use entropix_model::{Error, GgufVocabulary, Result, TokenId};
use tokenizers::normalizers::unicode::NFC;

impl Tokenizer {
    /// From the `tokenizer.*` tables of a GGUF file.
    ///
    /// # Errors
    /// `Unsupported` for a tokenizer model or pre-tokenizer that is not known, `Model` for tables that
    /// contradict one another; the code of both is `Tokenizer`.
    pub fn from_gguf(tables: &GgufVocabulary) -> Result<Self> {
        let spelling = match tables.model.as_str() {
            "gpt2" => Spelling::ByteLevel,
            "llama" => Spelling::Sentencepiece,
            other => {
                return Err(Error::unsupported(
                    "Tokenizer",
                    format!(
                        "tokenizer.ggml.model is {other:?}; known are \"gpt2\" (byte-level BPE) and \"llama\" (sentencepiece)"
                    ),
                ));
            }
        };
        let vocabulary = Vocabulary::new(tables.tokens.clone(), kinds(tables)?, spelling)?;
        let bos = in_range(tables.bos, &vocabulary, "bos_token_id")?;
        let ends = [(tables.eos, "eos_token_id"), (tables.eot, "eot_token_id")]
            .into_iter()
            .filter_map(|(id, key)| in_range(id, &vocabulary, key).transpose())
            .collect::<Result<Vec<TokenId>>>()?;
        in_range(tables.unknown, &vocabulary, "unknown_token_id")?;
        let (encoder, blank_first) = match spelling {
            Spelling::ByteLevel => (Encoder::Bpe(Box::new(byte_level(tables, &vocabulary)?)), false),
            Spelling::Sentencepiece => {
                let pieces = spm::Pieces::new(&vocabulary, &tables.scores)?;
                (
                    Encoder::Sentencepiece { pieces, blank_first: tables.add_space_prefix },
                    tables.add_space_prefix,
                )
            }
        };
        let prefix = match (tables.add_bos, bos) {
            (true, None) => {
                return Err(Error::model(
                    "Tokenizer",
                    "tokenizer.ggml.add_bos_token is set but there is no tokenizer.ggml.bos_token_id",
                ));
            }
            (true, Some(bos)) => vec![bos],
            (false, _) => Vec::new(),
        };
        let added = AddedTokens::of(&vocabulary)?;
        Ok(Self::assemble(Parts {
            vocabulary,
            added,
            encoder,
            prefix,
            bos,
            eos: tables.eos,
            ends,
            blank_first,
        }))
    }
}

/// The kinds of the tokens. A turn ender that is marked as text is a mistake of the file, and steers all the
/// same: llama.cpp overrides it too. Unlike there `</s>` and other plain markup is believed to be text, which it
/// is in the vocabularies of Qwen and SmolLM, unless the file says that it ends a text.
fn kinds(tables: &GgufVocabulary) -> Result<Vec<TokenKind>> {
    let n_tokens = tables.tokens.len();
    if !tables.token_types.is_empty() && tables.token_types.len() != n_tokens {
        return Err(Error::model(
            "Tokenizer",
            format!(
                "tokenizer.ggml.token_type has {} entries for {n_tokens} tokens",
                tables.token_types.len()
            ),
        ));
    }
    (0..n_tokens)
        .map(|id| {
            let stated = match tables.token_types.get(id).copied() {
                None | Some(1) => TokenKind::Normal,
                Some(2) => TokenKind::Unknown,
                Some(3) => TokenKind::Control,
                Some(4) => TokenKind::UserDefined,
                Some(0 | 5) => TokenKind::Unused,
                Some(6) => TokenKind::Byte,
                Some(other) => {
                    return Err(Error::model(
                        "Tokenizer",
                        format!("tokenizer.ggml.token_type[{id}] is {other}; kinds are 0 to 6"),
                    ));
                }
            };
            let name = tables.tokens[id].as_str();
            let steers = name.starts_with("<|") && TURN_ENDERS.contains(&name)
                || [tables.bos, tables.eos, tables.eot].contains(&Some(id as TokenId));
            Ok(match stated {
                _ if name.is_empty() => TokenKind::Unused,
                TokenKind::Normal | TokenKind::UserDefined if steers => TokenKind::Control,
                stated => stated,
            })
        })
        .collect()
}

fn in_range(id: Option<TokenId>, vocabulary: &Vocabulary, key: &str) -> Result<Option<TokenId>> {
    match id {
        Some(id) if id as usize >= vocabulary.len() => Err(Error::model(
            "Tokenizer",
            format!("tokenizer.ggml.{key} is {id}, but the vocabulary has {} tokens", vocabulary.len()),
        )),
        id => Ok(id),
    }
}

fn byte_level(tables: &GgufVocabulary, vocabulary: &Vocabulary) -> Result<Bpe> {
    let named = patterns::named(&tables.pre)?;
    let merges = tables
        .merges
        .iter()
        .enumerate()
        .map(|(rank, merge)| {
            // The blank that parts them is not the first character: a token may begin with one.
            let cut = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let (left, right) = merge.split_at(cut.unwrap_or(merge.len()));
            match right.strip_prefix(' ') {
                Some(right) if !right.is_empty() => Ok((left.to_owned(), right.to_owned())),
                _ => Err(Error::model(
                    "Tokenizer",
                    format!("tokenizer.ggml.merges[{rank}] is {merge:?}; it should be two tokens parted by a blank"),
                )),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    let options = BpeOptions { ignore_merges: named.ignore_merges, ..BpeOptions::default() };
    let normalizer = named.compose.then(|| NFC.into());
    let growth = if named.compose { Growth::NFC } else { Growth::NONE }.then(Growth::BYTE_LEVEL);
    Bpe::new(vocabulary, merges, options, normalizer, Some(named.pre_tokenizer), None, growth)
}
