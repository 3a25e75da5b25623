//! A policy file at work.

use super::rule::{Region, Rule, When};
use super::signal::Inputs;
use super::{
    Budget, Decision, DecisionKind, History, Needs, Phrase, Pick, Policy, PolicyState, ReadAnswer, RegionId,
    Verdict,
};
use crate::FinishReason;
use entropix_model::{AttentionSignals, Candidate, Coin, Result, Signals, TokenId};
use std::sync::Arc;

/// An ordered table of regions, the first that applies decides; the last one, the default, always does.
pub(super) struct TablePolicy {
    pub(super) name: Arc<str>,
    pub(super) names: Arc<[Arc<str>]>,
    pub(super) regions: Arc<[Region]>,
    pub(super) needs: Needs,
    pub(super) budget: Budget,
    pub(super) phrases: Vec<Phrase>,
    /// Texts that conditions look for.
    pub(super) texts: Vec<Vec<TokenId>>,
    pub(super) read_answer: Option<Arc<ReadAnswer>>,
}

impl TablePolicy {
    fn regions(&self) -> impl Iterator<Item = (RegionId, &Region)> {
        self.regions.iter().enumerate().map(|(place, region)| (RegionId(place as u16), region))
    }
}

impl Policy for TablePolicy {
    fn name(&self) -> &str {
        &self.name
    }

    fn regions(&self) -> &[Arc<str>] {
        &self.names
    }

    fn needs(&self) -> Needs {
        self.needs
    }

    fn phrases(&self) -> &[Phrase] {
        &self.phrases
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn settled(&self, history: &History<'_>) -> usize {
        let n_output = history.output().len();
        let held = self.regions.iter().map(|region| region.rule.holds_back(region.when, history));
        held.min().unwrap_or(n_output)
    }

    fn answer(&self, output: &[TokenId]) -> Option<Arc<str>> {
        self.read_answer.as_ref().and_then(|read| read(output))
    }

    fn decide(
        &self,
        signals: &Signals,
        attention: Option<&AttentionSignals>,
        history: &History<'_>,
        _state: &mut PolicyState,
    ) -> Verdict {
        let none = AttentionSignals::default();
        let inputs = Inputs { signals, attention: attention.unwrap_or(&none) };
        let decided = self.regions().find_map(|(id, region)| {
            let decision = region.decide(id, &inputs, history, &self.phrases, &self.texts)?;
            Some(Verdict { region: id, decision })
        });
        // Only a default that stops is not obeyed everywhere.
        let last = RegionId(self.regions.len() as u16 - 1);
        decided.unwrap_or(Verdict { region: last, decision: Decision::Argmax })
    }

    fn pick(
        &self,
        region: RegionId,
        candidates: &[Candidate],
        signals: &Signals,
        coin: Coin,
        state: &mut PolicyState,
    ) -> Result<Pick> {
        match self.regions.get(usize::from(region.0)).map(|region| &region.rule) {
            Some(Rule::Dslider(dslider)) => dslider.pick(candidates, signals, coin, state),
            _ => Ok(Pick { place: 0, kind: DecisionKind::Argmax, temperature: 0.0 }),
        }
    }

    fn conclude(
        &self,
        _finish: FinishReason,
        history: &History<'_>,
        _state: &mut PolicyState,
    ) -> Option<Verdict> {
        if !self.regions.iter().any(|region| matches!(region.when, When::End | When::At(_))) {
            return None;
        }
        let (signals, attention) = (Signals::default(), AttentionSignals::default());
        let inputs = Inputs { signals: &signals, attention: &attention };
        self.regions().find_map(|(id, region)| {
            let decision = region.conclude(id, &inputs, history, &self.texts)?;
            Some(Verdict { region: id, decision })
        })
    }
}
