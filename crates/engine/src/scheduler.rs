//! Who runs next: continuous batching over one pool of blocks.
//!
//! Progress. The oldest running sequence is never preempted: only the youngest is, and when the oldest is
//! alone the whole pool is its own, which one context fits into. It gets a row in every step, because
//! there are never more running sequences than rows or tokens a step. Waiting sequences are admitted in
//! order of age and none is passed over; when nothing runs the first of them has the whole pool. So every
//! step runs at least one row of the oldest running sequence, and every request ends. A parked sequence keeps
//! its blocks only as long as nobody needs them: they are taken before anything that runs is preempted.

use crate::RequestId;
use crate::blocks::BlockPool;
use crate::sequence::{Age, Sequence};
use entropix_model::{Ask, Batch, BlockCopy};
use std::collections::VecDeque;

/// An index of [`Scheduler`]'s sequences; used again after a sequence ended.
pub(crate) type SequenceId = usize;

/// Bounds of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepLimits {
    /// Sequences with blocks, and rows; at most `max_tokens`.
    pub(crate) max_rows: usize,
    pub(crate) max_tokens: usize,
    /// Prompt tokens a row.
    pub(crate) prefill_chunk: usize,
    /// Blocks left free when a sequence is admitted beside others.
    pub(crate) watermark: usize,
}

/// A row of the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlannedRow {
    pub(crate) id: SequenceId,
    pub(crate) n_tokens: usize,
}

/// What a step will do, besides its batch.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// In the order of the batch's rows.
    pub(crate) rows: Vec<PlannedRow>,
    /// To be done in this order before the batch.
    pub(crate) copies: Vec<BlockCopy>,
    pub(crate) n_preempted: usize,
    pub(crate) prefill_tokens: usize,
    asks: Vec<Ask>,
}

/// The sequences, their order, and the blocks they share.
pub(crate) struct Scheduler {
    pub(crate) limits: StepLimits,
    pub(crate) pool: BlockPool,
    sequences: Vec<Option<Sequence>>,
    vacant: Vec<SequenceId>,
    /// Those that hold blocks, the oldest first.
    running: Vec<SequenceId>,
    /// Those that wait for room, the oldest first.
    waiting: VecDeque<SequenceId>,
    /// Those that rest until others are as far as they are.
    parked: Vec<SequenceId>,
}

impl Scheduler {
    pub(crate) fn new(limits: StepLimits, pool: BlockPool) -> Self {
        assert!(limits.max_rows <= limits.max_tokens, "{limits:?}: a row without a token");
        let (sequences, vacant, running, waiting, parked) = Default::default();
        Self { limits, pool, sequences, vacant, running, waiting, parked }
    }

    pub(crate) fn running(&self) -> &[SequenceId] {
        &self.running
    }

    /// Those that are neither running nor at an end.
    pub(crate) fn n_waiting(&self) -> usize {
        self.waiting.len() + self.parked.len()
    }

