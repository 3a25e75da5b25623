//! How tokens join a line, and how answers end.

use super::Engine;
use super::decide::{Decided, conclude};
use crate::continuation::Over;
use crate::scheduler::SequenceId;
use crate::{
    Decision, DecisionKind, Done, Event, FinishReason, Raw, RegionId, RequestId, Token, Usage, Verdict,
};
use entropix_model::{AttentionSignals, Candidate, Error, Signals};
use std::sync::Arc;

/// The choice of a token once it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    pub(super) candidate: Candidate,
    pub(super) temperature: f32,
}

impl Engine {
    /// A token joins a line, as was decided for it or the line it comes from.
    pub(super) fn append(
        &mut self,
        id: SequenceId,
        decided: &Decided,
        chosen: Chosen,
        signals: Signals,
        mut top: Vec<Candidate>,
        events: &mut Vec<Event>,
    ) {
        let n_vocab = self.capacity.vocab_size;
        let Candidate { token, logprob } = chosen.candidate;
        assert!((token as usize) < n_vocab, "the backend chose token {token} of a vocabulary of {n_vocab}");
        if !matches!(decided.kind, DecisionKind::Branch | DecisionKind::Rewind | DecisionKind::Refork) {
            self.count(decided.kind);
        }
        let (sequence, _) = self.scheduler.get_with_pool(id);
        let position = sequence.tokens.len();
        sequence.tokens.push(token);
        let (n_output, length) = (sequence.n_output(), sequence.tokens.len());
        let (request, choice, branch) = sequence.age;
        let continuation = sequence.task.continuation_mut();
        let job = Arc::clone(&continuation.job);
        let logprobs = usize::from(job.parameters.logprobs);
        if logprobs <= 2 {
            top.extend_from_slice(&signals.best[..logprobs.min(n_vocab)]);
        }
        // Candidates and signals may differ in the last bit; how many were asked for must not show.
        for (told, best) in top.iter_mut().zip(&signals.best) {
            if told.token == best.token {
                *told = *best;
            }
        }
        let begins = continuation.forced.filter(|forced| forced.next == 0);
        let token = Token {
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
            end: false,
        };
        let raw = job.parameters.raw_events.then(|| token.clone());
        let over = continuation.remember(token, n_output, length);
        if over == Over::End {
            continuation.mark_end();
        }
        let is_tentative = continuation.is_tentative;
        if let Some(token) = raw {
            if let Some(forced) = begins {
                let phrase = forced.phrase;
                events.push(Event::Raw(Raw::Inject { request, choice, branch, phrase, position }));
            }
            let token = Token { end: over == Over::End, ..token };
            events.push(Event::Raw(Raw::Token { branch, token }));
        }
        let finish = match over {
            Over::End | Over::Watched => Some(FinishReason::Stop),
            Over::No if n_output == job.max_tokens => Some(FinishReason::Length),
            Over::No => None,
        };
        match finish {
            _ if is_tentative => self.arrive(id, finish, events),
            Some(finish) => self.conclude(id, finish, events),
            None => self.tell(id, events),
        }
    }

    /// Tells what of an answer's line will not be taken back.
    pub(super) fn tell(&mut self, id: SequenceId, events: &mut Vec<Event>) {
        let allowance = self.allowance(id);
        let (sequence, _) = self.scheduler.get_with_pool(id);
        let (n_prompt, n_output) = (sequence.n_prompt, sequence.n_output());
        let continuation = sequence.task.continuation_mut();
        let history = continuation.history(&sequence.tokens, n_prompt, &self.options.classes, allowance);
        let n_settled = continuation.job.policy.settled(&history).min(n_output);
        let n_events = events.len();
        continuation.tell(n_settled, |token| events.push(Event::Token(token)));
        self.stats.tokens_out += (events.len() - n_events) as u64;
    }

    /// An answer is over, unless its policy wants more of it.
    pub(super) fn conclude(&mut self, id: SequenceId, finish: FinishReason, events: &mut Vec<Event>) {
        let allowance = self.allowance(id);
        let (sequence, _) = self.scheduler.get_with_pool(id);
        let n_prompt = sequence.n_prompt;
        let (tokens, continuation) = (&sequence.tokens, sequence.task.continuation_mut());
        let classes = &self.options.classes;
        let verdict = conclude(continuation, tokens, n_prompt, finish, allowance, classes);
        let Some(Verdict { region, decision }) = verdict else {
            return self.finish(id, finish, None, events);
        };
        self.tell_decision(id, region, decision.kind(), None, events);
        match decision {
            Decision::Rewind(rewind) => self.rewind(id, &rewind, region, Some(finish), events),
            Decision::Refork(refork) => self.refork(id, &refork, region, finish, events),
            Decision::Stop { reason } => {
                self.count(DecisionKind::Stop);
                self.finish(id, FinishReason::Abstain, Some(reason), events);
            }
            _ => self.finish(id, finish, None, events),
        }
    }

    /// Tells of a decision no token comes of; `seen` is what it was made from, nothing at the end of an answer.
    pub(super) fn tell_decision(
        &self,
        id: SequenceId,
        region: RegionId,
        decision: DecisionKind,
        seen: Option<(Signals, Option<AttentionSignals>)>,
        events: &mut Vec<Event>,
    ) {
        let Some(sequence) = self.scheduler.get(id) else { return };
        if !sequence.continuation().job.parameters.raw_events {
            return;
        }
        let ((request, choice, branch), position) = (sequence.age, sequence.tokens.len());
        events.push(Event::Raw(Raw::Decision { request, choice, branch, position, region, decision, seen }));
    }

    pub(super) fn count(&mut self, kind: DecisionKind) {
        if let Some(place) = DecisionKind::ALL.iter().position(|&other| other == kind) {
            self.stats.decisions[place] += 1;
        }
    }

    /// Ends an answer and tells the rest of it.
    pub(super) fn finish(
        &mut self,
        id: SequenceId,
        finish: FinishReason,
        reason: Option<Arc<str>>,
        events: &mut Vec<Event>,
    ) {
        let mut sequence = self.scheduler.remove(id);
        let answer = self.answers.remove(&sequence.answer()).unwrap_or_default();
        let usage = Usage {
            prompt_tokens: sequence.n_prompt,
            completion_tokens: sequence.n_output(),
            discarded_tokens: answer.spent,
            branches: answer.branches,
            rewinds: answer.rewinds,
            reforks: answer.reforks,
            shared_tokens: sequence.n_shared.unwrap_or(0),
        };
        let (request, choice, _) = sequence.age;
        let n_output = sequence.n_output();
        if let crate::sequence::Task::Continue(continuation) = &mut sequence.task {
            self.stats.over_budget += u64::from(continuation.was_held_back);
            let n_events = events.len();
            continuation.tell(n_output, |token| events.push(Event::Token(token)));
            self.stats.tokens_out += (events.len() - n_events) as u64;
        }
        events.push(Event::Done(Done { request, choice, finish, reason, usage }));
    }

    /// Ends a request with all its choices.
    pub(super) fn fail(&mut self, request: RequestId, error: Error, events: &mut Vec<Event>) {
        self.forget(request);
        self.scheduler.remove_request(request);
        self.stats.failed += 1;
        events.push(Event::Failed { request, error });
    }
}
