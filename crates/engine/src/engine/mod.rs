//! The loop: requests in, events out.

mod append;
mod decide;
mod judge;
mod lines;
mod options;
mod pick;
mod retold;
mod settle;
mod submit;

pub use options::EngineOptions;
pub use retold::{Origin, Recorded, Retold, RetoldAnswer};

use crate::blocks::BlockPool;
use crate::limits::EMPTY_STEPS;
use crate::scheduler::{Plan, Scheduler};
use crate::sequence::AnswerKey;
use crate::{Done, Event, Request, RequestId, Stats, StepReport};
use decide::Decided;
use entropix_model::{
    AttentionSignals, Backend, Batch, BlockCopy, Candidates, Capacity, Class, Coin, Drawn, Error, Result,
    Signals, Slot, StepId,
};
use lines::Answer;
use std::collections::BTreeMap;
use std::time::Instant;

/// Runs requests on a backend. Synchronous, on the caller's thread; nothing happens between steps.
pub struct Engine {
    backend: Box<dyn Backend>,
    capacity: Capacity,
    options: EngineOptions,
    context_limit: usize,
    pub(crate) scheduler: Scheduler,
    /// Answers that went beyond their tokens: what they spent and what is undecided about them.
    answers: BTreeMap<AnswerKey, Answer>,
    next_request: u64,
    /// The ends of requests that wanted no token.
    done_at_once: Vec<Done>,
    empty_steps: u32,
    stats: Stats,
    /// Tokens that earlier engines of the same job threw away and told.
    earlier: (u64, u64),
    failure: Option<Error>,
    room: StepRoom,
    #[cfg(test)]
    tosses: u64,
}

/// What a step fills, kept from step to step.
#[derive(Default)]
struct StepRoom {
    batch: Batch,
    plan: Plan,
    /// (n_asks)
    signals: Vec<Signals>,
    /// Slots that asked for attention, rising.
    attention_asks: Vec<Slot>,
    /// (attention_asks.len())
    attention: Vec<AttentionSignals>,
    decided: Vec<Decided>,
    draws: Vec<decide::DrawOrder>,
    coins: Vec<Coin>,
    drawn: Vec<Drawn>,
    candidate_asks: Vec<(Slot, u16)>,
    candidates: Candidates,
}

impl Engine {
    /// An idle engine.
    ///
    /// # Errors
    /// `Usage` when an option is out of range or the classes are not of the backend's vocabulary.
    pub fn new(backend: Box<dyn Backend>, options: EngineOptions) -> Result<Self> {
        let capacity = backend.capacity();
        let (limits, context_limit) = options.resolve(&capacity)?;
        let pool = BlockPool::new(capacity.n_blocks, capacity.block_size, options.prefix_sharing)
            .keeping(options.kept_blocks.unwrap_or(capacity.n_blocks));
        Ok(Self {
            backend,
            capacity,
            options,
            context_limit,
            scheduler: Scheduler::new(limits, pool),
            answers: BTreeMap::new(),
            next_request: 0,
            done_at_once: Vec::new(),
            empty_steps: 0,
            stats: Stats::default(),
            earlier: (0, 0),
            failure: None,
            room: StepRoom::default(),
            #[cfg(test)]
            tosses: 0,
        })
    }

    /// What the backend can hold.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Most tokens of one sequence, prompt and output: the one limit, the least of what the options, the
    /// model and the cache allow.
    pub fn context_limit(&self) -> usize {
        self.context_limit
    }

