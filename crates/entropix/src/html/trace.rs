//! Traces, an event a line. Requests take turns; each is put into the report when its last answer is over.

use super::answer::{ATTENTION, Answer, Token, kind, show};
use super::story::{Story, region};
use super::{Report, Wrong, data};
use crate::jobs::limits::{ID_BYTES, STORY_BYTES};
use crate::text::{Content, Message};
use entropix_model::Result;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What a trace says of itself.
pub(super) struct Head {
    pub(super) model: Value,
    pub(super) policy: Value,
    pub(super) seed: Value,
}

/// The requests that are not over.
#[derive(Default)]
pub(super) struct Stories {
    open: BTreeMap<String, Request>,
    n_begun: usize,
}

#[derive(Default)]
struct Request {
    /// In the order they began.
    number: usize,
    prompt: Vec<(String, String)>,
    /// Answers there will be, if that is told.
    n: Option<usize>,
    stories: BTreeMap<u32, Story>,
    over: BTreeMap<u32, Answer>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(default)]
    id: String,
    #[serde(default)]
    choice: u32,
    #[serde(default)]
    branch: u32,
    position: Option<u64>,
    token: Option<u32>,
    text: Option<String>,
    bytes: Option<Vec<u8>>,
    name: Option<String>,
    #[serde(borrow)]
    region: Option<Cow<'a, str>>,
    #[serde(borrow)]
    decision: Option<Cow<'a, str>>,
    #[serde(default)]
    candidates: Vec<Candidate>,
    #[serde(default)]
    children: Vec<Child>,
    #[serde(default)]
    scores: Vec<Scored>,
    discarded_tokens: Option<u64>,
    n: Option<usize>,
    prompt: Option<String>,
    #[serde(default)]
    messages: Vec<Message>,
    finish_reason: Option<String>,
    reason: Option<String>,
    usage: Option<Usage>,
    error: Option<Failure>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// With its text, or without as in traces of the first format.
#[derive(Deserialize)]
#[serde(untagged)]
enum Candidate {
    Named(u32, Option<f32>, String),
    Bare(u32, Option<f32>),
}

#[derive(Deserialize)]
struct Child {
    branch: u32,
    position: u64,
}

#[derive(Deserialize)]
struct Scored {
    branch: u32,
    score: Option<f64>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    discarded_tokens: u64,
}

#[derive(Deserialize)]
struct Failure {
    code: String,
    message: String,
}

/// Whether a line is of a trace.
pub(super) fn is_event(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "event")]
        _event: String,
    }
    serde_json::from_str::<Kind>(text).is_ok()
}

impl Stories {
    /// Follows a line of the trace.
    pub(super) fn take(&mut self, text: &str, report: &mut Report) -> Result<(), Wrong> {
        let event: Event = serde_json::from_str(text)?;
        if event.id.len() > ID_BYTES {
            return Err(Wrong::new(format!(
                "an id has {} bytes, at most {ID_BYTES} are allowed",
                event.id.len()
            )));
        }
        match event.event.as_ref() {
            "trace" => {
                let of = |key: &str| event.rest.get(key).cloned().unwrap_or(Value::Null);
                let (model, policy, seed) = (of("model"), of("policy"), of("seed"));
                check_policy(&policy)?;
                let same = |old: &Head| old.policy["sha256"] == policy["sha256"] && old.model == model;
                if report.head.as_ref().is_some_and(|old| !same(old)) {
                    report.notes.push(
                        "The trace was gone on with by another policy or model; what is said of the policy is of the \
                         last one."
                            .into(),
                    );
                    report.notes.dedup();
                }
                report.head = Some(Head { model, policy, seed });
            }
            "request" => {
                // An earlier attempt, if there was one, came to nothing.
                report.forget(&event.id);
                let request = self.begin(&event.id);
                let number = request.number;
                *request = Request {
                    number,
                    prompt: said(event.prompt, event.messages),
                    n: event.n,
                    ..Request::default()
                };
            }
            "done" => {
                let request = self.begin(&event.id);
                let story = request.stories.remove(&event.choice).unwrap_or_default();
                let finish = event.finish_reason.unwrap_or_default();
                let mut answer = story.answer(true, finish == "abstain")?;
                answer.finish = finish;
                answer.reason = event.reason;
                if let Some(usage) = event.usage {
                    answer.prompt_tokens = Some(usage.prompt_tokens);
                    answer.completion_tokens = Some(usage.completion_tokens);
                    answer.discarded_tokens = Some(usage.discarded_tokens);
                }
                request.over.insert(event.choice, answer);
                if request.n.is_some_and(|n| request.over.len() >= n)
                    && let Some(request) = self.open.remove(&event.id)
                {
                    request.show(&event.id, None, report)?;
                }
            }
            "failed" => {
                let request = self.open.remove(&event.id).unwrap_or_default();
                let error = event.error.unwrap_or(Failure { code: "error".into(), message: String::new() });
                request.show(&event.id, Some(&error), report)?;
            }
            _ => self.follow(event, report)?,
        }
        Ok(())
    }

