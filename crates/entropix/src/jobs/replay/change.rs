//! What a replay finds.

use super::record::{Kind, Record};
use crate::jobs::trace::short;
use entropix_engine::Retold;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Changes that are kept as examples.
const EXAMPLES: usize = 20;
/// Temperatures closer than this share are the same: candidates in a trace may differ from those a policy picked among
/// in the last bit.
const CLOSE: f32 = 1e-4;

/// What came of a replay.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Decisions made again.
    pub n_decisions: usize,
    /// Of those, decisions of another kind now.
    pub n_changed: usize,
    /// Of the others, decisions of another region.
    pub n_region: usize,
    /// Of the others, draws at another temperature.
    pub n_temperature: usize,
    /// Lines of bare signals.
    pub n_bare: usize,
    /// Decisions that could not be made again.
    pub n_unknown: usize,
    /// Decision before, decision now, and how often.
    pub changes: BTreeMap<(String, &'static str), usize>,
    /// The first decisions that are of another kind.
    pub examples: Vec<Change>,
    /// What is to be said about it.
    pub notes: Vec<String>,
    pub(super) lacks_attention: bool,
}

/// A decision that is another one now.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Of which request.
    pub id: String,
    /// Of which of its answers.
    pub choice: u32,
    /// About which line.
    pub branch: u32,
    /// Where the token stands, or would have stood.
    pub position: usize,
    /// `decision`, `region` or `temperature`: the first of them that differs.
    pub what: &'static str,
    /// In the trace.
    pub before: Side,
    /// By the policy.
    pub now: Side,
}

/// One side of a change.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// Which region decides; none where an answer that is over stands.
    pub region: Option<String>,
    /// What it decides; for an answer that is over and stands, why it ended, or `stands`.
    pub decision: String,
    /// Of the draw; none where there is none, or where it is not known.
    pub temperature: Option<f32>,
}

impl Change {
    /// As a line of JSON has it.
    pub fn to_json(&self) -> Value {
        let side = |side: &Side| {
            json!({
                "region": side.region, "decision": side.decision,
                "temperature": side.temperature.map(short),
            })
        };
        json!({
            "id": self.id, "choice": self.choice, "branch": self.branch, "position": self.position,
            "change": self.what, "before": side(&self.before), "now": side(&self.now),
        })
    }
}

impl Replayed {
    /// Counts what is decided now where the trace has `record`.
    pub(super) fn count(&mut self, record: &Record, retold: Retold, regions: &[Arc<str>]) -> Option<Change> {
        let is_done = record.kind == Kind::Done;
        let (now, name, temperature) = match retold {
            Retold::Given => return None,
            Retold::Unknown => {
                self.n_unknown += 1;
                return None;
            }
            Retold::Stands if is_done => return None,
            Retold::Stands => {
                (Side { region: None, decision: "stands".into(), temperature: None }, "stands", None)
            }
            Retold::Decided { region, kind, temperature } => {
                let region = regions.get(usize::from(region.0)).map(|name| name.to_string());
                let drawn = temperature.filter(|heat| *heat > 0.0);
                let side = Side { region, decision: kind.name().into(), temperature: drawn };
                (side, kind.name(), temperature)
            }
        };
        self.n_decisions += 1;
        let decision = record.decision.map_or(&record.finish[..], |kind| kind.name());
        let before = Side {
            region: (!is_done).then(|| record.region.clone()),
            decision: decision.into(),
            temperature: Some(record.temperature).filter(|heat| *heat > 0.0),
        };
        let is_close = |heat: f32| (heat - record.temperature).abs() <= CLOSE * heat.abs();
        let what = if now.decision != before.decision {
            self.n_changed += 1;
            *self.changes.entry((before.decision.clone(), name)).or_insert(0) += 1;
            "decision"
        } else if now.region != before.region {
            self.n_region += 1;
            "region"
        } else if temperature.is_some_and(|heat| !is_close(heat)) {
            self.n_temperature += 1;
            "temperature"
        } else {
            return None;
        };
        let change = Change {
            id: record.id.clone(),
            choice: record.choice,
            branch: record.branch,
            position: record.position.unwrap_or(0),
            what,
            before,
            now,
        };
        if what == "decision" && self.examples.len() < EXAMPLES {
            self.examples.push(change.clone());
        }
        Some(change)
    }
}