    /// Takes a request in. It runs in the steps to come.
    ///
    /// # Errors
    /// `Data` when it can never be run: `EmptyPrompt`, `TooLong`, `TokenOutOfRange`, `OutOfRange` (naming
    /// field, value and range).
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        let id = RequestId(self.next_request);
        self.admit(id, request)?;
        self.next_request += 1;
        Ok(id)
    }

    /// Runs one step and appends what happened to `events`.
    ///
    /// # Errors
    /// Failures of the backend. The engine cannot go on after one: every later step returns it again.
    pub fn step(&mut self, events: &mut Vec<Event>) -> Result<StepReport> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut room = std::mem::take(&mut self.room);
        let report = self.run_step(&mut room, events);
        self.room = room;
        if let Err(failure) = &report {
            self.failure = Some(failure.clone());
        }
        #[cfg(debug_assertions)]
        if report.is_ok() {
            self.scheduler.check();
        }
        report
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.done_at_once.is_empty() && self.scheduler.running().is_empty() && self.scheduler.n_waiting() == 0
    }

    /// Ends a request without a further event and frees what it holds. Says whether it was there.
    pub fn cancel(&mut self, request: RequestId) -> bool {
        let n_done = self.done_at_once.len();
        self.done_at_once.retain(|done| done.request != request);
        self.forget(request);
        self.scheduler.remove_request(request) || self.done_at_once.len() < n_done
    }

    /// Sets [`EngineOptions::extra_tokens`] for a job of which earlier engines have thrown `discarded` tokens away and told
    /// `told`.
    pub fn limit_extra_tokens(&mut self, share: Option<f64>, discarded: u64, told: u64) {
        self.options.extra_tokens = share;
        self.earlier = (discarded, told);
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        let pool = &self.scheduler.pool;
        Stats {
            running: self.scheduler.running().len(),
            waiting: self.scheduler.n_waiting(),
            blocks_used: pool.n_blocks() - pool.available(),
            blocks_cached: pool.cached(),
            blocks_total: pool.n_blocks(),
            ..self.stats
        }
    }

    fn run_step(&mut self, room: &mut StepRoom, events: &mut Vec<Event>) -> Result<StepReport> {
        let n_events = events.len();
        events.extend(self.done_at_once.drain(..).map(Event::Done));
        let start = Instant::now();
        self.scheduler.plan(&mut room.batch, &mut room.plan);
        self.stats.preemptions += room.plan.n_preempted as u64;
        let planned = Instant::now();
        let mut report = StepReport {
            rows: room.batch.rows.len(),
            tokens: room.batch.tokens.len(),
            prefill_tokens: room.plan.prefill_tokens,
            planning: planned - start,
            ..StepReport::default()
        };
        if room.batch.rows.is_empty() {
            self.watch_for_standstill(events.len() > n_events)?;
            return Ok(report);
        }
        self.empty_steps = 0;
        self.stats.steps += 1;
        let step = self.forward(room)?;
        let ran = Instant::now();
        self.attend(step, room)?;
        let attended = Instant::now();
        self.settle(room, events);
        let settled = Instant::now();
        self.draw(step, room)?;
        let drawn = Instant::now();
        self.apply(room, events);
        report.forward = ran - planned;
        report.drawing = (attended - ran) + (drawn - settled);
        report.deciding = (settled - attended) + drawn.elapsed();
        Ok(report)
    }

    /// Runs the batch and reads its signals.
    fn forward(&mut self, room: &mut StepRoom) -> Result<StepId> {
        self.stats.copied_blocks += room.plan.copies.len() as u64;
        for copies in independent(&room.plan.copies) {
            self.backend.copy_blocks(copies)?;
        }
        let step = self.backend.submit(&room.batch)?;
        room.signals.clear();
        room.signals.resize(room.batch.asks.len(), Signals::default());
        self.backend.signals(step, &mut room.signals)?;
        Ok(step)
    }

    /// Reads the attention signals that were asked for.
    fn attend(&mut self, step: StepId, room: &mut StepRoom) -> Result<()> {
        room.attention_asks.clear();
        let asks = room.batch.asks.iter().zip(0..);
        room.attention_asks.extend(asks.filter(|(ask, _)| ask.attention).map(|(_, slot): (_, Slot)| slot));
        room.attention.clear();
        room.attention.resize(room.attention_asks.len(), AttentionSignals::default());
        if room.attention_asks.is_empty() {
            return Ok(());
        }
        self.backend.attention(step, &room.attention_asks, &mut room.attention)
    }

    fn watch_for_standstill(&mut self, something_happened: bool) -> Result<()> {
        self.empty_steps = if something_happened || self.is_idle() { 0 } else { self.empty_steps + 1 };
        if self.empty_steps < EMPTY_STEPS {
            return Ok(());
        }
        let stats = self.stats();
        Err(Error::new(
            Class::Internal,
            "Standstill",
            format!(
                "{EMPTY_STEPS} steps without work for {} running and {} waiting sequences, {} of {} blocks used: a \
                 fault of the scheduler, please report it",
                stats.running, stats.waiting, stats.blocks_used, stats.blocks_total
            ),
        ))
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("capacity", &self.capacity).field("stats", &self.stats()).finish()
    }
}

/// Cuts copies into runs that may be done in any order: no block of a run is written twice or both read
/// and written.
fn independent(copies: &[BlockCopy]) -> impl Iterator<Item = &[BlockCopy]> {
    let mut rest = copies;
    std::iter::from_fn(move || {
        let clashes = |n: &usize| {
            rest[..*n].iter().any(|earlier| {
                [earlier.from, earlier.to].contains(&rest[*n].to) || earlier.to == rest[*n].from
            })
        };
        let n = (0..rest.len()).find(clashes).unwrap_or(rest.len());
        let (run, later) = rest.split_at(n);
        rest = later;
        (!run.is_empty()).then_some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a run in which a block is overwritten before it is read, or written twice.
    #[test]
    fn copies_of_a_run_do_not_touch() {
        let copy = |from, to| BlockCopy { from, to, tokens: 1 };
        let runs = |copies: &[BlockCopy]| independent(copies).map(<[_]>::len).collect::<Vec<_>>();
        assert!(runs(&[]).is_empty());
        assert_eq!(runs(&[copy(1, 2), copy(1, 3), copy(4, 5)]), [3]);
        assert_eq!(runs(&[copy(1, 2), copy(3, 1)]), [1, 1], "the source is written later");
        assert_eq!(runs(&[copy(1, 2), copy(2, 3)]), [1, 1], "the target is read later");
        assert_eq!(runs(&[copy(1, 2), copy(3, 2), copy(5, 6)]), [1, 2], "written twice");
    }
}
