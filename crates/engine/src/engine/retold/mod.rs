//! Answers decided again from what was recorded of them, by the same code that decided them the first time. Only the
//! decisions are made anew: tokens, lines and charges stay those of the record.

mod lines;

use super::decide::{Order, choose, conclude};
use crate::continuation::Continuation;
use crate::{
    Allowance, Decision, DecisionKind, FinishReason, Generate, Needs, Parameters, Policy, RegionId,
    RequestKey, Token, TokenClasses, Verdict,
};
use entropix_model::{AttentionSignals, Candidate, Signals, Temperature, TokenId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a recorded answer was an answer to.
pub struct Origin {
    /// Of the request.
    pub key: RequestKey,
    /// The request's own; edits of the logits are not replayed.
    pub parameters: Parameters,
    /// Which answer of the request.
    pub choice: u32,
    /// The last tokens of the prompt, as far as they are known.
    pub prompt_end: Vec<TokenId>,
    /// Tokens of the whole prompt.
    pub n_prompt: usize,
    /// Whether the logits were edited: then what a policy picks by a rule of its own is not known.
    pub is_edited: bool,
    /// Whether the job had a budget for all its answers together: then what the record did not begin may have been
    /// forbidden.
    pub is_rationed: bool,
}

/// A recorded token, or a decision no token came of.
pub struct Recorded<'a> {
    /// Of which line.
    pub branch: u32,
    /// Where it stands, or would have stood, in the sequence.
    pub position: usize,
    /// What was decided.
    pub kind: DecisionKind,
    /// What it was taken from; NaN where that is not known.
    pub signals: Signals,
    /// Likewise.
    pub attention: AttentionSignals,
    /// The likeliest tokens, falling.
    pub candidates: &'a [Candidate],
    /// How many were asked for: fewer are all there are.
    pub n_candidates: usize,
}

/// What is decided now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Retold {
    /// Nothing was to be decided: a forced token, or one a line begins with.
    Given,
    /// The record does not hold what a decision takes.
    Unknown,
    /// An answer that is over stands.
    Stands,
    /// This.
    Decided {
        /// The region that decides.
        region: RegionId,
        /// What it decides.
        kind: DecisionKind,
        /// The temperature of the draw, 0 where there is none; none when it is not known before the draw, or depends
        /// on what was not recorded.
        temperature: Option<f32>,
    },
}

/// An answer that is followed through its record. Functions fail, saying why, when the record contradicts itself.
pub struct RetoldAnswer {
    origin: Origin,
    /// Places of the prompt before `prompt_end`.
    offset: usize,
    /// What the policy itself asks for; its lines know more, so that any record can be followed.
    needs: Needs,
    lines: BTreeMap<u32, Line>,
    contest: Option<Contest>,
    spent: usize,
    /// Returns and further ends the policy began.
    rewinds: u32,
    reforks: u32,
    /// Returns of the record.
    attempts: u32,
    /// A decision no token came of, until it is carried out: its region, if the policy agrees.
    begun: Option<(DecisionKind, Option<RegionId>)>,
}

struct Line {
    tokens: Vec<TokenId>,
    continuation: Continuation,
    /// Nothing in it is decided.
    is_given: bool,
    /// Its next token is not decided.
    next_is_given: bool,
    /// Its next token begins a phrase.
    begins_phrase: bool,
    /// It grew or won since it was last asked what may be told.
    is_untold: bool,
    /// It has passed what its parent failed.
    has_passed: bool,
    /// What was to be picked was not known, so that the policy's state is not known either.
    is_lost: bool,
}

struct Contest {
    kind: DecisionKind,
    /// The parent first.
    lines: Vec<u32>,
    /// Children that begin with the next token of the parent.
    waiting: Vec<u32>,
    has_tie_break: bool,
}

type Followed<T> = Result<T, String>;

impl RetoldAnswer {
    /// An answer none of whose tokens is known yet.
    pub fn new(mut origin: Origin, policy: Arc<dyn Policy>, classes: &TokenClasses) -> Self {
        if origin.prompt_end.is_empty() {
            // A prompt has tokens; this one is no token of any text.
            origin.prompt_end.push(TokenId::MAX);
        }
        let tokens = origin.prompt_end.clone();
        let needs = policy.needs();
        let parameters = Parameters { n: 1, ..origin.parameters.clone() };
        let generate = Generate { parameters, policy, watcher: None };
        let told_all = Needs { trace: true, ..needs };
        let first = Continuation::with_needs(origin.key, &tokens, generate, usize::MAX, classes, told_all)
            .choice(origin.choice);
        let offset = origin.n_prompt.saturating_sub(tokens.len());
        let lines = BTreeMap::from([(0, Line::new(tokens, first))]);
        Self {
            origin,
            offset,
            needs,
            lines,
            contest: None,
            spent: 0,
            rewinds: 0,
            reforks: 0,
            attempts: 0,
            begun: None,
        }
    }

    /// The position of its first token.
    pub fn first(&self) -> usize {
        self.offset + self.n_prompt()
    }

