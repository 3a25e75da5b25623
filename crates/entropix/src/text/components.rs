//! The parts of a tokenizer.json besides its model: looked at before the tokenizers crate builds them, and read
//! for what they do to a text's ends.

use super::json::wrong;
use super::patterns;
use super::vocabulary::{Spelling, Vocabulary};
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
    check_patterns(&value, field)?;
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
