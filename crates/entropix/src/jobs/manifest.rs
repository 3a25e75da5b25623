//! The manifest of an output: everything its lines depend on, so that a later run can go on with it or check it.

use super::params::{NAMES, Params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The format of manifests that this program writes and reads.
const FORMAT: u32 = 1;

/// What a job was made with. All of it but `input`, the places of files and the commit decides what its lines say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this file.
    format: u32,
    /// `batch` or `score`.
    pub verb: String,
    /// What computed it.
    pub engine: EngineRecord,
    /// What was asked.
    pub input: InputRecord,
    /// Which part of the input, `0/1` for all of it.
    pub shard: String,
    /// Whether lines are in the order of the input.
    pub ordered: bool,
    /// What answered.
    pub model: ModelRecord,
    /// Who decided each token; none for scores.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<PolicyRecord>,
    /// What requests get that say nothing themselves, by name.
    pub parameters: Map<String, Value>,
    /// How text became prompts.
    pub prompt: PromptRecord,
    /// How much of the signals the lines have.
    pub signals: String,
    /// Where the trace of the job is: relative to the folder of the output if it is within that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace: Option<String>,
    /// What differed between the runs that were forced to share the output.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub mixed: Vec<String>,
}

/// The program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineRecord {
    /// Its version.
    pub version: String,
    /// The commit it was built from.
    pub commit: String,
}

/// The input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputRecord {
    /// Where it was.
    pub path: String,
    /// `jsonl` or `text`.
    pub format: String,
    /// Of its text (unpacked); none when it was not read before the job began.
    pub sha256: Option<String>,
    /// Requests of this part; none likewise.
    pub requests: Option<usize>,
}

/// The model and its arithmetic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// What results call it.
    pub name: String,
    /// Where it was.
    pub path: String,
    /// Of its files.
    pub sha256: String,
    /// `exact`, `bf16` or `int8`.
    pub precision: String,
    /// The kernels: each path has its own rounding.
    pub kernel_path: String,
    /// Type of the KV cache where that is a choice of its own, on CUDA: `bf16`, `f16` or `int8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<String>,
    /// What computed long prompts with --fast, e.g. `cublaslt-13.0.2`: the bits of a line then depend on its batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast: Option<String>,
    /// Most tokens of a sequence.
    pub context: usize,
}

impl ModelRecord {
    /// Type of the KV cache; on CUDA it was bf16 before there was a choice.
    fn kv_type(&self) -> Option<&str> {
        self.kv_cache.as_deref().or_else(|| self.kernel_path.starts_with("sm_").then_some("bf16"))
    }
}

/// The policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// Its name.
    pub name: String,
    /// Of what it says, changes and calibration included.
    pub sha256: String,
    /// Its text, without the changes.
    pub source: String,
    /// The changes, `key=value`.
    pub changes: Vec<String>,
    /// The text of the calibration its quantiles were taken from, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// Tokens it might throw away in the whole job, as a share of those answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_tokens: Option<f64>,
}

/// How text became prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptRecord {
    /// `question` or `raw`: what a line of plain text is.
    pub plain: String,
    /// Put before conversations that have no system message.
    pub system: Option<String>,
    /// `text` or `parse`: what special tokens spelled out in raw prompts are.
    pub special: String,
    /// SHA-256 of the chat template; none when the model has none.
    pub template: Option<String>,
    /// The file it was read from instead of the model's own.
    pub template_file: Option<String>,
    /// The day it was told, by a template that asks for one.
    #[serde(default)]
    pub date: Option<String>,
}

impl Manifest {
    /// A manifest of these records.
    pub fn new(
        verb: &str,
        engine: EngineRecord,
        input: InputRecord,
        model: ModelRecord,
        prompt: PromptRecord,
    ) -> Self {
        Self {
            format: FORMAT,
            verb: verb.to_owned(),
            engine,
            input,
            shard: super::Shard::WHOLE.to_string(),
            ordered: false,
            model,
            policy: None,
            parameters: Map::new(),
            prompt,
            signals: String::new(),
            trace: None,
            mixed: Vec::new(),
        }
    }

