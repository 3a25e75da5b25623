//! The part of a folder's tokenizer_config.json that matters here, and reading files with a limit.
#![deny(clippy::arithmetic_side_effects)]

use super::limits;
use entropix_model::{Error, Result, open_regular};
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Names of tokens and chat templates.
#[derive(Debug, Clone, Default)]
pub(super) struct TokenizerConfig {
    pub(super) bos_token: Option<String>,
    pub(super) eos_token: Option<String>,
    /// (name, source); the only one of a file that has just one is called `default`.
    pub(super) chat_templates: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Document {
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenName {
    Name(String),
    Added { content: String },
}

impl TokenName {
    fn name(self) -> String {
        match self {
            TokenName::Name(name) | TokenName::Added { content: name } => name,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl TokenizerConfig {
    /// Of a folder; empty when it has none.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer_config.json");
        if !is_named(&path) {
            return Ok(Self::default());
        }
        let text = read_own(&path, limits::TOKENIZER_CONFIG_BYTES, "TokenizerConfig")?;
        let document: Document = serde_json::from_str(&text)
            .map_err(|e| Error::model("TokenizerConfig", format!("{}: {e}", path.display())))?;
        Ok(Self {
            bos_token: document.bos_token.map(TokenName::name),
            eos_token: document.eos_token.map(TokenName::name),
            chat_templates: match document.chat_template {
                None => Vec::new(),
                Some(Templates::One(source)) => vec![("default".to_owned(), source)],
                Some(Templates::Named(list)) => list.into_iter().map(|t| (t.name, t.template)).collect(),
            },
        })
    }
}

/// Whether something has that name, a link that leads nowhere included.
pub(super) fn is_named(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The text of a file of at most `limit` bytes; it may be a pipe.
///
/// # Errors
/// Of class `Model` and `code` when it is longer or no UTF-8; as [`Error::io`] when it cannot be read.
pub(super) fn read(path: &Path, limit: u64, code: &'static str) -> Result<String> {
    text_of(File::open(path).map_err(|error| Error::io(path, "read it", &error))?, path, limit, code)
}

/// As [`read`], of a file of a model, which nobody named: only of a regular one.
pub(super) fn read_own(path: &Path, limit: u64, code: &'static str) -> Result<String> {
    text_of(open_regular(path)?, path, limit, code)
}

fn text_of(file: File, path: &Path, limit: u64, code: &'static str) -> Result<String> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(path, "read it", &error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::model(code, format!("{}: more than {limit} bytes", path.display())));
    }
    String::from_utf8(bytes).map_err(|e| {
        Error::model(code, format!("{}: not UTF-8 at byte {}", path.display(), e.utf8_error().valid_up_to()))
    })
}
