//! What is said in a chat, and what a template is told besides.

use super::date::Date;
use crate::text::tokenizer::Tokenizer;
use entropix_model::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One message, as in OpenAI's chat interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` or what else the template knows.
    pub role: String,
    /// What is said.
    #[serde(default)]
    pub content: Option<Content>,
    /// Who says it, where a template cares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The thoughts that led to an answer, where a template cares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Functions the assistant calls. Arguments that are a text of JSON are read, as templates want a map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// Which call this is the result of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// A text.
    Text(String),
    /// Texts, put together with line breaks.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// `text`; nothing else is supported.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
}

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Some(Content::Text(content.into())),
            name: None,
            reasoning_content: None,
            tool_calls: None,
            tool_call_id: None,
        }
    }

    /// The message as a template sees it; `idx` is for messages of errors.
    pub(super) fn to_value(&self, idx: usize) -> Result<Value> {
        let mut map = Map::new();
        map.insert("role".into(), self.role.clone().into());
        map.insert("content".into(), self.content.as_ref().map(|c| c.text(idx)).transpose()?.into());
        for (key, value) in [
            ("name", &self.name),
            ("reasoning_content", &self.reasoning_content),
            ("tool_call_id", &self.tool_call_id),
        ] {
            if let Some(value) = value {
                map.insert(key.into(), value.clone().into());
            }
        }
        if let Some(calls) = &self.tool_calls {
            let calls: Vec<Value> = calls.iter().cloned().map(read_arguments).collect();
            map.insert("tool_calls".into(), json!(calls));
        }
        Ok(map.into())
    }
}

impl Content {
    fn text(&self, idx: usize) -> Result<String> {
        match self {
            Content::Text(text) => Ok(text.clone()),
            Content::Parts(parts) => {
                let texts = parts
                    .iter()
                    .map(|part| match &part.text {
                        Some(text) if part.kind == "text" => Ok(text.as_str()),
                        _ => Err(Error::unsupported(
                            "Content",
                            format!(
                                "messages[{idx}]: a part of type {:?}; only parts of text are supported",
                                part.kind
                            ),
                        )),
                    })
                    .collect::<Result<Vec<_>>>()?;
                Ok(texts.join("\n"))
            }
        }
    }
}

fn read_arguments(mut call: Value) -> Value {
    if let Some(arguments) = call.pointer_mut("/function/arguments")
        && let Some(read @ Value::Object(_)) =
            arguments.as_str().and_then(|text| serde_json::from_str(text).ok())
    {
        *arguments = read;
    }
    call
}

/// What a template is told besides the messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatOptions {
    /// Whether the text ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// The name of the token that begins a text.
    pub bos_token: Option<String>,
    /// The name of the token that ends a text.
    pub eos_token: Option<String>,
    /// The names of all control tokens.
    pub controls: Vec<String>,
    /// What `strftime_now` says.
    pub date: Date,
    /// More variables; only [`super::VARIABLES`].
    pub variables: Map<String, Value>,
}

impl ChatOptions {
    /// To ask a model with this tokenizer for an answer on `date`.
    pub fn new(tokenizer: &Tokenizer, date: Date) -> Self {
        let name = |id| tokenizer.token_name(id).map(str::to_owned);
        Self {
            add_generation_prompt: true,
            bos_token: tokenizer.bos().and_then(name),
            eos_token: tokenizer.eos().and_then(name),
            controls: tokenizer.control_names().to_vec(),
            date,
            variables: Map::new(),
        }
    }
}
