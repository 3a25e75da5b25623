//! The lines of a job's output. Numbers are the shortest decimals that read back as the same f32; what is not
//! finite is null, since JSON has no word for it. A line depends on its request and the model alone, so the
//! same request gives the same bytes in any batch: OpenAI's `created` is 0 and its ids come from the
//! request's.

use super::choice::{Choice, SignalsLevel, Summary};
use super::openai_row;
use super::request::Form;
use entropix_engine::{DecisionKind, Usage};
use entropix_model::{Candidate, Error, TokenId};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::json;
use std::sync::Arc;

/// What the lines of one job have in common.
pub struct RowStyle<'a> {
    /// How much of the signals to report.
    pub signals: SignalsLevel,
    /// Names of the policy's regions.
    pub regions: &'a [Arc<str>],
    /// What the model is called where a request did not say.
    pub model: &'a str,
    /// A token's own text, for the forms that name tokens by text.
    pub token_bytes: &'a dyn Fn(TokenId) -> Vec<u8>,
}

/// Whether a request asked for the alternatives of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alternatives {
    /// It did.
    Asked,
    /// It did not.
    NotAsked,
}

impl RowStyle<'_> {
    /// The line of a finished request, with its line end. `hash` is what the request is known by beside its id.
    pub fn finished(
        &self,
        id: &str,
        hash: &str,
        form: &Form,
        choices: &[Choice],
        asked: Alternatives,
    ) -> Vec<u8> {
        match form {
            Form::Short => match choices {
                [choice] => line(&Single { id, request: hash, answer: self.answer(choice, asked) }),
                _ => line(&Several {
                    id,
                    request: hash,
                    choices: choices.iter().map(|choice| self.answer(choice, asked)).collect(),
                    usage: UsageFields::of(&total(choices)),
                }),
            },
            Form::OpenAiCompletion(model) => {
                line(&openai_row::completion(self, id, hash, model.as_deref(), choices, asked))
            }
            Form::OpenAiChat(model) => {
                line(&openai_row::chat(self, id, hash, model.as_deref(), choices, asked))
            }
        }
    }

    fn answer<'a>(&'a self, choice: &'a Choice, asked: Alternatives) -> Answer<'a> {
        let asked = asked == Alternatives::Asked;
        let list =
            |top: &[Candidate]| top.iter().map(|c| Entry { token: c.token, logprob: c.logprob }).collect();
        Answer {
            text: &choice.text,
            tokens: &choice.tokens,
            finish_reason: finish_reason(choice),
            reason: choice.reason.as_deref(),
            usage: UsageFields::of(&choice.usage),
            signals: self.signals(choice),
            logprob: asked.then_some(&choice.logprob),
            top_logprobs: asked.then(|| choice.top.iter().map(|top| list(top)).collect()),
        }
    }

    /// The signals of an answer as far as they are to be reported.
    pub(super) fn signals<'a>(&'a self, choice: &'a Choice) -> Option<Signals<'a>> {
        let region = |index: u16| self.regions.get(usize::from(index)).map_or("", |name| name.as_ref());
        match self.signals {
            SignalsLevel::Off => None,
            SignalsLevel::Summary => Some(Signals::Summary(SummaryFields {
                summary: Summary::of(choice),
                extra_tokens: choice.usage.discarded_tokens,
            })),
            SignalsLevel::Token => Some(Signals::Token {
                entropy: &choice.entropy,
                varentropy: &choice.varentropy,
                logprob: &choice.logprob,
                region: choice.region.iter().map(|r| region(r.0)).collect(),
                decision: choice.decision.iter().map(|d| d.name()).collect(),
                text_offset: character_offsets(choice),
            }),
        }
    }
}

/// The line of a request that could not be finished, with its line end.
pub fn failed(id: &str, hash: &str, form: &Form, error: &Error) -> Vec<u8> {
    let error = json!({"code": error.code, "message": error.message});
    line(&match form {
        Form::Short => json!({"id": id, "request": hash, "error": error}),
        _ => openai_row::failed(id, hash, error),
    })
}

/// The line of a scored text: (n) tokens, ln p of each given those before it (none for the first), and the
/// entropy (nats) and varentropy (nats squared) of the distribution after each.
pub fn scored(
    id: &str,
    hash: &str,
    tokens: &[TokenId],
    logprobs: &[Option<f32>],
    entropy: &[f32],
    varentropy: &[f32],
) -> Vec<u8> {
    line(&Scored { id, request: hash, tokens, logprobs, entropy, varentropy })
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("rows have string keys and nothing else can fail");
    bytes.push(b'\n');
    bytes
}

