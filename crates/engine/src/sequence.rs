//! One sequence in the cache, a line of an answer or a text being scored, and where it stands.

use crate::blocks::{BlockPool, BlockTable};
use crate::continuation::Continuation;
use crate::{Generate, RequestId, RequestKey, TokenClasses};
use entropix_model::{Ask, BlockCopy, TokenId};
use std::ops::Range;

/// When a sequence arrived: by request, then by choice, then by branch of it. The smallest is the oldest.
/// No two sequences ever have the same.
pub(crate) type Age = (RequestId, u32, u32);

/// An answer: which choice of which request.
pub(crate) type AnswerKey = (RequestId, u32);

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
        let continuation = Continuation::new(key, &prompt, generate, max_tokens, classes);
        Self::new((request, 0, 0), prompt, Task::Continue(Box::new(continuation)))
    }

    /// A text to be scored.
    pub(crate) fn score(request: RequestId, text: Vec<TokenId>, attention: bool) -> Self {
        Self::new((request, 0, 0), text, Task::Score { n_reported: 0, attention })
    }

    fn new(age: Age, tokens: Vec<TokenId>, task: Task) -> Self {
        let n_prompt = tokens.len();
        let table = BlockTable::default();
        Self { age, tokens, n_prompt, n_cached: 0, n_computed: 0, n_shared: None, table, task }
    }

    /// Choice number `choice` of a sequence whose prompt has been read, on the same blocks.
    pub(crate) fn choice(&self, choice: u32, pool: &mut BlockPool) -> Self {
        let continuation = self.continuation().choice(choice);
        let n_shared = Some(self.n_prompt);
        Self { n_shared, ..self.on_same_blocks((self.age.0, choice, 0), continuation, pool) }
    }

    /// A line that shares the first `length` tokens and goes on by itself, on the same blocks. When it is
    /// shorter, or this one rests, its last token has to be run again.
    pub(crate) fn branch_off(&self, branch: u32, child: u32, length: usize, pool: &mut BlockPool) -> Self {
        let continuation = self.continuation().branch_off(child, &self.tokens, self.n_prompt, length);
        let age = (self.age.0, self.age.1, branch);
        let mut line = self.on_same_blocks(age, continuation, pool);
        line.cut_cache(length, pool);
        line
    }

    /// Forgets all but the first `length` tokens.
    pub(crate) fn cut(&mut self, length: usize, pool: &mut BlockPool) {
        let continuation = self.continuation().cut(&self.tokens, self.n_prompt, length);
        self.task = Task::Continue(Box::new(continuation));
        self.cut_cache(length, pool);
    }

    /// Has the last token run again if it was run already: its logits are gone.
    pub(crate) fn run_last_again(&mut self, pool: &mut BlockPool) {
        if self.n_cached == self.tokens.len() {
            self.forget_cached(self.tokens.len() - 1, pool);
        }
    }

    fn cut_cache(&mut self, length: usize, pool: &mut BlockPool) {
        if length < self.tokens.len() {
            self.tokens.truncate(length);
            self.forget_cached(length - 1, pool);
        }
    }

    fn forget_cached(&mut self, n_cached: usize, pool: &mut BlockPool) {
        self.n_cached = self.n_cached.min(n_cached);
        self.table.truncate(self.n_cached, pool);
        // What is run again is counted as discarded, not as recomputed.
        self.n_computed = self.n_cached.max(1);
    }

    fn on_same_blocks(&self, age: Age, continuation: Continuation, pool: &mut BlockPool) -> Self {
        Self {
            age,
            tokens: self.tokens.clone(),
            n_prompt: self.n_prompt,
            n_cached: self.n_cached,
            n_computed: self.n_computed,
            n_shared: self.n_shared,
            table: self.table.fork(pool),
            task: Task::Continue(Box::new(continuation)),
        }
    }

    /// Of a line of an answer.
    pub(crate) fn continuation(&self) -> &Continuation {
        match &self.task {
            Task::Continue(continuation) => continuation,
            Task::Score { .. } => panic!("a scored text is no line of an answer"),
        }
    }

    /// The answer this is a line of.
    pub(crate) fn answer(&self) -> AnswerKey {
        (self.age.0, self.age.1)
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
                    asks.push(continuation.ask(row.len() - 1, self.tokens.len()));
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

impl Task {
    /// Of a line of an answer.
    pub(crate) fn continuation_mut(&mut self) -> &mut Continuation {
        match self {
            Task::Continue(continuation) => continuation,
            Task::Score { .. } => panic!("a scored text is no line of an answer"),
        }
    }
}
