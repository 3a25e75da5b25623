//! After the forward pass: what was computed is booked, decisions are made, draws ordered, tokens appended.

use super::decide::{self, Decided, DrawOrder, Order, Outcome};
use super::{Engine, StepRoom};
use crate::scheduler::{PlannedRow, Scheduler, SequenceId};
use crate::sequence::{Over, Sequence, Task};
use crate::{DecisionKind, Done, EngineOptions, Event, FinishReason, RequestId, Scored, Token, Usage};
use entropix_model::{
    AttentionSignals, Candidate, Coin, Draw, Drawn, Error, Filters, Result, Signals, Slot, Status, StepId,
    Temperature, TokenMask,
};
use std::sync::Arc;

/// The choice of a token once it is known.
struct Chosen {
    candidate: Candidate,
    temperature: f32,
}

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
        let forks: Vec<Sequence> = (1..=n_forks).map(|choice| sequence.fork(choice, pool)).collect();
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
        let (sequence, _) = self.scheduler.get_with_pool(id);
        let signals = &room.signals[slot as usize];
        let (region, kind, order) = decide::decide(sequence, signals, attention.as_ref(), &self.options);
        let Task::Continue(continuation) = &sequence.task else { return };
        let (coins, position) = (continuation.coins, sequence.tokens.len());
        let logprobs = continuation.job.parameters.logprobs;
        let greedy = Filters { temperature: Temperature::Greedy, ..Filters::default() };
        let mut draw = |filters, n: u16, mask: Option<TokenMask>| {
            let first = room.coins.len();
            room.coins.extend((0..u32::from(n)).map(|draw| {
                #[cfg(test)]
                if self.scheduler.pool.fault == Some(crate::faults::Fault::SharedCoins) {
                    self.tosses += 1;
                    return crate::philox::Coins::new(0, 0, &[]).toss(self.tosses as usize, 0, draw);
                }
                coins.toss(position, 0, draw)
            }));
            let (is_edited, coins) = (mask.is_none(), first..room.coins.len());
            room.draws.push(DrawOrder { id, slot, filters, is_edited, mask, coins });
            room.draws.len() - 1
        };
        let outcome = match order {
            Order::Take(candidate) => Outcome::Take(candidate),
            Order::Greedy => Outcome::Draw(draw(greedy, 0, None)),
            Order::Draw { n, filters } => Outcome::Draw(draw(filters, n, None)),
            // A draw from this token alone, for its ln p.
            Order::Force(token) => {
                let mut mask = TokenMask::none(self.capacity.vocab_size);
                mask.allow(token);
                Outcome::Force(token, draw(greedy, 0, Some(mask)))
            }
            Order::Stop(reason) => Outcome::Stop(reason),
            Order::Fail(error) => Outcome::Fail(error),
        };
        let takes_token = matches!(outcome, Outcome::Take(_) | Outcome::Draw(_) | Outcome::Force(..));
        let list = (takes_token && logprobs > 2).then(|| {
            room.candidate_asks.push((slot, logprobs));
            room.candidate_asks.len() - 1
        });
        room.decided.push(Decided { id, slot, attention, region, kind, outcome, list });
    }

    /// Has the backend draw and list candidates, each in one call.
    pub(super) fn draw(&mut self, step: StepId, room: &mut StepRoom) -> Result<()> {
        room.drawn.clear();
        if !room.draws.is_empty() {
            let draws: Vec<Draw<'_>> = room
                .draws
                .iter()
                .map(|order| borrow(&self.scheduler, &self.options, order, &room.coins))
                .collect();
            let nothing = Drawn { token: None, logprob: 0.0, temperature: 0.0 };
            room.drawn.resize(draws.len(), nothing);
            self.backend.draw(step, &draws, &mut room.drawn)?;
        }
        room.candidates.clear();
        if !room.candidate_asks.is_empty() {
            self.backend.candidates(step, &room.candidate_asks, &mut room.candidates)?;
        }
        Ok(())
    }

    /// Carries the decisions out.
    pub(super) fn apply(&mut self, room: &mut StepRoom, events: &mut Vec<Event>) {
        for decided in room.decided.drain(..) {
            // The request may have failed in another of its choices.
            let Some(sequence) = self.scheduler.get(decided.id) else { continue };
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
                Outcome::Stop(reason) => {
                    self.count(DecisionKind::Stop);
                    self.finish(decided.id, FinishReason::Abstain, Some(Arc::clone(reason)), events);
                    continue;
                }
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
            self.append(decided, signals, chosen, top, events);
        }
    }

    /// A token joins the output.
    fn append(
        &mut self,
        decided: Decided,
        signals: Signals,
        chosen: Chosen,
        mut top: Vec<Candidate>,
        events: &mut Vec<Event>,
    ) {
        let n_vocab = self.capacity.vocab_size;
        let Candidate { token, logprob } = chosen.candidate;
        assert!((token as usize) < n_vocab, "the backend chose token {token} of a vocabulary of {n_vocab}");
        self.count(decided.kind);
        self.stats.tokens_out += 1;
        let (sequence, _) = self.scheduler.get_with_pool(decided.id);
        let position = sequence.tokens.len();
        sequence.tokens.push(token);
        let (n_output, length) = (sequence.n_output(), sequence.tokens.len());
        let (request, choice) = sequence.age;
        let Task::Continue(continuation) = &mut sequence.task else { return };
        let over = continuation.remember(token, logprob, n_output, length);
        let logprobs = usize::from(continuation.job.parameters.logprobs);
        if logprobs <= 2 {
            top.extend_from_slice(&signals.best[..logprobs.min(n_vocab)]);
        }
        let is_full = n_output == continuation.job.max_tokens;
        events.push(Event::Token(Token {
            request,
            choice,
            token,
            position,
            signals,
            attention: decided.attention,
            logprob,
            temperature: chosen.temperature,
            top,
            region: decided.region,
            decision: decided.kind,
            end: over == Over::End,
        }));
        match over {
            Over::End | Over::Watched => self.finish(decided.id, FinishReason::Stop, None, events),
            Over::No if is_full => self.finish(decided.id, FinishReason::Length, None, events),
            Over::No => {}
        }
    }

    fn count(&mut self, kind: DecisionKind) {
        if let Some(place) = DecisionKind::ALL.iter().position(|&other| other == kind) {
            self.stats.decisions[place] += 1;
        }
    }

    fn finish(
        &mut self,
        id: SequenceId,
        finish: FinishReason,
        reason: Option<Arc<str>>,
        events: &mut Vec<Event>,
    ) {
        let sequence = self.scheduler.remove(id);
        let usage = Usage {
            prompt_tokens: sequence.n_prompt,
            completion_tokens: sequence.n_output(),
            discarded_tokens: 0,
            shared_tokens: sequence.n_shared.unwrap_or(0),
        };
        let (request, choice) = sequence.age;
        events.push(Event::Done(Done { request, choice, finish, reason, usage }));
    }

    /// Ends a request with all its choices.
    fn fail(&mut self, request: RequestId, error: Error, events: &mut Vec<Event>) {
        self.scheduler.remove_request(request);
        self.stats.failed += 1;
        events.push(Event::Failed { request, error });
    }
}

/// The draw of an order, its edits and coins where they are.
fn borrow<'a>(
    scheduler: &'a Scheduler,
    options: &'a EngineOptions,
    order: &'a DrawOrder,
    coins: &'a [Coin],
) -> Draw<'a> {
    let edits = match scheduler.get(order.id).map(|sequence| &sequence.task) {
        Some(Task::Continue(continuation)) if order.is_edited => continuation.edits.as_slice(),
        _ => &[],
    };
    let coins = &coins[order.coins.clone()];
    Draw {
        slot: order.slot,
        filters: order.filters,
        edits,
        mask: order.mask.as_ref().or(options.choosable.as_ref()),
        coins,
    }
}

fn nothing_to_draw(request: u64, position: usize) -> Error {
    Error::data(
        "NothingToDraw",
        format!(
            "request {request}, position {position}: logit_bias, min_tokens and the model leave no token; allow some \
             or lower min_tokens"
        ),
    )
}