#[derive(Serialize)]
struct Single<'a> {
    id: &'a str,
    request: &'a str,
    #[serde(flatten)]
    answer: Answer<'a>,
}

#[derive(Serialize)]
struct Several<'a> {
    id: &'a str,
    request: &'a str,
    choices: Vec<Answer<'a>>,
    usage: UsageFields,
}

#[derive(Serialize)]
struct Answer<'a> {
    text: &'a str,
    tokens: &'a [TokenId],
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    usage: UsageFields,
    #[serde(skip_serializing_if = "Option::is_none")]
    signals: Option<Signals<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprob: Option<&'a Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<Vec<Entry>>>,
}

#[derive(Serialize)]
struct Entry {
    token: TokenId,
    logprob: f32,
}

#[derive(Serialize)]
struct Scored<'a> {
    id: &'a str,
    request: &'a str,
    tokens: &'a [TokenId],
    logprobs: &'a [Option<f32>],
    entropy: &'a [f32],
    varentropy: &'a [f32],
}

/// What stands under `signals`.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Signals<'a> {
    Summary(SummaryFields),
    Token {
        entropy: &'a [f32],
        varentropy: &'a [f32],
        logprob: &'a [f32],
        region: Vec<&'a str>,
        decision: Vec<&'static str>,
        text_offset: Vec<usize>,
    },
}

pub(super) struct SummaryFields {
    summary: Summary,
    extra_tokens: usize,
}

impl Serialize for SummaryFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { summary, extra_tokens } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("mean_H", &summary.mean_entropy)?;
        map.serialize_entry("max_H", &summary.max_entropy)?;
        map.serialize_entry("p95_H", &summary.p95_entropy)?;
        map.serialize_entry("mean_V", &summary.mean_varentropy)?;
        for (kind, count) in DecisionKind::ALL.iter().zip(summary.decisions) {
            map.serialize_entry(&format!("n_{}", kind.name()), &count)?;
        }
        map.serialize_entry("extra_tokens", extra_tokens)?;
        map.serialize_entry("longest_unsure_span", &summary.longest_unsure_span)?;
        map.end()
    }
}

#[derive(Serialize)]
struct UsageFields {
    prompt_tokens: usize,
    completion_tokens: usize,
    discarded_tokens: usize,
}

impl UsageFields {
    fn of(usage: &Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            discarded_tokens: usage.discarded_tokens,
        }
    }
}

/// Where in the text each token's own text begins, in characters.
pub(super) fn character_offsets(choice: &Choice) -> Vec<usize> {
    let (mut from, mut n_chars) = (0, 0);
    let offset = |&byte: &usize| {
        let byte = choice.text.floor_char_boundary(byte);
        n_chars += choice.text[from..byte].chars().count();
        from = byte;
        n_chars
    };
    choice.text_offset.iter().map(offset).collect()
}

pub(super) fn finish_reason(choice: &Choice) -> &'static str {
    choice.finish.map_or("error", |finish| finish.name())
}

