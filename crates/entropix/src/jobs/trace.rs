//! The trace of a job: everything that was said, tokens that were taken back too, one JSON line an event, as
//! it happens. The first line names the model, the seed and the policy with its regions. Numbers in nats.

use super::limits::TRACE_HEAD_BYTES;
use super::{LineWriter, Manifest, Prompt};
use crate::text::{Special, Tokenizer};
use entropix_engine::limits::PHRASE_TOKENS;
use entropix_engine::{Done, Outline, Parameters, PolicyFile, Raw, RequestId, Token};
use entropix_model::{AttentionSignals, Error, Result, Signals, TokenId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

/// Of the records. Traces of format 1 had no such record, no texts and no ends of answers.
pub(crate) const FORMAT: u64 = 2;

/// What a trace tells of a request besides its prompt, so that it can be decided again.
pub struct Asked {
    /// Its own.
    pub parameters: Parameters,
    /// The last tokens of its prompt: as many as a text that a policy looks for may have.
    pub prompt_end: Vec<TokenId>,
}

impl Asked {
    /// Of a request with this prompt.
    pub fn new(parameters: &Parameters, prompt: &[TokenId]) -> Self {
        let first = prompt.len().saturating_sub(PHRASE_TOKENS);
        Self { parameters: parameters.clone(), prompt_end: prompt[first..].to_vec() }
    }
}

/// Writes the trace of a job.
pub struct Tracer {
    lines: LineWriter,
    tokenizer: Arc<Tokenizer>,
    /// Names of the policy's regions.
    regions: Vec<Arc<str>>,
    /// Where the lines of the answers in work begin.
    forks: HashMap<RequestId, HashMap<(u32, u32), Fork>>,
}

/// The line another one left, and the place of its own first token.
#[derive(Clone, Copy)]
struct Fork {
    parent: u32,
    position: usize,
}

impl Tracer {
    /// A tracer of a job of this manifest, whose tokens are `tokenizer`'s and whose policy is `policy` with its
    /// quantiles resolved; `ends` are the tokens that end an answer, `candidates` how many of the likeliest are told.
    /// Its first record is written.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn begin(
        lines: LineWriter,
        manifest: &Manifest,
        policy: &PolicyFile,
        tokenizer: Arc<Tokenizer>,
        ends: &[TokenId],
        candidates: u16,
    ) -> Result<Self> {
        let regions = policy.regions().to_vec();
        let encoded = |text: &str| Ok(json!([text, tokenizer.encode(text, Special::Text)?]));
        let texts = policy.texts().map(encoded).collect::<Result<Vec<Value>>>()?;
        let mut tracer = Self { lines, tokenizer, regions, forks: HashMap::new() };
        let seed = manifest.parameters.get("seed").map(|entry| entry["value"].clone());
        let model = &manifest.model;
        tracer.put(&json!({
            "event": "trace", "format": FORMAT, "version": manifest.engine.version,
            "model": {"name": model.name, "sha256": model.sha256, "precision": model.precision},
            "seed": seed, "policy": policy_value(policy),
            "extra_tokens": manifest.policy.as_ref().and_then(|policy| policy.extra_tokens),
            "trace_candidates": candidates, "ends": ends, "texts": texts,
        }))?;
        Ok(tracer)
    }

    /// Whether what stands at `path` is a trace, so that it can be gone on with.
    pub fn wrote(path: &Path) -> bool {
        let mut first = Vec::new();
        let read = File::open(path)
            .and_then(|file| BufReader::new(file.take(TRACE_HEAD_BYTES)).read_until(b'\n', &mut first));
        let head: serde_json::Result<Value> = serde_json::from_slice(&first);
        read.is_ok() && head.is_ok_and(|head| head["event"] == "trace" && head["format"] == FORMAT)
    }

    /// Begins behind what an earlier run traced of the requests that are `done`; what it said of others was of attempts
    /// that came to nothing, and goes.
    ///
    /// # Errors
    /// `Io`.
    pub fn go_on(lines: &mut LineWriter, done: &super::Done) -> Result<()> {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(borrow)]
            id: Option<Cow<'a, str>>,
        }
        lines.begin_keeping(&mut |line| match serde_json::from_slice(line) {
            Ok(Head { id }) => id.is_none_or(|id| done.has(&id)),
            Err(_) => false,
        })
    }

    /// A request of `n` answers was admitted. Whatever the trace said of its id before was of an earlier attempt.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn request(&mut self, id: &str, prompt: &Prompt, n: usize, asked: &Asked) -> Result<()> {
        let end = asked.prompt_end.iter().map(|&token| {
            let mut value = json!({"token": token});
            self.put_text(token, &mut value);
            value
        });
        let mut value = json!({"event": "request", "id": id, "n": n, "prompt_end": end.collect::<Vec<_>>()});
        let asked = &asked.parameters;
        let numbers = [
            ("temperature", asked.temperature.map(short)),
            ("top_k", asked.top_k.map(|k| json!(k))),
            ("top_p", asked.top_p.map(short)),
            ("min_p", asked.min_p.map(short)),
        ];
        let mut parameters = Map::from_iter([("seed".to_owned(), json!(asked.seed))]);
        parameters.extend(numbers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        if asked.edits_logits() {
            parameters.insert("edited".into(), json!(true));
        }
        value["parameters"] = Value::Object(parameters);
        match prompt {
            Prompt::Text(text) => value["prompt"] = json!(text),
            Prompt::Tokens(tokens) => value["prompt"] = json!(self.tokenizer.decode(tokens)),
            Prompt::Messages(messages) => value["messages"] = json!(messages),
        }
        self.put(&value)
    }

    /// Writes what happened to the request known as `id`.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn write(&mut self, id: &str, raw: &Raw) -> Result<()> {
        if let Raw::Fork { request, choice, parent, children, .. } = raw {
            let forks = self.forks.entry(*request).or_default();
            for &(branch, position) in children {
                forks.insert((*choice, branch), Fork { parent: *parent, position });
            }
        }
        let value = self.value(id, raw);
        self.put(&value)
    }

    /// An answer is over.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn done(&mut self, id: &str, done: &Done) -> Result<()> {
        self.put(&json!({
            "event": "done", "id": id, "choice": done.choice, "finish_reason": done.finish.name(),
            "reason": done.reason.as_deref(),
            "usage": {
                "prompt_tokens": done.usage.prompt_tokens,
                "completion_tokens": done.usage.completion_tokens,
                "discarded_tokens": done.usage.discarded_tokens,
            },
        }))
    }

    /// A request failed.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn failed(&mut self, id: &str, error: &Error) -> Result<()> {
        let error = json!({"code": error.code, "message": error.message});
        self.put(&json!({"event": "failed", "id": id, "error": error}))
    }

    /// Nothing more comes of a request.
    pub fn forget(&mut self, request: RequestId) {
        self.forks.remove(&request);
    }

    /// Forces what was written to the disk.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn finish(self) -> Result<()> {
        self.lines.finish().map(|_| ())
    }

    fn put(&mut self, value: &Value) -> Result<()> {
        let mut line = serde_json::to_vec(value).expect("a value has string keys and nothing else can fail");
        line.push(b'\n');
        self.lines.write_line(&line)
    }

    fn value(&self, id: &str, raw: &Raw) -> Value {
        let region = |index: u16| self.regions.get(usize::from(index)).map_or("", |name| name.as_ref());
        match raw {
            Raw::Token { branch, token } => self.token_value(id, *branch, token, region(token.region.0)),
            Raw::Inject { choice, branch, phrase, position, .. } => json!({
                "event": "inject", "id": id, "choice": choice, "branch": branch, "phrase": phrase,
                "position": position,
            }),
            Raw::Decision { choice, branch, position, region: by, decision, seen, .. } => {
                let mut value = json!({
                    "event": "decision", "id": id, "choice": choice, "branch": branch, "position": position,
                    "region": region(by.0), "decision": decision.name(),
                });
                match seen {
                    Some((signals, attention)) => put_signals(signals, attention.as_ref(), &mut value),
                    None => value["end"] = json!(true),
                }
                value
            }
            Raw::Retract { choice, branch, position, region: by, discarded, .. } => json!({
                "event": "retract", "id": id, "choice": choice, "branch": branch, "position": position,
                "region": region(by.0), "discarded_tokens": discarded,
            }),
            Raw::Fork { choice, parent, children, decision, region: by, .. } => {
                let children: Vec<Value> = children
                    .iter()
                    .map(|(branch, position)| json!({"branch": branch, "position": position}))
                    .collect();
                json!({
                    "event": "fork", "id": id, "choice": choice, "branch": parent, "children": children,
                    "decision": decision.name(), "region": region(by.0),
                })
            }
            Raw::Join { choice, winner, scores, discarded, .. } => {
                let scores: Vec<Value> =
                    scores.iter().map(|(branch, score)| json!({"branch": branch, "score": score})).collect();
                json!({
                    "event": "join", "id": id, "choice": choice, "branch": winner, "scores": scores,
                    "discarded_tokens": discarded,
                })
            }
            _ => json!({"event": "other", "id": id}),
        }
    }

    fn token_value(&self, id: &str, branch: u32, token: &Token, region: &str) -> Value {
        let signals = &token.signals;
        let forks = self.forks.get(&token.request);
        let fork = forks.and_then(|forks| forks.get(&(token.choice, branch)));
        let mut value = json!({
            "event": "token", "id": id, "choice": token.choice, "branch": branch,
            "parent": fork.map(|fork| fork.parent), "fork": fork.map(|fork| fork.position),
            "position": token.position, "token": token.token,
        });
        self.put_text(token.token, &mut value);
        value["logprob"] = short(token.logprob);
        put_signals(signals, token.attention.as_ref(), &mut value);
        value["region"] = json!(region);
        value["decision"] = json!(token.decision.name());
        let is_drawn = token.temperature > 0.0;
        value["temperature"] = if is_drawn { short(token.temperature) } else { Value::Null };
        let best = if token.top.is_empty() { &signals.best[..] } else { &token.top[..] };
        let candidate = |c: &entropix_model::Candidate| {
            let text = String::from_utf8_lossy(self.tokenizer.token_bytes(c.token)).into_owned();
            json!([c.token, short(c.logprob), text])
        };
        value["candidates"] = best.iter().map(candidate).collect();
        if token.end {
            value["end"] = json!(true);
        }
        value
    }

    /// The text of a token; its bytes too where they are not whole characters, its name where it is no text.
    fn put_text(&self, token: TokenId, value: &mut Value) {
        let bytes = self.tokenizer.token_bytes(token);
        value["text"] = json!(String::from_utf8_lossy(bytes));
        if std::str::from_utf8(bytes).is_err() {
            value["bytes"] = json!(bytes);
        } else if bytes.is_empty()
            && let Some(name) = self.tokenizer.token_name(token)
        {
            value["name"] = json!(name);
        }
    }
}