    /// Reads a manifest, or says why it is none.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if manifest.format != FORMAT {
            return Err(format!("its format is {}, this program knows {FORMAT}", manifest.format));
        }
        Ok(manifest)
    }

    /// As it is written.
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("plain data serialises");
        bytes.push(b'\n');
        bytes
    }

    /// Notes the value of a parameter and where it came from.
    pub fn set_parameter(&mut self, name: &str, value: Value, source: &str) {
        self.parameters.insert(name.to_owned(), serde_json::json!({"value": value, "source": source}));
    }

    /// The parameters as a request would name them.
    ///
    /// # Errors
    /// For values that no request may have.
    pub fn params(&self) -> Result<Params, String> {
        let mut params = Params::default();
        let is_set = |(_, entry): &(_, &Value)| !entry["value"].is_null();
        for (name, entry) in self.parameters.iter().filter(is_set) {
            let text = entry["value"].to_string();
            let value = super::json::Value::parse(&text).map_err(|flaw| flaw.message)?;
            let known = params.set(name, &value).map_err(|flaw| flaw.message)?;
            if !known {
                return Err(format!("the parameter {name:?} is not known"));
            }
        }
        Ok(params)
    }

    /// Why an output that `earlier` speaks of cannot be this job's, however much it is forced.
    pub fn other_job(&self, earlier: &Manifest) -> Option<String> {
        if self.verb != earlier.verb {
            return Some(format!("was written by {}, this is {}", earlier.verb, self.verb));
        }
        (self.shard != earlier.shard)
            .then(|| format!("is part {} of a job, this is part {}", earlier.shard, self.shard))
    }

    /// What is not as it was, a phrase each; empty when the lines of both runs would be the same.
    pub fn differences(&self, earlier: &Manifest) -> Vec<String> {
        let mut told = Vec::new();
        for ((name, was), (_, is)) in earlier.settings().into_iter().zip(self.settings()) {
            if was != is {
                told.push(format!("{name} was {}, is {}", brief(&was), brief(&is)));
            }
        }
        told
    }

    /// What the lines depend on, by name; always the same names.
    fn settings(&self) -> Vec<(&str, Value)> {
        let PromptRecord { plain, system, special, template, date, .. } = &self.prompt;
        let policy = self.policy.as_ref().map(|policy| format!("{} {}", policy.name, policy.sha256));
        let mut settings = vec![
            ("the version of the program", json!(self.engine.version)),
            ("the input format", json!(self.input.format)),
            ("the model", json!(self.model.sha256)),
            ("the name of the model", json!(self.model.name)),
            ("the precision", json!(self.model.precision)),
            ("the kernel path", json!(self.model.kernel_path)),
            ("the type of the KV cache", json!(self.model.kv_type())),
            ("--fast", json!(self.model.fast)),
            ("the context", json!(self.model.context)),
            ("the policy", json!(policy)),
            ("the extra tokens", json!(self.policy.as_ref().and_then(|policy| policy.extra_tokens))),
            ("plain lines", json!(plain)),
            ("the system message", json!(system)),
            ("special tokens in prompts", json!(special)),
            ("the chat template", json!(template)),
            ("the date", json!(date)),
            ("the signals", json!(self.signals)),
        ];
        let parameter = |name| self.parameters.get(name).map_or(Value::Null, |entry| entry["value"].clone());
        settings.extend(NAMES.map(|name| (name, parameter(name))));
        settings
    }
}

