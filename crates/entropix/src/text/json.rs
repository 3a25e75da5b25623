//! A tokenizer from a folder's tokenizer.json and tokenizer_config.json.
//!
//! Everything the tokenizers crate would take on trust is checked here first: it panics on some merges and
//! renumbers added tokens in silence.
#![deny(clippy::arithmetic_side_effects)]

use super::bpe::{Bpe, BpeOptions};
use super::components::{NORMALIZERS, PRE_TOKENIZERS, component};
use super::special::{AddedToken, AddedTokens};
use super::tokenizer::{Encoder, Parts, Tokenizer};
use super::vocabulary::{Spelling, TokenKind, Vocabulary, byte_token};
use super::{components, config, limits};
use entropix_model::{Error, Result, TokenId};
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_json::Value;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Model,
}

/// What is looked at before the rest, whose form depends on it.
#[derive(Deserialize)]
struct Outline {
    model: Kind,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
struct Model {
    vocab: Vocab,
    #[serde(default)]
    merges: Vec<Merge>,
    unk_token: Option<String>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// A map from token to number that refuses a token named twice.
struct Vocab(HashMap<String, u64>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = HashMap<String, u64>;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map from tokens to numbers")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut vocab = HashMap::new();
                while let Some((token, id)) = map.next_entry::<String, u64>()? {
                    if let Some(before) = vocab.insert(token, id) {
                        return Err(de::Error::custom(format!("a token has the numbers {before} and {id}")));
                    }
                }
                Ok(vocab)
            }
        }
        deserializer.deserialize_map(Entries).map(Vocab)
    }
}

impl Tokenizer {
    /// From the tokenizer.json of a folder, and the names of its beginning and end tokens in
    /// tokenizer_config.json if there is one.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let text = config::read_own(&path, limits::TOKENIZER_BYTES, "Tokenizer")?;
        let named = config::TokenizerConfig::read(folder)?;
        // The crate's constructors are fed checked parts only; what was overlooked ends here, not the process.
        catch_unwind(AssertUnwindSafe(|| from_json(&text, &named)))
            .unwrap_or_else(|_| Err(wrong("the tokenizers crate panicked on it")))
            .map_err(|error| Error { message: format!("{}: {}", path.display(), error.message), ..error })
    }
}

pub(super) fn wrong(message: impl Into<String>) -> Error {
    Error::model("Tokenizer", message)
}

fn from_json(text: &str, named: &config::TokenizerConfig) -> Result<Tokenizer> {
    let unreadable = |e: serde_json::Error| wrong(format!("not a tokenizer: {e}"));
    let outline: Outline = serde_json::from_str(text).map_err(unreadable)?;
    // Old files leave the type out.
    let kind = outline.model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" {
        return Err(components::unsupported("model", kind, &["BPE"]));
    }
    let document: Document = serde_json::from_str(text).map_err(unreadable)?;
    let Document { added_tokens, normalizer, pre_tokenizer, post_processor, decoder, model } = document;
    refuse_oddities(&model)?;

    let decoder = decoder.as_ref().filter(|d| !d.is_null());
    let spelling = components::spelling(decoder)?;
    let vocabulary = vocabulary(&model, &added_tokens, spelling)?;
    let added = AddedTokens::new(
        added_tokens
            .iter()
            .map(|token| AddedToken {
                id: token.id as TokenId,
                content: token.content.clone(),
                control: vocabulary.kind(token.id as TokenId) != Some(TokenKind::UserDefined),
                lstrip: token.lstrip,
                rstrip: token.rstrip,
                single_word: token.single_word,
            })
            .collect(),
    )?;
    let id = |name: &Option<String>| name.as_ref().and_then(|name| vocabulary.id(name));
    let (bos, eos) = (id(&named.bos_token), id(&named.eos_token));
    let prefix = components::prefix(post_processor.as_ref(), &vocabulary)?;
    let growth = components::growth(normalizer.as_ref(), pre_tokenizer.as_ref())?;
    let inner = pre_tokenizer.as_ref().and_then(|p| components::without_first(p.clone()));
    let merges =
        model.merges.iter().enumerate().map(|(rank, merge)| pair(rank, merge)).collect::<Result<_>>()?;
    let options = BpeOptions {
        unk_token: model.unk_token,
        fuse_unk: model.fuse_unk,
        byte_fallback: model.byte_fallback,
        ignore_merges: model.ignore_merges,
    };
    let bpe = Bpe::new(
        &vocabulary,
        merges,
        options,
        component(normalizer, "normalizer", NORMALIZERS)?,
        component(pre_tokenizer, "pre_tokenizer", PRE_TOKENIZERS)?,
        component(inner, "pre_tokenizer", PRE_TOKENIZERS)?,
        growth,
    )?;
    Ok(Tokenizer::assemble(Parts {
        vocabulary,
        added,
        encoder: Encoder::Bpe(Box::new(bpe)),
        prefix,
        bos,
        eos,
        ends: eos.into_iter().collect(),
        blank_first: components::strips_a_blank(decoder),
    }))
}

