//! The blocks of one sequence.

use super::BlockPool;
use super::pool::Published;
use entropix_model::{BlockCopy, BlockId, TokenId};

/// The blocks of one sequence, in the order of its positions. Holds what it names until it is released.
#[derive(Debug, Default)]
pub(crate) struct BlockTable {
    blocks: Vec<BlockId>,
    /// The first so many blocks are published (or gave way to published ones).
    n_published: usize,
    /// A block could not be published, so none after it ever will: tables forked from this one share it,
    /// and must not come to disagree about what it follows.
    is_closed: bool,
}

impl BlockTable {
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Takes blocks until `n_positions` have room. False, with nothing taken, when the pool has too few.
    pub(crate) fn cover(&mut self, n_positions: usize, pool: &mut BlockPool) -> bool {
        let missing = pool.blocks_for(n_positions).saturating_sub(self.blocks.len());
        if missing > pool.available() {
            return false;
        }
        self.blocks.extend((0..missing).map_while(|_| pool.take()));
        true
    }

    /// Before position `n_written` is written: if the block it falls into is half full and somebody else
    /// reads it too, or may come to, makes this sequence its own copy. False when the pool has no block for
    /// it.
    pub(crate) fn own_tail(
        &mut self,
        n_written: usize,
        pool: &mut BlockPool,
        copies: &mut Vec<BlockCopy>,
    ) -> bool {
        let tokens = n_written % pool.block_size();
        let Some(block) = self.blocks.get_mut(n_written / pool.block_size()) else { return true };
        if tokens == 0 || pool.is_private(*block) {
            return true;
        }
        #[cfg(test)]
        if pool.fault == Some(crate::faults::Fault::MissingCopy) {
            return true;
        }
        let Some(own) = pool.take() else { return false };
        copies.push(BlockCopy { from: *block, to: own, tokens });
        pool.release(*block);
        *block = own;
        true
    }

    /// Into an empty table, takes the published blocks that hold the first of `tokens`, at most `limit`
    /// positions. Returns the positions they hold.
    pub(crate) fn attach(&mut self, tokens: &[TokenId], limit: usize, pool: &mut BlockPool) -> usize {
        assert!(self.blocks.is_empty(), "a prefix for a table of {} blocks", self.blocks.len());
        for tokens in tokens[..limit].chunks_exact(pool.block_size()) {
            let Some(block) = pool.find(self.blocks.last().copied(), tokens) else { break };
            pool.share(block);
            self.blocks.push(block);
        }
        self.n_published = self.blocks.len();
        self.blocks.len() * pool.block_size()
    }

    /// Publishes the full blocks among the first positions, whose tokens are `written` and whose step has
    /// completed. A block whose content is published already gives way to the published one.
    pub(crate) fn publish(&mut self, written: &[TokenId], pool: &mut BlockPool) {
        if self.is_closed {
            return;
        }
        let size = pool.block_size();
        while let Some(tokens) = written.get(self.n_published * size..(self.n_published + 1) * size) {
            let before = self.n_published.checked_sub(1).map(|i| self.blocks[i]);
            let block = &mut self.blocks[self.n_published];
            match pool.publish(before, *block, tokens) {
                Published::Yes => {}
                Published::Twin(other) => {
                    pool.share(other);
                    pool.release(*block);
                    *block = other;
                }
                Published::No => {
                    self.is_closed = true;
                    return;
                }
            }
            self.n_published += 1;
        }
    }

    /// A table of the same blocks.
    pub(crate) fn fork(&self, pool: &mut BlockPool) -> Self {
        self.blocks.iter().for_each(|&block| pool.share(block));
        Self { blocks: self.blocks.clone(), n_published: self.n_published, is_closed: self.is_closed }
    }

    /// Gives back what lies behind the first positions. The block they end in may still be published with
    /// more than them: [`BlockTable::own_tail`] sees to it that it is not written to.
    pub(crate) fn truncate(&mut self, n_positions: usize, pool: &mut BlockPool) {
        while self.blocks.len() > pool.blocks_for(n_positions) {
            self.blocks.pop().into_iter().for_each(|block| pool.release(block));
        }
        self.n_published = self.n_published.min(n_positions / pool.block_size());
    }

    /// Gives every block back, the last first, so that an idle block outlives those that follow it.
    pub(crate) fn release(&mut self, pool: &mut BlockPool) {
        while let Some(block) = self.blocks.pop() {
            pool.release(block);
        }
        self.n_published = 0;
        self.is_closed = false;
    }
}
