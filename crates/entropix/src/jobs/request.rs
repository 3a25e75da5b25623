//! One line of a job: the short form `{"id"?, "prompt" | "messages", parameters…}`, an OpenAI batch line
//! `{"custom_id", "method", "url", "body"}`, or a line of plain text.

use super::ids::short_hash;
use super::json::{Flaw, Member, Value};
use super::limits::{self, ID_BYTES, MESSAGES, PROMPT_TOKENS};
use super::params::{self, Params};
use crate::text::Message;
use serde::Serialize;

/// How a request was written, which decides how its result is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The short form, and plain lines.
    Short,
    /// `/v1/completions`, with the `model` of the body.
    OpenAiCompletion(Option<String>),
    /// `/v1/chat/completions`, with the `model` of the body.
    OpenAiChat(Option<String>),
}

/// What the model is given.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// Raw text.
    Text(String),
    /// Token ids as they are.
    Tokens(Vec<u32>),
    /// A conversation, for the chat template.
    Messages(Vec<Message>),
}

/// A request as read from a job's input.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRequest {
    /// `id` or `custom_id`.
    pub id: Option<String>,
    /// How it was written.
    pub form: Form,
    /// What the model is given.
    pub prompt: Prompt,
    /// What it says about sampling.
    pub params: Params,
}

impl JobRequest {
    /// Reads a JSON line of either form.
    pub fn from_json(line: &str) -> Result<Self, Flaw> {
        let members = Value::parse(line)?.members("the request")?;
        if members.iter().any(|m| ["custom_id", "body", "url", "method"].contains(&m.key.as_str())) {
            openai(&members)
        } else {
            short(&members)
        }
    }

    /// A line of plain text: a question for the chat template, or a raw prompt.
    pub fn from_plain(line: &str, chat: PlainText) -> Self {
        let prompt = match chat {
            PlainText::Question => Prompt::Messages(vec![Message::new("user", line)]),
            PlainText::Raw => Prompt::Text(line.to_owned()),
        };
        Self { id: None, form: Form::Short, prompt, params: Params::default() }
    }

    /// The largest token it names by its number: in its prompt, among those that end it, or with a bias.
    pub fn largest_token(&self) -> Option<u32> {
        let prompt = match &self.prompt {
            Prompt::Tokens(tokens) => tokens.iter().max(),
            Prompt::Text(_) | Prompt::Messages(_) => None,
        };
        let ends = self.params.stop_token_ids.iter().flatten().max();
        let biases = self.params.logit_bias.iter().flatten().map(|(token, _)| token).max();
        prompt.max(ends).max(biases).copied()
    }

    /// Refuses a line of either form, good but for that, which names a token that is not below `n_tokens`.
    pub fn check_tokens(line: &str, n_tokens: u32) -> Result<(), Flaw> {
        tokens_below(n_tokens, &Value::parse(line)?)
    }

    /// 16 hexadecimal digits of the SHA-256 of form, prompt and parameters: the same for the same request,
    /// however its line was spaced or ordered.
    pub fn content_hash(&self) -> String {
        let canonical = (&self.form, &self.prompt, &self.params);
        short_hash(&serde_json::to_vec(&canonical).expect("plain data serialises"))
    }
}

/// What a line of plain text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainText {
    /// What a user says, put through the chat template.
    Question,
    /// Text to go on from.
    Raw,
}

fn short(members: &[Member]) -> Result<JobRequest, Flaw> {
    let (mut id, mut prompt, mut params) = (None, None, Params::default());
    for member in members {
        let Member { key, value, .. } = member;
        match key.as_str() {
            "id" => id = Some(check_id(key, value)?),
            "prompt" | "messages" => set_prompt(&mut prompt, member)?,
            _ => {
                if !params.set(key, value)? {
                    return Err(unknown_param(member, &["id", "prompt", "messages"]));
                }
            }
        }
    }
    let prompt = prompt.ok_or_else(|| missing("\"prompt\" or \"messages\""))?;
    check_lengths(&params, members)?;
    Ok(JobRequest { id, form: Form::Short, prompt, params })
}

fn openai(members: &[Member]) -> Result<JobRequest, Flaw> {
    let (mut id, mut url, mut body) = (None, None, None);
    for member in members {
        let Member { key, value, .. } = member;
        match key.as_str() {
            "custom_id" => id = Some(check_id(key, value)?),
            "method" => {
                let method = value.string(key)?;
                if method != "POST" {
                    return Err(value.flaw(format!("method is {method:?}, wants \"POST\"")));
                }
            }
            "url" => url = Some(*value),
            "body" => body = Some(value.members("body")?),
            _ => return Err(unknown_field(member, &["custom_id", "method", "url", "body"])),
        }
    }
    let id = id.ok_or_else(|| missing("\"custom_id\""))?;
    let url = url.ok_or_else(|| missing("\"url\""))?;
    let body = body.ok_or_else(|| missing("\"body\""))?;
    let chat = match url.string("url")?.as_str() {
        "/v1/chat/completions" => true,
        "/v1/completions" => false,
        other => {
            let message = format!("url is {other:?}, wants /v1/completions or /v1/chat/completions");
            return Err(url.flaw(message));
        }
    };
    let (prompt, params, model) = openai_body(&body, chat)?;
    let form = if chat { Form::OpenAiChat(model) } else { Form::OpenAiCompletion(model) };
    Ok(JobRequest { id: Some(id), form, prompt, params })
}

