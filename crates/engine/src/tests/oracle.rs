//! What a request must give, by a plain loop: no cache, no batch, no blocks, everything from scratch at
//! every token.

use super::requests::Asked;
use super::{Model, scripted};
use crate::philox::Coins;
use crate::{Decision, DecisionKind, FinishReason, History, Injections, Policy, Watch, Watcher};
use entropix_model::sampling::{self, DrawScratch, signals_of};
use entropix_model::{Coin, Draw, Edit, Filters, Status, Temperature, TokenId, TokenMask};

/// A token, as far as it must be the same.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Said {
    pub(super) token: TokenId,
    pub(super) position: usize,
    /// Bits of the entropy, of ln p and of the temperature.
    pub(super) bits: [u32; 3],
    pub(super) top: Vec<(TokenId, u32)>,
    pub(super) region: u16,
    pub(super) decision: DecisionKind,
    pub(super) attention: Option<u32>,
    pub(super) end: bool,
}

/// How an answer ends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ending {
    Done(FinishReason),
    /// With the code of the error.
    Failed(&'static str),
}

/// The choice number `choice` of request number `i`.
pub(super) fn answer(model: Model, asked: &Asked, i: usize, choice: u32) -> (Vec<Said>, Ending) {
    let (p, policy, classes) = (&asked.parameters, asked.policy(), scripted::classes());
    let coins = Coins::new(p.seed, i as u64 * 77, &[choice]);
    let mut tokens = asked.prompt.clone();
    let n_prompt = tokens.len();
    let (mut state, mut watcher) = (policy.start(), asked.watcher());
    let mut injections = Injections::default();
    let mut forced: Vec<TokenId> = Vec::new();
    let mut forced_region = 0;
    let mut said = Vec::new();
    let mut scratch = DrawScratch::default();
    loop {
        let n_output = tokens.len() - n_prompt;
        if n_output == p.max_tokens.expect("asked for") {
            return (said, Ending::Done(FinishReason::Length));
        }
        let context = Model::context(&tokens);
        let logits = model.logits(context, tokens[tokens.len() - 1]);
        let signals = signals_of(&logits, None);
        if signals.status() != Status::Ok {
            return (said, Ending::Failed("NumericalError"));
        }
        let is_forced = !forced.is_empty();
        let attention = Model::attention(context);
        let (mut region, decision) = if is_forced {
            (forced_region, Decision::Argmax)
        } else {
            let history = History::new(&tokens, n_prompt, &injections, &classes);
            let attention = asked.attention.then_some(&attention);
            let verdict = policy.decide(&signals, attention, &history, &mut state);
            let decision = match verdict.decision {
                Decision::Inject { phrase } if !history.may_inject(phrase, &policy.phrases()[phrase]) => {
                    Decision::Argmax
                }
                decision => decision,
            };
            (verdict.region.0, decision)
        };
        let mut kind = decision.kind();
        if let Decision::Inject { phrase } = decision {
            forced = policy.phrases()[phrase].tokens.clone();
            forced_region = region;
            injections.begin(phrase);
        }
        let (mut logprob, mut temperature, token);
        if let Some(&first) = forced.first() {
            kind = DecisionKind::Inject;
            region = forced_region;
            forced.remove(0);
            injections.forced(tokens.len() + 1);
            (token, temperature) = (first, 0.0);
            // The first token of a phrase is looked up by a draw, the others by their asks.
            logprob = if is_forced {
                signals_of(&logits, Some(first)).target_logprob
            } else {
                let mut mask = TokenMask::none(scripted::VOCAB);
                mask.allow(first);
                let draw = Draw { slot: 0, filters: greedy(), edits: &[], mask: Some(&mask), coins: &[] };
                let drawn = sampling::draw(&logits, &signals, &draw, &mut scratch);
                drawn.token.map_or(f32::NEG_INFINITY, |_| drawn.logprob)
            };
        } else {
            let (n, mut filters) = match decision {
                Decision::Draw(filters) => (1, filters),
                Decision::BestOf { n, filters } => (n, filters),
                Decision::Stop { .. } => return (said, Ending::Done(FinishReason::Abstain)),
                _ => (0, greedy()),
            };
            if n > 0 {
                filters.temperature = p.temperature.map_or(filters.temperature, Temperature::Fixed);
                filters.top_k = p.top_k.unwrap_or(filters.top_k);
                filters.top_p = p.top_p.unwrap_or(filters.top_p);
                filters.min_p = p.min_p.unwrap_or(filters.min_p);
            }
            if filters.temperature == Temperature::Fixed(0.0) {
                (kind, filters) = (DecisionKind::Argmax, greedy());
            }
            let edits = edits(asked, &tokens, n_prompt);
            let coins: Vec<Coin> = (0..u32::from(n)).map(|draw| coins.toss(tokens.len(), 0, draw)).collect();
            let draw = Draw { slot: 0, filters, edits: &edits, mask: None, coins: &coins };
            let drawn = sampling::draw(&logits, &signals, &draw, &mut scratch);
            let Some(drawn_token) = drawn.token else { return (said, Ending::Failed("NothingToDraw")) };
            (token, logprob, temperature) = (drawn_token, drawn.logprob, drawn.temperature);
            if filters.temperature == Temperature::Greedy && edits.is_empty() {
                (logprob, temperature) = (signals.best[0].logprob, 0.0);
            }
        }
        tokens.push(token);
        policy.observe(token, logprob, &mut state);
        let n_output = n_output + 1;
        let watch = watcher.as_mut().map_or(Watch::Continue, |watcher| watcher.watch(token));
        let end = n_output > p.min_tokens && is_end(asked, token);
        let k = usize::from(p.logprobs);
        let mut top = entropix_model::Candidates::default();
        match k {
            0..=2 => top.push(signals.best[..k].iter().copied()),
            _ => sampling::candidates(&logits, &signals, k, &mut scratch, &mut top),
        }
        // The two best are as the signals have them.
        let told = |c: &entropix_model::Candidate| {
            let best = signals.best.iter().find(|best| best.token == c.token);
            (c.token, best.unwrap_or(c).logprob.to_bits())
        };
        let wants_attention = p.attention || asked.attention && !is_forced;
        said.push(Said {
            token,
            position: tokens.len() - 1,
            bits: [signals.entropy, logprob, temperature].map(f32::to_bits),
            top: top.list(0).iter().map(told).collect(),
            region,
            decision: kind,
            attention: wants_attention.then_some(attention.entropy.to_bits()),
            end,
        });
        if end || n_output >= p.min_tokens && watch == Watch::Stop {
            return (said, Ending::Done(FinishReason::Stop));
        }
    }
}

fn greedy() -> Filters {
    Filters { temperature: Temperature::Greedy, ..Filters::default() }
}

fn is_end(asked: &Asked, token: TokenId) -> bool {
    token == scripted::END && !asked.parameters.ignore_eos || asked.parameters.stop_tokens.contains(&token)
}

/// The edits by their definition.
fn edits(asked: &Asked, tokens: &[TokenId], n_prompt: usize) -> Vec<Edit> {
    let p = &asked.parameters;
    let output = &tokens[n_prompt..];
    let of = |token: TokenId| {
        let n = output.iter().filter(|&&t| t == token).count();
        let bias = p.logit_bias.iter().find(|b| b.0 == token).map_or(0.0, |b| b.1);
        let presence = if n > 0 { p.presence_penalty } else { 0.0 };
        let is_banned = output.len() < p.min_tokens && is_end(asked, token);
        let bias =
            if is_banned { f32::NEG_INFINITY } else { bias - p.frequency_penalty * n as f32 - presence };
        Edit { token, penalty: if tokens.contains(&token) { p.repetition_penalty } else { 1.0 }, bias }
    };
    (0..scripted::VOCAB as TokenId).map(of).filter(|e| e.penalty != 1.0 || e.bias != 0.0).collect()
}