fn refuse_oddities(model: &Model) -> Result<()> {
    let odd = |what: &Option<String>| what.as_ref().is_some_and(|text| !text.is_empty());
    if odd(&model.continuing_subword_prefix) || odd(&model.end_of_word_suffix) {
        return Err(Error::unsupported(
            "Tokenizer",
            "model: continuing_subword_prefix and end_of_word_suffix are not supported; remove them if they are not needed",
        ));
    }
    if model.dropout.is_some_and(|p| p != 0.0) {
        return Err(Error::unsupported(
            "Tokenizer",
            "model: dropout makes a text's tokens random; set it to null",
        ));
    }
    Ok(())
}

/// All tokens of the model and the added ones, which must number 0, 1, 2, … without a hole.
fn vocabulary(model: &Model, added: &[Added], spelling: Spelling) -> Result<Vocabulary> {
    let mut tokens: HashMap<u64, (&str, TokenKind)> = HashMap::new();
    for (name, id) in &model.vocab.0 {
        let kind = match spelling {
            Spelling::Sentencepiece if model.byte_fallback && byte_token(name).is_some() => TokenKind::Byte,
            _ if model.unk_token.as_deref() == Some(name) => TokenKind::Unknown,
            _ => TokenKind::Normal,
        };
        if let Some((other, _)) = tokens.insert(*id, (name, kind)) {
            return Err(wrong(format!("the tokens {other:?} and {name:?} both have the number {id}")));
        }
    }
    let mut contents: HashMap<&str, u64> = HashMap::new();
    for token in added {
        let (name, id) = (token.content.as_str(), token.id);
        if name.is_empty() {
            return Err(wrong(format!("added token {id} is the empty text")));
        }
        if let Some(other) = contents.insert(name, id)
            && other != id
        {
            return Err(wrong(format!("the added token {name:?} has the numbers {other} and {id}")));
        }
        if let Some(other) = model.vocab.0.get(name)
            && *other != id
        {
            return Err(wrong(format!(
                "the token {name:?} is {other} in the vocabulary and {id} among the added tokens"
            )));
        }
        let kind = match (token.special, model.unk_token.as_deref() == Some(name)) {
            (_, true) => TokenKind::Unknown,
            (true, false) => TokenKind::Control,
            (false, false) => TokenKind::UserDefined,
        };
        if let Some((other, _)) = tokens.insert(id, (name, kind))
            && other != name
        {
            return Err(wrong(format!("the tokens {other:?} and {name:?} both have the number {id}")));
        }
    }
    if tokens.len() > limits::TOKENS {
        return Err(wrong(format!("{} tokens; at most {} are read", tokens.len(), limits::TOKENS)));
    }
    let mut names = Vec::with_capacity(tokens.len());
    let mut kinds = Vec::with_capacity(tokens.len());
    for id in 0..tokens.len() as u64 {
        let Some((name, kind)) = tokens.get(&id) else {
            let highest = tokens.keys().max().copied().unwrap_or(0);
            return Err(wrong(format!(
                "{} tokens are numbered up to {highest}, but none is {id}; numbers must have no holes",
                tokens.len()
            )));
        };
        names.push((*name).to_owned());
        kinds.push(*kind);
    }
    Vocabulary::new(names, kinds, spelling)
}

fn pair(rank: usize, merge: &Merge) -> Result<(String, String)> {
    let (left, right) = match merge {
        Merge::Pair(left, right) => (left.as_str(), right.as_str()),
        Merge::Line(line) => match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => (left, right),
            _ => {
                return Err(wrong(format!(
                    "merge {rank} is {line:?}; it should be two tokens parted by one blank"
                )));
            }
        },
    };
    Ok((left.to_owned(), right.to_owned()))
}
