//! Directed tests of branches, returns and further ends, against plain loops over the model itself.

mod branches;
mod ends;
mod returns;

use super::Scripted;
use super::scripted::{self, END, VOCAB};
use super::single::*;
use crate::{
    Branch, Budget, Decision, DecisionKind, Done, Engine, EngineOptions, Event, FinishReason, History, Judge,
    Needs, Parameters, Part, Phrase, Policy, PolicyState, Raw, Refork, RegionId, Resume, Rewind, Score,
    Signal, Span, Stat, Token, TokenClass, Verdict,
};
use entropix_model::{AttentionSignals, Capacity, Filters, Signals, Temperature, TokenId};
use std::sync::Arc;

type Decide = dyn Fn(&History<'_>) -> Decision + Send + Sync;
type Conclude = dyn Fn(&History<'_>, FinishReason) -> Option<Decision> + Send + Sync;

/// Decides by functions of the history.
struct Plan {
    decide: Box<Decide>,
    conclude: Box<Conclude>,
    budget: Budget,
    holds_back: usize,
    regions: Vec<Arc<str>>,
    phrases: Vec<Phrase>,
}

impl Plan {
    fn new(decide: impl Fn(&History<'_>) -> Decision + Send + Sync + 'static) -> Self {
        Self {
            decide: Box::new(decide),
            conclude: Box::new(|_, _| None),
            budget: Budget { extra_tokens: 100.0, rewinds: 2, reforks: 1 },
            holds_back: usize::MAX,
            regions: vec!["plan".into()],
            phrases: vec![Phrase { tokens: vec![5, 6, 7], cap: 1, cooldown: 1 }],
        }
    }

    /// Argmax, and this when the answer is over.
    fn concluding(
        conclude: impl Fn(&History<'_>, FinishReason) -> Option<Decision> + Send + Sync + 'static,
    ) -> Self {
        Self { conclude: Box::new(conclude), ..Self::new(|_| Decision::Argmax) }
    }
}

impl Policy for Plan {
    fn name(&self) -> &str {
        "plan"
    }

    fn regions(&self) -> &[Arc<str>] {
        &self.regions
    }

    fn needs(&self) -> Needs {
        Needs { attention: false, logits: true, trace: true }
    }

    fn phrases(&self) -> &[Phrase] {
        &self.phrases
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn settled(&self, history: &History<'_>) -> usize {
        history.output().len().saturating_sub(self.holds_back)
    }

    /// The last digit of the last token.
    fn answer(&self, output: &[TokenId]) -> Option<Arc<str>> {
        output.last().map(|token| (token % 3).to_string().into())
    }

    fn decide(
        &self,
        _: &Signals,
        _: Option<&AttentionSignals>,
        history: &History<'_>,
        _: &mut PolicyState,
    ) -> Verdict {
        Verdict { region: RegionId(0), decision: (self.decide)(history) }
    }

    fn conclude(&self, finish: FinishReason, history: &History<'_>, _: &mut PolicyState) -> Option<Verdict> {
        let decision = (self.conclude)(history, finish)?;
        Some(Verdict { region: RegionId(0), decision })
    }
}

/// Tokens by falling ln p after `tokens`.
fn ranked(tokens: &[TokenId]) -> Vec<(TokenId, f64)> {
    let logits = MODEL.logits(super::Model::context(tokens), tokens[tokens.len() - 1]);
    let log_z = logits.iter().map(|&z| f64::from(z).exp()).sum::<f64>().ln();
    let mut all: Vec<(TokenId, f64)> = (0..).zip(logits.iter().map(|&z| f64::from(z) - log_z)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

/// `n` tokens of greedy decoding, and the ln p of each.
fn greedy(mut tokens: Vec<TokenId>, n: usize) -> (Vec<TokenId>, Vec<f64>) {
    let mut logprobs = Vec::new();
    for _ in 0..n {
        let (token, logprob) = ranked(&tokens)[0];
        tokens.push(token);
        logprobs.push(logprob);
    }
    (tokens, logprobs)
}

const PROMPT: [TokenId; 3] = [4, 8, 15];

/// Greedy from the prompt for `n` tokens.
fn plain(n: usize) -> Vec<TokenId> {
    greedy(PROMPT.to_vec(), n).0[3..].to_vec()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn ask(n: usize, plan: Plan) -> crate::Request {
    generate(&PROMPT, Parameters { raw_events: true, ..at_most(n) }, Arc::new(plan))
}

struct Told {
    ids: Vec<TokenId>,
    tokens: Vec<Token>,
    raw: Vec<Raw>,
    done: Done,
    stats: crate::Stats,
}

fn hear(mut engine: Engine, request: crate::Request) -> Told {
    engine.submit(request).expect("sound");
    let mut events = Vec::new();
    while !engine.is_idle() {
        engine.step(&mut events).expect("a step");
        engine.scheduler.check();
    }
    let mut raw = Vec::new();
    events.retain(|event| match event {
        Event::Raw(it) => {
            raw.push(it.clone());
            false
        }
        _ => true,
    });
    let (tokens, mut done) = split(events);
    assert_eq!(engine.stats().blocks_used, 0);
    Told { ids: ids(&tokens), tokens, raw, done: done.remove(0), stats: engine.stats() }
}

fn branch(width: u8, horizon: Option<u32>, score: Score) -> Decision {
    Decision::Branch(Branch { width, horizon, to_sentence_end: false, judge: Judge::Best(score) })
}

fn at(n: usize, decision: Decision) -> Plan {
    Plan::new(move |history| {
        if history.output().len() == n && history.tried().next().is_none() {
            decision.clone()
        } else {
            Decision::Argmax
        }
    })
}
