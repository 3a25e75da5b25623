//! Pre-tokenizers: the named ones of GGUF files, and what may stand in a tokenizer.json.
//!
//! A pattern costs time linear in the text when the `regex` crate can run it. The one look-ahead that
//! published tokenizers use is `\s+(?!\S)`, whose cost is bounded by the longest run of blanks
//! ([`limits::BLANK_RUN_BYTES`]) where it is a branch of its own; every other look-around and back-reference is
//! refused, because the engine that runs them gives up after a million steps, the tokenizers crate takes that for
//! the end of the text, and the rest would be cut wrongly.
#![deny(clippy::arithmetic_side_effects)]

use super::limits;
use entropix_model::{Error, Result};
use tokenizers::pre_tokenizers::{
    byte_level::ByteLevel, digits::Digits, sequence::Sequence, split::Split, split::SplitPattern,
};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

/// All blanks but the one before the next word.
const LAST_BLANK: &str = r"\s+(?!\S)";

/// GPT-2's pattern without its last branch `|\s+`: what no branch takes is a piece of its own anyhow.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A pre-tokenizer of GGUF's `tokenizer.ggml.pre`, and the habits that come with the name.
pub(super) struct Named {
    pub(super) pre_tokenizer: PreTokenizerWrapper,
    /// A piece that is a token is taken whole, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Texts are brought into Unicode's composed form first, as the tokenizer.json of these models does.
    pub(super) compose: bool,
}

/// Every known name, for messages.
const KNOWN: &[&str] = &[
    "default",
    "gpt-2",
    "olmo",
    "phi-2",
    "exaone4",
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "pixtral",
    "midm-2.0",
    "smaug-bpe",
    "qwen2",
    "deepseek-r1-qwen",
    "megrez",
    "stablelm2",
    "tekken",
];

/// The pre-tokenizer that GGUF calls `name`; names of one family are those of llama.cpp.
pub(super) fn named(name: &str) -> Result<Named> {
    let (splits, ignore_merges, compose): (&[&str], _, _) = match name {
        "" | "default" => (&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], false, false),
        "gpt-2" | "olmo" | "phi-2" | "exaone4" => (&[GPT2], false, false),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            let steps = vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()];
            let pre_tokenizer = Sequence::new(steps).into();
            return Ok(Named { pre_tokenizer, ignore_merges: false, compose: false });
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "midm-2.0" => (&[LLAMA3], true, false),
        "smaug-bpe" => (&[LLAMA3], false, false),
        "qwen2" | "deepseek-r1-qwen" | "megrez" => (&[QWEN2], false, true),
        "stablelm2" => (&[QWEN2], false, false),
        "tekken" => (&[TEKKEN], true, false),
        _ => {
            return Err(Error::unsupported(
                "Tokenizer",
                format!("tokenizer.ggml.pre is {name:?}, which is not known; known are {}", KNOWN.join(", ")),
            ));
        }
    };
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in splits {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split =
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).expect("a known pattern compiles");
        steps.push(split.into());
    }
    steps.push(ByteLevel::new(false, false, false).into());
    Ok(Named { pre_tokenizer: Sequence::new(steps).into(), ignore_merges, compose })
}

/// Refuses a pattern that could take more than linear time, or be cut short in silence.
pub(super) fn vet(pattern: &str) -> Result<()> {
    if pattern.len() > limits::PATTERN_BYTES {
        return Err(Error::model(
            "Tokenizer",
            format!("a pattern has {} bytes; at most {} are compiled", pattern.len(), limits::PATTERN_BYTES),
        ));
    }
    let parts: Vec<&str> = pattern.split(LAST_BLANK).collect();
    for (i, part) in parts.iter().enumerate() {
        // Between two look-aheads there are branches, so the look-ahead is a branch of the whole.
        let part = if i > 0 { part.strip_prefix('|').or(part.is_empty().then_some("")) } else { Some(*part) };
        let last = parts.len().checked_sub(1) == Some(i);
        let part = part
            .and_then(|p| if last { Some(p) } else { p.strip_suffix('|').or(p.is_empty().then_some("")) });
        let compiled = match part {
            Some(part) => regex::Regex::new(part).map_err(|e| e.to_string()),
            None => Err("the look-ahead is no branch of its own".to_owned()),
        };
        if let Err(reason) = compiled {
            let reason = reason.lines().last().unwrap_or_default();
            let shown: String = pattern.chars().take(80).collect();
            return Err(Error::model(
                "Tokenizer",
                format!(
                    "the pattern {shown:?} cannot be run in linear time ({reason}); of look-arounds only the branch {LAST_BLANK} is taken"
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses a text whose longest run of blanks is beyond what `\s+(?!\S)` can take.
pub(super) fn check_blanks(text: &str) -> Result<()> {
    if text.len() <= limits::BLANK_RUN_BYTES {
        return Ok(());
    }
    let longest = text.split(|c: char| !c.is_whitespace()).map(str::len).max().unwrap_or(0);
    if longest > limits::BLANK_RUN_BYTES {
        return Err(Error::data(
            "TextTooLong",
            format!(
                "the text has {longest} bytes of blanks in a row; at most {} can be encoded; shorten them",
                limits::BLANK_RUN_BYTES
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_has_a_pre_tokenizer() {
        for name in KNOWN {
            assert!(named(name).is_ok(), "{name}");
        }
        let error = named("no-such").err().unwrap();
        assert_eq!((error.class, error.code), (entropix_model::Class::Unsupported, "Tokenizer"));
        assert!(error.message.contains("smollm") && error.message.contains("no-such"), "{error}");
    }

    #[test]
    fn linear_patterns_pass_and_others_do_not() {
        for good in [GPT2, LLAMA3, QWEN2, TEKKEN, "(a+)+$", r"\d{1,3}", r"\s+(?!\S)"] {
            assert!(vet(good).is_ok(), "{good}");
        }
        for bad in [
            r"(?<=a)b",
            r"(a)\1",
            r"(?!\s)x",
            r"(?=x)",
            r"a+(?!\S)",
            r"(a|\s+(?!\S))*",
            r"(\s+(?!\S)|a)+",
            r"\s+(?!\S)+",
            "(",
            &"a".repeat(limits::PATTERN_BYTES + 1),
        ] {
            let error = vet(bad).unwrap_err();
            assert_eq!((error.class, error.code), (entropix_model::Class::Model, "Tokenizer"), "{bad}");
        }
    }
}
