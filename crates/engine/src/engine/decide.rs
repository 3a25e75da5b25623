//! From the signals of a position to the order that carries the decision out. Pure but for the state of the
//! policy.

use crate::continuation::Continuation;
use crate::scheduler::SequenceId;
use crate::sequence::{Age, Sequence};
use crate::{
    Allowance, Branch, Decision, DecisionKind, EngineOptions, FinishReason, History, Parameters, Policy,
    Refork, RegionId, Rewind, TokenClasses, Verdict,
    limits::{BEST_OF, BRANCH_WIDTH, PICK, REFORK_POINTS},
};
use entropix_model::{
    AttentionSignals, Candidate, Class, Coin, Error, Filters, Signals, Slot, Status, Temperature, TokenId,
    TokenMask,
};
use std::{ops::Range, sync::Arc};

/// A decision on its way: made in one pass over the rows, carried out in a second one when the draws are
/// back.
pub(super) struct Decided {
    pub(super) id: SequenceId,
    /// Whose it is: the id may be another's by the time it is carried out.
    pub(super) age: Age,
    pub(super) slot: Slot,
    pub(super) attention: Option<AttentionSignals>,
    pub(super) region: RegionId,
    pub(super) kind: DecisionKind,
    pub(super) outcome: Outcome,
    /// Its place among the candidate lists, when there is one.
    pub(super) list: Option<usize>,
}

pub(super) enum Outcome {
    /// This token, with its ln p.
    Take(Candidate),
    /// What draw number so many says.
    Draw(usize),
    /// What the policy picks.
    Pick(Picking),
    /// This token, whose ln p draw number so many says.
    Force(TokenId, usize),
    /// No further token.
    Stop(Arc<str>),
    /// Children that begin with these tokens, as far as they are drawn.
    Branch(Branch, Vec<Candidate>),
    /// Fewer tokens.
    Rewind(Rewind),
    /// The request cannot go on.
    Fail(Error),
}

/// A pick to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picking {
    /// Most candidates the policy sees.
    pub(super) candidates: u16,
    /// Their place among the candidate lists.
    pub(super) list: usize,
    pub(super) coin: Coin,
}

/// A draw to be ordered, still without borrowed parts.
pub(super) struct DrawOrder {
    pub(super) id: SequenceId,
    pub(super) slot: Slot,
    pub(super) filters: Filters,
    /// Whether the request's own edits apply.
    pub(super) is_edited: bool,
    /// Instead of the tokens that may be chosen in general.
    pub(super) mask: Option<TokenMask>,
    /// Of `StepRoom::coins`.
    pub(super) coins: Range<usize>,
}

/// What a policy's verdict amounts to for a given request.
pub(super) enum Order {
    Take(Candidate),
    /// The most probable token after the edits.
    Greedy,
    Draw {
        n: u16,
        filters: Filters,
    },
    /// Pick among so many.
    Pick(u16),
    Force(TokenId),
    Stop(Arc<str>),
    Branch(Branch),
    Rewind(Rewind),
    Fail(Error),
}

/// Decides the token after the last one of `sequence`.
pub(super) fn decide(
    sequence: &mut Sequence,
    signals: &Signals,
    attention: Option<&AttentionSignals>,
    allowance: Allowance,
    options: &EngineOptions,
) -> (RegionId, DecisionKind, Order) {
    let (last, n_prompt) = (sequence.tokens.len() - 1, sequence.n_prompt);
    if let Err(error) = check_signals(sequence.age.0.0, last, signals, attention) {
        return (RegionId::default(), DecisionKind::Argmax, Order::Fail(error));
    }
    let is_edited = sequence.continuation().is_edited(last + 1);
    let argmax = argmax(signals, is_edited, last, options);
    let Sequence { tokens, task, .. } = sequence;
    choose(task.continuation_mut(), tokens, n_prompt, signals, attention, allowance, argmax, &options.classes)
}

