//! Which blocks hold the keys and values of which tokens.
//!
//! A published block is known by its tokens and by the published block before it, all the way to the start
//! of the sequence. A hash finds it; the tokens themselves and the identity of the block before it are
//! compared on every hit, so no collision can hand one request the cache of another.

use entropix_model::{BlockId, TokenId};
use std::collections::HashMap;

/// What a published block follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
    /// Nothing: it starts a sequence.
    Start,
    /// A published block.
    Block(BlockId),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    parent: Parent,
    /// Published blocks that follow this one. A block with children is never forgotten before them, which
    /// is what lets an entry name its parent by a number that is used again later.
    children: u32,
}

#[derive(Debug)]
pub(super) struct PrefixIndex {
    block_size: usize,
    by_hash: HashMap<u64, BlockId>,
    /// (n_blocks) none where the block is not published.
    entries: Vec<Option<Entry>>,
    /// (n_blocks, block_size) the tokens of published blocks.
    tokens: Vec<TokenId>,
    /// Only these bits of a hash are used; fewer in tests, so that collisions happen.
    hash_bits: u64,
}

impl PrefixIndex {
    pub(super) fn new(n_blocks: usize, block_size: usize) -> Self {
        Self {
            block_size,
            by_hash: HashMap::new(),
            entries: vec![None; n_blocks],
            tokens: vec![0; n_blocks * block_size],
            hash_bits: u64::MAX,
        }
    }

    #[cfg(test)]
    pub(super) fn set_hash_bits(&mut self, bits: u64) {
        self.hash_bits = bits;
    }

    pub(super) fn is_published(&self, block: BlockId) -> bool {
        self.entries[block as usize].is_some()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// The published block of these tokens (block_size) after `parent`.
    pub(super) fn find(&self, parent: Parent, tokens: &[TokenId]) -> Option<BlockId> {
        let block = *self.by_hash.get(&self.hash(parent, tokens))?;
        self.holds(block, parent, tokens).then_some(block)
    }

    /// Makes `block` findable. False when another one of the same hash is in the way.
    pub(super) fn publish(&mut self, parent: Parent, block: BlockId, tokens: &[TokenId]) -> bool {
        assert!(!self.is_published(block), "block {block} is published already");
        let hash = self.hash(parent, tokens);
        if self.by_hash.contains_key(&hash) {
            return false;
        }
        if let Parent::Block(before) = parent {
            self.entry(before).children += 1;
        }
        self.by_hash.insert(hash, block);
        self.entries[block as usize] = Some(Entry { hash, parent, children: 0 });
        let first = block as usize * self.block_size;
        self.tokens[first..first + self.block_size].copy_from_slice(tokens);
        true
    }

    /// Forgets a published block.
    pub(super) fn forget(&mut self, block: BlockId) {
        let entry = *self.entry(block);
        assert!(entry.children == 0, "block {block} is forgotten before {} that follow it", entry.children);
        if let Parent::Block(before) = entry.parent {
            self.entry(before).children -= 1;
        }
        self.by_hash.remove(&entry.hash);
        self.entries[block as usize] = None;
    }

    fn entry(&mut self, block: BlockId) -> &mut Entry {
        match &mut self.entries[block as usize] {
            Some(entry) => entry,
            None => panic!("block {block} is not published"),
        }
    }

    fn holds(&self, block: BlockId, parent: Parent, tokens: &[TokenId]) -> bool {
        let first = block as usize * self.block_size;
        self.entries[block as usize].is_some_and(|entry| entry.parent == parent)
            && self.tokens[first..first + self.block_size] == *tokens
    }

    fn hash(&self, parent: Parent, tokens: &[TokenId]) -> u64 {
        assert!(tokens.len() == self.block_size, "{} tokens of a block of {}", tokens.len(), self.block_size);
        let seed = match parent {
            Parent::Start => 0,
            Parent::Block(block) => self.entries[block as usize].map_or(0, |entry| entry.hash) | 1,
        };
        let mixed = tokens.iter().fold(seed, |hash, &token| {
            let hash = (hash ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            hash ^ (hash >> 29)
        });
        mixed & self.hash_bits
    }

    /// What must hold at any time; for tests and debug builds.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn check(&self) {
        let mut children = vec![0; self.entries.len()];
        for (block, entry) in self.entries.iter().enumerate() {
            let Some(entry) = entry else { continue };
            assert_eq!(
                self.by_hash.get(&entry.hash),
                Some(&(block as BlockId)),
                "block {block} cannot be found"
            );
            if let Parent::Block(before) = entry.parent {
                assert!(self.is_published(before), "block {block} follows {before}, which is not published");
                children[before as usize] += 1;
            }
        }
        for (block, entry) in self.entries.iter().enumerate() {
            assert!(entry.is_none_or(|e| e.children == children[block]), "children of block {block}");
        }
        let published = self.entries.iter().flatten().count();
        assert_eq!(published, self.by_hash.len(), "published blocks and hashes");
    }
}
