//! From the signals of a position to the order that carries the decision out. Pure but for the state of the
//! policy.

use crate::scheduler::SequenceId;
use crate::sequence::{Sequence, Task};
use crate::{Decision, DecisionKind, EngineOptions, History, Parameters, Policy, RegionId, limits::BEST_OF};
use entropix_model::{
    AttentionSignals, Candidate, Class, Error, Filters, Signals, Slot, Status, Temperature, TokenId,
    TokenMask,
};
use std::{ops::Range, sync::Arc};

/// A decision on its way: made in one pass over the rows, carried out in a second one when the draws are
/// back.
pub(super) struct Decided {
    pub(super) id: SequenceId,
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
    /// This token, whose ln p draw number so many says.
    Force(TokenId, usize),
    /// No further token.
    Stop(Arc<str>),
    /// The request cannot go on.
    Fail(Error),
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
    Force(TokenId),
    Stop(Arc<str>),
    Fail(Error),
}

/// Decides the token after the last one of `sequence`.
pub(super) fn decide(
    sequence: &mut Sequence,
    signals: &Signals,
    attention: Option<&AttentionSignals>,
    options: &EngineOptions,
) -> (RegionId, DecisionKind, Order) {
    let position = sequence.tokens.len() - 1;
    let Task::Continue(continuation) = &mut sequence.task else { panic!("a decision in a scored text") };
    if let Err(error) = check_signals(sequence.age.0.0, position, signals, attention) {
        return (RegionId::default(), DecisionKind::Argmax, Order::Fail(error));
    }
    if let Some((token, region)) = continuation.next_forced() {
        let candidate = Candidate { token, logprob: signals.target_logprob };
        return (region, DecisionKind::Inject, Order::Take(candidate));
    }
    let job = Arc::clone(&continuation.job);
    let mut state = std::mem::take(&mut continuation.state);
    let history = continuation.history(&sequence.tokens, sequence.n_prompt, &options.classes);
    // Whether the events want attention must not change what is decided.
    let attention = attention.filter(|_| job.policy.needs().attention);
    let verdict = job.policy.decide(signals, attention, &history, &mut state);
    let decision = match verdict.decision {
        Decision::Inject { phrase } if !may_inject(&*job.policy, phrase, &history) => Decision::Argmax,
        decision => decision,
    };
    let is_free = matches!(decision, Decision::Argmax | Decision::Stop { .. });
    assert!(
        is_free || job.policy.needs().logits,
        "policy {} said it needs no logits, and draws",
        job.policy.name()
    );
    continuation.state = state;
    let is_edited = !continuation.edits.as_slice().is_empty();
    let argmax = match &options.choosable {
        _ if is_edited => Order::Greedy,
        None => Order::Take(signals.best[0]),
        Some(choosable) => match signals.best.iter().find(|best| choosable.allows(best.token)) {
            Some(&best) => Order::Take(best),
            None => Order::Fail(numerical(format!(
                "position {position}: the two most probable rows of the vocabulary, {} and {}, stand for no token",
                signals.best[0].token, signals.best[1].token
            ))),
        },
    };
    let kind = decision.kind();
    let (kind, order) = match decision {
        Decision::Argmax => (kind, argmax),
        Decision::Draw(filters) => draw(kind, 1, filters, &job.parameters, argmax),
        Decision::BestOf { n, filters } => draw(kind, n.clamp(1, BEST_OF), filters, &job.parameters, argmax),
        Decision::Inject { phrase } => {
            continuation.begin_phrase(phrase, verdict.region);
            (kind, Order::Force(job.policy.phrases()[phrase].tokens[0]))
        }
        Decision::Stop { reason } => (kind, Order::Stop(reason)),
    };
    let order = match order {
        Order::Draw { filters, .. } if !is_number(&filters) => {
            let region = job.policy.regions().get(usize::from(verdict.region.0)).map_or("?", |name| name);
            Order::Fail(numerical(format!(
                "position {position}: region {region} of policy {} computed {filters:?}, which is not a number",
                job.policy.name()
            )))
        }
        order => order,
    };
    (verdict.region, kind, order)
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