    fn follow(&mut self, event: Event, report: &mut Report) -> Result<(), Wrong> {
        let by = region(event.region.as_deref(), &mut report.regions);
        let story = self.begin(&event.id).stories.entry(event.choice).or_default();
        let place = |what: &str| {
            event.position.ok_or_else(|| Wrong::new(format!("a {what} without the member \"position\"")))
        };
        match event.event.as_ref() {
            "token" => {
                let position = place("token")?;
                let token = event.token.ok_or_else(|| Wrong::new("a token without the member \"token\""))?;
                let signal =
                    |key: &str| event.rest.get(key).and_then(Value::as_f64).map_or(f32::NAN, |x| x as f32);
                let attention = event.rest.contains_key(ATTENTION[0]).then(|| ATTENTION.map(signal));
                let candidates = event.candidates.into_iter().map(|candidate| match candidate {
                    Candidate::Named(token, logprob, text) => (token, logprob.unwrap_or(f32::NAN), text),
                    Candidate::Bare(token, logprob) => (token, logprob.unwrap_or(f32::NAN), String::new()),
                });
                story.token(
                    event.branch,
                    Token {
                        token,
                        position,
                        text: event.text,
                        bytes: event.bytes,
                        name: event.name,
                        entropy: signal("entropy"),
                        varentropy: signal("varentropy"),
                        logprob: signal("logprob"),
                        collision: signal("collision"),
                        // 0 was written for none in traces of the first format.
                        temperature: Some(signal("temperature"))
                            .filter(|heat| *heat > 0.0)
                            .unwrap_or(f32::NAN),
                        region: by,
                        decision: event.decision.as_deref().and_then(kind),
                        candidates: candidates.collect(),
                        attention,
                    },
                )?;
            }
            "retract" => story.retract(event.branch, place("return")?, by, event.discarded_tokens)?,
            "fork" => {
                let children: Vec<_> =
                    event.children.iter().map(|child| (child.branch, child.position)).collect();
                story.fork(event.branch, &children, event.decision.as_deref().unwrap_or(""), by)?;
            }
            "join" => {
                let scores: Vec<_> = event.scores.iter().map(|one| (one.branch, one.score)).collect();
                story.join(event.branch, &scores, event.discarded_tokens)?;
            }
            "inject" => story.inject(),
            // Of a later version.
            _ => {}
        }
        let held: usize = if story.n_bytes > STORY_BYTES / 64 {
            self.open.values().flat_map(|request| request.stories.values()).map(|story| story.n_bytes).sum()
        } else {
            0
        };
        if held > STORY_BYTES {
            return Err(Wrong::new(format!(
                "the answers that are not over take more than {STORY_BYTES} bytes; trace fewer requests at once"
            )));
        }
        Ok(())
    }

    fn begin(&mut self, id: &str) -> &mut Request {
        if !self.open.contains_key(id) {
            self.n_begun += 1;
            self.open.insert(id.to_owned(), Request { number: self.n_begun, ..Request::default() });
        }
        self.open.get_mut(id).expect("it is there now")
    }

    /// What never ended: of a job that was interrupted, or of the first format, which tells no ends.
    pub(super) fn finish(self, report: &mut Report) -> Result<()> {
        let mut open: Vec<(String, Request)> = self.open.into_iter().collect();
        open.sort_by_key(|(_, request)| request.number);
        for (id, request) in open {
            request.show(&id, None, report).map_err(|wrong| data(&id, wrong.message))?;
        }
        Ok(())
    }
}

impl Request {
    fn show(mut self, id: &str, error: Option<&Failure>, report: &mut Report) -> Result<(), Wrong> {
        for (choice, story) in self.stories {
            let mut answer = story.answer(report.head.is_none(), false)?;
            if report.head.is_some() {
                answer.finish = "nothing: it is not over".into();
            }
            self.over.insert(choice, answer);
        }
        let answers: Vec<Answer> = self.over.into_values().collect();
        let error = error.map(|error| (error.code.as_str(), error.message.as_str()));
        show(id, &self.prompt, &answers, error, report);
        Ok(())
    }
}

/// Who said what.
fn said(prompt: Option<String>, messages: Vec<Message>) -> Vec<(String, String)> {
    let text = |content: Option<Content>| match content {
        None => String::new(),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            parts.into_iter().filter_map(|part| part.text).collect::<Vec<_>>().join("\n")
        }
    };
    let prompt = prompt.map(|text| ("prompt".to_owned(), text));
    prompt
        .into_iter()
        .chain(messages.into_iter().map(|message| (message.role, text(message.content))))
        .collect()
}

/// Regions have the form the page reads.
fn check_policy(policy: &Value) -> Result<(), Wrong> {
    #[derive(Deserialize)]
    struct Policy {
        #[serde(rename = "name")]
        _name: String,
        regions: Vec<Region>,
    }
    #[derive(Deserialize)]
    struct Region {
        #[serde(rename = "name")]
        _name: String,
        decision: String,
        #[serde(rename = "bounds")]
        _bounds: BTreeMap<String, Limits>,
        #[serde(rename = "conditions")]
        _conditions: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Limits {
        #[serde(rename = "above")]
        _above: Option<f64>,
        #[serde(rename = "below")]
        _below: Option<f64>,
    }
    let policy = Policy::deserialize(policy).map_err(|e| Wrong::new(format!("its policy: {e}")))?;
    match policy.regions.iter().find(|region| kind(&region.decision).is_none()) {
        Some(region) => Err(Wrong::new(format!("its policy: {:?} is no decision", region.decision))),
        None => Ok(()),
    }
}
