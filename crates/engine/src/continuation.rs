//! What a line of an answer remembers besides its tokens: the state of everything that watches it, how its
//! tokens came about, and what it needs to go back.

use crate::edits::Edits;
use crate::philox::Coins;
use crate::{
    Allowance, Budget, DecisionKind, Generate, History, Injections, Lots, Needs, Parameters, Policy,
    PolicyState, RegionId, RequestKey, Resume, Token, TokenClasses, Watch, Watcher,
};
use entropix_model::{Ask, Edit, TokenId};
use std::{borrow::Cow, sync::Arc};

/// A line's share of a [`Generate`] request.
pub(crate) struct Continuation {
    pub(crate) job: Arc<Job>,
    /// Which choice, then which child at each branching.
    path: Vec<u32>,
    pub(crate) coins: Coins,
    /// How often this line was taken back; every time has coins of its own.
    pub(crate) attempt: u32,
    pub(crate) state: PolicyState,
    injections: Injections,
    /// What is left to be forced.
    pub(crate) forced: Option<Forced>,
    /// How the next token is to be chosen instead of by the policy.
    pub(crate) resumed: Option<Resumed>,
    edits: Edits,
    watcher: Option<Box<dyn Watcher>>,
    /// As it was at the start, if it may be needed again.
    fresh_watcher: Option<Box<dyn Watcher>>,
    /// Choices to be made of this one when the prompt has been read.
    pub(crate) n_forks: u32,
    /// Whether it is one of several lines of which one will go on.
    pub(crate) is_tentative: bool,
    /// Whether the policy wanted to begin what the budget forbade.
    pub(crate) was_held_back: bool,
    /// Places in the sequence and what may not stand there again.
    tried: Vec<(usize, TokenId)>,
    /// The regions that wanted this line, or one it comes from, taken back or finished again.
    begun: Vec<RegionId>,
    /// Tokens of the output when the policy was last free to decide anything.
    pub(crate) n_decided: usize,
    /// The last tokens of the output: all of them when the policy looks back, else those nobody was told of.
    said: Vec<Token>,
    /// Tokens of the output that were told.
    n_told: usize,
    /// (n_output + 1) what the policy remembered before each token, if it looks back.
    marks: Vec<Mark>,
}

#[derive(Clone)]
struct Mark {
    state: PolicyState,
    injections: Injections,
}

/// The rest of a phrase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forced {
    pub(crate) phrase: usize,
    /// The next of its tokens.
    pub(crate) next: usize,
    /// The region that began it.
    pub(crate) region: RegionId,
}

/// How a line goes on where something was taken back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resumed {
    pub(crate) resume: Resume,
    /// What was decided, for the first token.
    pub(crate) kind: DecisionKind,
    /// The region that decided it.
    pub(crate) region: RegionId,
}

/// What all lines of a request have in common.
pub(crate) struct Job {
    pub(crate) key: RequestKey,
    pub(crate) parameters: Parameters,
    pub(crate) policy: Arc<dyn Policy>,
    pub(crate) needs: Needs,
    pub(crate) budget: Budget,
    /// Most tokens of the output.
    pub(crate) max_tokens: usize,
    /// Tokens that end the answer, rising.
    pub(crate) ends: Vec<TokenId>,
}

impl Continuation {
    /// The first line of the first choice.
    pub(crate) fn new(
        key: RequestKey,
        prompt: &[TokenId],
        generate: Generate,
        max_tokens: usize,
        classes: &TokenClasses,
    ) -> Self {
        let needs = generate.policy.needs();
        Self::with_needs(key, prompt, generate, max_tokens, classes, needs)
    }

