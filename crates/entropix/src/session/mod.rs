//! A checkpoint made ready to answer: tokenizer, chat template, backend and engine, tied together.

mod device;
mod fingerprint;
mod open;
mod timed;

pub use device::{Device, Processor, without_advice};

use crate::jobs::json::{Member, Value};
use crate::jobs::params::Params;
use crate::text::{
    ChatOptions, ChatTemplate, Date, Message, Sandbox, Special, Tokenizer, answer_reader, token_classes,
};
use entropix_cpu::{KernelPath, Precision, Progress, StepTimes};
use entropix_cuda::KvType;
use entropix_engine::{Engine, EngineOptions, Policy, PolicyFile};
use entropix_model::{Checkpoint, DType, Error, LayerWeights, MemoryPlan, Result, Tensor, TokenId, Weights};
use open::Opened;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use timed::Times;

/// How a checkpoint is opened.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Where to compute.
    pub device: Device,
    /// Threads that compute on the CPU; none is all of this process's cores.
    pub threads: Option<usize>,
    /// The arithmetic; none is int8 on the CPU and bf16 on CUDA, which has no other.
    pub precision: Option<Precision>,
    /// The kernels of the CPU; none is the best this machine has.
    pub kernel_path: Option<KernelPath>,
    /// Type of keys and values in the cache, on CUDA alone; none is bf16 there.
    pub kv_type: Option<KvType>,
    /// Whether the matrix products of prompt steps of many tokens ([`entropix_cuda::FAST_TOKENS`]) are computed by cuBLASLt, on
    /// CUDA alone: faster, and the bits of an answer then depend on what is computed with it.
    pub fast: bool,
    /// How long a CUDA device may take for a step before it is given up; none is two minutes.
    pub patience: Option<Duration>,
    /// Most tokens of a sequence; none is what the model was made for.
    pub max_context: Option<usize>,
    /// Most sequences computed at once.
    pub max_rows: usize,
    /// Blocks of the KV cache; none is enough for `max_rows` whole contexts, but at most 1 GiB, or a quarter of a device's
    /// memory, unless a single one needs more. On the CPU a number also lets prompts that begin alike keep all blocks that no
    /// sequence holds; with none they keep a quarter, which halves the memory of long jobs.
    pub kv_blocks: Option<usize>,
    /// A Jinja template instead of the checkpoint's own.
    pub chat_template: Option<PathBuf>,
    /// The day that a template may ask for; none is today in UTC.
    pub date: Option<Date>,
    /// Program and arguments that parse and render templates nobody knows (see [`Sandbox`]); none does it in this
    /// process, which a hostile one can end.
    pub template_command: Option<Vec<OsString>>,
    /// A folder for what is costly to make again: kernels that were compiled for this machine. None keeps nothing.
    pub cache: Option<PathBuf>,
    /// Told in words, at once, what opening will take some time for.
    pub tell: fn(&str),
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            device: Device::default(),
            threads: None,
            precision: None,
            kernel_path: None,
            kv_type: None,
            fast: false,
            patience: None,
            max_context: None,
            max_rows: 8,
            kv_blocks: None,
            chat_template: None,
            date: None,
            template_command: None,
            cache: None,
            tell: |_| {},
        }
    }
}

impl SessionOptions {
    /// Whether the device that is asked for can be had, before anything is fetched or read.
    ///
    /// # Errors
    /// As [`entropix_cuda::probe`]; `Unsupported` for arithmetic, kernels, a type of the KV cache or a speed that the device
    /// has not.
    pub fn check_device(&self) -> Result<()> {
        device::choose(self.device, self.precision, self.kernel_path, self.kv_type, self.fast).map(drop)
    }
}

/// What was opened, for reports.
#[derive(Debug, Clone)]
pub struct ModelSummary {
    /// The file's or folder's name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Family, size and most common weight type, e.g. `llama 135M Q4_1`.
    pub kind: String,
    /// Bytes of the weights as stored.
    pub weight_bytes: usize,
    /// Bytes of weights one token must read: all but an embedding that is not also the head.
    pub read_bytes: usize,
    /// Weights.
    pub n_params: usize,
    /// Tokens of the vocabulary, as many as a row of logits has.
    pub vocab_size: usize,
    /// Bytes of keys and values a position takes.
    pub kv_bytes_per_token: usize,
    /// The matrices that every token meets.
    pub token_matrices: Matrices,
    /// The matrices that only tokens meet whose distribution is asked for: the head, and what follows attention in
    /// the last layer.
    pub ask_matrices: Matrices,
    /// Multiplications of attention for a token and a position it sees, over all layers.
    pub attention_products: usize,
    /// The arithmetic.
    pub precision: Precision,
    /// What computes.
    pub processor: Processor,
    /// What the backend takes of the memory.
    pub memory: MemoryPlan,
    /// Every file that answers depend on: weights, config, vocabulary and chat template.
    pub files: Vec<PathBuf>,
}

