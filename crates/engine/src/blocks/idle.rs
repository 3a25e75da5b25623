//! A list of blocks in the order they fell idle: a doubly linked list inside two arrays, so that taking a
//! block out of the middle costs nothing and allocates nothing.

use entropix_model::BlockId;

const NONE: BlockId = BlockId::MAX;

#[derive(Debug)]
pub(super) struct IdleList {
    /// (n_blocks + 1) the last entry is the sentinel before the first and after the last block.
    next: Vec<BlockId>,
    /// (n_blocks + 1)
    previous: Vec<BlockId>,
    len: usize,
}

impl IdleList {
    pub(super) fn new(n_blocks: usize) -> Self {
        let sentinel = n_blocks as BlockId;
        let mut list = Self { next: vec![NONE; n_blocks + 1], previous: vec![NONE; n_blocks + 1], len: 0 };
        list.next[n_blocks] = sentinel;
        list.previous[n_blocks] = sentinel;
        list
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push_back(&mut self, block: BlockId) {
        assert!(self.next[block as usize] == NONE, "block {block} is in the idle list already");
        let sentinel = self.sentinel();
        let last = self.previous[sentinel];
        self.link(last, block);
        self.link(block, sentinel as BlockId);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, block: BlockId) {
        let (before, after) = (self.previous[block as usize], self.next[block as usize]);
        assert!(after != NONE, "block {block} is not in the idle list");
        self.link(before, after);
        self.next[block as usize] = NONE;
        self.previous[block as usize] = NONE;
        self.len -= 1;
    }

    pub(super) fn pop_front(&mut self) -> Option<BlockId> {
        let first = self.next[self.sentinel()];
        (first as usize != self.sentinel()).then(|| {
            self.remove(first);
            first
        })
    }

    fn sentinel(&self) -> usize {
        self.next.len() - 1
    }

    fn link(&mut self, before: BlockId, after: BlockId) {
        self.next[before as usize] = after;
        self.previous[after as usize] = before;
    }
}
