//! After the forward pass: what was computed is booked, decisions are made, draws ordered, tokens appended.

use super::append::Chosen;
use super::decide::{self, Decided, DrawOrder, Order, Outcome, Picking};
use super::{Engine, StepRoom};
use crate::scheduler::{PlannedRow, Scheduler, SequenceId};
use crate::sequence::{Sequence, Task};
use crate::{DecisionKind, Event, FinishReason, Scored};
use entropix_model::{
    AttentionSignals, Candidate, Coin, Draw, Drawn, Edit, Error, Filters, Result, Signals, Slot, Status,
    StepId, Temperature, TokenId, TokenMask,
};
use std::borrow::Cow;
use std::sync::Arc;

const GREEDY: Filters = Filters {
    temperature: Temperature::Greedy,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    top_n_sigma: f32::INFINITY,
    p_less: false,
};

impl Engine {
    /// Books every row and decides every continuation that has reached its last position.
    pub(super) fn settle(&mut self, room: &mut StepRoom, events: &mut Vec<Event>) {
        room.decided.clear();
        room.draws.clear();
        room.coins.clear();
        room.candidate_asks.clear();
        let mut n_attended = 0;
        for place in 0..room.plan.rows.len() {
            let row = room.plan.rows[place];
            let slots = room.batch.rows[place].asks.clone();
            let signals = &room.signals[slots.clone()];
            let n_attention = room.batch.asks[slots.clone()].iter().filter(|ask| ask.attention).count();
            let attention = n_attended..n_attended + n_attention;
            n_attended += n_attention;
            self.book(row, signals.iter().all(|signals| signals.status() == Status::Ok));
            let attention = &room.attention[attention];
            if let Task::Score { .. } = self.scheduler.get_with_pool(row.id).0.task {
                self.report_scores(row.id, signals, attention, events);
            } else if let Some(slot) = slots.clone().next() {
                let attention = attention.first().copied();
                self.decide_choices(row.id, slot as Slot, attention, room);
            }
        }
    }

    /// Notes that a row's positions are in the cache, and publishes the blocks they filled.
    fn book(&mut self, row: PlannedRow, is_sound: bool) {
        let (sequence, pool) = self.scheduler.get_with_pool(row.id);
        if sequence.n_computed == 0 {
            self.stats.tokens_in += sequence.n_prompt as u64;
            self.stats.shared_tokens += sequence.n_shared.unwrap_or(0) as u64;
        }
        let known = sequence.n_computed.saturating_sub(sequence.n_cached).min(row.n_tokens);
        self.stats.recomputed_tokens += known as u64;
        sequence.n_cached += row.n_tokens;
        sequence.n_computed = sequence.n_computed.max(sequence.n_cached);
        if is_sound {
            sequence.table.publish(&sequence.tokens[..sequence.n_cached], pool);
        }
    }

    fn report_scores(
        &mut self,
        id: SequenceId,
        signals: &[Signals],
        attention: &[AttentionSignals],
        events: &mut Vec<Event>,
    ) {
        let (sequence, _) = self.scheduler.get_with_pool(id);
        let request = sequence.age.0;
        let Task::Score { n_reported, .. } = &mut sequence.task else { return };
        for (i, signals) in signals.iter().enumerate() {
            let attention = attention.get(i).copied();
            if let Err(error) = decide::check_signals(request.0, *n_reported, signals, attention.as_ref()) {
                return self.fail(request, error, events);
            }
            events.push(Event::Scored(Scored {
                request,
                position: *n_reported,
                signals: *signals,
                attention,
            }));
            *n_reported += 1;
        }
        if *n_reported == sequence.tokens.len() {
            self.finish(id, FinishReason::Stop, None, events);
        }
    }

    /// Decides a continuation, after making the other choices out of it if it is the first to have read the
    /// prompt.
    fn decide_choices(
        &mut self,
        id: SequenceId,
        slot: Slot,
        attention: Option<AttentionSignals>,
        room: &mut StepRoom,
    ) {
        let (sequence, pool) = self.scheduler.get_with_pool(id);
        let Task::Continue(continuation) = &mut sequence.task else { return };
        let n_forks = std::mem::take(&mut continuation.n_forks);
        let forks: Vec<Sequence> = (1..=n_forks).map(|choice| sequence.choice(choice, pool)).collect();
        self.decide_one(id, slot, attention, room);
        for fork in forks {
            let fork = self.scheduler.adopt(fork);
            self.decide_one(fork, slot, attention, room);
        }
    }