/// Some weight matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Matrices {
    /// Bytes as stored.
    pub n_bytes: usize,
    /// Weights.
    pub n_params: usize,
}

impl Matrices {
    fn of<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Self {
        tensors.into_iter().fold(Self::default(), |all, tensor| Self {
            n_bytes: all.n_bytes + tensor.n_bytes(),
            n_params: all.n_params + tensor.n_rows * tensor.n_cols,
        })
    }
}

impl ModelSummary {
    /// What users call the arithmetic: `exact`, `bf16` or `int8`.
    pub fn precision_name(&self) -> &'static str {
        match self.precision {
            Precision::Exact => "exact",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }

    /// Type of keys and values in the cache: `f32`, `f16`, `bf16` or `int8`.
    pub fn kv_cache_name(&self) -> &'static str {
        match (self.processor.kv_type(), self.precision) {
            (Some(kv_type), _) => kv_type.name(),
            (None, Precision::Exact) => "f32",
            (None, Precision::Bf16 | Precision::Int8) => "f16",
        }
    }
}

/// A model ready to answer.
pub struct Session {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    ends: Vec<TokenId>,
    template: Option<ChatTemplate>,
    sandbox: Option<Sandbox>,
    date: Date,
    model: ModelSummary,
    generation_config: Params,
    warnings: Vec<String>,
    choice: Option<String>,
    times: Times,
}

impl Session {
    /// Opens the folder or `.gguf` file at `path`, checks it whole and reads its weights.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], the tokenizer, the template and the backend have them.
    pub fn open(path: &Path, options: &SessionOptions) -> Result<Self> {
        Self::open_with_progress(path, options, &|_, _| {})
    }