    /// The position after its last token, of its first line where there are several.
    pub fn end_position(&self) -> usize {
        self.offset + self.lines.values().next().map_or(0, |line| line.tokens.len())
    }

    /// Tokens held for its lines.
    pub fn n_held(&self) -> usize {
        self.lines.values().map(|line| line.tokens.len()).sum()
    }

    /// The tokens of a line, the end of the prompt included; none for a line that is not there.
    pub fn tokens(&self, branch: u32) -> Option<&[TokenId]> {
        self.lines.get(&branch).map(|line| &line.tokens[..])
    }

    /// Goes on under another binding of the same policy.
    pub fn rebind(&mut self, policy: &Arc<dyn Policy>) {
        self.lines.values_mut().for_each(|line| line.continuation.rebind(policy));
    }

    /// Decides a token of a line again, then appends it as it was recorded.
    ///
    /// # Errors
    /// Why the record cannot be so.
    pub fn token(
        &mut self,
        recorded: &Recorded<'_>,
        token: Token,
        classes: &TokenClasses,
    ) -> Followed<Retold> {
        let branch = recorded.branch;
        self.check_next(branch, recorded.position)?;
        self.settle(branch, false, classes);
        let line = self.line(branch)?;
        let begins_phrase = std::mem::take(&mut line.begins_phrase);
        let is_given = std::mem::take(&mut line.next_is_given)
            || line.is_given
            || match recorded.kind {
                DecisionKind::Rewind | DecisionKind::Refork => true,
                DecisionKind::Inject => !begins_phrase,
                _ => false,
            };
        let retold = if is_given { Retold::Given } else { self.decide(recorded, classes)? };
        if let Retold::Decided { region, kind, .. } = retold {
            self.note_unrecorded(branch, region, kind)?;
        }
        self.begin_children(branch)?;
        let n_prompt = self.n_prompt();
        let line = self.line(branch)?;
        let length = line.tokens.len() + 1;
        let is_injected = matches!(retold, Retold::Decided { kind: DecisionKind::Inject, .. });
        if is_injected || recorded.kind == DecisionKind::Inject {
            line.continuation.note_forced(length);
        }
        let n_output = length - n_prompt;
        line.tokens.push(token.token);
        line.continuation.remember(token, n_output, length);
        line.is_untold = !line.continuation.is_tentative;
        Ok(retold)
    }

    /// Decides again where no token came of a decision; `is_over` says whether the answer was over.
    ///
    /// # Errors
    /// Why the record cannot be so.
    pub fn decision(
        &mut self,
        recorded: &Recorded<'_>,
        is_over: bool,
        classes: &TokenClasses,
    ) -> Followed<Retold> {
        let branch = recorded.branch;
        self.check_next(branch, recorded.position)?;
        self.settle(branch, is_over, classes);
        let retold = if is_over {
            self.end(branch, Some(recorded.kind), classes)?
        } else {
            self.decide(recorded, classes)?
        };
        let agreed = match retold {
            Retold::Decided { region, kind, .. } if kind == recorded.kind => Some(region),
            Retold::Decided { region, kind, .. } => {
                self.note_unrecorded(branch, region, kind)?;
                None
            }
            _ => None,
        };
        self.begun = Some((recorded.kind, agreed));
        Ok(retold)
    }

    /// Decides again whether an answer stands that has ended in the record. [`Retold::Given`] where the record says
    /// before that it was stopped.
    ///
    /// # Errors
    /// Why the record cannot be so.
    pub fn done(&mut self, is_stopped: bool, classes: &TokenClasses) -> Followed<Retold> {
        if matches!(self.begun, Some((DecisionKind::Stop, _))) {
            return Ok(Retold::Given);
        }
        if is_stopped {
            return Ok(Retold::Unknown);
        }
        let branch = match (self.lines.keys().next(), self.lines.len()) {
            (Some(&branch), 1) => branch,
            (_, n) => return Err(format!("an answer ends with {n} lines")),
        };
        self.settle(branch, true, classes);
        self.end(branch, None, classes)
    }

    fn n_prompt(&self) -> usize {
        self.origin.prompt_end.len()
    }

    fn line(&mut self, branch: u32) -> Followed<&mut Line> {
        self.lines.get_mut(&branch).ok_or_else(|| format!("line {branch} was never begun, or has ended"))
    }

    fn check_next(&mut self, branch: u32, position: usize) -> Followed<()> {
        let next = self.offset + self.line(branch)?.tokens.len();
        if position == next {
            return Ok(());
        }
        Err(format!("position {position} of line {branch}, whose next one is {next}"))
    }

    /// What a line was not told yet, before something else is decided about it.
    fn settle(&mut self, branch: u32, is_over: bool, classes: &TokenClasses) {
        let (n_prompt, allowance) = (self.n_prompt(), self.allowance(branch));
        let Some(line) = self.lines.get_mut(&branch) else { return };
        let n_output = line.tokens.len() - n_prompt;
        if std::mem::take(&mut line.has_passed) {
            line.continuation.n_decided = if is_over { usize::MAX } else { n_output };
        }
        if std::mem::take(&mut line.is_untold) && !is_over {
            let history = line.continuation.history(&line.tokens, n_prompt, classes, allowance);
            let n_settled = line.continuation.job.policy.settled(&history).min(n_output);
            line.continuation.tell(n_settled, drop);
        }
    }