    /// As [`Continuation::new`], of a policy that is told more than it asks for.
    pub(crate) fn with_needs(
        key: RequestKey,
        prompt: &[TokenId],
        generate: Generate,
        max_tokens: usize,
        classes: &TokenClasses,
        needs: Needs,
    ) -> Self {
        let Generate { parameters, policy, watcher } = generate;
        let mut ends = parameters.stop_tokens.clone();
        if !parameters.ignore_eos {
            ends.extend_from_slice(classes.ends());
        }
        ends.sort_unstable();
        ends.dedup();
        let mark = Mark { state: policy.start(), injections: Injections::default() };
        Self {
            path: vec![0],
            coins: Coins::new(parameters.seed, key.0, &[0]),
            attempt: 0,
            state: mark.state.clone(),
            injections: mark.injections.clone(),
            forced: None,
            resumed: None,
            edits: Edits::new(&parameters, prompt, &ends),
            fresh_watcher: watcher.as_ref().filter(|_| needs.trace).map(|watcher| watcher.clone_box()),
            watcher,
            n_forks: parameters.n - 1,
            is_tentative: false,
            was_held_back: false,
            tried: Vec::new(),
            begun: Vec::new(),
            n_decided: 0,
            said: Vec::new(),
            n_told: 0,
            marks: if needs.trace { vec![mark] } else { Vec::new() },
            job: Arc::new(Job { budget: policy.budget(), key, parameters, policy, needs, max_tokens, ends }),
        }
    }

    pub(crate) fn twin(&self) -> Self {
        Self {
            job: Arc::clone(&self.job),
            path: self.path.clone(),
            coins: self.coins,
            attempt: self.attempt,
            state: self.state.clone(),
            injections: self.injections.clone(),
            forced: self.forced,
            resumed: self.resumed,
            edits: self.edits.clone(),
            watcher: self.watcher.as_ref().map(|watcher| watcher.clone_box()),
            fresh_watcher: self.fresh_watcher.as_ref().map(|watcher| watcher.clone_box()),
            n_forks: 0,
            is_tentative: self.is_tentative,
            was_held_back: self.was_held_back,
            tried: self.tried.clone(),
            begun: self.begun.clone(),
            n_decided: self.n_decided,
            said: self.said.clone(),
            n_told: self.n_told,
            marks: self.marks.clone(),
        }
    }

    /// Another answer to the same prompt.
    pub(crate) fn choice(&self, choice: u32) -> Self {
        self.on_path(vec![choice])
    }

    /// Child number `child` of this line after `length` tokens of the sequence.
    pub(crate) fn branch_off(&self, child: u32, tokens: &[TokenId], n_prompt: usize, length: usize) -> Self {
        let path = [self.path.as_slice(), &[child]].concat();
        Self { is_tentative: true, ..self.cut(tokens, n_prompt, length).on_path(path) }
    }

    /// Makes this line the first of its children.
    pub(crate) fn become_child(&mut self) {
        self.path.push(0);
        self.coins = Coins::new(self.job.parameters.seed, self.job.key.0, &self.path);
        self.is_tentative = true;
    }

    fn on_path(&self, path: Vec<u32>) -> Self {
        let coins = Coins::new(self.job.parameters.seed, self.job.key.0, &path);
        Self { path, coins, ..self.twin() }
    }

    /// This line as it was after `length` tokens of the sequence.
    pub(crate) fn cut(&self, tokens: &[TokenId], n_prompt: usize, length: usize) -> Self {
        if length == tokens.len() {
            return self.twin();
        }
        let n_output = length - n_prompt;
        let output = &tokens[n_prompt..length];
        let job = &self.job;
        assert!(job.needs.trace, "policy {} goes back and keeps no trace", job.policy.name());
        assert!(n_output >= self.n_told, "{} tokens were told, back to {n_output}", self.n_told);
        let mut edits = Edits::new(&job.parameters, &tokens[..n_prompt], &job.ends);
        let mut watcher = self.fresh_watcher.as_ref().map(|watcher| watcher.clone_box());
        for &token in output {
            edits.push(token);
            watcher.as_mut().map(|watcher| watcher.watch(token));
        }
        let Mark { state, injections } = self.marks[n_output].clone();
        let mut tried = self.tried.clone();
        tried.retain(|&(position, _)| position <= length);
        Self {
            state,
            injections,
            forced: None,
            resumed: None,
            edits,
            watcher,
            tried,
            n_decided: self.n_decided.min(n_output),
            said: self.said[..n_output].to_vec(),
            marks: self.marks[..=n_output].to_vec(),
            ..self.twin()
        }
    }

