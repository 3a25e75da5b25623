//! The trace of a job: everything that was said, tokens that were taken back too, one JSON line an event, as
//! it happens. Numbers in nats.

use super::LineWriter;
use entropix_engine::{Raw, Token};
use entropix_model::Result;
use serde_json::{Value, json};
use std::sync::Arc;

/// Writes the trace of a job.
pub struct Tracer {
    lines: LineWriter,
    /// Names of the policy's regions.
    regions: Vec<Arc<str>>,
}

impl Tracer {
    /// A tracer of a job whose policy has these regions.
    pub fn new(lines: LineWriter, regions: &[Arc<str>]) -> Self {
        Self { lines, regions: regions.to_vec() }
    }

    /// Writes what happened to the request known as `id`.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn write(&mut self, id: &str, raw: &Raw) -> Result<()> {
        let value = self.value(id, raw);
        let mut line = serde_json::to_vec(&value).expect("a value has string keys and nothing else can fail");
        line.push(b'\n');
        self.lines.write_line(&line)
    }

    /// Forces what was written to the disk.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn finish(self) -> Result<()> {
        self.lines.finish().map(|_| ())
    }

    fn value(&self, id: &str, raw: &Raw) -> Value {
        let region = |index: u16| self.regions.get(usize::from(index)).map_or("", |name| name.as_ref());
        match raw {
            Raw::Token { branch, token } => token_value(id, *branch, token, region(token.region.0)),
            Raw::Inject { choice, branch, phrase, position, .. } => json!({
                "event": "inject", "id": id, "choice": choice, "branch": branch, "phrase": phrase,
                "position": position,
            }),
            Raw::Retract { choice, branch, position, region: by, .. } => json!({
                "event": "retract", "id": id, "choice": choice, "branch": branch, "position": position,
                "region": region(by.0),
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
            Raw::Join { choice, winner, scores, .. } => {
                let scores: Vec<Value> =
                    scores.iter().map(|(branch, score)| json!({"branch": branch, "score": score})).collect();
                json!({"event": "join", "id": id, "choice": choice, "branch": winner, "scores": scores})
            }
            _ => json!({"event": "other", "id": id}),
        }
    }
}

fn token_value(id: &str, branch: u32, token: &Token, region: &str) -> Value {
    let signals = &token.signals;
    let mut value = json!({
        "event": "token", "id": id, "choice": token.choice, "branch": branch, "position": token.position,
        "token": token.token, "logprob": short(token.logprob), "entropy": short(signals.entropy),
        "varentropy": short(signals.varentropy), "collision": short(signals.collision),
        "log_z": short(signals.log_z),
        "logit_std": short(signals.logit_std), "region": region, "decision": token.decision.name(),
        "temperature": short(token.temperature),
    });
    let best = if token.top.is_empty() { &signals.best[..] } else { &token.top[..] };
    value["candidates"] = best.iter().map(|c| json!([c.token, short(c.logprob)])).collect();
    if let Some(attention) = &token.attention {
        value["attn_entropy"] = short(attention.entropy);
        value["attn_entropy_rel"] = short(attention.entropy_rel);
        value["attn_varentropy"] = short(attention.varentropy);
        value["head_spread"] = short(attention.head_spread);
        value["head_disagreement"] = short(attention.head_disagreement);
        value["interaction"] = short(attention.interaction);
    }
    value
}

/// The shortest decimals that read back as the same f32; null for what is no number.
pub(super) fn short(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}
