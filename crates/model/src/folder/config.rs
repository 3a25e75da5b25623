//! config.json and generation_config.json of a Hugging Face folder.
#![deny(clippy::arithmetic_side_effects)]

use crate::draft::{Draft, Field, Found};
use crate::limits::CONFIG_BYTES;
use crate::rope::RopeScaling;
use crate::source::SourceFile;
use crate::{Architecture, Class, Error, ModelConfig, Result, RopeLayout};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The `architectures` that are computed.
const KNOWN: [(&str, Architecture); 4] = [
    ("LlamaForCausalLM", Architecture::Llama),
    ("MistralForCausalLM", Architecture::Llama),
    ("Qwen2ForCausalLM", Architecture::Qwen2),
    ("Qwen3ForCausalLM", Architecture::Qwen3),
];

/// The checked config, and the files it came from.
pub(super) fn read(folder: &Path, warnings: &mut Vec<String>) -> Result<(ModelConfig, Vec<PathBuf>)> {
    let path = folder.join("config.json");
    let fields = Fields { map: object(&path)?, path: path.clone() };
    let architecture = fields.architecture()?;
    fields.refuse_variants()?;
    let mut files = vec![path.clone()];

    let generation = folder.join("generation_config.json");
    let mut eos_tokens = fields.tokens("eos_token_id");
    let mut bos_token = fields.tokens("bos_token_id").into_iter().next();
    if generation.symlink_metadata().is_ok() {
        let fields = Fields { map: object(&generation)?, path: generation.clone() };
        eos_tokens.extend(fields.tokens("eos_token_id"));
        bos_token = bos_token.or_else(|| fields.tokens("bos_token_id").into_iter().next());
        files.push(generation);
    }
    let mut draft = fields.draft(architecture)?;
    draft.eos_tokens = eos_tokens;
    draft.bos_token = bos_token;
    Ok((draft.finish(&path, warnings)?, files))
}

/// The object in a JSON file.
fn object(path: &Path) -> Result<Map<String, Value>> {
    let text = SourceFile::open(path)?.read_text(CONFIG_BYTES, "Config")?;
    let wrong = |what: String| Error::model("Config", format!("{}: {what}", path.display()));
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(wrong("is no JSON object".into())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// The fields of a config, read strictly: a number as text is no number.
struct Fields {
    path: PathBuf,
    map: Map<String, Value>,
}

fn unsigned(name: &str, value: Option<&Value>) -> Field<u64> {
    let found = match value {
        None | Some(Value::Null) => Found::Missing,
        Some(value) => value.as_u64().map_or_else(|| Found::Wrong(shown(value)), Found::Value),
    };
    Field { name: name.to_owned(), found }
}

fn float(name: &str, value: Option<&Value>) -> Field<f64> {
    let found = match value {
        None | Some(Value::Null) => Found::Missing,
        Some(value) => value.as_f64().map_or_else(|| Found::Wrong(shown(value)), Found::Value),
    };
    Field { name: name.to_owned(), found }
}

/// A value as it stands in the file, shortly.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        other => other.to_string(),
    }
}

impl Fields {
    fn unsigned(&self, name: &str) -> Field<u64> {
        unsigned(name, self.map.get(name))
    }

    fn is_true(&self, name: &str) -> bool {
        self.map.get(name) == Some(&Value::Bool(true))
    }

    fn unsupported(&self, code: &'static str, what: String) -> Error {
        Error::unsupported(code, format!("{}: {what}", self.path.display()))
    }