    /// As [`Session::open`], telling how many bytes of the weights are read, and of how many.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_with_progress(
        path: &Path,
        options: &SessionOptions,
        progress: &Progress<'_>,
    ) -> Result<Self> {
        Self::of_checkpoint(&Checkpoint::open(path)?, options, progress)
    }

    /// As [`Session::open_with_progress`], of a checkpoint that was opened already.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn of_checkpoint(
        checkpoint: &Checkpoint,
        options: &SessionOptions,
        progress: &Progress<'_>,
    ) -> Result<Self> {
        let config = &checkpoint.config;
        let tokenizer = Tokenizer::open(&checkpoint.path, &checkpoint.vocabulary)?;
        tokenizer.check_rows(config.vocab_size)?;
        let template = match &options.chat_template {
            Some(file) => Some(ChatTemplate::from_file(file)?),
            None => ChatTemplate::of_model(&checkpoint.path, &checkpoint.vocabulary)?,
        };
        let sandbox = options.template_command.clone().map(Sandbox::new);
        if let Some(template) = &template {
            check_syntax(template, sandbox.as_ref())?;
        }
        let ends = tokenizer.ends(&config.eos_tokens);
        let mut warnings = checkpoint.warnings.clone();
        if ends.is_empty() {
            warnings.push("the model names no token that ends an answer; give --max-tokens or --stop".into());
        }
        let classes = token_classes(&tokenizer, config.vocab_size, &ends);
        let times = Times::default();
        let (opened, choice) = Opened::choose(checkpoint, options, &times, progress)?;
        let model = summarise(checkpoint, &opened);
        let engine_options = EngineOptions {
            choosable: tokenizer.choosable(config.vocab_size),
            max_context: options.max_context,
            max_rows: Some(options.max_rows),
            kept_blocks: opened.kept_blocks,
            ..EngineOptions::new(classes)
        };
        let engine = Engine::new(opened.backend, engine_options)?;
        let generation_config = generation_config(&checkpoint.path)?;
        let date = options.date.unwrap_or_else(today);
        Ok(Self {
            engine,
            tokenizer: Arc::new(tokenizer),
            ends,
            template,
            sandbox,
            date,
            model,
            generation_config,
            warnings,
            choice,
            times,
        })
    }

    /// The engine: requests in, events out.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Text to tokens and back.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// What was opened.
    pub fn model(&self) -> &ModelSummary {
        &self.model
    }

    /// Things worth telling the user that are no errors.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Which device `auto` took, and why.
    pub fn choice(&self) -> Option<&str> {
        self.choice.as_deref()
    }

    /// What the checkpoint's generation_config.json says about sampling.
    pub fn generation_config(&self) -> &Params {
        &self.generation_config
    }

    /// Time the backend spent so far, by what it was spent on; a CUDA device does not tell.
    pub fn step_times(&self) -> StepTimes {
        self.times.get()
    }

    /// Most tokens of one sequence, prompt and answer.
    pub fn context_limit(&self) -> usize {
        self.engine.context_limit()
    }

    /// A built-in policy, or that of a file, with `key=value` changes, made ready for this model.
    ///
    /// # Errors
    /// As [`PolicyFile::load`] and [`PolicyFile::bind`].
    pub fn policy(&self, name_or_path: &str, changes: &[String]) -> Result<Arc<dyn Policy>> {
        self.bind(&PolicyFile::load(name_or_path, changes)?)
    }

    /// A policy made ready for this model.
    ///
    /// # Errors
    /// As [`PolicyFile::bind`].
    pub fn bind(&self, file: &PolicyFile) -> Result<Arc<dyn Policy>> {
        let read = file.answer_rule().map(|rule| answer_reader(rule, &self.tokenizer)).transpose()?;
        file.bind_reading(&|phrase| self.tokenizer.encode(phrase, Special::Text), read)
    }

    /// The SHA-256 of the files of the model, 64 hexadecimal digits: of the one file, or of the list "HASH  NAME"
    /// of several. Hashing takes about a second a gigabyte; a file that `cache` (a folder) knows by place, size,
    /// time and inode is not read again.
    ///
    /// # Errors
    /// When a file cannot be read any more.
    pub fn fingerprint(&self, cache: Option<&Path>, progress: &mut dyn FnMut(u64, u64)) -> Result<String> {
        fingerprint::of_files(&self.model.files, cache, progress)
    }

    /// The tokens that end an answer, rising.
    pub fn ends(&self) -> &[TokenId] {
        &self.ends
    }

    /// The chat template, if there is one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The day that a chat template may ask for.
    pub fn date(&self) -> Date {
        self.date
    }

    /// Whether [`Session::chat`] can be called.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The tokens of a conversation whose next turn is the assistant's.
    ///
    /// # Errors
    /// `Usage`, code `NoTemplate`; `Data` for what the template refuses or cannot render.
    pub fn chat(&self, messages: &[Message]) -> Result<Vec<TokenId>> {
        let Some(template) = &self.template else { return Err(ChatTemplate::missing(&self.model.path)) };
        let options = ChatOptions::new(&self.tokenizer, self.date);
        let rendered = match &self.sandbox {
            Some(sandbox) if !template.is_known() => sandbox.render(template, messages, &options)?,
            _ => template.render(messages, &options)?,
        };
        self.check_size(rendered.n_bytes())?;
        self.tokenizer.encode_rendered(&rendered)
    }

    /// The tokens of a prompt that is text.
    ///
    /// # Errors
    /// `Data`, codes `TextTooLong` and `TooLong`, for what no context holds.
    pub fn prompt(&self, text: &str, special: Special) -> Result<Vec<TokenId>> {
        self.check_size(text.len())?;
        self.tokenizer.encode_prompt(text, special)
    }

    /// Refuses a text that can never fit without encoding it, which takes seconds for megabytes.
    fn check_size(&self, n_bytes: usize) -> Result<()> {
        let (limit, fewest) = (self.context_limit(), self.tokenizer.fewest_tokens(n_bytes));
        if fewest < limit {
            return Ok(());
        }
        let message = format!(
            "a prompt of {n_bytes} bytes, which are at least {fewest} tokens, does not fit into a context of {limit}; \
             shorten the prompt or raise the context"
        );
        Err(Error::data("TooLong", message))
    }
}

/// Tells of a mistake in a template before any work. That it wants too much, or that there is no process to look at it
/// now, is told by the chats that need it: a prompt that is text needs none.
fn check_syntax(template: &ChatTemplate, sandbox: Option<&Sandbox>) -> Result<()> {
    let checked = match sandbox {
        _ if template.is_known() => Ok(()),
        Some(sandbox) => sandbox.check(template),
        None => template.check(),
    };
    checked.or_else(|error| if error.code == "Template" { Err(error) } else { Ok(()) })
}

fn today() -> Date {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is as wrong as any day.
    Date::from_unix(now.map_or(0, |since| since.as_secs()))
}

/// Every tensor of a model but its embedding.
fn tensors(weights: &Weights) -> Vec<&Tensor> {
    let mut all: Vec<&Tensor> = std::iter::once(&weights.final_norm).chain(&weights.head).collect();
    for layer in &weights.layers {
        let LayerWeights {
            attn_norm,
            q,
            k,
            v,
            q_bias,
            k_bias,
            v_bias,
            q_norm,
            k_norm,
            o,
            ffn_norm,
            gate,
            up,
            down,
        } = layer;
        all.extend([attn_norm, q, k, v, o, ffn_norm, gate, up, down]);
        all.extend([q_bias, k_bias, v_bias, q_norm, k_norm].into_iter().flatten());
    }
    all
}

