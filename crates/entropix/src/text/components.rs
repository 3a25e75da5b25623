//! The parts of a tokenizer.json besides its model: looked at before the tokenizers crate builds them, and read
//! for what they do to a text's ends.

use super::json::wrong;
use super::vocabulary::{Spelling, Vocabulary};
use super::{limits, patterns};
use entropix_model::{Error, Result, TokenId};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) const NORMALIZERS: &[&str] =
    &["Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Prepend", "Replace"];
pub(super) const PRE_TOKENIZERS: &[&str] = &[
    "Sequence",
    "ByteLevel",
    "Split",
    "Digits",
    "Punctuation",
    "Whitespace",
    "WhitespaceSplit",
    "Metaspace",
];
const POST_PROCESSORS: &[&str] = &["Sequence", "ByteLevel", "TemplateProcessing"];

pub(super) fn unsupported(field: &str, kind: &str, known: &[&str]) -> Error {
    let kind: String = kind.chars().take(80).collect();
    Error::unsupported(
        "Tokenizer",
        format!("{field} of type {kind:?} is not supported; known are {}", known.join(", ")),
    )
}

/// Builds a component with the crate after its types and patterns were looked at.
pub(super) fn component<T: DeserializeOwned>(
    value: Option<Value>,
    field: &str,
    known: &[&str],
) -> Result<Option<T>> {
    let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(None) };
    check_types(&value, field, known)?;
    let n_parts = parts(&value).len();
    if n_parts > limits::TOKENIZER_PARTS {
        return Err(wrong(format!(
            "{field}: {n_parts} parts in all; at most {} are run; merge or remove some",
            limits::TOKENIZER_PARTS
        )));
    }
    check_patterns(&value, field)?;
    if parts(&value).into_iter().any(replaces_nothing) {
        return Err(wrong(format!(
            "{field}: a Replace whose pattern matches the empty text; give it a pattern of a character or more"
        )));
    }
    serde_json::from_value(value).map(Some).map_err(|e| wrong(format!("{field}: {e}")))
}

/// The types of a component and of all it is made of.
fn check_types(value: &Value, field: &str, known: &[&str]) -> Result<()> {
    let kind = value.get("type").and_then(Value::as_str);
    let Some(kind) = kind else { return Err(wrong(format!("{field} has no type"))) };
    if !known.contains(&kind) {
        return Err(unsupported(field, kind, known));
    }
    if kind == "Sequence" {
        for list in ["normalizers", "pretokenizers", "processors", "decoders"] {
            for part in value.get(list).and_then(Value::as_array).into_iter().flatten() {
                check_types(part, field, known)?;
            }
        }
    }
    Ok(())
}

fn check_patterns(value: &Value, field: &str) -> Result<()> {
    match value {
        Value::Object(map) => {
            if let Some(pattern) = map.get("pattern").and_then(|p| p.get("Regex")).and_then(Value::as_str) {
                patterns::vet(pattern)
                    .map_err(|error| Error { message: format!("{field}: {}", error.message), ..error })?;
            }
            map.values().try_for_each(|inner| check_patterns(inner, field))
        }
        Value::Array(list) => list.iter().try_for_each(|inner| check_patterns(inner, field)),
        _ => Ok(()),
    }
}

/// Whether a part replaces what has no characters, which panics the crate.
fn replaces_nothing(part: &Value) -> bool {
    let pattern = part.get("pattern").filter(|_| part.get("type").and_then(Value::as_str) == Some("Replace"));
    let pattern_of = |kind| pattern.and_then(|pattern| pattern.get(kind)).and_then(Value::as_str);
    pattern_of("String").is_some_and(str::is_empty)
        || pattern_of("Regex")
            .and_then(|pattern| regex::Regex::new(pattern).ok())
            .is_some_and(|regex| regex.is_match(""))
}

