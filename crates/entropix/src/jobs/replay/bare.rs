//! Bare signals: each line stands alone.

use super::record::Record;
use crate::jobs::trace::short;
use entropix_engine::{
    Allowance, Decision, DecisionKind, History, Injections, Policy, PolicyFile, TokenClasses,
};
use entropix_model::{Filters, Temperature};
use serde_json::{Map, Value, json};

/// What is decided after a prompt of which nothing is known; parameters that depend on a missing signal are null.
pub(super) fn decide(file: &PolicyFile, policy: &dyn Policy, record: &Record) -> Value {
    let (injections, classes) = (Injections::default(), TokenClasses::new(0));
    let history = History::new(&[0], 1, &injections, &classes).with_trace(&[], Allowance::ALL);
    let mut state = policy.start();
    let verdict = policy.decide(&record.signals, Some(&record.attention), &history, &mut state);
    // There is nothing here that could be taken back; that it would be is what is asked.
    if let Some(id) = file.returns_at(&record.signals, &record.attention).filter(|id| id.0 < verdict.region.0)
    {
        return json!({"region": policy.regions()[usize::from(id.0)].as_ref(), "decision": DecisionKind::Rewind.name()});
    }
    let region = policy.regions().get(usize::from(verdict.region.0)).map_or("", |name| name);
    let mut value = Map::from_iter([("region".to_owned(), json!(region))]);
    let is_cold =
        |filters: &Filters| matches!(filters.temperature, Temperature::Greedy | Temperature::Fixed(0.0));
    // As the engine has it.
    let decision = match &verdict.decision {
        Decision::Draw(filters) | Decision::BestOf { filters, .. } if is_cold(filters) => {
            DecisionKind::Argmax
        }
        decision => decision.kind(),
    };
    value.insert("decision".into(), json!(decision.name()));
    if matches!(decision, DecisionKind::Draw | DecisionKind::BestOf) {
        if let Decision::BestOf { n, .. } = verdict.decision {
            value.insert("n".into(), json!(n));
        }
        for (name, number) in file.draw_of(verdict.region, &record.signals, &record.attention) {
            let told = match name {
                _ if number.is_nan() => Value::Null,
                "p_less" => json!(true),
                "top_k" => json!(number as u32),
                _ => short(number as f32),
            };
            value.insert(name.to_owned(), told);
        }
    }
    Value::Object(value)
}