/// A value in few characters.
fn brief(value: &Value) -> String {
    let text = match value {
        Value::Null => return "not set".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(24) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let text = |text: &str| text.to_owned();
        let engine = EngineRecord { version: text("1"), commit: text("abc") };
        let input = InputRecord { path: text("in"), format: text("jsonl"), sha256: None, requests: Some(3) };
        let model = ModelRecord {
            name: text("m"),
            path: text("/m.gguf"),
            sha256: "0".repeat(64),
            precision: text("int8"),
            kernel_path: text("avx2"),
            kv_cache: None,
            fast: None,
            context: 64,
        };
        let prompt = PromptRecord {
            plain: text("question"),
            system: None,
            special: text("parse"),
            template: None,
            template_file: None,
            date: Some(text("2026-01-01")),
        };
        let mut manifest = Manifest::new("batch", engine, input, model, prompt);
        manifest.set_parameter("seed", json!(0), "default");
        manifest.policy = Some(PolicyRecord {
            name: text("greedy"),
            sha256: "1".repeat(64),
            source: text("x"),
            changes: vec![],
            calibration: None,
            extra_tokens: None,
        });
        manifest
    }

    #[test]
    fn manifests_read_as_they_were_written() {
        let first = manifest();
        assert_eq!(Manifest::from_json(&first.to_json()), Ok(first.clone()));
        let other = String::from_utf8(first.to_json()).unwrap().replace("\"format\": 1", "\"format\": 2");
        assert!(Manifest::from_json(other.as_bytes()).unwrap_err().contains("format is 2"));
        for bad in ["", "{}", "[1]", "null"] {
            assert!(Manifest::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// Everything that changes lines is noticed; what does not is not.
    #[test]
    fn differences_are_named() {
        let first = manifest();
        type Change = fn(&mut Manifest);
        let changes: [(Change, &str); 17] = [
            (|m| m.engine.version = "2".into(), "version of the program was 1, is 2"),
            (|m| m.input.format = "text".into(), "the input format"),
            (|m| m.model.sha256 = "2".repeat(64), "the model was 000"),
            (|m| m.model.name = "n".into(), "the name of the model"),
            (|m| m.model.precision = "exact".into(), "the precision was int8, is exact"),
            (|m| m.model.kernel_path = "portable".into(), "the kernel path was avx2, is portable"),
            (|m| m.model.kv_cache = Some("f16".into()), "the type of the KV cache was not set, is f16"),
            (|m| m.model.fast = Some("cublaslt-13.0.2".into()), "--fast was not set, is cublaslt-13.0.2"),
            (|m| m.model.context = 65, "the context"),
            (|m| m.policy.as_mut().unwrap().sha256 = "3".repeat(64), "the policy was greedy 111"),
            (|m| m.prompt.plain = "raw".into(), "plain lines"),
            (|m| m.prompt.system = Some("Be brief.".into()), "the system message was not set"),
            (|m| m.prompt.template = Some("4".repeat(64)), "the chat template"),
            (|m| m.prompt.date = Some("2026-01-02".into()), "the date"),
            (|m| m.signals = "token".into(), "the signals"),
            (|m| m.set_parameter("seed", json!(7), "flag"), "seed was 0, is 7"),
            (|m| m.set_parameter("stop", json!(["x"]), "flag"), "stop was not set, is [\"x\"]"),
        ];
        for (change, told) in changes {
            let mut other = manifest();
            change(&mut other);
            let differences = other.differences(&first).join("; ");
            assert!(differences.contains(told), "{told}: {differences:?}");
        }
        let cuda = |kv_cache: Option<&str>| {
            let mut manifest = manifest();
            manifest.model.kernel_path = "sm_90".into();
            manifest.model.kv_cache = kv_cache.map(str::to_owned);
            manifest
        };
        assert_eq!(cuda(Some("bf16")).differences(&cuda(None)), [""; 0]);
        assert_eq!(cuda(Some("f16")).differences(&cuda(None)), ["the type of the KV cache was bf16, is f16"]);
        let mut same = manifest();
        same.engine.commit = "def".into();
        same.input = InputRecord { path: "elsewhere".into(), sha256: None, ..same.input };
        same.model.path = "elsewhere".into();
        same.set_parameter("seed", json!(0), "flag");
        assert_eq!(same.differences(&first), [""; 0]);
        same.shard = "1/2".into();
        assert!(same.other_job(&first).unwrap().contains("part 0/1"));
    }

    #[test]
    fn parameters_come_back() {
        let mut manifest = manifest();
        let params = Params {
            seed: Some(u64::MAX),
            temperature: Some(0.7),
            logit_bias: Some(vec![(3, -1.5), (42, 2.0)]),
            stop: Some(vec!["a\n".into()]),
            stop_token_ids: Some(vec![7]),
            ignore_eos: Some(true),
            ..Params::default()
        };
        let Value::Object(values) = serde_json::to_value(&params).unwrap() else { panic!("no object") };
        for (name, value) in values.into_iter().filter(|(_, value)| !value.is_null()) {
            manifest.set_parameter(&name, value, "flag");
        }
        let manifest = Manifest::from_json(&manifest.to_json()).unwrap();
        assert_eq!(manifest.params(), Ok(params));
    }
}