    fn allowance(&self, branch: u32) -> Allowance {
        let Some(line) = self.lines.get(&branch) else { return Allowance::TENTATIVE };
        if line.continuation.is_tentative {
            return Allowance::TENTATIVE;
        }
        let used = (self.spent, self.rewinds, self.reforks);
        let n_output = line.tokens.len() - self.n_prompt();
        Allowance::within(&line.continuation.job.budget, self.needs, n_output, used, true)
    }

    fn decide(&mut self, recorded: &Recorded<'_>, classes: &TokenClasses) -> Followed<Retold> {
        let (branch, n_prompt, is_edited) = (recorded.branch, self.n_prompt(), self.origin.is_edited);
        let (allowance, is_rationed) = (self.allowance(branch), self.origin.is_rationed);
        let line = self.line(branch)?;
        let before = is_rationed.then(|| line.continuation.twin());
        let choose = |line: &mut Line, allowance| {
            let (tokens, signals) = (&line.tokens, &recorded.signals);
            let attention = Some(&recorded.attention);
            let continuation = &mut line.continuation;
            let chosen =
                choose(continuation, tokens, n_prompt, signals, attention, allowance, Order::Greedy, classes);
            line.continuation.forced = None;
            chosen
        };
        let mut chosen = choose(line, allowance);
        if let Some(before) = before
            && matches!(chosen.1, DecisionKind::Branch | DecisionKind::Rewind)
            && chosen.1 != recorded.kind
        {
            line.continuation = before;
            chosen = choose(line, allowance.without_extra());
        }
        let (region, mut kind, order) = chosen;
        let temperature = match order {
            Order::Draw { filters, .. } => match filters.temperature {
                Temperature::Fixed(temperature) => Some(temperature),
                Temperature::Greedy => Some(0.0),
                Temperature::TargetEntropy(_) => None,
            },
            Order::Pick(candidates) => {
                let listed = &recorded.candidates[..recorded.candidates.len().min(candidates.into())];
                let is_whole = recorded.n_candidates >= candidates.into() && !listed.is_empty();
                if !is_whole || is_edited || line.is_lost {
                    line.is_lost = true;
                    return Ok(Retold::Unknown);
                }
                let continuation = &mut line.continuation;
                let coin = continuation.coins.toss(recorded.position, continuation.attempt, 0);
                let policy = Arc::clone(&continuation.job);
                match policy.policy.pick(region, listed, &recorded.signals, coin, &mut continuation.state) {
                    Ok(pick) => {
                        kind = pick.kind;
                        Some(pick.temperature)
                    }
                    Err(_) => {
                        line.is_lost = true;
                        return Ok(Retold::Unknown);
                    }
                }
            }
            // A number of the draw that depends on what was not recorded.
            Order::Fail(_) => None,
            _ => Some(0.0),
        };
        Ok(Retold::Decided { region, kind, temperature })
    }

    /// What becomes of an answer that is over.
    fn end(
        &mut self,
        branch: u32,
        recorded: Option<DecisionKind>,
        classes: &TokenClasses,
    ) -> Followed<Retold> {
        let (allowance, n_prompt, is_rationed) =
            (self.allowance(branch), self.n_prompt(), self.origin.is_rationed);
        let line = self.line(branch)?;
        let mut end = |allowance| {
            conclude(&mut line.continuation, &line.tokens, n_prompt, FinishReason::Stop, allowance, classes)
        };
        let mut verdict = end(allowance);
        let kind = |verdict: &Option<Verdict>| verdict.as_ref().map(|verdict| verdict.decision.kind());
        let is_return = verdict.as_ref().is_some_and(|it| !matches!(it.decision, Decision::Stop { .. }));
        if is_rationed && is_return && kind(&verdict) != recorded {
            verdict = end(allowance.without_extra());
        }
        Ok(match verdict {
            Some(Verdict { region, decision }) => {
                Retold::Decided { region, kind: decision.kind(), temperature: Some(0.0) }
            }
            None => Retold::Stands,
        })
    }

    /// What the policy began and the record did not counts as begun: the line goes on as if it had come to nothing.
    /// What both begin is counted when it is carried out.
    fn note_unrecorded(&mut self, branch: u32, region: RegionId, kind: DecisionKind) -> Followed<()> {
        let n_prompt = self.n_prompt();
        match kind {
            DecisionKind::Rewind => self.rewinds += 1,
            DecisionKind::Refork => self.reforks += 1,
            _ => return Ok(()),
        }
        let line = self.line(branch)?;
        line.continuation.begun_by(region);
        line.continuation.n_decided = line.tokens.len() - n_prompt;
        Ok(())
    }
}

impl Line {
    fn new(tokens: Vec<TokenId>, continuation: Continuation) -> Self {
        Self {
            tokens,
            continuation,
            is_given: false,
            next_is_given: false,
            begins_phrase: false,
            is_untold: false,
            has_passed: false,
            is_lost: false,
        }
    }
}
