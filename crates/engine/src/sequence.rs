//! One running continuation, or one text being scored, and everything remembered about it.

use crate::blocks::{BlockPool, BlockTable};
use crate::edits::Edits;
use crate::philox::Coins;
use crate::{
    Generate, History, Injections, Parameters, Policy, PolicyState, RegionId, RequestId, RequestKey,
    TokenClasses, Watch, Watcher,
};
use entropix_model::{Ask, BlockCopy, TokenId};
use std::{ops::Range, sync::Arc};

/// When a sequence arrived: by request, then by choice. The smallest is the oldest.
pub(crate) type Age = (RequestId, u32);

/// One sequence of tokens in or on its way into the cache.
pub(crate) struct Sequence {
    pub(crate) age: Age,
    /// Prompt and output.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) n_prompt: usize,
    /// The first so many positions are in the cache.
    pub(crate) n_cached: usize,
    /// The first so many positions were in the cache at some time.
    pub(crate) n_computed: usize,
    /// Positions that another request had computed when this one was admitted first.
    pub(crate) n_shared: Option<usize>,
    pub(crate) table: BlockTable,
    pub(crate) task: Task,
}

/// What is done with the positions of a sequence.
pub(crate) enum Task {
    /// Tokens are decided after the last one.
    Continue(Box<Continuation>),
    /// Every position is asked about.
    Score {
        /// Positions up to this one have been reported.
        n_reported: usize,
        attention: bool,
    },
}

/// A continuation's share of a [`Generate`] request.
pub(crate) struct Continuation {
    pub(crate) job: Arc<Job>,
    pub(crate) coins: Coins,
    pub(crate) state: PolicyState,
    pub(crate) injections: Injections,
    /// What is left to be forced.
    pub(crate) forced: Option<Forced>,
    pub(crate) edits: Edits,
    pub(crate) watcher: Option<Box<dyn Watcher>>,
    /// Choices to be made of this one when the prompt has been read.
    pub(crate) n_forks: u32,
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

/// What all choices of a request have in common.
pub(crate) struct Job {
    pub(crate) key: RequestKey,
    pub(crate) parameters: Parameters,
    pub(crate) policy: Arc<dyn Policy>,
    /// Most tokens of the output.
    pub(crate) max_tokens: usize,
    /// Tokens that end the answer, rising.
    pub(crate) ends: Vec<TokenId>,
}

impl Sequence {
    /// The first choice of a request to continue a prompt.
    pub(crate) fn generate(
        request: RequestId,
        key: RequestKey,
        prompt: Vec<TokenId>,
        generate: Generate,
        max_tokens: usize,
        classes: &TokenClasses,
    ) -> Self {
        let Generate { parameters, policy, watcher } = generate;
        let mut ends = parameters.stop_tokens.clone();
        if !parameters.ignore_eos {
            ends.extend_from_slice(classes.ends());
        }
        ends.sort_unstable();
        ends.dedup();
        let continuation = Continuation {
            coins: Coins::new(parameters.seed, key.0, &[0]),
            state: policy.start(),
            injections: Injections::default(),
            forced: None,
            edits: Edits::new(&parameters, &prompt, &ends),
            watcher,
            n_forks: parameters.n - 1,
            job: Arc::new(Job { key, parameters, policy, max_tokens, ends }),
        };
        Self::new((request, 0), prompt, Task::Continue(Box::new(continuation)))
    }

    /// A text to be scored.
    pub(crate) fn score(request: RequestId, text: Vec<TokenId>, attention: bool) -> Self {
        Self::new((request, 0), text, Task::Score { n_reported: 0, attention })
    }

    fn new(age: Age, tokens: Vec<TokenId>, task: Task) -> Self {
        let n_prompt = tokens.len();
        let table = BlockTable::default();
        Self { age, tokens, n_prompt, n_cached: 0, n_computed: 0, n_shared: None, table, task }
    }