/// `llama 135M Q4_1`: the family, the number of weights, and the type most of the bytes have.
fn kind(architecture: &str, n_params: usize, tensors: &[&Tensor]) -> String {
    let size = match n_params {
        n if n < 1_000_000 => format!("{:.0}K", n as f64 / 1e3),
        n if n < 1_000_000_000 => format!("{:.0}M", n as f64 / 1e6),
        n => format!("{:.1}B", n as f64 / 1e9),
    };
    let mut by_type: HashMap<DType, usize> = HashMap::new();
    tensors.iter().for_each(|tensor| *by_type.entry(tensor.dtype).or_default() += tensor.n_bytes());
    let most = by_type.into_iter().max_by_key(|&(dtype, bytes)| (bytes, dtype.name()));
    match most {
        Some((dtype, _)) => format!("{architecture} {size} {}", dtype.name()),
        None => format!("{architecture} {size}"),
    }
}

fn projections(layer: &LayerWeights) -> [&Tensor; 3] {
    [&layer.q, &layer.k, &layer.v]
}

/// The matrices of a layer that follow attention.
fn rest(layer: &LayerWeights) -> [&Tensor; 4] {
    [&layer.o, &layer.gate, &layer.up, &layer.down]
}

fn summarise(checkpoint: &Checkpoint, opened: &Opened) -> ModelSummary {
    let Checkpoint { path, config, weights, .. } = checkpoint;
    let mut read = tensors(weights);
    let all: Vec<&Tensor> = read.iter().copied().chain([&weights.embedding]).collect();
    if config.tied_head {
        read.push(&weights.embedding);
    }
    let n_params = all.iter().map(|tensor| tensor.n_rows * tensor.n_cols).sum();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let (last, layers) = weights.layers.split_last().expect("a model has layers");
    let head = weights.head.as_ref().unwrap_or(&weights.embedding);
    ModelSummary {
        name: name.strip_suffix(".gguf").unwrap_or(&name).to_owned(),
        path: path.clone(),
        kind: kind(&format!("{:?}", config.architecture).to_lowercase(), n_params, &all),
        weight_bytes: all.iter().map(|tensor| tensor.n_bytes()).sum(),
        read_bytes: read.iter().map(|tensor| tensor.n_bytes()).sum(),
        n_params,
        vocab_size: config.vocab_size,
        kv_bytes_per_token: opened.memory.cache_per_position as usize,
        token_matrices: Matrices::of(
            layers.iter().flat_map(|l| projections(l).into_iter().chain(rest(l))).chain(projections(last)),
        ),
        ask_matrices: Matrices::of(rest(last).into_iter().chain([head])),
        attention_products: 2 * config.q_size() * config.n_layers,
        precision: opened.precision,
        processor: opened.processor.clone(),
        memory: opened.memory,
        files: fingerprint::files(checkpoint),
    }
}

/// The sampling parameters of generation_config.json, as far as it is there and names them.
fn generation_config(path: &Path) -> Result<Params> {
    let file = path.join("generation_config.json");
    if !path.is_dir() || !file.exists() {
        return Ok(Params::default());
    }
    let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, "read", &e))?;
    let wrong = |message: String| Error::model("Config", format!("{}: {message}", file.display()));
    let text = String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
    let mut params = Params::default();
    for member in
        Value::parse(&text).and_then(|v| v.members("the file")).map_err(|flaw| wrong(flaw.message))?
    {
        let Member { key, value, .. } = &member;
        // Lengths there are those of the library's own loops, not advice about the model.
        let advice = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"].contains(&key.as_str());
        if advice && !value.is_null() {
            params.set(key, value).map_err(|flaw| wrong(flaw.message))?;
        }
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_configs_are_advice() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
        assert_eq!(generation_config(folder.path()).unwrap(), Params::default());
        write(r#"{"temperature": 0.6, "top_k": null, "repetition_penalty": 1.1, "max_length": 20, "x": []}"#);
        let params = generation_config(folder.path()).unwrap();
        assert_eq!((params.temperature, params.repetition_penalty), (Some(0.6), Some(1.1)));
        assert_eq!(params.max_tokens, None);
        write(r#"{"top_p": 7}"#);
        let error = generation_config(folder.path()).unwrap_err();
        assert!(error.message.contains("generation_config.json: top_p is 7"), "{}", error.message);
    }
}
