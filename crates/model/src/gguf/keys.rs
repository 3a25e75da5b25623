//! The dimensions and constants of a model from the keys of a GGUF file.
#![deny(clippy::arithmetic_side_effects)]

use super::header::Value;
use crate::checkpoint::GgufVocabulary;
use crate::draft::{Draft, Field, Found};
use crate::rope::RopeScaling;
use crate::{Architecture, Error, Result, RopeLayout};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The `general.architecture` values that are computed.
const KNOWN: [(&str, Architecture); 3] =
    [("llama", Architecture::Llama), ("qwen2", Architecture::Qwen2), ("qwen3", Architecture::Qwen3)];

/// The metadata of a file of a known architecture.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) path: PathBuf,
    values: HashMap<String, Value>,
    prefix: &'static str,
    architecture: Architecture,
}

impl Keys {
    /// # Errors
    /// `Architecture`, with the known ones, for any other.
    pub(super) fn new(path: &Path, values: HashMap<String, Value>) -> Result<Self> {
        let found = match values.get("general.architecture") {
            Some(Value::Text(name)) => format!("{name:?}"),
            Some(other) => format!("{other:?}"),
            None => "missing".to_owned(),
        };
        let known = KNOWN.iter().find(|(name, _)| found == format!("{name:?}"));
        let &(prefix, architecture) = known.ok_or_else(|| {
            let known = KNOWN.map(|(name, _)| name).join(", ");
            Error::unsupported(
                "Architecture",
                format!(
                    "{}: general.architecture is {found}; known are {known} (Mistral and SmolLM2 are llama)",
                    path.display()
                ),
            )
        })?;
        Ok(Self { path: path.to_owned(), values, prefix, architecture })
    }

    /// The value of a key, taken out.
    pub(super) fn take(&mut self, key: &str) -> Option<Value> {
        self.values.remove(key)
    }

    /// An unsigned integer under its whole key.
    pub(super) fn unsigned_at(&self, key: &str) -> Field<u64> {
        let found = match self.values.get(key) {
            None => Found::Missing,
            Some(Value::Integer(value, _)) => match u64::try_from(*value) {
                Ok(value) => Found::Value(value),
                Err(_) => Found::Wrong(value.to_string()),
            },
            Some(other) => Found::Wrong(describe(other)),
        };
        Field { name: key.to_owned(), found }
    }

    fn unsigned(&self, key: &str) -> Field<u64> {
        self.unsigned_at(&format!("{}.{key}", self.prefix))
    }

    fn float(&self, key: &str) -> Field<f64> {
        let name = format!("{}.{key}", self.prefix);
        let found = match self.values.get(&name) {
            None => Found::Missing,
            Some(Value::Float(value)) => Found::Value(*value),
            Some(other) => Found::Wrong(describe(other)),
        };
        Field { name, found }
    }

    /// What the file claims; `divisors` are those of `rope_freqs.weight`.
    pub(super) fn draft(
        &self,
        vocabulary: &GgufVocabulary,
        divisors: Option<Vec<f32>>,
        tied_head: bool,
    ) -> Result<Draft> {
        let mut problems = Vec::new();
        self.refuse_variants()?;
        let rope_scaling = self.rope_scaling(divisors, &mut problems)?;
        let head_dim = self.unsigned("attention.key_length");
        for key in ["attention.value_length", "rope.dimension_count"] {
            self.demand_whole_heads(key, &head_dim)?;
        }
        let vocab_size = vocabulary.tokens.len() as u64;
        let claimed = self.unsigned("vocab_size");
        if !matches!(claimed.found, Found::Missing)
            && !matches!(claimed.found, Found::Value(n) if n == vocab_size)
        {
            problems.push(format!("{} is {} and there are {vocab_size} tokens", claimed.name, claimed.found));
        }
        let token = |id: u32, name: &str| Field { name: name.to_owned(), found: Found::Value(u64::from(id)) };
        Ok(Draft {
            architecture: self.architecture,
            vocab_size: Field { name: "tokenizer.ggml.tokens".into(), found: Found::Value(vocab_size) },
            hidden_size: self.unsigned("embedding_length"),
            n_layers: self.unsigned("block_count"),
            n_heads: self.unsigned("attention.head_count"),
            n_kv_heads: self.unsigned("attention.head_count_kv"),
            head_dim,
            intermediate_size: self.unsigned("feed_forward_length"),
            context: self.unsigned("context_length"),
            sliding_window: match self.unsigned("attention.sliding_window") {
                Field { found: Found::Missing | Found::Value(0), .. } => None,
                field => Some(field),
            },
            rms_norm_eps: self.float("attention.layer_norm_rms_epsilon"),
            rope_theta: self.float("rope.freq_base").or(10_000.0),
            rope_layout: match self.architecture {
                Architecture::Llama => RopeLayout::Adjacent,
                Architecture::Qwen2 | Architecture::Qwen3 => RopeLayout::Halves,
            },
            rope_scaling,
            tied_head,
            bos_token: vocabulary.bos.map(|id| token(id, "tokenizer.ggml.bos_token_id")),
            eos_tokens: vocabulary.end_tokens().map(|id| token(id, "an end token")).collect(),
            problems,
        })
    }