    /// Bans `token` at `position`, as `region` wanted.
    pub(crate) fn try_no_more(&mut self, position: usize, token: TokenId, region: RegionId) {
        self.ban(position, token);
        self.begun_by(region);
    }

    /// Bans `token` at `position`.
    pub(crate) fn ban(&mut self, position: usize, token: TokenId) {
        self.tried.push((position, token));
    }

    /// Counts that `region` took this line back or finished it again.
    pub(crate) fn begun_by(&mut self, region: RegionId) {
        self.begun.push(region);
    }

    /// The question about the token at `position`, after the last one, number `index` of its row.
    pub(crate) fn ask(&self, index: usize, position: usize) -> Ask {
        let parameters = &self.job.parameters;
        let needs = self.job.needs;
        let target = self.forced.map(|forced| self.phrase(forced)[forced.next]);
        let decides = target.is_none();
        let draws = decides && (needs.logits || self.resumed.is_some() || self.is_edited(position));
        Ask {
            index,
            target,
            attention: parameters.attention || decides && needs.attention,
            keep_logits: draws || parameters.logprobs > 2,
        }
    }

    /// Whether the logits of the token at `position` are edited.
    pub(crate) fn is_edited(&self, position: usize) -> bool {
        !self.edits.as_slice().is_empty() || self.has_bans(position)
    }

    /// Whether an edit of the token at `position` makes any token likelier.
    pub(crate) fn raises(&self, position: usize) -> bool {
        self.edits(position, &[]).iter().any(|edit| edit.bias > 0.0 || edit.penalty < 1.0)
    }

    /// The edits of the request alone.
    pub(crate) fn own_edits(&self) -> &[Edit] {
        self.edits.as_slice()
    }

    /// Whether something may not stand at `position` again.
    pub(crate) fn has_bans(&self, position: usize) -> bool {
        self.bans(position).next().is_some()
    }

