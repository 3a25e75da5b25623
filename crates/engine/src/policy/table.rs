//! A policy file at work.

use super::rule::Region;
use super::signal::Inputs;
use super::{History, Needs, Phrase, Policy, PolicyState, RegionId, Verdict};
use entropix_model::{AttentionSignals, Signals, TokenId};
use std::sync::Arc;

/// An ordered table of regions, the first that applies decides; the last one, the default, always does.
#[derive(Debug)]
pub(super) struct TablePolicy {
    pub(super) name: Arc<str>,
    pub(super) names: Arc<[Arc<str>]>,
    pub(super) regions: Arc<[Region]>,
    pub(super) needs: Needs,
    pub(super) phrases: Vec<Phrase>,
    /// Texts that conditions look for.
    pub(super) texts: Vec<Vec<TokenId>>,
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

    fn decide(
        &self,
        signals: &Signals,
        attention: Option<&AttentionSignals>,
        history: &History<'_>,
        _state: &mut PolicyState,
    ) -> Verdict {
        let none = AttentionSignals::default();
        let inputs = Inputs { signals, attention: attention.unwrap_or(&none) };
        let applies = |region: &Region| region.applies(&inputs, history, &self.phrases, &self.texts);
        let last = self.regions.len() - 1;
        let place = self.regions[..last].iter().position(applies).unwrap_or(last);
        Verdict { region: RegionId(place as u16), decision: self.regions[place].rule.decide(&inputs) }
    }
}