    /// Variants of the known architectures that are computed otherwise.
    fn refuse_variants(&self) -> Result<()> {
        let experts = self.unsigned("expert_count");
        if !matches!(experts.found, Found::Missing | Found::Value(0)) {
            return Err(Error::unsupported(
                "Experts",
                format!(
                    "{}: {} says a mixture of experts, which is not computed",
                    self.path.display(),
                    experts.name
                ),
            ));
        }
        Ok(())
    }

    /// `key`, where given, must be the width of a head: rotating or storing part of one is not computed.
    fn demand_whole_heads(&self, key: &str, head_dim: &Field<u64>) -> Result<()> {
        let field = self.unsigned(key);
        let derived =
            match (self.unsigned("embedding_length").found, self.unsigned("attention.head_count").found) {
                (Found::Value(hidden), Found::Value(heads)) => hidden.checked_div(heads),
                _ => None,
            };
        let wanted = match head_dim.found {
            Found::Value(n) => Some(n),
            _ => derived,
        };
        match (&field.found, wanted) {
            (Found::Missing, _) | (_, None) => Ok(()),
            (Found::Value(n), Some(wanted)) if *n == wanted => Ok(()),
            (found, Some(wanted)) => Err(Error::unsupported(
                "HeadDim",
                format!(
                    "{}: {} is {found} where heads are {wanted} wide; only whole heads are computed",
                    self.path.display(),
                    field.name
                ),
            )),
        }
    }

    fn rope_scaling(&self, divisors: Option<Vec<f32>>, problems: &mut Vec<String>) -> Result<RopeScaling> {
        let kind = match self.values.get(&format!("{}.rope.scaling.type", self.prefix)) {
            None => None,
            Some(Value::Text(kind)) => Some(kind.as_str()),
            Some(_) => Some("no text"),
        };
        let given = self.float("rope.scaling.factor");
        // The key before GGUF had scaling types.
        let old = self.float("rope.scale_linear");
        let field = if matches!(given.found, Found::Missing) { old } else { given };
        let factor = match (kind, &field.found) {
            (None | Some("linear"), Found::Value(x)) if x.is_finite() && *x > 0.0 => *x,
            (None, Found::Missing) => 1.0,
            (Some("none"), _) => 1.0,
            (None | Some("linear"), found) => {
                problems.push(format!("{} is {found}; it must be a number above 0", field.name));
                1.0
            }
            (Some(other), _) => {
                return Err(Error::unsupported(
                    "RopeScaling",
                    format!(
                        "{}: {}.rope.scaling.type is {other:?}; known are none, linear and the factors of \
                         rope_freqs.weight",
                        self.path.display(),
                        self.prefix
                    ),
                ));
            }
        };
        Ok(match divisors {
            Some(divisors) => RopeScaling::Divisors { factor, divisors },
            None if factor == 1.0 => RopeScaling::None,
            None => RopeScaling::Linear { factor },
        })
    }
}

/// A value of the wrong type, shortly.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Integer(value, _) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        Value::Strings(_) | Value::Floats(_) | Value::Integers(_) | Value::OtherArray => "an array".into(),
    }
}