/// What a component is made of, in order, sequences opened.
fn parts(value: &Value) -> Vec<&Value> {
    let lists = ["normalizers", "pretokenizers"].into_iter().filter_map(|list| value.get(list)?.as_array());
    match value.get("type").and_then(Value::as_str) {
        Some("Sequence") => lists.flatten().flat_map(parts).collect(),
        _ => vec![value],
    }
}

/// How long a stretch of text may become: at most `times` its bytes and `more`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Growth {
    times: usize,
    more: usize,
}

impl Growth {
    pub(super) const NONE: Self = Self { times: 1, more: 0 };
    /// A character has at most three times its bytes when it is decomposed (Unicode, UAX 15).
    pub(super) const NFC: Self = Self { times: 3, more: 0 };
    /// Every byte becomes a character of at most two.
    pub(super) const BYTE_LEVEL: Self = Self { times: 2, more: 0 };

    /// Bytes that a stretch of `n_bytes` has at most.
    pub(super) fn of(self, n_bytes: usize) -> usize {
        n_bytes.saturating_mul(self.times).saturating_add(self.more)
    }

    /// This, then `next`.
    pub(super) fn then(self, next: Self) -> Self {
        Self { times: self.times.saturating_mul(next.times), more: next.of(self.more) }
    }
}

/// What a normalizer and then a pre-tokenizer may make of a stretch of text.
///
/// # Errors
/// `Model`, code `Tokenizer`, beyond [`limits::TOKENIZER_GROWTH`].
pub(super) fn growth(normalizer: Option<&Value>, pre_tokenizer: Option<&Value>) -> Result<Growth> {
    let mut growth = Growth::NONE;
    for part in normalizer.into_iter().flat_map(parts) {
        growth = growth.then(growth_of(part, true));
    }
    for (i, part) in pre_tokenizer.into_iter().flat_map(parts).enumerate() {
        growth = growth.then(growth_of(part, i == 0));
    }
    // A stretch has a byte at least.
    let most = growth.of(1);
    if most > limits::TOKENIZER_GROWTH {
        return Err(wrong(format!(
            "normalizer and pre_tokenizer may make {most} bytes of one; at most {} are taken; shorten what is put in \
             (Replace: content, Prepend: prepend) or remove parts",
            limits::TOKENIZER_GROWTH
        )));
    }
    Ok(growth)
}

/// What one part may make of a stretch, which it gets as a `whole` or cut into pieces of a byte or more each.
fn growth_of(part: &Value, whole: bool) -> Growth {
    let bytes_of = |value: Option<&Value>| value.and_then(Value::as_str).map_or(0, str::len);
    let put_first = |times: usize, n_bytes: usize| match whole {
        true => Growth { times, more: n_bytes },
        false => Growth { times: times + n_bytes, more: 0 },
    };
    match part.get("type").and_then(Value::as_str).unwrap_or_default() {
        "NFC" | "NFD" => Growth::NFC,
        // U+FDFA has 3 bytes, and 33 when it is decomposed for compatibility (Unicode's FAQ on normalization).
        "NFKC" | "NFKD" => Growth { times: 11, more: 0 },
        // U+0130 has 2 bytes, its lower case 3.
        "Lowercase" => Growth { times: 2, more: 0 },
        "Prepend" => put_first(1, bytes_of(part.get("prepend"))),
        "Replace" => {
            let content = bytes_of(part.get("content"));
            match bytes_of(part.get("pattern").and_then(|pattern| pattern.get("String"))) {
                // A regular expression may match between characters, and at the end.
                0 => Growth { times: 1 + content, more: content },
                pattern => Growth { times: content.div_ceil(pattern).max(1), more: 0 },
            }
        }
        "ByteLevel" => {
            let blank = part.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true);
            put_first(1, usize::from(blank)).then(Growth::BYTE_LEVEL)
        }
        "Metaspace" => {
            let replacement = bytes_of(part.get("replacement"));
            put_first(replacement.max(1), replacement)
        }
        // They cut, or take away.
        _ => Growth::NONE,
    }
}