/// All answers to one prompt, which is counted once.
pub(super) fn total(choices: &[Choice]) -> Usage {
    let mut total = Usage::default();
    for Choice { usage, .. } in choices {
        total.prompt_tokens = usage.prompt_tokens;
        total.completion_tokens += usage.completion_tokens;
        total.discarded_tokens += usage.discarded_tokens;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use entropix_engine::{DecisionKind, FinishReason, RegionId};
    use serde_json::Value;

    fn choice() -> Choice {
        Choice {
            text: "é!".into(),
            tokens: vec![5, 6],
            entropy: vec![0.5, 0.1],
            varentropy: vec![0.25, f32::NAN],
            logprob: vec![-0.1, -0.25],
            region: vec![RegionId(1), RegionId(0)],
            decision: vec![DecisionKind::Argmax, DecisionKind::Draw],
            top: vec![
                vec![Candidate { token: 5, logprob: -0.1 }],
                vec![Candidate { token: 6, logprob: -0.25 }],
            ],
            text_offset: vec![0, 2],
            finish: Some(FinishReason::Length),
            reason: None,
            usage: Usage { prompt_tokens: 3, completion_tokens: 2, ..Usage::default() },
        }
    }

    fn row(form: &Form, choices: &[Choice], signals: SignalsLevel, asked: Alternatives) -> String {
        let regions = ["sure".into(), "torn".into()];
        let style = RowStyle {
            signals,
            regions: &regions,
            model: "m",
            token_bytes: &|t| format!("<{t}>").into_bytes(),
        };
        String::from_utf8(style.finished("a\nb", "0123", form, choices, asked)).unwrap()
    }

    #[test]
    fn the_short_form_has_these_fields_in_this_order() {
        assert_eq!(
            row(&Form::Short, &[choice()], SignalsLevel::Token, Alternatives::NotAsked),
            concat!(
                r#"{"id":"a\nb","request":"0123","text":"é!","tokens":[5,6],"finish_reason":"length","#,
                r#""usage":{"prompt_tokens":3,"completion_tokens":2,"discarded_tokens":0},"#,
                r#""signals":{"entropy":[0.5,0.1],"varentropy":[0.25,null],"logprob":[-0.1,-0.25],"#,
                r#""region":["torn","sure"],"decision":["argmax","draw"],"text_offset":[0,1]}}"#,
                "\n"
            )
        );
        let off = row(&Form::Short, &[choice()], SignalsLevel::Off, Alternatives::Asked);
        assert!(!off.contains("signals"), "{off}");
        assert!(off.contains(r#""top_logprobs":[[{"token":5,"logprob":-0.1}],"#), "{off}");
    }

    #[test]
    fn summaries_are_small() {
        let mut choice = choice();
        choice.varentropy[1] = 0.75;
        let row = row(&Form::Short, &[choice], SignalsLevel::Summary, Alternatives::NotAsked);
        let expected = concat!(
            r#""signals":{"mean_H":0.3,"max_H":0.5,"p95_H":0.5,"mean_V":0.5,"n_argmax":1,"n_draw":1,"#,
            r#""n_best_of":0,"n_inject":0,"n_stop":0,"n_branch":0,"n_rewind":0,"n_refork":0,"#,
            r#""extra_tokens":0,"longest_unsure_span":0}"#
        );
        assert!(row.contains(expected), "{row}");
    }

    #[test]
    fn several_answers_are_choices() {
        let row = row(&Form::Short, &[choice(), choice()], SignalsLevel::Off, Alternatives::NotAsked);
        let row: Value = serde_json::from_str(&row).unwrap();
        assert_eq!(row["choices"][1]["text"], "é!");
        assert_eq!(row["usage"], json!({"prompt_tokens": 3, "completion_tokens": 4, "discarded_tokens": 0}));
        assert!(row.get("text").is_none());
    }

    #[test]
    fn openai_lines_get_openai_results() {
        let chat = row(&Form::OpenAiChat(None), &[choice()], SignalsLevel::Token, Alternatives::Asked);
        let chat: Value = serde_json::from_str(&chat).unwrap();
        assert_eq!((&chat["custom_id"], &chat["error"]), (&json!("a\nb"), &Value::Null));
        let body = &chat["response"]["body"];
        assert_eq!((&body["model"], &body["usage"]["total_tokens"]), (&json!("m"), &json!(5)));
        let choice0 = &body["choices"][0];
        assert_eq!(choice0["message"], json!({"role": "assistant", "content": "é!"}));
        assert_eq!(choice0["entropix"]["signals"]["region"], json!(["torn", "sure"]));
        assert_eq!(choice0["logprobs"]["content"][1]["top_logprobs"][0]["token"], "<6>");

        let form = Form::OpenAiCompletion(Some("x".into()));
        let completion = row(&form, &[choice()], SignalsLevel::Off, Alternatives::Asked);
        let completion: Value = serde_json::from_str(&completion).unwrap();
        let body = &completion["response"]["body"];
        assert_eq!((&body["model"], &body["choices"][0]["text"]), (&json!("x"), &json!("é!")));
        assert_eq!(body["choices"][0]["logprobs"]["text_offset"], json!([0, 1]));
        assert!(body["choices"][0]["entropix"].get("signals").is_none());
    }

    #[test]
    fn failures_are_lines_of_the_same_form() {
        let error = Error::data("TooLong", "5 tokens, at most 4");
        let text = |form| String::from_utf8(failed("a", "0123", &form, &error)).unwrap();
        assert_eq!(
            text(Form::Short),
            "{\"id\":\"a\",\"request\":\"0123\",\"error\":{\"code\":\"TooLong\",\"message\":\"5 tokens, at most 4\"}}\n"
        );
        let openai: Value = serde_json::from_str(&text(Form::OpenAiChat(None))).unwrap();
        assert_eq!((&openai["response"], &openai["error"]["code"]), (&Value::Null, &json!("TooLong")));
    }

    #[test]
    fn scores_are_columns() {
        let line = scored("a", "0123", &[1, 2], &[None, Some(-0.5)], &[0.1, 0.2], &[0.3, 0.4]);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            concat!(
                r#"{"id":"a","request":"0123","tokens":[1,2],"logprobs":[null,-0.5],"entropy":[0.1,0.2],"varentropy":[0.3,0.4]}"#,
                "\n"
            )
        );
    }
}