    /// Token ids: one, a list, or none.
    fn tokens(&self, name: &str) -> Vec<Field<u64>> {
        match self.map.get(name) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(ids)) => ids.iter().map(|id| unsigned(name, Some(id))).collect(),
            Some(id) => vec![unsigned(name, Some(id))],
        }
    }

    fn architecture(&self) -> Result<Architecture> {
        let known = || KNOWN.map(|(name, _)| name).join(", ");
        let found = match self.map.get("architectures") {
            None => {
                let what = format!("architectures is missing; it must name one of {}", known());
                return Err(Error::model("Config", format!("{}: {what}", self.path.display())));
            }
            Some(Value::Array(names)) => names.first().unwrap_or(&Value::Null),
            Some(other) => other,
        };
        match KNOWN.iter().find(|(name, _)| found == name) {
            Some(&(_, architecture)) => Ok(architecture),
            None => {
                let what = format!("architectures names {}; known are {}", shown(found), known());
                Err(self.unsupported("Architecture", what))
            }
        }
    }

    /// Variants of the known architectures that are computed otherwise.
    fn refuse_variants(&self) -> Result<()> {
        let quantised = self.map.get("quantization_config").or_else(|| self.map.get("compression_config"));
        if let Some(quantised) = quantised.filter(|value| !value.is_null()) {
            let method = quantised.get("quant_method").map_or("of an unnamed method".into(), shown);
            let what =
                format!("its weights are quantised ({method}); take the unquantised model or a GGUF file");
            return Err(self.unsupported("Quant", what));
        }
        match self.map.get("hidden_act") {
            None => {}
            Some(Value::String(name)) if name == "silu" => {}
            Some(other) => {
                let what = format!("hidden_act is {}; only \"silu\" is computed", shown(other));
                return Err(self.unsupported("Activation", what));
            }
        }
        if let Some(factor) = self.map.get("partial_rotary_factor")
            && !factor.is_null()
            && factor.as_f64() != Some(1.0)
        {
            let what = format!("partial_rotary_factor is {}; only whole heads are rotated", shown(factor));
            return Err(self.unsupported("HeadDim", what));
        }
        Ok(())
    }

    fn draft(&self, architecture: Architecture) -> Result<Draft> {
        let mut problems = Vec::new();
        // transformers 5 gathers what was rope_theta and rope_scaling in rope_parameters.
        let parameters = match self.map.get("rope_parameters") {
            Some(Value::Object(map)) => Some(map),
            _ => None,
        };
        let theta = self.map.get("rope_theta").or_else(|| parameters?.get("rope_theta"));
        let scaling = match self.map.get("rope_scaling") {
            None | Some(Value::Null) => parameters,
            Some(Value::Object(map)) => Some(map),
            Some(other) => {
                problems.push(format!("rope_scaling is {}; it must be an object or null", shown(other)));
                None
            }
        };
        let rope_scaling = match scaling {
            Some(map) => self.rope_scaling(map, &mut problems)?,
            None => RopeScaling::None,
        };
        let tied_head = match self.map.get("tie_word_embeddings") {
            None => false,
            Some(Value::Bool(tied)) => *tied,
            Some(other) => {
                problems.push(format!("tie_word_embeddings is {}; it must be true or false", shown(other)));
                false
            }
        };
        // Qwen configs carry a window that counts only when switched on.
        let windowed = match architecture {
            Architecture::Llama => true,
            Architecture::Qwen2 | Architecture::Qwen3 => self.is_true("use_sliding_window"),
        };
        let sliding_window = self.map.get("sliding_window").filter(|window| windowed && !window.is_null());
        Ok(Draft {
            architecture,
            vocab_size: self.unsigned("vocab_size"),
            hidden_size: self.unsigned("hidden_size"),
            n_layers: self.unsigned("num_hidden_layers"),
            n_heads: self.unsigned("num_attention_heads"),
            n_kv_heads: self.unsigned("num_key_value_heads"),
            head_dim: match architecture {
                // What Qwen3Config takes when the file is silent; it does not derive it.
                Architecture::Qwen3 => self.unsigned("head_dim").or(128),
                Architecture::Llama | Architecture::Qwen2 => self.unsigned("head_dim"),
            },
            intermediate_size: self.unsigned("intermediate_size"),
            context: self.unsigned("max_position_embeddings"),
            sliding_window: sliding_window.map(|window| unsigned("sliding_window", Some(window))),
            rms_norm_eps: float("rms_norm_eps", self.map.get("rms_norm_eps")).or(1e-6),
            rope_theta: float("rope_theta", theta).or(10_000.0),
            rope_layout: RopeLayout::Halves,
            rope_scaling,
            tied_head,
            bos_token: None,
            eos_tokens: Vec::new(),
            problems,
        })
    }

    fn rope_scaling(&self, map: &Map<String, Value>, problems: &mut Vec<String>) -> Result<RopeScaling> {
        let kind = map.get("rope_type").or_else(|| map.get("type"));
        let mut number = |name: &str, fallback: Option<f64>| match float(name, map.get(name)).found {
            Found::Value(x) if x.is_finite() && x > 0.0 => x,
            Found::Missing if fallback.is_some() => fallback.unwrap_or_default(),
            found => {
                problems.push(format!("rope_scaling.{name} is {found}; it must be a number above 0"));
                1.0
            }
        };
        match kind {
            None => Ok(RopeScaling::None),
            Some(Value::String(kind)) if kind == "default" => Ok(RopeScaling::None),
            Some(Value::String(kind)) if kind == "linear" => {
                Ok(RopeScaling::Linear { factor: number("factor", None) })
            }
            Some(Value::String(kind)) if kind == "llama3" => {
                let context = self.map.get("max_position_embeddings").and_then(Value::as_f64);
                let (low, high) = (number("low_freq_factor", None), number("high_freq_factor", None));
                let scaling = RopeScaling::Llama3 {
                    factor: number("factor", None),
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_context: number("original_max_position_embeddings", context),
                };
                if low >= high {
                    problems.push(format!(
                        "rope_scaling.low_freq_factor {low} is not below high_freq_factor {high}"
                    ));
                }
                Ok(scaling)
            }
            Some(other) => Err(Error::new(
                Class::Unsupported,
                "RopeScaling",
                format!(
                    "{}: rope_scaling is of type {}; known are default, linear and llama3",
                    self.path.display(),
                    shown(other)
                ),
            )),
        }
    }
}