/// `pre_tokenizer` as it works away from the start of the text, if that is another thing.
pub(super) fn without_first(mut pre_tokenizer: Value) -> Option<Value> {
    fn replace(value: &mut Value) -> bool {
        match value {
            Value::Object(map) => {
                let mut changed = false;
                if map.get("prepend_scheme").and_then(Value::as_str) == Some("first") {
                    map.insert("prepend_scheme".into(), "never".into());
                    map.remove("add_prefix_space");
                    changed = true;
                }
                map.values_mut().fold(changed, |changed, inner| replace(inner) || changed)
            }
            Value::Array(list) => list.iter_mut().map(replace).fold(false, |a, b| a | b),
            _ => false,
        }
    }
    replace(&mut pre_tokenizer).then_some(pre_tokenizer)
}

/// How tokens are spelled, by what the decoder undoes.
pub(super) fn spelling(decoder: Option<&Value>) -> Result<Spelling> {
    let known = ["ByteLevel", "Metaspace", "Sequence of Replace, ByteFallback, Fuse and Strip"];
    let kinds = kinds_of(decoder);
    if kinds.iter().all(|kind| *kind == "ByteLevel") && !kinds.is_empty() {
        return Ok(Spelling::ByteLevel);
    }
    let sentencepiece = ["Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"];
    if let Some(stranger) = kinds.iter().find(|kind| !sentencepiece.contains(kind)) {
        return Err(unsupported("decoder", stranger, &known));
    }
    if kinds.contains(&"Replace") || kinds.contains(&"Metaspace") {
        return Ok(Spelling::Sentencepiece);
    }
    Err(unsupported("decoder", kinds.first().copied().unwrap_or("none"), &known))
}

/// The types of a component's parts, sequences opened.
fn kinds_of(value: Option<&Value>) -> Vec<&str> {
    let Some(value) = value else { return Vec::new() };
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("none");
    match value.get("decoders").and_then(Value::as_array) {
        Some(parts) if kind == "Sequence" => parts.iter().flat_map(|part| kinds_of(Some(part))).collect(),
        _ => vec![kind],
    }
}

/// Whether decoding takes a blank from the front of a whole text.
pub(super) fn strips_a_blank(decoder: Option<&Value>) -> bool {
    let Some(decoder) = decoder else { return false };
    match decoder.get("type").and_then(Value::as_str) {
        Some("Strip") => decoder.get("start").and_then(Value::as_u64).is_some_and(|n| n > 0),
        Some("Metaspace") => decoder.get("prepend_scheme").and_then(Value::as_str) != Some("never"),
        Some("Sequence") => decoder
            .get("decoders")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|part| strips_a_blank(Some(part))),
        _ => false,
    }
}

/// The tokens a post-processor puts before a text. What it would put after one is left away: a prompt is to be
/// continued.
pub(super) fn prefix(processor: Option<&Value>, vocabulary: &Vocabulary) -> Result<Vec<TokenId>> {
    let Some(processor) = processor.filter(|p| !p.is_null()) else { return Ok(Vec::new()) };
    check_types(processor, "post_processor", POST_PROCESSORS)?;
    let mut tokens = Vec::new();
    match processor.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            for part in processor.get("processors").and_then(Value::as_array).into_iter().flatten() {
                tokens.extend(prefix(Some(part), vocabulary)?);
            }
        }
        Some("TemplateProcessing") => {
            for step in processor.get("single").and_then(Value::as_array).into_iter().flatten() {
                if step.get("Sequence").is_some() {
                    break;
                }
                let name = step.get("SpecialToken").and_then(|t| t.get("id")).and_then(Value::as_str);
                let name = name.ok_or_else(|| {
                    wrong("post_processor: a step of `single` is neither a token nor a sequence")
                })?;
                let id = vocabulary
                    .id(name)
                    .ok_or_else(|| wrong(format!("post_processor: {name:?} is not in the vocabulary")))?;
                tokens.push(id);
            }
        }
        _ => {}
    }
    Ok(tokens)
}
