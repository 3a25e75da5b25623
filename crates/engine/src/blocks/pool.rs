//! The pool: takes, shares, releases.

use super::idle::IdleList;
use super::prefix::{Parent, PrefixIndex};
use entropix_model::{BlockId, TokenId};

/// All blocks of the backend's cache and how many tables hold each.
#[derive(Debug)]
pub(crate) struct BlockPool {
    block_size: usize,
    /// (n_blocks) how many tables hold the block.
    holders: Vec<u32>,
    /// Blocks without holder and without content, the next to be taken last; the first `n_untouched` of them were never
    /// taken.
    free: Vec<BlockId>,
    n_untouched: usize,
    /// Blocks without holder whose content is published, the next to be taken first. A block falls idle
    /// after those that follow it, so it is taken after them too.
    idle: IdleList,
    /// From so many idle blocks on the oldest is taken before one that was never touched.
    most_idle: usize,
    /// None when prefixes are not shared.
    prefixes: Option<PrefixIndex>,
    #[cfg(test)]
    pub(crate) fault: Option<crate::faults::Fault>,
}

/// What became of an attempt to publish a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// It can be found now.
    Yes,
    /// Another block has the same content and can be found already.
    Twin(BlockId),
    /// Its hash is taken by other content, or nothing is shared.
    No,
}

impl BlockPool {
    pub(crate) fn new(n_blocks: usize, block_size: usize, sharing: bool) -> Self {
        Self {
            block_size,
            holders: vec![0; n_blocks],
            free: (0..n_blocks as BlockId).rev().collect(),
            n_untouched: n_blocks,
            idle: IdleList::new(n_blocks),
            most_idle: n_blocks,
            prefixes: sharing.then(|| PrefixIndex::new(n_blocks, block_size)),
            #[cfg(test)]
            fault: None,
        }
    }

    /// The same, keeping at most so many blocks for their content alone while others were never touched.
    pub(crate) fn keeping(self, most_idle: usize) -> Self {
        Self { most_idle, ..self }
    }

    pub(crate) fn block_size(&self) -> usize {
        self.block_size
    }

    pub(crate) fn n_blocks(&self) -> usize {
        self.holders.len()
    }

    /// Blocks that `n_positions` need.
    pub(crate) fn blocks_for(&self, n_positions: usize) -> usize {
        n_positions.div_ceil(self.block_size)
    }

    /// Blocks that can be taken now.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Blocks kept for their content.
    pub(crate) fn cached(&self) -> usize {
        self.idle.len()
    }

    /// Whether its one holder may write to it: nobody else reads it or can find it.
    pub(crate) fn is_private(&self, block: BlockId) -> bool {
        let is_published = self.prefixes.as_ref().is_some_and(|prefixes| prefixes.is_published(block));
        #[cfg(test)]
        let is_published = is_published && self.fault != Some(crate::faults::Fault::WrittenPublished);
        self.holders[block as usize] == 1 && !is_published
    }

    /// A block for one holder, its content lost; none when every block is held.
    pub(crate) fn take(&mut self) -> Option<BlockId> {
        let touches = self.free.len() == self.n_untouched;
        let keeps = self.idle.len() < self.most_idle;
        let block = match self.free.last() {
            Some(&free) if !touches || keeps || self.idle.len() == 0 => {
                self.free.pop();
                self.n_untouched -= usize::from(touches);
                free
            }
            _ => {
                let oldest = self.idle.pop_front()?;
                self.index().forget(oldest);
                oldest
            }
        };
        assert!(self.holders[block as usize] == 0, "block {block} was free and held");
        self.holders[block as usize] = 1;
        Some(block)
    }

    /// One more holder of a block that is held or idle.
    pub(crate) fn share(&mut self, block: BlockId) {
        #[cfg(test)]
        if self.fault == Some(crate::faults::Fault::UncountedHolder) && self.holders[block as usize] > 0 {
            return;
        }
        if self.holders[block as usize] == 0 {
            self.idle.remove(block);
        }
        self.holders[block as usize] += 1;
    }

    /// One holder less.
    pub(crate) fn release(&mut self, block: BlockId) {
        let holders = &mut self.holders[block as usize];
        assert!(*holders > 0, "block {block} is released and not held");
        *holders -= 1;
        if *holders == 0 {
            if self.prefixes.as_ref().is_some_and(|prefixes| prefixes.is_published(block)) {
                self.idle.push_back(block);
            } else {
                self.free.push(block);
            }
        }
    }

    /// The published block of these tokens (block_size) after `before`, itself published.
    pub(crate) fn find(&self, before: Option<BlockId>, tokens: &[TokenId]) -> Option<BlockId> {
        self.prefixes.as_ref()?.find(parent(before), tokens)
    }

    /// Publishes a held block that holds the keys and values of these tokens (block_size) after `before`,
    /// itself published. Only to be called when the step that wrote them has completed.
    pub(crate) fn publish(
        &mut self,
        before: Option<BlockId>,
        block: BlockId,
        tokens: &[TokenId],
    ) -> Published {
        assert!(self.holders[block as usize] > 0, "block {block} is published and not held");
        let Some(prefixes) = &mut self.prefixes else { return Published::No };
        match prefixes.find(parent(before), tokens) {
            Some(same) if same == block => Published::Yes,
            Some(other) => Published::Twin(other),
            None if prefixes.is_published(block) => Published::No,
            None if prefixes.publish(parent(before), block, tokens) => Published::Yes,
            None => Published::No,
        }
    }

    fn index(&mut self) -> &mut PrefixIndex {
        match &mut self.prefixes {
            Some(prefixes) => prefixes,
            None => panic!("an idle block although nothing is shared"),
        }
    }

    /// What must hold at any time, given how often each block is in a table; for tests and debug builds.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn check(&self, in_tables: &[u32]) {
        assert_eq!(self.holders, in_tables, "holders and tables");
        let held = self.holders.iter().filter(|&&n| n > 0).count();
        let total = self.free.len() + self.idle.len() + held;
        let parts = (self.free.len(), self.idle.len(), held);
        assert_eq!(total, self.n_blocks(), "free, idle and held blocks: {parts:?}");
        assert!(self.n_untouched <= self.free.len(), "{} untouched blocks, {parts:?}", self.n_untouched);
        let idle = |block: BlockId| {
            self.holders[block as usize] == 0
                && self.prefixes.as_ref().is_some_and(|prefixes| prefixes.is_published(block))
        };
        assert!(
            self.free.iter().all(|&block| self.holders[block as usize] == 0 && !idle(block)),
            "free blocks"
        );
        let n_idle = (0..self.n_blocks() as BlockId).filter(|&block| idle(block)).count();
        assert_eq!(n_idle, self.idle.len(), "published blocks without holder");
        if let Some(prefixes) = &self.prefixes {
            prefixes.check();
        }
    }

    #[cfg(test)]
    pub(crate) fn set_hash_bits(&mut self, bits: u64) {
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.set_hash_bits(bits);
        }
    }

    #[cfg(test)]
    pub(crate) fn n_published(&self) -> usize {
        self.prefixes.as_ref().map_or(0, PrefixIndex::len)
    }
}

fn parent(before: Option<BlockId>) -> Parent {
    before.map_or(Parent::Start, Parent::Block)
}
