//! One answer as it grows: its tokens, its text, and the columns of signals beside them.

use entropix_engine::{DecisionKind, Done, FinishReason, RegionId, Token, Usage};
use entropix_model::{Candidate, TokenId};
use std::sync::Arc;

/// How much of the signals is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalsLevel {
    /// Nothing.
    Off,
    /// A few numbers an answer.
    Summary,
    /// Six entries a token.
    Token,
}

/// An answer: columns of equal length, one entry a token, the end token left out.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// What was said, without the stop string.
    pub text: String,
    /// The tokens.
    pub tokens: Vec<TokenId>,
    /// H of the distribution each was taken from, in nats.
    pub entropy: Vec<f32>,
    /// V of it, in nats squared.
    pub varentropy: Vec<f32>,
    /// ln p of the token at temperature 1 before any edit, in nats.
    pub logprob: Vec<f32>,
    /// Which region of the policy decided.
    pub region: Vec<RegionId>,
    /// What it decided.
    pub decision: Vec<DecisionKind>,
    /// The likeliest tokens, the likeliest first; empty lists when none were asked for.
    pub top: Vec<Vec<Candidate>>,
    /// Where in `text` each token's own text begins, in bytes.
    pub text_offset: Vec<usize>,
    /// Why it ended; none while it grows.
    pub finish: Option<FinishReason>,
    /// What the policy said when it ended the answer.
    pub reason: Option<Arc<str>>,
    /// What it cost.
    pub usage: Usage,
}

impl Choice {
    /// Takes a token in and puts `text`, what can be shown since the last one, behind what was said.
    pub fn push(&mut self, token: Token, text: &str) {
        if !token.end {
            self.tokens.push(token.token);
            self.entropy.push(token.signals.entropy);
            self.varentropy.push(token.signals.varentropy);
            self.logprob.push(token.logprob);
            self.region.push(token.region);
            self.decision.push(token.decision);
            self.top.push(token.top);
            self.text_offset.push(self.text.len());
        }
        self.text += text;
    }

    /// The end, with the text that was held back until it.
    pub fn finish(&mut self, done: Done, text: &str) {
        self.text += text;
        self.finish = Some(done.finish);
        self.reason = done.reason;
        self.usage = done.usage;
    }
}

/// The signals of an answer in a few numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Mean entropy in nats; none without tokens.
    pub mean_entropy: Option<f32>,
    /// Greatest entropy in nats.
    pub max_entropy: Option<f32>,
    /// The entropy that 95 % of the tokens do not exceed (nearest rank), in nats.
    pub p95_entropy: Option<f32>,
    /// Mean varentropy in nats squared.
    pub mean_varentropy: Option<f32>,
    /// Decisions in the order of [`DecisionKind::ALL`]: the tokens of the answer by what they were taken by, and how
    /// often the answer was branched, taken back, finished again and stopped, of which its tokens need not tell.
    pub decisions: [usize; DecisionKind::ALL.len()],
    /// Tokens in the longest run at each of which H >= ln 2, as unsure as a fair coin.
    pub longest_unsure_span: usize,
}

impl Summary {
    /// Of a whole answer.
    pub fn of(choice: &Choice) -> Self {
        let mut sorted = choice.entropy.clone();
        sorted.sort_by(f32::total_cmp);
        let mut decisions = [0; DecisionKind::ALL.len()];
        for &kind in &choice.decision {
            decisions[decision_index(kind)] += 1;
        }
        let Usage { branches, rewinds, reforks, .. } = choice.usage;
        let stops = u32::from(choice.finish == Some(FinishReason::Abstain));
        for (kind, times) in [
            (DecisionKind::Branch, branches),
            (DecisionKind::Rewind, rewinds),
            (DecisionKind::Refork, reforks),
            (DecisionKind::Stop, stops),
        ] {
            decisions[decision_index(kind)] = times as usize;
        }
        let (mut span, mut longest) = (0, 0);
        for &entropy in &choice.entropy {
            span = if entropy >= std::f32::consts::LN_2 { span + 1 } else { 0 };
            longest = longest.max(span);
        }
        Self {
            mean_entropy: mean(&choice.entropy),
            max_entropy: sorted.last().copied(),
            p95_entropy: (!sorted.is_empty()).then(|| sorted[(sorted.len() * 95).div_ceil(100) - 1]),
            mean_varentropy: mean(&choice.varentropy),
            decisions,
            longest_unsure_span: longest,
        }
    }
}

/// Where `kind` stands in [`DecisionKind::ALL`].
pub fn decision_index(kind: DecisionKind) -> usize {
    DecisionKind::ALL.iter().position(|&k| k == kind).expect("ALL holds every kind")
}

fn mean(values: &[f32]) -> Option<f32> {
    let sum: f64 = values.iter().map(|&x| f64::from(x)).sum();
    (!values.is_empty()).then(|| (sum / values.len() as f64) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_of_all_tokens() {
        let mut choice = Choice { entropy: (1..=20).map(|i| i as f32 * 0.1).collect(), ..Choice::default() };
        choice.varentropy = vec![0.5; 20];
        choice.entropy[9] = 0.0;
        choice.decision = vec![DecisionKind::Argmax; 20];
        choice.decision[3] = DecisionKind::BestOf;
        // Of what was begun only the last left a token in the answer.
        choice.decision[5] = DecisionKind::Rewind;
        choice.usage = Usage { branches: 3, rewinds: 2, reforks: 1, ..Usage::default() };
        let summary = Summary::of(&choice);
        assert_eq!(summary.mean_entropy, Some(1.0));
        assert_eq!((summary.max_entropy, summary.p95_entropy), (Some(2.0), Some(1.9)));
        assert_eq!(summary.decisions, [18, 0, 1, 0, 0, 3, 2, 1]);
        // 0.7 to 0.9, then the planted 0, then 1.1 to 2.0.
        assert_eq!(summary.longest_unsure_span, 10);
    }

    #[test]
    fn an_empty_answer_has_no_means() {
        assert_eq!(Summary::of(&Choice::default()), Summary::default());
    }
}