    /// Choice number `choice` of a sequence whose prompt has been read, on the same blocks.
    pub(crate) fn fork(&self, choice: u32, pool: &mut BlockPool) -> Self {
        let Task::Continue(parent) = &self.task else { panic!("a fork of a scored text") };
        let continuation = Continuation {
            job: Arc::clone(&parent.job),
            coins: Coins::new(parent.job.parameters.seed, parent.job.key.0, &[choice]),
            state: parent.state.clone(),
            injections: parent.injections.clone(),
            forced: parent.forced,
            edits: parent.edits.clone(),
            watcher: parent.watcher.as_ref().map(|watcher| watcher.clone_box()),
            n_forks: 0,
        };
        Self {
            age: (self.age.0, choice),
            tokens: self.tokens.clone(),
            n_prompt: self.n_prompt,
            n_cached: self.n_cached,
            n_computed: self.n_computed,
            n_shared: Some(self.n_prompt),
            table: self.table.fork(pool),
            task: Task::Continue(Box::new(continuation)),
        }
    }

    /// Positions that are not in the cache; never 0.
    pub(crate) fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_cached
    }

    /// Tokens of the output.
    pub(crate) fn n_output(&self) -> usize {
        self.tokens.len() - self.n_prompt
    }

    /// The first position whose distribution is still wanted: it cannot come from another's cache.
    pub(crate) fn first_wanted(&self) -> usize {
        match self.task {
            Task::Continue(_) => self.tokens.len() - 1,
            Task::Score { n_reported, .. } => n_reported,
        }
    }

    /// Appends what is asked of a row that runs the positions `row`.
    pub(crate) fn ask(&self, row: Range<usize>, asks: &mut Vec<Ask>) {
        match &self.task {
            Task::Continue(continuation) => {
                if row.end == self.tokens.len() {
                    asks.push(continuation.ask(row.len() - 1));
                }
            }
            Task::Score { n_reported, attention } => {
                asks.extend((row.start.max(*n_reported)..row.end).map(|position| Ask {
                    index: position - row.start,
                    target: self.tokens.get(position + 1).copied(),
                    attention: *attention,
                    keep_logits: false,
                }));
            }
        }
    }

    /// Room for the pending positions, and no half-full block that anybody else reads. False when the pool
    /// has too few blocks.
    pub(crate) fn reserve(&mut self, pool: &mut BlockPool, copies: &mut Vec<BlockCopy>) -> bool {
        self.table.own_tail(self.n_cached, pool, copies) && self.table.cover(self.tokens.len(), pool)
    }
}

impl Continuation {
    /// The question about the last token, number `index` of its row.
    fn ask(&self, index: usize) -> Ask {
        let parameters = &self.job.parameters;
        let needs = self.job.policy.needs();
        let target = self.forced.map(|forced| self.phrase(forced)[forced.next]);
        let decides = target.is_none();
        let draws = decides && (needs.logits || !self.edits.as_slice().is_empty());
        Ask {
            index,
            target,
            attention: parameters.attention || decides && needs.attention,
            keep_logits: draws || parameters.logprobs > 2,
        }
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

    /// The view of its tokens that a policy gets.
    pub(crate) fn history<'a>(
        &'a self,
        tokens: &'a [TokenId],
        n_prompt: usize,
        classes: &'a TokenClasses,
    ) -> History<'a> {
        History::new(tokens, n_prompt, &self.injections, classes)
    }

    /// Remembers a token that was appended as number `n_output` of the output, `length` of the sequence, and
    /// says whether the answer is over: an end token or the watcher.
    pub(crate) fn remember(&mut self, token: TokenId, logprob: f32, n_output: usize, length: usize) -> Over {
        if let Some(forced) = self.forced {
            self.injections.forced(length);
            let next = forced.next + 1;
            self.forced = (next < self.phrase(forced).len()).then_some(Forced { next, ..forced });
        }
        self.job.policy.observe(token, logprob, &mut self.state);
        self.edits.push(token);
        let watch = self.watcher.as_mut().map_or(Watch::Continue, |watcher| watcher.watch(token));
        let min_tokens = self.job.parameters.min_tokens;
        if n_output > min_tokens && self.job.ends.binary_search(&token).is_ok() {
            Over::End
        } else if n_output >= min_tokens && watch == Watch::Stop {
            Over::Watched
        } else {
            Over::No
        }
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