fn openai_body(body: &[Member], chat: bool) -> Result<(Prompt, Params, Option<String>), Flaw> {
    let (mut prompt, mut params, mut model) = (None, Params::default(), None);
    let (mut wants_logprobs, mut top_logprobs) = (false, None);
    let wanted = if chat { "messages" } else { "prompt" };
    // OpenAI's own clients send null for what was not set.
    for member in body.iter().filter(|m| !m.value.is_null()) {
        let Member { key, value, .. } = member;
        match key.as_str() {
            "model" => model = Some(value.string(key)?),
            "prompt" | "messages" if key == wanted => set_prompt(&mut prompt, member)?,
            "max_completion_tokens" if chat => {
                if params.max_tokens.is_some() {
                    return Err(member_flaw(
                        member,
                        "max_tokens and max_completion_tokens are the same; give one",
                    ));
                }
                params.set("max_tokens", value)?;
            }
            "max_tokens" if params.max_tokens.is_some() => {
                return Err(member_flaw(
                    member,
                    "max_tokens and max_completion_tokens are the same; give one",
                ));
            }
            "logprobs" if chat => wants_logprobs = value.boolean(key)?,
            "top_logprobs" if chat => {
                top_logprobs = Some((member, value.integer(key, 0, limits::LOGPROBS)? as usize));
            }
            // They change nothing in an answer.
            "user" | "metadata" | "store" | "service_tier" => {}
            "stream" | "echo" => {
                if value.boolean(key)? {
                    return Err(member_flaw(
                        member,
                        format!("{key} is not supported in a batch; leave it out"),
                    ));
                }
            }
            "best_of" => {
                if value.integer(key, 1, limits::N)? != 1 {
                    return Err(member_flaw(
                        member,
                        "best_of is not supported; ask for n answers and choose",
                    ));
                }
            }
            _ => {
                if !params.set(key, value)? {
                    return Err(unknown_param(member, &["model", wanted, "user", "metadata"]));
                }
            }
        }
    }
    match top_logprobs {
        Some((member, _)) if !wants_logprobs => {
            return Err(member_flaw(member, "top_logprobs needs \"logprobs\": true"));
        }
        Some((_, k)) => params.logprobs = Some(k),
        None if wants_logprobs => params.logprobs = Some(0),
        None => {}
    }
    let prompt = prompt.ok_or_else(|| missing(&format!("body.{wanted}")))?;
    check_lengths(&params, body)?;
    Ok((prompt, params, model))
}

