//! Outputs of jobs, an answered request a line: of `batch` in either form, and of `score`.

use super::answer::{Answer, Token, kind, show};
use super::story::region;
use super::{Report, Wrong};
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Row {
    id: String,
    custom_id: Option<String>,
    error: Option<Failure>,
    #[serde(default)]
    choices: Vec<Said>,
    response: Option<Response>,
    #[serde(flatten)]
    said: Said,
    /// Of `score`.
    logprobs: Option<Vec<Option<f32>>>,
    entropy: Option<Vec<Option<f32>>>,
    varentropy: Option<Vec<Option<f32>>>,
}

#[derive(Deserialize, Default)]
struct Said {
    text: Option<String>,
    message: Option<Message>,
    #[serde(default)]
    tokens: Vec<u32>,
    finish_reason: Option<String>,
    reason: Option<String>,
    usage: Option<Usage>,
    signals: Option<Signals>,
    entropix: Option<Beside>,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

/// What stands beside a choice of OpenAI's form.
#[derive(Deserialize)]
struct Beside {
    tokens: Vec<u32>,
    discarded_tokens: Option<u64>,
    reason: Option<String>,
    signals: Option<Signals>,
}

#[derive(Deserialize)]
struct Signals {
    entropy: Option<Vec<Option<f32>>>,
    varentropy: Option<Vec<Option<f32>>>,
    logprob: Option<Vec<Option<f32>>>,
    region: Option<Vec<String>>,
    decision: Option<Vec<String>>,
    text_offset: Option<Vec<usize>>,
    #[serde(flatten)]
    summary: Map<String, Value>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    discarded_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Failure {
    code: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct Response {
    body: Body,
}

#[derive(Deserialize)]
struct Body {
    choices: Vec<Said>,
    usage: Option<Usage>,
}

/// Takes a line in.
pub(super) fn take(text: &str, report: &mut Report) -> Result<(), Wrong> {
    let row: Row = serde_json::from_str(text)?;
    let id = row.custom_id.unwrap_or(row.id);
    if let Some(error) = row.error {
        let (code, message) =
            (error.code.unwrap_or_else(|| "error".into()), error.message.unwrap_or_default());
        show(&id, &[], &[], Some((&code, &message)), report);
        return Ok(());
    }
    let mut choices = row.choices;
    if let Some(Response { body }) = row.response {
        choices = body.choices;
        if let (Some(first), Some(usage)) = (choices.first_mut(), body.usage) {
            first.usage.get_or_insert(usage);
        }
    } else if choices.is_empty() {
        let mut said = row.said;
        if let (None, Some(entropy), Some(varentropy)) = (&said.signals, row.entropy, row.varentropy) {
            said.signals = Some(Signals {
                entropy: Some(entropy),
                varentropy: Some(varentropy),
                logprob: row.logprobs,
                region: None,
                decision: None,
                text_offset: None,
                summary: Map::new(),
            });
        }
        if said.text.is_none() && said.tokens.is_empty() {
            return Err(Wrong::new("neither an event of a trace nor a result of batch or score"));
        }
        choices.push(said);
    }
    let answers = choices.into_iter().map(|said| answer(said, report)).collect::<Result<Vec<_>, _>>()?;
    show(&id, &[], &answers, None, report);
    Ok(())
}

fn answer(said: Said, report: &mut Report) -> Result<Answer, Wrong> {
    let text = said.text.or(said.message.map(|message| message.content));
    let (mut tokens, mut signals, mut reason, mut discarded) = (said.tokens, said.signals, said.reason, None);
    if let Some(beside) = said.entropix {
        (tokens, signals, reason, discarded) =
            (beside.tokens, beside.signals, beside.reason, beside.discarded_tokens);
    }
    let mut answer = Answer {
        finish: said.finish_reason.unwrap_or_default(),
        reason,
        completion_tokens: Some(tokens.len() as u64),
        discarded_tokens: discarded,
        ..Answer::default()
    };
    if let Some(usage) = said.usage {
        answer.prompt_tokens = usage.prompt_tokens;
        answer.completion_tokens = usage.completion_tokens.or(answer.completion_tokens);
        answer.discarded_tokens = usage.discarded_tokens.or(answer.discarded_tokens);
    }
    match signals {
        Some(Signals {
            entropy: Some(entropy),
            varentropy: Some(varentropy),
            logprob,
            region: by,
            decision,
            text_offset,
            ..
        }) => {
            let n = tokens.len();
            let same = |what: &str, length: Option<usize>| match length {
                Some(length) if length != n => {
                    Err(Wrong::new(format!("{n} tokens, but {length} entries of {what}")))
                }
                _ => Ok(()),
            };
            same("entropy", Some(entropy.len()))?;
            same("varentropy", Some(varentropy.len()))?;
            same("logprob", logprob.as_ref().map(Vec::len))?;
            same("region", by.as_ref().map(Vec::len))?;
            same("decision", decision.as_ref().map(Vec::len))?;
            same("text_offset", text_offset.as_ref().map(Vec::len))?;
            let texts = match (&text, &text_offset) {
                (Some(text), Some(offsets)) => Some(cut(text, offsets)?),
                _ => None,
            };
            answer.tokens = (0..n)
                .map(|i| Token {
                    token: tokens[i],
                    position: 0,
                    text: texts.as_ref().map(|texts| texts[i].to_owned()),
                    bytes: None,
                    name: None,
                    entropy: entropy[i].unwrap_or(f32::NAN),
                    varentropy: varentropy[i].unwrap_or(f32::NAN),
                    logprob: logprob.as_ref().and_then(|all| all[i]).unwrap_or(f32::NAN),
                    collision: f32::NAN,
                    temperature: f32::NAN,
                    region: region(by.as_ref().map(|all| all[i].as_str()), &mut report.regions),
                    decision: decision.as_ref().and_then(|all| kind(&all[i])),
                    candidates: Vec::new(),
                    attention: None,
                })
                .collect();
            if texts.is_none() {
                answer.text = text;
            }
        }
        Some(signals) => {
            answer.summary = signals.summary;
            answer.summary.retain(|_, value| value.is_number());
            answer.text = text;
        }
        None => answer.text = text,
    }
    Ok(answer)
}

/// The text of each token: from its place to that of the next.
fn cut<'a>(text: &'a str, offsets: &[usize]) -> Result<Vec<&'a str>, Wrong> {
    let mut places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
    places.push(text.len());
    let mut found = Vec::with_capacity(offsets.len());
    for (i, &from) in offsets.iter().enumerate() {
        // What stands before the first place belongs to the first token.
        let from = if i == 0 { 0 } else { from };
        let to = offsets.get(i + 1).copied().unwrap_or(places.len() - 1);
        match places.get(from..=to) {
            Some(range) => found.push(&text[range[0]..range[range.len() - 1]]),
            None => {
                let n = places.len() - 1;
                return Err(Wrong::new(format!("text_offset leads from {from} to {to} in {n} characters")));
            }
        }
    }
    Ok(found)
}