    pub(crate) fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.sequences[id].as_ref()
    }

    /// A live sequence, and the pool its blocks are from.
    pub(crate) fn get_with_pool(&mut self, id: SequenceId) -> (&mut Sequence, &mut BlockPool) {
        match &mut self.sequences[id] {
            Some(sequence) => (sequence, &mut self.pool),
            None => panic!("sequence {id} has ended"),
        }
    }

    /// Lets a new sequence wait its turn.
    pub(crate) fn enqueue(&mut self, sequence: Sequence) {
        let id = self.store(sequence);
        self.wait(id);
    }

    /// Takes in a sequence that holds blocks already: it runs if there is a row for it and its blocks hold all
    /// but its last token, else it gives them back and waits.
    pub(crate) fn adopt(&mut self, sequence: Sequence) -> SequenceId {
        let id = self.store(sequence);
        self.run_or_wait(id);
        id
    }

    /// Lets a sequence rest. It may lose its blocks meanwhile.
    pub(crate) fn park(&mut self, id: SequenceId) {
        self.take_out(id);
        self.parked.push(id);
    }

    /// Ends the rest of a sequence, if it was at rest.
    pub(crate) fn unpark(&mut self, id: SequenceId) {
        let Some(place) = self.parked.iter().position(|&other| other == id) else { return };
        self.parked.remove(place);
        self.run_or_wait(id);
    }

    fn run_or_wait(&mut self, id: SequenceId) {
        let sequence = self.sequence(id);
        // Without blocks it must be admitted: a token more, and it would lack two positions of them.
        let is_ready = sequence.n_pending() <= 1 && sequence.table.len() > 0;
        if is_ready && self.running.len() < self.limits.max_rows {
            self.run(id);
        } else {
            self.drop_blocks(id);
            self.wait(id);
        }
    }

    fn take_out(&mut self, id: SequenceId) {
        let is_it = |&other: &SequenceId| other == id;
        if let Some(place) = self.running.iter().position(is_it) {
            self.running.remove(place);
        } else if let Some(place) = self.waiting.iter().position(is_it) {
            self.waiting.remove(place);
        } else if let Some(place) = self.parked.iter().position(is_it) {
            self.parked.remove(place);
        }
    }

    /// Ends a sequence and frees what it holds.
    pub(crate) fn remove(&mut self, id: SequenceId) -> Sequence {
        self.drop_blocks(id);
        self.take_out(id);
        self.vacant.push(id);
        match self.sequences[id].take() {
            Some(sequence) => sequence,
            None => panic!("sequence {id} ended twice"),
        }
    }

    /// Ends all sequences of a request; says whether there were any.
    pub(crate) fn remove_request(&mut self, request: RequestId) -> bool {
        let of_request = |&id: &SequenceId| self.age(id).0 == request;
        let first = self.waiting.partition_point(|&id| self.age(id).0 < request);
        let waiting = self.waiting.iter().skip(first).copied().take_while(of_request);
        let parked = self.parked.iter().copied().filter(of_request);
        let running = self.running.iter().copied().filter(of_request);
        let ids: Vec<SequenceId> = running.chain(waiting).chain(parked).collect();
        ids.iter().for_each(|&id| drop(self.remove(id)));
        !ids.is_empty()
    }

    /// Fills the batch: first every sequence that lacks one position only, the oldest first, then pieces of
    /// prompts, then new sequences.
    pub(crate) fn plan(&mut self, batch: &mut Batch, plan: &mut Plan) {
        batch.clear();
        plan.rows.clear();
        plan.copies.clear();
        (plan.n_preempted, plan.prefill_tokens) = (0, 0);
        let mut place = 0;
        while let Some(&id) = self.running.get(place) {
            if batch.tokens.len() < self.limits.max_tokens && self.sequence(id).n_pending() == 1 {
                if !self.make_room(id, plan) {
                    break;
                }
                plan.prefill_tokens += usize::from(self.sequence(id).n_output() == 0);
                self.push_row(id, 1, batch, plan);
            }
            place += 1;
        }
        for place in 0..self.running.len() {
            let id = self.running[place];
            if self.sequence(id).n_pending() > 1 {
                self.push_piece(id, batch, plan);
            }
        }
        while plan.n_preempted == 0
            && self.running.len() < self.limits.max_rows
            && batch.tokens.len() < self.limits.max_tokens
            && let Some(&id) = self.waiting.front()
            && self.admit(id)
        {
            self.waiting.pop_front();
            self.run(id);
            self.push_piece(id, batch, plan);
        }
    }

    /// Reserves the blocks of a running sequence's next position, if need be at the cost of the youngest.
    /// False when that was this one itself.
    fn make_room(&mut self, id: SequenceId, plan: &mut Plan) -> bool {
        loop {
            let Some(sequence) = &mut self.sequences[id] else { panic!("running sequence {id} has ended") };
            if sequence.reserve(&mut self.pool, &mut plan.copies) {
                return true;
            }
            if self.strip_parked() {
                continue;
            }
            let youngest = self.running[self.running.len() - 1];
            assert!(
                self.running.len() > 1,
                "the only running sequence found no block for {} tokens among {} blocks of {}",
                self.sequence(id).tokens.len(),
                self.pool.n_blocks(),
                self.pool.block_size(),
            );
            self.running.pop();
            self.drop_blocks(youngest);
            self.wait(youngest);
            plan.n_preempted += 1;
            if youngest == id {
                return false;
            }
        }
    }

    /// Gives a waiting sequence the blocks of all its present tokens, shared ones where there are any.
    fn admit(&mut self, id: SequenceId) -> bool {
        let Some(sequence) = &mut self.sequences[id] else { panic!("waiting sequence {id} has ended") };
        let limit = sequence.first_wanted();
        let n_shared = sequence.table.attach(&sequence.tokens, limit, &mut self.pool);
        let missing = self.pool.blocks_for(sequence.tokens.len()) - sequence.table.len();
        let watermark = if self.running.is_empty() { 0 } else { self.limits.watermark };
        if missing + watermark > self.pool.available() {
            sequence.table.release(&mut self.pool);
            if !self.running.is_empty() {
                return false;
            }
            assert!(self.strip_parked(), "{missing} blocks for a sequence that has the pool to itself");
            return self.admit(id);
        }
        sequence.table.cover(sequence.tokens.len(), &mut self.pool);
        sequence.n_cached = n_shared;
        sequence.n_shared.get_or_insert(n_shared);
        #[cfg(test)]
        if self.pool.fault == Some(crate::faults::Fault::EarlyPublication) {
            let written = &sequence.tokens[..sequence.tokens.len() - 1];
            sequence.table.publish(written, &mut self.pool);
        }
        true
    }

    /// As much of a sequence's pending positions as the step has room for.
    fn push_piece(&mut self, id: SequenceId, batch: &mut Batch, plan: &mut Plan) {
        let room = self.limits.max_tokens - batch.tokens.len();
        let n_tokens = self.sequence(id).n_pending().min(self.limits.prefill_chunk).min(room);
        if n_tokens > 0 {
            plan.prefill_tokens += n_tokens;
            self.push_row(id, n_tokens, batch, plan);
        }
    }

    fn push_row(&mut self, id: SequenceId, n_tokens: usize, batch: &mut Batch, plan: &mut Plan) {
        let sequence = self.sequence(id);
        let row = sequence.n_cached..sequence.n_cached + n_tokens;
        plan.asks.clear();
        sequence.ask(row.clone(), &mut plan.asks);
        let blocks = &sequence.table.blocks()[..self.pool.blocks_for(row.end)];
        batch.push(&sequence.tokens[row.clone()], row.start, blocks, &plan.asks);
        plan.rows.push(PlannedRow { id, n_tokens });
    }

    fn store(&mut self, sequence: Sequence) -> SequenceId {
        match self.vacant.pop() {
            Some(id) => {
                self.sequences[id] = Some(sequence);
                id
            }
            None => {
                self.sequences.push(Some(sequence));
                self.sequences.len() - 1
            }
        }
    }

    fn run(&mut self, id: SequenceId) {
        let age = self.age(id);
        let place = self.running.partition_point(|&other| self.age(other) < age);
        self.running.insert(place, id);
    }

    fn wait(&mut self, id: SequenceId) {
        let age = self.age(id);
        let place = self.waiting.partition_point(|&other| self.age(other) < age);
        self.waiting.insert(place, id);
    }

    /// Takes the blocks of the youngest parked sequence that has any; says whether there was one.
    fn strip_parked(&mut self) -> bool {
        let holds = |&id: &SequenceId| self.sequence(id).table.len() > 0;
        let youngest = self.parked.iter().copied().filter(holds).max_by_key(|&id| self.age(id));
        youngest.is_some_and(|id| {
            self.drop_blocks(id);
            true
        })
    }

    fn drop_blocks(&mut self, id: SequenceId) {
        if let Some(sequence) = &mut self.sequences[id] {
            sequence.table.release(&mut self.pool);
            sequence.n_cached = 0;
        }
    }

    fn age(&self, id: SequenceId) -> Age {
        self.sequence(id).age
    }

    fn sequence(&self, id: SequenceId) -> &Sequence {
        match &self.sequences[id] {
            Some(sequence) => sequence,
            None => panic!("sequence {id} has ended"),
        }
    }

    /// What must hold between steps; for tests and debug builds.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn check(&self) {
        let mut in_tables = vec![0; self.pool.n_blocks()];
        let live = self.sequences.iter().flatten();
        live.flat_map(|sequence| sequence.table.blocks()).for_each(|&block| in_tables[block as usize] += 1);
        self.pool.check(&in_tables);
        let n_live = self.sequences.iter().flatten().count();
        let n_known = self.running.len() + self.waiting.len() + self.parked.len();
        assert_eq!(n_live, n_known, "sequences; running, waiting and parked ones");
        assert_eq!(n_live + self.vacant.len(), self.sequences.len(), "sequences and vacant places");
        assert!(self.running.len() <= self.limits.max_rows, "{} running", self.running.len());
        assert!(self.running.is_sorted_by_key(|&id| self.age(id)), "running sequences in order of age");
        assert!(
            self.waiting.iter().is_sorted_by_key(|&id| self.age(id)),
            "waiting sequences in order of age"
        );
        for &id in &self.waiting {
            let sequence = self.sequence(id);
            assert_eq!((sequence.table.len(), sequence.n_cached), (0, 0), "blocks of a waiting sequence");
        }
        for &id in &self.running {
            let sequence = self.sequence(id);
            let room = sequence.table.len() * self.pool.block_size();
            assert!(
                sequence.n_cached <= room && sequence.n_cached < sequence.tokens.len(),
                "cached positions"
            );
        }
    }
}
