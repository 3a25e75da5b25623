//! Why a policy file decides as it does at given signals.

use super::outline::{between, told};
use super::rule::{Condition, Region, Rule, When};
use super::signal::Inputs;
use super::{PolicyFile, RegionId, Signal};
use entropix_model::{AttentionSignals, Signals};
use std::sync::Arc;

/// What becomes of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Its name.
    pub region: Arc<str>,
    /// `decides`, `does not apply`, or `depends on the output`.
    pub verdict: &'static str,
    /// What was asked and what was found; in nats.
    pub reasons: Vec<String>,
}

impl PolicyFile {
    /// The numbers of the draw of a region at these signals, by the names policy files have for them, entropies in
    /// nats; NaN for what depends on a signal that is NaN. 1 for `p_less`, which is there when it is on. Nothing for
    /// a region that draws by no rule of numbers.
    pub fn draw_of(
        &self,
        region: RegionId,
        signals: &Signals,
        attention: &AttentionSignals,
    ) -> Vec<(&'static str, f64)> {
        match self.spec().regions.get(usize::from(region.0)).map(|region| &region.rule) {
            Some(Rule::Draw(draw) | Rule::BestOf { draw, .. }) => draw.told(&Inputs { signals, attention }),
            _ => Vec::new(),
        }
    }

    /// The first region that takes tokens back, asks only for signals, and finds what it asks for; whether there is
    /// anything to take back is not looked at.
    pub fn returns_at(&self, signals: &Signals, attention: &AttentionSignals) -> Option<RegionId> {
        let inputs = Inputs { signals, attention };
        let holds = |condition: &Condition| match *condition {
            Condition::Between { signal, above, below } => signal.is_between(&inputs, above, below),
            _ => false,
        };
        let returns = |region: &Region| {
            region.when == When::Token
                && matches!(region.rule, Rule::Rewind { .. })
                && region.conditions.iter().all(holds)
        };
        self.spec().regions.iter().position(returns).map(|place| RegionId(place as u16))
    }

    /// Goes through the regions in order, down to the first that decides the next token whatever the output was
    /// so far. Signals that are not given are 0.
    pub fn explain(&self, given: &[(Signal, f64)]) -> Vec<Explained> {
        let (mut signals, mut attention) = (Signals::default(), AttentionSignals::default());
        given.iter().for_each(|(signal, value)| signal.put(*value, &mut signals, &mut attention));
        let inputs = Inputs { signals: &signals, attention: &attention };
        let mut all = Vec::new();
        for region in self.spec().regions.iter() {
            let (mut holds, mut is_known) = (true, region.is_plain() || region.when == When::Default);
            let mut reasons = Vec::new();
            for condition in &region.conditions {
                match *condition {
                    Condition::Between { signal, above, below } => {
                        let value = signal.value(&inputs);
                        let is_within = signal.is_between(&inputs, above, below);
                        let name = signal.name();
                        let asked = between(above, below);
                        let is = if is_within { "is" } else { "is not" };
                        reasons.push(format!("{name} {} {is} {asked}", told(value)));
                        holds &= is_within;
                    }
                    Condition::EndsWith { .. } | Condition::Injected(_) | Condition::Class { .. } => {
                        reasons.push("asks for the token before".to_owned());
                        is_known = false;
                    }
                    Condition::Lot { .. } => {
                        reasons.push("asks for a number drawn for the answer or the token".to_owned());
                        is_known = false;
                    }
                    Condition::Span { .. } | Condition::Output { .. } | Condition::Repeats { .. } => {
                        reasons.push("asks for the output so far".to_owned());
                    }
                }
            }
            match region.when {
                When::At(n) => reasons.push(format!("is asked at {n} tokens of the output")),
                When::End => reasons.push("is asked at the end of the answer".to_owned()),
                When::Token | When::Default => {}
            }
            let verdict = match (holds, is_known) {
                (false, _) => "does not apply",
                (true, true) => "decides",
                (true, false) => "depends on the output",
            };
            reasons.dedup();
            let decision = region.rule.name();
            let verdict_decides = verdict == "decides";
            if holds {
                reasons.push(format!("decision: {decision}"));
            }
            all.push(Explained { region: Arc::clone(&region.name), verdict, reasons });
            if verdict_decides {
                break;
            }
        }
        all
    }
}