/// Refuses a request, or the body of one, that names a token which is not below `n_tokens`.
fn tokens_below(n_tokens: u32, request: &Value) -> Result<(), Flaw> {
    let most = i64::from(n_tokens) - 1;
    let check_list = |what: &str, list: &Value| {
        let tokens = list.elements(what, PROMPT_TOKENS)?;
        tokens.iter().try_for_each(|token| token.integer(what, 0, most).map(|_| ()))
    };
    for Member { key, value, .. } in &request.members("the request")? {
        match key.as_str() {
            "body" => tokens_below(n_tokens, value)?,
            "prompt" if value.is_array() => check_list("a token of the prompt", value)?,
            "stop_token_ids" if value.is_array() => check_list("a stop_token_ids entry", value)?,
            "logit_bias" if !value.is_null() => {
                let is_out = |bias: &Member| bias.key.parse::<u32>().is_ok_and(|token| token >= n_tokens);
                if let Some(bias) = value.members(key)?.into_iter().find(is_out) {
                    let message = format!("logit_bias names token {}, the last one is {most}", bias.key);
                    return Err(member_flaw(&bias, message));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses an answer that must be longer than it may be.
fn check_lengths(params: &Params, members: &[Member]) -> Result<(), Flaw> {
    let (Some(least), Some(most)) = (params.min_tokens, params.max_tokens) else { return Ok(()) };
    let member = members.iter().find(|member| member.key == "min_tokens").filter(|_| least > most);
    member.map_or(Ok(()), |member| {
        Err(member_flaw(
            member,
            format!("min_tokens is {least}, max_tokens only {most}; give no more than that"),
        ))
    })
}

fn set_prompt(prompt: &mut Option<Prompt>, member: &Member) -> Result<(), Flaw> {
    if prompt.is_some() {
        return Err(member_flaw(member, "a request has a prompt or messages, not both"));
    }
    let Member { key, value, .. } = member;
    *prompt = Some(if key == "messages" {
        Prompt::Messages(messages(value)?)
    } else if value.is_array() {
        let ids = value.elements(key, PROMPT_TOKENS)?;
        let ids = ids.iter().map(|v| v.integer("a token of the prompt", 0, i64::from(u32::MAX)));
        Prompt::Tokens(ids.map(|id| id.map(|id| id as u32)).collect::<Result<_, _>>()?)
    } else if value.is_string() {
        Prompt::Text(value.string(key)?)
    } else {
        return Err(
            value.flaw(format!("prompt is {}, wants a string or an array of token ids", value.describe()))
        );
    });
    Ok(())
}

fn messages(value: &Value) -> Result<Vec<Message>, Flaw> {
    let list = value.elements("messages", MESSAGES)?;
    if list.is_empty() {
        return Err(value.flaw("messages is empty, wants at least one message"));
    }
    list.iter().map(message).collect()
}

fn message(value: &Value) -> Result<Message, Flaw> {
    let (mut role, mut content) = (None, None);
    for member in value.members("a message")? {
        match member.key.as_str() {
            "role" => role = Some(read_role(&member.value)?),
            "content" => content = Some(read_content(&member.value)?),
            _ => return Err(unknown_field(&member, &["role", "content"])),
        }
    }
    let role = role.ok_or_else(|| value.flaw("a message has no \"role\""))?;
    let content = content.ok_or_else(|| value.flaw("a message has no \"content\""))?;
    Ok(Message::new(role, content))
}

fn read_role(value: &Value) -> Result<String, Flaw> {
    let role = value.string("role")?;
    match role.as_str() {
        "system" | "user" | "assistant" | "tool" => Ok(role),
        // OpenAI's newer name; no open model's template knows it.
        "developer" => Ok("system".into()),
        _ => Err(value.flaw(format!("role is {role:?}, wants system, user, assistant or tool"))),
    }
}

/// A string, or OpenAI's list of parts of which only text can be answered.
fn read_content(value: &Value) -> Result<String, Flaw> {
    if !value.is_array() {
        return value.string("content");
    }
    let mut text = String::new();
    for part in value.elements("content", MESSAGES)? {
        let members = part.members("a content part")?;
        let kind = members.iter().find(|m| m.key == "type");
        if let Some(kind) = kind
            && kind.value.string("type")? != "text"
        {
            return Err(kind.value.flaw("only content parts of type \"text\" are supported"));
        }
        let part_text = members.iter().find(|m| m.key == "text");
        text +=
            &part_text.ok_or_else(|| part.flaw("a content part has no \"text\""))?.value.string("text")?;
    }
    Ok(text)
}

/// An id of 1 to [`ID_BYTES`] bytes.
pub(super) fn check_id(name: &str, value: &Value) -> Result<String, Flaw> {
    let id = value.string(name)?;
    match id.len() {
        0 => Err(value.flaw(format!("{name} is empty; give a text, or leave it out"))),
        n if n > ID_BYTES => Err(value.flaw(format!("{name} has {n} bytes, at most {ID_BYTES} are allowed"))),
        _ => Ok(id),
    }
}

fn missing(what: &str) -> Flaw {
    Flaw::new("Field", 0, format!("the request has no {what}"))
}

fn member_flaw(member: &Member, message: impl Into<String>) -> Flaw {
    Flaw::new("Field", member.offset, message)
}

fn unknown_param(member: &Member, besides: &[&str]) -> Flaw {
    let known: Vec<&str> = besides.iter().chain(&params::NAMES).copied().collect();
    unknown_field(member, &known)
}

/// A member that is none of `known`.
pub(super) fn unknown_field(member: &Member, known: &[&str]) -> Flaw {
    let near = known.iter().map(|name| (distance(name, &member.key), name)).filter(|(d, _)| *d <= 2).min();
    let hint = match near {
        Some((_, name)) => format!("; did you mean {name:?}?"),
        None => format!("; known are {}", known.join(", ")),
    };
    let key: String = member.key.chars().take(80).collect();
    Flaw::new("UnknownField", member.offset, format!("unknown field {key:?}{hint}"))
}

/// Levenshtein distance, or more than 2 at once when the lengths say so.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_reads() {
        let line = r#"{"id": "a", "prompt": "Hi", "temperature": 0.5, "stop": ["x", "y"]}"#;
        let request = JobRequest::from_json(line).unwrap();
        assert_eq!(request.id.as_deref(), Some("a"));
        assert_eq!(request.prompt, Prompt::Text("Hi".into()));
        assert_eq!(request.params.stop, Some(vec!["x".into(), "y".into()]));
        let line = r#"{"prompt": [1, 2]}"#;
        assert_eq!(JobRequest::from_json(line).unwrap().prompt, Prompt::Tokens(vec![1, 2]));
    }

    #[test]
    fn openai_lines_read() {
        let line = r#"{"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m",
            "messages": [{"role": "developer", "content": "Be brief."},
                         {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "max_completion_tokens": 4, "logprobs": true, "top_logprobs": 2, "user": null, "stop": null}}"#;
        let request = JobRequest::from_json(line).unwrap();
        assert_eq!(request.form, Form::OpenAiChat(Some("m".into())));
        assert_eq!((request.params.max_tokens, request.params.logprobs), (Some(4), Some(2)));
        let turns = vec![Message::new("system", "Be brief."), Message::new("user", "Hi")];
        assert_eq!(request.prompt, Prompt::Messages(turns));
        let line = r#"{"custom_id": "c", "url": "/v1/completions", "body": {"prompt": "Hi", "logprobs": 3}}"#;
        let request = JobRequest::from_json(line).unwrap();
        assert_eq!((request.form, request.params.logprobs), (Form::OpenAiCompletion(None), Some(3)));
    }

    /// Cases 66, 67 and 70 of the bad-input catalogue, and what OpenAI lines add.
    #[test]
    fn wrong_requests_are_flaws() {
        let chat = |body: &str| format!(r#"{{"custom_id":"c","url":"/v1/chat/completions","body":{body}}}"#);
        let ask = r#""messages":[{"role":"user","content":"x"}]"#;
        for (line, message) in [
            (r#"{"prompt": null}"#.into(), "wants a string"),
            (r#"{"messages": []}"#.into(), "at least one message"),
            (r#"{"id": 5, "prompt": "x"}"#.into(), "id is the number 5"),
            (r#"{"id": "", "prompt": "x"}"#.into(), "id is empty"),
            (format!(r#"{{"id": "{}", "prompt": "x"}}"#, "i".repeat(1 << 20)), "at most 1024"),
            (r#"{"prompt": "x", "prompt": "y"}"#.into(), "twice"),
            (r#"{"prompt": "x", "messages": [{"role":"user","content":"y"}]}"#.into(), "not both"),
            (r#"{"prompt": "x", "max_token": 5}"#.into(), "did you mean \"max_tokens\""),
            (r#"{"prompt": "x", "grammar": 5}"#.into(), "unknown field \"grammar\""),
            (r#"{"max_tokens": 5}"#.into(), "no \"prompt\""),
            (r#"[1]"#.into(), "wants an object"),
            (r#"{"messages": [{"role": "robot", "content": "x"}]}"#.into(), "role is \"robot\""),
            (r#"{"messages": [{"role": "user"}]}"#.into(), "no \"content\""),
            (r#"{"messages": [{"role": "user", "content": "x", "nam": "y"}]}"#.into(), "unknown field"),
            (chat(&format!("{{{ask}, \"stream\": true}}")), "stream is not supported"),
            (chat(&format!("{{{ask}, \"tools\": []}}")), "unknown field \"tools\""),
            (chat(&format!("{{{ask}, \"top_logprobs\": 2}}")), "needs \"logprobs\""),
            (chat(r#"{"prompt": "x"}"#), "unknown field \"prompt\""),
            (chat(&format!("{{{ask}, \"max_tokens\": 1, \"max_completion_tokens\": 1}}")), "give one"),
            (r#"{"custom_id":"c","url":"/v1/embeddings","body":{}}"#.into(), "url is"),
            (
                r#"{"custom_id":"c","method":"GET","url":"/v1/completions","body":{}}"#.into(),
                "wants \"POST\"",
            ),
            (r#"{"url":"/v1/completions","body":{"prompt":"x"}}"#.into(), "custom_id"),
        ] {
            let flaw = JobRequest::from_json(&line).unwrap_err();
            assert!(flaw.message.contains(message), "{line:.100}: {}", flaw.message);
        }
    }

    #[test]
    fn the_hash_is_of_the_content() {
        let of = |line: &str| JobRequest::from_json(line).unwrap().content_hash();
        assert_eq!(
            of(r#"{"prompt":"x","seed":1,"top_k":2}"#),
            of(r#"{"top_k": 2, "seed": 1, "prompt": "\u0078"}"#)
        );
        assert_ne!(of(r#"{"prompt":"x","seed":1}"#), of(r#"{"prompt":"x","seed":2}"#));
        assert_ne!(of(r#"{"prompt":"x"}"#), of(r#"{"messages":[{"role":"user","content":"x"}]}"#));
    }

    #[test]
    fn near_names_are_near() {
        assert_eq!(distance("top_p", "top_p"), 0);
        assert_eq!(distance("top_p", "topp"), 1);
        assert_eq!(distance("kitten", "sittin"), 2);
    }
}
