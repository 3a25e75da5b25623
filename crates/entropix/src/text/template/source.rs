//! Where chat templates are found.

use super::message::{ChatOptions, Message};
use super::rendered::Rendered;
use super::{known, limits, render};
use crate::text::config::{self, TokenizerConfig};
use entropix_model::{Class, Error, Result, Vocabulary};
use sha2::{Digest, Sha256};
use std::path::Path;

/// What the error about a file beyond the limit is called.
const TOO_LARGE: &str = "TemplateLimit";

/// A chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    /// What errors name.
    origin: String,
    sha256: String,
}

impl ChatTemplate {
    /// A template by its text; `origin` (a file, a model) is what errors name. Only its size is looked at:
    /// [`ChatTemplate::check`] says whether it is a template at all.
    ///
    /// # Errors
    /// `Data`, code `TemplateLimit`.
    pub fn new(source: impl Into<String>, origin: impl Into<String>) -> Result<Self> {
        let (source, origin) = (source.into(), origin.into());
        if source.len() as u64 > limits::TEMPLATE_BYTES {
            let message = format!(
                "{origin}: a chat template of {} bytes; at most {} are read; another can be given with --chat-template",
                source.len(),
                limits::TEMPLATE_BYTES
            );
            return Err(Error::data("TemplateLimit", message));
        }
        let sha256 = Sha256::digest(&source).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { source, origin, sha256 })
    }

    /// The template in a file.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`], and `NoInput` or `Io` when the file cannot be read.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::new(config::read(path, limits::TEMPLATE_BYTES, TOO_LARGE)?, path.display().to_string())
    }

    /// The template of the model at `path`: of a folder its chat_template.jinja, else what its
    /// tokenizer_config.json names `default`; of a GGUF file its `tokenizer.chat_template`. None if it has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_file`].
    pub fn of_model(path: &Path, vocabulary: &Vocabulary) -> Result<Option<Self>> {
        match vocabulary {
            Vocabulary::Gguf(tables) => tables
                .chat_template
                .as_ref()
                .map(|source| Self::new(source, path.display().to_string()))
                .transpose(),
            Vocabulary::Folder(folder) => {
                let file = folder.join("chat_template.jinja");
                if config::is_named(&file) {
                    let source = config::read_own(&file, limits::TEMPLATE_BYTES, TOO_LARGE)?;
                    return Self::new(source, file.display().to_string()).map(Some);
                }
                let templates = TokenizerConfig::read(folder)?.chat_templates;
                let origin = folder.join("tokenizer_config.json").display().to_string();
                match &templates[..] {
                    [] => Ok(None),
                    [(_, source)] => Self::new(source, origin).map(Some),
                    several => match several.iter().find(|(name, _)| name == "default") {
                        Some((_, source)) => Self::new(source, origin).map(Some),
                        None => {
                            let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
                            Err(Error::data(
                                "Template",
                                format!(
                                    "{origin}: chat templates {} but none called default; give one with --chat-template",
                                    names.join(", ")
                                ),
                            ))
                        }
                    },
                }
            }
        }
    }

    /// What to say when a chat is asked of the model at `path`, which has no template.
    pub fn missing(path: &Path) -> Error {
        Error::new(
            Class::Usage,
            "NoTemplate",
            format!(
                "{}: the model has no chat template; give one with --chat-template FILE, or a raw prompt with --no-chat-template",
                path.display()
            ),
        )
    }

    /// The text of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where it comes from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// SHA-256 of its text, 64 hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Whether it may ask for the day, so that a rendering depends on it.
    pub fn asks_for_date(&self) -> bool {
        self.source.contains(render::DATE)
    }

    /// Whether it is a published template that the tests hold to the renderings of transformers. Any other is foreign
    /// code, and belongs into a [`super::Sandbox`].
    pub fn is_known(&self) -> bool {
        known::is_known(&self.sha256)
    }

    /// Checks its syntax. To parse a template costs what a template wants, memory, stack and time: one that is not
    /// [known](ChatTemplate::is_known) belongs into a [`super::Sandbox`] for that too.
    ///
    /// # Errors
    /// `Data`, codes `Template` with the line and `TemplateLimit`.
    pub fn check(&self) -> Result<()> {
        render::check(&self.source, &self.origin)
    }

    /// The text of a chat. The same arguments give the same text.
    ///
    /// # Errors
    /// `Data` with the codes `Template` (the template or the chat is wrong), `TemplateLimit` (it wants too much)
    /// and `Field` (a variable that is not known); `Unsupported`, code `Content`, for a part that is no text.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<Rendered> {
        render::render(&self.source, &self.origin, messages, options)
    }
}