fn put_signals(signals: &Signals, attention: Option<&AttentionSignals>, value: &mut Value) {
    value["entropy"] = short(signals.entropy);
    value["varentropy"] = short(signals.varentropy);
    value["collision"] = short(signals.collision);
    value["log_z"] = short(signals.log_z);
    value["logit_std"] = short(signals.logit_std);
    if let Some(attention) = attention {
        value["attn_entropy"] = short(attention.entropy);
        value["attn_entropy_rel"] = short(attention.entropy_rel);
        value["attn_varentropy"] = short(attention.varentropy);
        value["head_spread"] = short(attention.head_spread);
        value["head_disagreement"] = short(attention.head_disagreement);
        value["interaction"] = short(attention.interaction);
    }
}

/// A policy as its regions: enough to draw them on the plane of entropy and varentropy. A limit that is not there
/// is left out, one that is a quantile without a calibration is null.
pub(crate) fn policy_value(policy: &PolicyFile) -> Value {
    let region = |outline: &Outline| {
        let mut bounds = Map::new();
        for bound in &outline.bounds {
            let limits = bounds.entry(bound.signal.name()).or_insert_with(|| json!({}));
            for (key, limit) in [("above", bound.above), ("below", bound.below)] {
                if !limit.is_infinite() {
                    limits[key] = json!(limit);
                }
            }
        }
        json!({
            "name": outline.region.as_ref(), "decision": outline.decision, "bounds": bounds,
            "conditions": outline.conditions,
        })
    };
    json!({
        "name": policy.name(), "sha256": policy.hash(), "description": policy.description(),
        "regions": policy.outline().iter().map(region).collect::<Vec<_>>(),
    })
}

/// The shortest decimals that read back as the same f32; null for what is no number.
pub(super) fn short(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}
