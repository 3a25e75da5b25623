//! Result lines of OpenAI's batch interface: `{"id", "custom_id", "response": {"status_code", "request_id",
//! "body"}, "error"}`, the body a completion or chat completion, each choice with its `entropix` beside it. The ids that
//! OpenAI's servers make up carry the hash the request is known by.

use super::choice::Choice;
use super::row::{Alternatives, RowStyle, Signals, character_offsets, finish_reason, total};
use entropix_model::{Candidate, TokenId};
use serde::Serialize;
use serde::ser::Serializer;
use serde_json::{Value, json};
use std::collections::HashSet;

/// A line of a `/v1/completions` request.
pub(super) fn completion<'a>(
    style: &'a RowStyle<'a>,
    id: &'a str,
    hash: &'a str,
    model: Option<&'a str>,
    choices: &'a [Choice],
    asked: Alternatives,
) -> impl Serialize + use<'a> {
    let said = |choice: &'a Choice| Said::Completion {
        text: &choice.text,
        logprobs: (asked == Alternatives::Asked).then(|| CompletionLogprobs::of(style, choice)),
    };
    row(style, id, hash, "text_completion", model, choices, said)
}

/// A line of a `/v1/chat/completions` request.
pub(super) fn chat<'a>(
    style: &'a RowStyle<'a>,
    id: &'a str,
    hash: &'a str,
    model: Option<&'a str>,
    choices: &'a [Choice],
    asked: Alternatives,
) -> impl Serialize + use<'a> {
    let said = |choice: &'a Choice| Said::Chat {
        message: Message { role: "assistant", content: &choice.text },
        logprobs: (asked == Alternatives::Asked).then(|| ChatLogprobs::of(style, choice)),
    };
    row(style, id, hash, "chat.completion", model, choices, said)
}

/// A line of a request of either kind that could not be finished.
pub(super) fn failed(id: &str, hash: &str, error: Value) -> Value {
    json!({"id": format!("batch_req_{hash}"), "custom_id": id, "response": null, "error": error})
}

fn row<'a>(
    style: &'a RowStyle<'a>,
    id: &'a str,
    hash: &'a str,
    object: &'static str,
    model: Option<&'a str>,
    choices: &'a [Choice],
    said: impl Fn(&'a Choice) -> Said<'a>,
) -> Row<'a> {
    let usage = total(choices);
    let choices = choices.iter().enumerate().map(|(index, choice)| OpenAiChoice {
        index,
        said: said(choice),
        finish_reason: finish_reason(choice),
        entropix: Entropix {
            unit: "nat",
            tokens: &choice.tokens,
            discarded_tokens: choice.usage.discarded_tokens,
            reason: choice.reason.as_deref(),
            signals: style.signals(choice),
        },
    });
    let prefix = if object == "chat.completion" { "chatcmpl" } else { "cmpl" };
    let body = Body {
        id: format!("{prefix}-{hash}"),
        object,
        created: 0,
        model: model.unwrap_or(style.model),
        choices: choices.collect(),
        usage: OpenAiUsage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
        },
    };
    Row {
        id: format!("batch_req_{hash}"),
        custom_id: id,
        response: Response { status_code: 200, request_id: hash, body },
        error: None,
    }
}

#[derive(Serialize)]
struct Row<'a> {
    id: String,
    custom_id: &'a str,
    response: Response<'a>,
    error: Option<()>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: &'a str,
    body: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<OpenAiChoice<'a>>,
    usage: OpenAiUsage,
}

#[derive(Serialize)]
struct OpenAiUsage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
struct OpenAiChoice<'a> {
    index: usize,
    #[serde(flatten)]
    said: Said<'a>,
    finish_reason: &'static str,
    entropix: Entropix<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Said<'a> {
    Completion { text: &'a str, logprobs: Option<CompletionLogprobs<'a>> },
    Chat { message: Message<'a>, logprobs: Option<ChatLogprobs> },
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Entropix<'a> {
    unit: &'static str,
    tokens: &'a [TokenId],
    discarded_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signals: Option<Signals<'a>>,
}

/// Columns; `text_offset` counts characters of the text.
#[derive(Serialize)]
struct CompletionLogprobs<'a> {
    tokens: Vec<String>,
    token_logprobs: &'a [f32],
    top_logprobs: Vec<ByText>,
    text_offset: Vec<usize>,
}

impl<'a> CompletionLogprobs<'a> {
    fn of(style: &RowStyle, choice: &'a Choice) -> Self {
        Self {
            text_offset: character_offsets(choice),
            tokens: choice.tokens.iter().map(|&token| shown((style.token_bytes)(token))).collect(),
            token_logprobs: &choice.logprob,
            top_logprobs: choice.top.iter().map(|top| ByText::of(style, top)).collect(),
        }
    }
}

/// Log-probabilities by the token's text; of two tokens with the same text the likelier one.
struct ByText(Vec<(String, f32)>);

impl ByText {
    fn of(style: &RowStyle, top: &[Candidate]) -> Self {
        let mut seen = HashSet::new();
        let entries = top.iter().map(|c| (shown((style.token_bytes)(c.token)), c.logprob));
        Self(entries.filter(|(text, _)| seen.insert(text.clone())).collect())
    }
}

impl Serialize for ByText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}

#[derive(Serialize)]
struct ChatLogprobs {
    content: Vec<ChatLogprob>,
}

impl ChatLogprobs {
    fn of(style: &RowStyle, choice: &Choice) -> Self {
        let columns = choice.tokens.iter().zip(&choice.logprob).zip(&choice.top);
        let content = columns.map(|((&token, &logprob), top)| ChatLogprob {
            entry: Entry::of(style, token, logprob),
            top_logprobs: top.iter().map(|c| Entry::of(style, c.token, c.logprob)).collect(),
        });
        Self { content: content.collect() }
    }
}

#[derive(Serialize)]
struct ChatLogprob {
    #[serde(flatten)]
    entry: Entry,
    top_logprobs: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl Entry {
    fn of(style: &RowStyle, token: TokenId, logprob: f32) -> Self {
        let bytes = (style.token_bytes)(token);
        Self { token: shown(bytes.clone()), logprob, bytes }
    }
}

/// A token as text; one that is no UTF-8 by itself as OpenAI writes it, `bytes:\xe2\x80`.
fn shown(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let bytes = error.as_bytes().iter();
        bytes.fold("bytes:".to_owned(), |text, byte| format!("{text}\\x{byte:02x}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_are_no_text_keep_their_bytes() {
        assert_eq!(shown(" é".into()), " é");
        assert_eq!(shown(vec![0xe2, 0x80]), "bytes:\\xe2\\x80");
        assert_ne!(shown(vec![0xe2]), shown(vec![0xe3]));
        assert_eq!(shown(vec![]), "");
    }
}