    fn bans(&self, position: usize) -> impl Iterator<Item = TokenId> + '_ {
        self.tried.iter().filter(move |tried| tried.0 == position).map(|tried| tried.1)
    }

    /// The edits of the token at `position`, rising by token, with further bans.
    pub(crate) fn edits(&self, position: usize, further: &[TokenId]) -> Cow<'_, [Edit]> {
        let mut bans: Vec<TokenId> = self.bans(position).chain(further.iter().copied()).collect();
        if bans.is_empty() {
            return Cow::Borrowed(self.edits.as_slice());
        }
        bans.sort_unstable();
        bans.dedup();
        let kept = self.edits.as_slice().iter().filter(|edit| bans.binary_search(&edit.token).is_err());
        let banned = bans.iter().map(|&token| Edit { token, penalty: 1.0, bias: f32::NEG_INFINITY });
        let mut edits: Vec<Edit> = kept.copied().chain(banned).collect();
        edits.sort_unstable_by_key(|edit| edit.token);
        Cow::Owned(edits)
    }

    fn phrase(&self, forced: Forced) -> &[TokenId] {
        &self.job.policy.phrases()[forced.phrase].tokens
    }

    /// The token that comes next whatever the model says, if any, and the region that wanted it.
    pub(crate) fn next_forced(&self) -> Option<(TokenId, RegionId)> {
        self.forced.map(|forced| (self.phrase(forced)[forced.next], forced.region))
    }

    /// Begins a phrase; its first token is the next forced one.
    pub(crate) fn begin_phrase(&mut self, phrase: usize, region: RegionId) {
        self.injections.begin(phrase);
        self.forced = Some(Forced { phrase, next: 0, region });
    }

    /// Notes that the last token of a sequence of `length` is forced, whoever forces it.
    pub(crate) fn note_forced(&mut self, length: usize) {
        self.injections.forced(length);
    }

    /// Goes on under another binding of the same policy.
    pub(crate) fn rebind(&mut self, policy: &Arc<dyn Policy>) {
        let Job { key, parameters, needs, budget, max_tokens, ends, .. } = &*self.job;
        self.job = Arc::new(Job {
            key: *key,
            parameters: parameters.clone(),
            policy: Arc::clone(policy),
            needs: *needs,
            budget: *budget,
            max_tokens: *max_tokens,
            ends: ends.clone(),
        });
    }

    /// The view of its tokens that a policy gets.
    pub(crate) fn history<'a>(
        &'a self,
        tokens: &'a [TokenId],
        n_prompt: usize,
        classes: &'a TokenClasses,
        allowance: Allowance,
    ) -> History<'a> {
        let trace = if self.job.needs.trace { &self.said[..] } else { &[] };
        let lots = Lots::new(self.job.parameters.seed, self.job.key, self.path[0]);
        History::new(tokens, n_prompt, &self.injections, classes)
            .with_trace(trace, allowance)
            .with_tried(&self.tried, &self.begun, self.n_decided)
            .with_lots(lots)
    }

    /// Remembers a token that was appended as number `n_output` of the output, `length` of the sequence, and
    /// says whether the answer is over: an end token or the watcher.
    pub(crate) fn remember(&mut self, token: Token, n_output: usize, length: usize) -> Over {
        if let Some(forced) = self.forced {
            self.injections.forced(length);
            let next = forced.next + 1;
            self.forced = (next < self.phrase(forced).len()).then_some(Forced { next, ..forced });
        }
        self.resumed = self.resumed.filter(|resumed| resumed.resume.throughout).map(|resumed| Resumed {
            kind: if resumed.resume.draw.is_some() { DecisionKind::Draw } else { DecisionKind::Argmax },
            ..resumed
        });
        let (id, logprob) = (token.token, token.logprob);
        self.job.policy.observe(id, logprob, &mut self.state);
        self.edits.push(id);
        self.said.push(token);
        if self.job.needs.trace {
            self.marks.push(Mark { state: self.state.clone(), injections: self.injections.clone() });
        }
        let watch = self.watcher.as_mut().map_or(Watch::Continue, |watcher| watcher.watch(id));
        let min_tokens = self.job.parameters.min_tokens;
        if n_output > min_tokens && self.job.ends.binary_search(&id).is_ok() {
            Over::End
        } else if n_output >= min_tokens && watch == Watch::Stop {
            Over::Watched
        } else {
            Over::No
        }
    }

    /// The last token ends the answer.
    pub(crate) fn mark_end(&mut self) {
        self.said.last_mut().into_iter().for_each(|token| token.end = true);
    }

    /// The tokens of the output from number `n_output` on; nobody was told of them yet, or they are kept.
    pub(crate) fn said_since(&self, n_output: usize) -> &[Token] {
        let n_missing = if self.job.needs.trace { 0 } else { self.n_told };
        &self.said[n_output - n_missing..]
    }

    /// Tokens of the output that were told.
    pub(crate) fn n_told(&self) -> usize {
        self.n_told
    }

    /// Allows the first `n_output` tokens of the output at most to have been told.
    pub(crate) fn untell(&mut self, n_output: usize) {
        self.n_told = self.n_told.min(n_output);
    }

    /// Calls `tell` with what is still to be told of the first `n_output` tokens of the output.
    pub(crate) fn tell(&mut self, n_output: usize, tell: impl FnMut(Token)) {
        if n_output <= self.n_told {
            return;
        }
        if self.job.needs.trace {
            self.said[self.n_told..n_output].iter().cloned().for_each(tell);
        } else {
            self.said.drain(..n_output - self.n_told).for_each(tell);
        }
        self.n_told = n_output;
    }
}

/// Whether a token ended the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    No,
    /// It is an end token.
    End,
    /// The watcher said so.
    Watched,
}
