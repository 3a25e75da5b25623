//! The `tokenizer.*` keys of a GGUF file, checked against one another.
#![deny(clippy::arithmetic_side_effects)]

use super::header::Value;
use super::keys::{Keys, describe};
use crate::checkpoint::GgufVocabulary;
use crate::draft::Found;
use crate::{Error, Result, TokenId};

const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;
const BYTE: u32 = 6;

/// Control tokens that end an answer whatever the keys say, as in llama.cpp's `llama-vocab.cpp`: many files
/// name only one of several.
const END_TEXTS: [&str; 10] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
];

impl GgufVocabulary {
    /// Every token that ends an answer: those the keys name and those known by their text. With repetitions.
    pub fn end_tokens(&self) -> impl Iterator<Item = TokenId> {
        let special = |id: usize| matches!(self.token_types.get(id), Some(&(CONTROL | USER_DEFINED)));
        let by_text = self.tokens.iter().enumerate();
        let by_text = by_text.filter(move |(id, text)| special(*id) && END_TEXTS.contains(&text.as_str()));
        self.eos.into_iter().chain(self.eot).chain(by_text.map(|(id, _)| id as TokenId))
    }
}

/// Reads the vocabulary; `rows` are those of the embedding.
///
/// # Errors
/// `Vocab` for tables of different lengths, ids outside, byte tokens that name no byte.
pub(super) fn read(keys: &mut Keys, rows: Option<u64>) -> Result<GgufVocabulary> {
    let path = keys.path.clone();
    let wrong = |what: String| Error::model("Vocab", format!("{}: {what}", path.display()));
    let tokens = match keys.take("tokenizer.ggml.tokens") {
        Some(Value::Strings(tokens)) => tokens,
        None => return Err(wrong("tokenizer.ggml.tokens is missing".into())),
        Some(other) => {
            return Err(wrong(format!("tokenizer.ggml.tokens is {}, not strings", describe(&other))));
        }
    };
    if rows.is_some_and(|rows| rows != tokens.len() as u64) {
        let rows = rows.unwrap_or_default();
        return Err(wrong(format!("{} tokens, and token_embd.weight has {rows} rows", tokens.len())));
    }
    let token_types = match keys.take("tokenizer.ggml.token_type") {
        None => Vec::new(),
        Some(Value::Integers(types)) => {
            let known = |t: &i64| (1..=6).contains(t);
            if let Some(at) = types.iter().position(|t| !known(t)) {
                return Err(wrong(format!(
                    "token {at} has the unknown type {}; types are 1 to 6",
                    types[at]
                )));
            }
            types.into_iter().map(|t| t as u32).collect()
        }
        Some(other) => return Err(wrong(format!("tokenizer.ggml.token_type is {}", describe(&other)))),
    };
    let scores = match keys.take("tokenizer.ggml.scores") {
        None => Vec::new(),
        Some(Value::Floats(scores)) => scores,
        Some(other) => return Err(wrong(format!("tokenizer.ggml.scores is {}", describe(&other)))),
    };
    for (name, len) in [("token_type", token_types.len()), ("scores", scores.len())] {
        if len != 0 && len != tokens.len() {
            return Err(wrong(format!("tokenizer.ggml.{name} has {len} items for {} tokens", tokens.len())));
        }
    }
    for (id, token) in tokens.iter().enumerate() {
        if token_types.get(id) == Some(&BYTE) && byte_of(token).is_none() {
            return Err(wrong(format!("byte token {id} is {token:?}, not <0x00> to <0xFF>")));
        }
    }
    let merges = match keys.take("tokenizer.ggml.merges") {
        None => Vec::new(),
        Some(Value::Strings(merges)) => merges,
        Some(other) => return Err(wrong(format!("tokenizer.ggml.merges is {}", describe(&other)))),
    };
    let joins_two = |merge: &str| {
        merge.char_indices().any(|(i, c)| c == ' ' && i > 0 && i.saturating_add(1) < merge.len())
    };
    if let Some(at) = merges.iter().position(|merge| !joins_two(merge)) {
        return Err(wrong(format!("merge {at} is {:?}, not two tokens with a blank between", merges[at])));
    }
    let mut text = |key: &str| match keys.take(key) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(format!("{key} is {}, not text", describe(&other)))),
    };
    let model =
        text("tokenizer.ggml.model")?.ok_or_else(|| wrong("tokenizer.ggml.model is missing".into()))?;
    if !["gpt2", "llama"].contains(&model.as_str()) {
        return Err(Error::unsupported(
            "Tokenizer",
            format!("{}: tokenizer.ggml.model is {model:?}; known are gpt2 and llama", path.display()),
        ));
    }
    let pre = text("tokenizer.ggml.pre")?.unwrap_or_default();
    let chat_template = text("tokenizer.chat_template")?;
    let mut truth = |key: &str, default: bool| match keys.take(key) {
        None => Ok(default),
        Some(Value::Bool(value)) => Ok(value),
        Some(other) => Err(wrong(format!("{key} is {}, not true or false", describe(&other)))),
    };
    // What llama.cpp takes where the file is silent: sentencepiece begins with <s> and a blank.
    let sentencepiece = model == "llama";
    let add_bos = truth("tokenizer.ggml.add_bos_token", sentencepiece)?;
    let add_space_prefix = truth("tokenizer.ggml.add_space_prefix", sentencepiece)?;
    let id = |name: &str, default: Option<TokenId>| {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let field = keys.unsigned_at(&key);
        let id = match field.found {
            Found::Missing => default.map(u64::from),
            Found::Value(id) => Some(id),
            Found::Wrong(text) => return Err(wrong(format!("{key} is {text}, not a token id"))),
        };
        match id {
            Some(id) if id >= tokens.len() as u64 => {
                let (n, silent) = (tokens.len(), if default.is_some() { " (or its default)" } else { "" });
                Err(wrong(format!("{key}{silent} is {id}, and there are {n} tokens")))
            }
            id => Ok(id.map(|id| id as TokenId)),
        }
    };
    let default = |id: TokenId| sentencepiece.then_some(id);
    Ok(GgufVocabulary {
        bos: id("bos", default(1))?,
        eos: id("eos", default(2))?,
        eot: id("eot", None)?,
        unknown: id("unknown", default(0))?,
        model,
        pre,
        token_types,
        scores,
        merges,
        add_bos,
        add_space_prefix,
        chat_template,
        tokens,
    })
}

/// The byte of `<0xHH>`: two hexadecimal digits and nothing else, so no sign and no blank.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let strict = digits.len() == 2 && digits.bytes().all(|c| c.is_ascii_hexdigit());
    strict.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::byte_of;

    #[test]
    fn byte_tokens_are_two_digits() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0xff>"), Some(255));
        for bad in ["<0x-1>", "<0xZZ>", "<0x+1>", "<0x1>", "<0x001>", "0x01", "<0x01", ""] {
            assert_eq!(byte_of(bad), None, "{bad:?}");
        }
    }
}
