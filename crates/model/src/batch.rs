//! What one step computes: rows of tokens, the cache blocks they read and write, and the positions
//! whose next-token distribution somebody asks about.
#![forbid(unsafe_code)]

use crate::Capacity;
use std::ops::Range;

/// A token of the model's vocabulary.
pub type TokenId = u32;
/// A block of the paged KV cache; holds `Capacity::block_size` positions of every layer.
pub type BlockId = u32;
/// The index of an ask within its step, in batch order.
pub type Slot = u32;

/// One sequence's share of a step: `tokens` new positions that follow `start` cached ones.
///
/// One new token is a decode step, more are a piece of the prompt; nothing else tells them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// This row's tokens, a range of [`Batch::tokens`]; never empty.
    pub tokens: Range<usize>,
    /// How many positions of this sequence are in the cache already: the position of the first token.
    pub start: usize,
    /// This row's block table, a range of [`Batch::blocks`]; covers `start + tokens.len()` positions.
    pub blocks: Range<usize>,
    /// What is asked of this row, a range of [`Batch::asks`]; may be empty.
    pub asks: Range<usize>,
}

/// A question about the distribution that follows one position of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Which of the row's tokens, 0-based; asks of a row are in rising order.
    pub index: usize,
    /// A token whose log-probability is wanted in [`crate::Signals::target_logprob`].
    pub target: Option<TokenId>,
    /// Whether [`crate::Backend::attention`] will be called for this ask.
    pub attention: bool,
    /// Whether the logits must stay readable (candidates, draws) until the next submit. Without it they
    /// are reduced to signals and forgotten, so scoring a whole prompt needs no room for them.
    pub keep_logits: bool,
}

/// Everything one step does, in flat arrays. The order of the asks gives their [`Slot`]s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// (n_tokens) the new tokens of all rows, row after row.
    pub tokens: Vec<TokenId>,
    /// (n_rows)
    pub rows: Vec<Row>,
    /// The block tables of all rows, row after row.
    pub blocks: Vec<BlockId>,
    /// (n_asks) the asks of all rows, row after row.
    pub asks: Vec<Ask>,
}

impl Batch {
    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.rows.clear();
        self.blocks.clear();
        self.asks.clear();
    }

    /// Appends a row.
    pub fn push(&mut self, tokens: &[TokenId], start: usize, blocks: &[BlockId], asks: &[Ask]) {
        fn append<T: Clone>(all: &mut Vec<T>, new: &[T]) -> Range<usize> {
            let first = all.len();
            all.extend_from_slice(new);
            first..all.len()
        }
        let row = Row {
            tokens: append(&mut self.tokens, tokens),
            start,
            blocks: append(&mut self.blocks, blocks),
            asks: append(&mut self.asks, asks),
        };
        self.rows.push(row);
    }

    /// Holds the batch against what a backend can run.
    ///
    /// # Panics
    /// When it exceeds the capacity or contradicts itself: a fault of whoever made it.
    pub fn check(&self, capacity: &Capacity) {
        let c = capacity;
        assert!(self.rows.len() <= c.max_rows, "{} rows of at most {}", self.rows.len(), c.max_rows);
        assert!(
            self.tokens.len() <= c.max_tokens,
            "{} tokens of at most {}",
            self.tokens.len(),
            c.max_tokens
        );
        let kept = self.asks.iter().filter(|ask| ask.keep_logits).count();
        assert!(kept <= c.max_kept, "{kept} asks keep their logits of at most {}", c.max_kept);
        let (mut tokens, mut asks) = (0, 0);
        for (i, row) in self.rows.iter().enumerate() {
            assert!(
                row.tokens.start == tokens && !row.tokens.is_empty(),
                "row {i} has tokens {:?} after {tokens}",
                row.tokens
            );
            assert!(row.asks.start == asks, "row {i} has asks {:?} after {asks}", row.asks);
            (tokens, asks) = (row.tokens.end, row.asks.end);
            let end = row.start + row.tokens.len();
            assert!(
                row.blocks.len() * c.block_size >= end && end <= c.max_context,
                "row {i} ends at position {end}: {} blocks of {}, context {}",
                row.blocks.len(),
                c.block_size,
                c.max_context
            );
            for &block in &self.blocks[row.blocks.clone()] {
                assert!((block as usize) < c.n_blocks, "row {i} names block {block} of {}", c.n_blocks);
            }
            let mut next = 0;
            for ask in &self.asks[row.asks.clone()] {
                assert!(
                    next <= ask.index && ask.index < row.tokens.len(),
                    "row {i} asks about token {} of {} after {next}",
                    ask.index,
                    row.tokens.len()
                );
                next = ask.index + 1;
                if let Some(target) = ask.target {
                    let n = c.vocab_size;
                    assert!((target as usize) < n, "row {i} has target {target} of a vocabulary of {n}");
                }
            }
        }
        assert!(
            tokens == self.tokens.len() && asks == self.asks.len(),
            "rows have {tokens} tokens and {asks} asks, the batch {} and {}",
            self.tokens.len(),
            self.asks.len()
        );
        for &token in &self.tokens {
            assert!((token as usize) < c.vocab_size, "token {token} of a vocabulary of {}", c.vocab_size);
        }
    }
}