/// What the policy's verdict about the token after `tokens` amounts to; `argmax` takes the most probable one.
#[expect(clippy::too_many_arguments, reason = "everything a decision depends on")]
pub(super) fn choose(
    continuation: &mut Continuation,
    tokens: &[TokenId],
    n_prompt: usize,
    signals: &Signals,
    attention: Option<&AttentionSignals>,
    allowance: Allowance,
    argmax: Order,
    classes: &TokenClasses,
) -> (RegionId, DecisionKind, Order) {
    let (last, n_output) = (tokens.len() - 1, tokens.len() - n_prompt);
    if let Some((token, region)) = continuation.next_forced() {
        let candidate = Candidate { token, logprob: signals.target_logprob };
        return (region, DecisionKind::Inject, Order::Take(candidate));
    }
    let job = Arc::clone(&continuation.job);
    if let Some(resumed) = continuation.resumed {
        let order = match resumed.resume.draw {
            Some(filters) => draw(resumed.kind, 1, filters, &job.parameters, argmax).1,
            None => argmax,
        };
        return (resumed.region, resumed.kind, checked(order, resumed.region, last, &*job.policy));
    }
    let mut state = std::mem::take(&mut continuation.state);
    // Whether the events want attention must not change what is decided.
    let attention = attention.filter(|_| job.needs.attention);
    let ask =
        |history: &History<'_>| Some(job.policy.decide(signals, attention, history, &mut state.clone()));
    note_what_is_wanted(continuation, tokens, n_prompt, allowance, classes, ask);
    let history = continuation.history(tokens, n_prompt, classes, allowance);
    let verdict = job.policy.decide(signals, attention, &history, &mut state);
    let decision = match verdict.decision {
        Decision::Inject { phrase } if !may_inject(&*job.policy, phrase, &history) => Decision::Argmax,
        Decision::Branch(_) if !allowance.branch => Decision::Argmax,
        Decision::Rewind(Rewind { to, .. })
            if !allowance.rewind || to >= n_output || to < continuation.n_told() =>
        {
            Decision::Argmax
        }
        Decision::Stop { .. } if allowance.tentative => Decision::Argmax,
        Decision::Refork(_) => Decision::Argmax,
        decision => decision,
    };
    let is_free = matches!(decision, Decision::Argmax | Decision::Stop { .. } | Decision::Rewind(_));
    assert!(is_free || job.needs.logits, "policy {} said it needs no logits, and draws", job.policy.name());
    continuation.state = state;
    if !allowance.tentative && !matches!(decision, Decision::Rewind(_)) {
        continuation.n_decided = n_output;
    }
    let kind = decision.kind();
    let (kind, order) = match decision {
        Decision::Argmax | Decision::Refork(_) => (kind, argmax),
        Decision::Draw(filters) => draw(kind, 1, filters, &job.parameters, argmax),
        Decision::BestOf { n, filters } => draw(kind, n.clamp(1, BEST_OF), filters, &job.parameters, argmax),
        Decision::Pick { .. } if job.parameters.temperature.is_some() => {
            draw(kind, 1, Filters::default(), &job.parameters, argmax)
        }
        Decision::Pick { .. } if continuation.raises(last + 1) => (DecisionKind::Argmax, argmax),
        Decision::Pick { candidates } => (kind, Order::Pick(candidates.clamp(1, PICK))),
        Decision::Inject { phrase } => {
            continuation.begin_phrase(phrase, verdict.region);
            (kind, Order::Force(job.policy.phrases()[phrase].tokens[0]))
        }
        Decision::Stop { reason } => (kind, Order::Stop(reason)),
        Decision::Branch(branch) => {
            let width = branch.width.clamp(2, BRANCH_WIDTH);
            (kind, Order::Branch(Branch { width, ..branch }))
        }
        Decision::Rewind(rewind) => (kind, Order::Rewind(rewind)),
    };
    (verdict.region, kind, checked(order, verdict.region, last, &*job.policy))
}