    fn decide_one(
        &mut self,
        id: SequenceId,
        slot: Slot,
        attention: Option<AttentionSignals>,
        room: &mut StepRoom,
    ) {
        let allowance = self.allowance(id);
        let (sequence, _) = self.scheduler.get_with_pool(id);
        let signals = &room.signals[slot as usize];
        let (region, kind, order) =
            decide::decide(sequence, signals, attention.as_ref(), allowance, &self.options);
        let (age, continuation) = (sequence.age, sequence.continuation());
        let (coins, attempt, position) = (continuation.coins, continuation.attempt, sequence.tokens.len());
        let logprobs = continuation.job.parameters.logprobs;
        let n_edits =
            if matches!(order, Order::Pick(_)) { continuation.edits(position, &[]).len() } else { 0 };
        let mut draw = |filters, n: u16, mask: Option<TokenMask>| {
            let first = room.coins.len();
            room.coins.extend((0..u32::from(n)).map(|draw| {
                #[cfg(test)]
                if self.scheduler.pool.fault == Some(crate::faults::Fault::SharedCoins) {
                    self.tosses += 1;
                    return crate::philox::Coins::new(0, 0, &[]).toss(self.tosses as usize, 0, draw);
                }
                coins.toss(position, attempt, draw)
            }));
            let (is_edited, coins) = (mask.is_none(), first..room.coins.len());
            room.draws.push(DrawOrder { id, slot, filters, is_edited, mask, coins });
            room.draws.len() - 1
        };
        let outcome = match order {
            Order::Take(candidate) => Outcome::Take(candidate),
            Order::Greedy => Outcome::Draw(draw(GREEDY, 0, None)),
            Order::Draw { n, filters } => Outcome::Draw(draw(filters, n, None)),
            Order::Pick(candidates) => {
                let coin = coins.toss(position, attempt, 0);
                // So that as many are left when all of the edits are bans.
                let n_asked = (usize::from(candidates) + n_edits)
                    .min(self.capacity.max_candidates)
                    .min(self.capacity.vocab_size);
                room.candidate_asks.push((slot, n_asked as u16));
                let list = room.candidate_asks.len() - 1;
                Outcome::Pick(Picking { candidates, list, coin })
            }
            // A draw from this token alone, for its ln p.
            Order::Force(token) => {
                let mut mask = TokenMask::none(self.capacity.vocab_size);
                mask.allow(token);
                Outcome::Force(token, draw(GREEDY, 0, Some(mask)))
            }
            Order::Stop(reason) => Outcome::Stop(reason),
            Order::Branch(branch) => Outcome::Branch(branch, Vec::new()),
            Order::Rewind(rewind) => Outcome::Rewind(rewind),
            Order::Fail(error) => Outcome::Fail(error),
        };
        let takes_token = !matches!(outcome, Outcome::Rewind(_) | Outcome::Stop(_) | Outcome::Fail(_));
        let list = (takes_token && logprobs > 2).then(|| {
            room.candidate_asks.push((slot, logprobs));
            room.candidate_asks.len() - 1
        });
        room.decided.push(Decided { id, age, slot, attention, region, kind, outcome, list });
    }

    /// Has the backend draw and list candidates, in one call.
    pub(super) fn draw(&mut self, step: StepId, room: &mut StepRoom) -> Result<()> {
        room.drawn.clear();
        room.candidates.clear();
        if !room.draws.is_empty() || !room.candidate_asks.is_empty() {
            let edits = room.draws.iter().map(|order| edits(&self.scheduler, order)).collect::<Vec<_>>();
            let mask = self.options.choosable.as_ref();
            room.drawn.resize(room.draws.len(), NOTHING);
            let draws: Vec<Draw<'_>> = room
                .draws
                .iter()
                .zip(&edits)
                .map(|(order, edits)| draw(order, edits, mask, &room.coins))
                .collect();
            let (asks, lists) = (&room.candidate_asks, &mut room.candidates);
            self.backend.choose(step, &draws, &mut room.drawn, asks, lists)?;
            // Where what was tried before was the only choice, it has to do again.
            for (order, drawn) in room.draws.iter().zip(&mut room.drawn) {
                let line = self.scheduler.get(order.id).filter(|_| order.is_edited && drawn.token.is_none());
                let Some(line) = line else { continue };
                if line.continuation().has_bans(line.tokens.len()) {
                    let again = draw(order, line.continuation().own_edits(), mask, &room.coins);
                    self.backend.draw(step, &[again], std::slice::from_mut(drawn))?;
                }
            }
        }
        self.draw_children(step, &mut room.decided)
    }

    /// Finds the first tokens of the children of every branching: the most probable, the most probable but
    /// that one, and so on, each round in one call.
    fn draw_children(&mut self, step: StepId, decided: &mut [Decided]) -> Result<()> {
        for round in 0.. {
            let mut asked: Vec<&mut Decided> = decided
                .iter_mut()
                .filter(|decided| match &decided.outcome {
                    Outcome::Branch(branch, first) => first.len() == round && round < branch.width.into(),
                    _ => false,
                })
                .collect();
            if asked.is_empty() {
                break;
            }
            let edits: Vec<Cow<'_, [Edit]>> = asked
                .iter()
                .map(|decided| match (&decided.outcome, self.scheduler.get(decided.id)) {
                    (Outcome::Branch(_, first), Some(sequence)) => {
                        let taken: Vec<TokenId> = first.iter().map(|candidate| candidate.token).collect();
                        sequence.continuation().edits(sequence.tokens.len(), &taken)
                    }
                    _ => Cow::Borrowed(&[][..]),
                })
                .collect();
            let mask = self.options.choosable.as_ref();
            let draws: Vec<Draw<'_>> = (asked.iter().zip(&edits))
                .map(|(decided, edits)| Draw { slot: decided.slot, filters: GREEDY, edits, mask, coins: &[] })
                .collect();
            let mut drawn = vec![NOTHING; draws.len()];
            self.backend.draw(step, &draws, &mut drawn)?;
            for (decided, drawn) in asked.iter_mut().zip(drawn) {
                if let (Outcome::Branch(_, first), Some(token)) = (&mut decided.outcome, drawn.token) {
                    first.push(Candidate { token, logprob: drawn.logprob });
                }
            }
        }
        Ok(())
    }

