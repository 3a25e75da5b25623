//! A checkpoint on disk: a Hugging Face folder or a GGUF file, opened and checked.
#![forbid(unsafe_code)]

use crate::{Class, Error, ModelConfig, Result, TokenId, Weights, folder, gguf};
use std::path::{Path, PathBuf};

/// Where a model's vocabulary is found.
#[derive(Debug, Clone, PartialEq)]
pub enum Vocabulary {
    /// A folder with tokenizer.json, tokenizer_config.json and perhaps chat_template.jinja.
    Folder(PathBuf),
    /// The tables inside a GGUF file.
    Gguf(Box<GgufVocabulary>),
}

/// The `tokenizer.*` tables of a GGUF file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (sentencepiece).
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the pre-tokenizer.
    pub pre: String,
    /// (vocab_size) the tokens as stored.
    pub tokens: Vec<String>,
    /// (vocab_size) 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; empty when absent.
    pub token_types: Vec<u32>,
    /// (vocab_size) sentencepiece scores; empty when absent.
    pub scores: Vec<f32>,
    /// BPE merges, "left right", best first.
    pub merges: Vec<String>,
    /// Put before a prompt when `add_bos`.
    pub bos: Option<TokenId>,
    /// Ends an answer.
    pub eos: Option<TokenId>,
    /// Ends a turn.
    pub eot: Option<TokenId>,
    /// Stands for what cannot be encoded.
    pub unknown: Option<TokenId>,
    /// Whether a prompt starts with `bos`.
    pub add_bos: bool,
    /// Whether sentencepiece puts a blank before the text.
    pub add_space_prefix: bool,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// A model on disk whose config, tensor shapes and types agree; no weight was read yet.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// What was opened.
    pub path: PathBuf,
    /// Dimensions and constants.
    pub config: ModelConfig,
    /// The tensors.
    pub weights: Weights,
    /// Where the tokens are.
    pub vocabulary: Vocabulary,
    /// Things worth telling the user that are no errors.
    pub warnings: Vec<String>,
    /// Every file that was read: config first, then weights in the order of their names.
    pub files: Vec<PathBuf>,
}

impl Checkpoint {
    /// Opens a folder of Hugging Face files or a `.gguf` file. Everything is checked and no weight is read.
    ///
    /// # Errors
    /// `NoInput` for what is not there or is no file, `Model` for what is damaged, `Unsupported` for what is
    /// valid and not computed here. The message lists everything found wrong.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return folder::open(path);
        }
        let extension = path.extension().unwrap_or_default();
        if path.is_file() && (extension == "safetensors" || extension == "json") {
            return Err(Error::new(
                Class::NoInput,
                "NotAModel",
                format!("{}: is one file of a model; name the folder that holds all of them", path.display()),
            ));
        }
        gguf::open(path)
    }
}