/// Where the budget is spent, notes whether the policy would have begun something if it were not.
fn note_what_is_wanted(
    continuation: &mut Continuation,
    tokens: &[TokenId],
    n_prompt: usize,
    allowance: Allowance,
    classes: &TokenClasses,
    ask: impl FnOnce(&History<'_>) -> Option<Verdict>,
) {
    if !allowance.is_spent() || continuation.was_held_back {
        return;
    }
    let allowance = allowance.as_if_affordable(continuation.job.needs);
    let wanted = ask(&continuation.history(tokens, n_prompt, classes, allowance));
    let begins = |verdict: Verdict| {
        matches!(verdict.decision, Decision::Branch(_) | Decision::Rewind(_) | Decision::Refork(_))
    };
    continuation.was_held_back = wanted.is_some_and(begins);
}

/// What the policy wants of an answer that is over, as far as it may have it; none lets the answer stand.
pub(super) fn conclude(
    continuation: &mut Continuation,
    tokens: &[TokenId],
    n_prompt: usize,
    finish: FinishReason,
    allowance: Allowance,
    classes: &TokenClasses,
) -> Option<Verdict> {
    let job = Arc::clone(&continuation.job);
    let mut state = std::mem::take(&mut continuation.state);
    let ask = |history: &History<'_>| job.policy.conclude(finish, history, &mut state.clone());
    note_what_is_wanted(continuation, tokens, n_prompt, allowance, classes, ask);
    let history = continuation.history(tokens, n_prompt, classes, allowance);
    let verdict = job.policy.conclude(finish, &history, &mut state);
    continuation.state = state;
    // What nobody was told of.
    let open = continuation.n_told()..tokens.len() - n_prompt;
    let Verdict { region, decision } = verdict?;
    let decision = match decision {
        Decision::Rewind(rewind) if allowance.rewind && open.contains(&rewind.to) => Decision::Rewind(rewind),
        Decision::Refork(refork) if allowance.refork => {
            let mut points: Vec<usize> = Vec::new();
            for &point in refork.points.iter().filter(|&point| open.contains(point)) {
                if points.len() < REFORK_POINTS && !points.contains(&point) {
                    points.push(point);
                }
            }
            (!points.is_empty()).then_some(Decision::Refork(Refork { points, ..refork }))?
        }
        Decision::Stop { reason } => Decision::Stop { reason },
        _ => return None,
    };
    Some(Verdict { region, decision })
}

/// The most probable token after the edits.
fn argmax(signals: &Signals, is_edited: bool, position: usize, options: &EngineOptions) -> Order {
    match &options.choosable {
        _ if is_edited => Order::Greedy,
        None => Order::Take(signals.best[0]),
        Some(choosable) => match signals.best.iter().find(|best| choosable.allows(best.token)) {
            Some(&best) => Order::Take(best),
            None => Order::Fail(numerical(format!(
                "position {position}: the two most probable rows of the vocabulary, {} and {}, stand for no token",
                signals.best[0].token, signals.best[1].token
            ))),
        },
    }
}

/// The order, unless it is a draw that cannot be made.
fn checked(order: Order, region: RegionId, position: usize, policy: &dyn Policy) -> Order {
    match order {
        Order::Draw { filters, .. } if !is_number(&filters) => {
            let region = policy.regions().get(usize::from(region.0)).map_or("?", |name| name);
            Order::Fail(numerical(format!(
                "position {position}: region {region} of policy {} computed {filters:?}, which is not a number",
                policy.name()
            )))
        }
        order => order,
    }
}

fn may_inject(policy: &dyn Policy, phrase: usize, history: &History<'_>) -> bool {
    let phrases = policy.phrases();
    assert!(phrase < phrases.len(), "policy {} injects phrase {phrase} of {}", policy.name(), phrases.len());
    history.may_inject(phrase, &phrases[phrase])
}

/// Whether the logits, and the attention where it was asked for, were numbers.
pub(super) fn check_signals(
    request: u64,
    position: usize,
    signals: &Signals,
    attention: Option<&AttentionSignals>,
) -> Result<(), Error> {
    let place = format_args!("request {request}, position {position}");
    let wrong = match attention {
        _ if signals.status() == Status::NotFinite => "the model's logits",
        Some(attention) if !is_finite(attention) => "the model's attention scores",
        _ => return Ok(()),
    };
    Err(numerical(format!(
        "{place}: {wrong} are not numbers (NaN or infinity); the weights or the precision are at fault, and this \
         request ends here"
    )))
}

fn numerical(message: String) -> Error {
    Error::new(Class::Model, "NumericalError", message)
}

fn is_finite(a: &AttentionSignals) -> bool {
    let all = [a.entropy, a.entropy_rel, a.varentropy, a.head_spread, a.head_disagreement, a.interaction];
    all.iter().all(|signal| signal.is_finite())
}

/// A draw under the request's own parameters, which win.
fn draw(
    kind: DecisionKind,
    n: u16,
    mut filters: Filters,
    parameters: &Parameters,
    argmax: Order,
) -> (DecisionKind, Order) {
    filters.temperature = match parameters.temperature {
        Some(temperature) => Temperature::Fixed(temperature),
        None => filters.temperature,
    };
    filters.top_k = parameters.top_k.unwrap_or(filters.top_k);
    filters.top_p = parameters.top_p.unwrap_or(filters.top_p);
    filters.min_p = parameters.min_p.unwrap_or(filters.min_p);
    match filters.temperature {
        Temperature::Greedy | Temperature::Fixed(0.0) => (DecisionKind::Argmax, argmax),
        _ => (kind, Order::Draw { n, filters }),
    }
}

/// Whether every number of `filters` can be drawn with.
fn is_number(filters: &Filters) -> bool {
    let temperature = match filters.temperature {
        Temperature::Greedy => true,
        Temperature::Fixed(temperature) => temperature.is_finite() && temperature > 0.0,
        Temperature::TargetEntropy(entropy) => entropy.is_finite() && entropy >= 0.0,
    };
    temperature && filters.top_p.is_finite() && filters.min_p.is_finite() && !filters.top_n_sigma.is_nan()
}