    /// Carries the decisions out.
    pub(super) fn apply(&mut self, room: &mut StepRoom, events: &mut Vec<Event>) {
        let mut all = std::mem::take(&mut room.decided);
        for mut decided in all.drain(..) {
            // The request may have failed in another of its choices, the line lost against another one.
            let Some(sequence) = self.scheduler.get(decided.id).filter(|it| it.age == decided.age) else {
                continue;
            };
            let request = sequence.age.0;
            let drawn = |draw: usize| room.drawn[draw];
            let chosen = match &decided.outcome {
                &Outcome::Take(candidate) => Chosen { candidate, temperature: 0.0 },
                &Outcome::Force(token, draw) => {
                    let logprob =
                        if drawn(draw).token.is_some() { drawn(draw).logprob } else { f32::NEG_INFINITY };
                    Chosen { candidate: Candidate { token, logprob }, temperature: 0.0 }
                }
                &Outcome::Draw(draw) => match drawn(draw).token {
                    Some(token) => {
                        let candidate = Candidate { token, logprob: drawn(draw).logprob };
                        Chosen { candidate, temperature: drawn(draw).temperature }
                    }
                    None => {
                        let error = nothing_to_draw(request.0, sequence.tokens.len());
                        self.fail(request, error, events);
                        continue;
                    }
                },
                &Outcome::Pick(picking) => match self.pick(&mut decided, picking, room) {
                    Ok(chosen) => chosen,
                    Err(error) => {
                        self.fail(request, error, events);
                        continue;
                    }
                },
                Outcome::Stop(reason) => {
                    let seen = Some((room.signals[decided.slot as usize], decided.attention));
                    self.tell_decision(decided.id, decided.region, DecisionKind::Stop, seen, events);
                    self.count(DecisionKind::Stop);
                    self.finish(decided.id, FinishReason::Abstain, Some(Arc::clone(reason)), events);
                    continue;
                }
                Outcome::Rewind(rewind) => {
                    let seen = Some((room.signals[decided.slot as usize], decided.attention));
                    self.tell_decision(decided.id, decided.region, DecisionKind::Rewind, seen, events);
                    self.rewind(decided.id, rewind, decided.region, None, events);
                    continue;
                }
                Outcome::Branch(_, first) => match first[..] {
                    [] => {
                        let error = nothing_to_draw(request.0, sequence.tokens.len());
                        self.fail(request, error, events);
                        continue;
                    }
                    [only] => Chosen { candidate: only, temperature: 0.0 },
                    _ => {
                        let signals = room.signals[decided.slot as usize];
                        let top = decided.list.map_or(Vec::new(), |list| room.candidates.list(list).to_vec());
                        self.branch(&decided, signals, &top, events);
                        continue;
                    }
                },
                Outcome::Fail(error) => {
                    self.fail(request, error.clone(), events);
                    continue;
                }
            };
            let signals = room.signals[decided.slot as usize];
            let top = match decided.list {
                Some(list) => room.candidates.list(list).to_vec(),
                None => Vec::new(),
            };
            self.append(decided.id, &decided, chosen, signals, top, events);
        }
        room.decided = all;
    }
}

const NOTHING: Drawn = Drawn { token: None, logprob: 0.0, temperature: 0.0 };

/// The edits of an order, where they are.
fn edits<'a>(scheduler: &'a Scheduler, order: &DrawOrder) -> Cow<'a, [Edit]> {
    match scheduler.get(order.id) {
        Some(sequence) if order.is_edited => sequence.continuation().edits(sequence.tokens.len(), &[]),
        _ => Cow::Borrowed(&[]),
    }
}

/// The draw of an order; `mask` is of the tokens that may be chosen in general.
fn draw<'a>(
    order: &'a DrawOrder,
    edits: &'a [Edit],
    mask: Option<&'a TokenMask>,
    coins: &'a [Coin],
) -> Draw<'a> {
    Draw {
        slot: order.slot,
        filters: order.filters,
        edits,
        mask: order.mask.as_ref().or(mask),
        coins: &coins[order.coins.clone()],
    }
}

pub(super) fn nothing_to_draw(request: u64, position: usize) -> Error {
    Error::data(
        "NothingToDraw",
        format!(
            "request {request}, position {position}: logit_bias, min_tokens and the model leave no token; allow some \
             or lower min_tokens"
        ),
    )
}
