//! The language-model head: logits of the asks, and their signals while the logits are still in the cache.
#![allow(unsafe_code)]

use crate::elementwise::rms_norm;
use crate::forward::Step;
use crate::linear::Upcoming;
use crate::moments::{self, Floor, TILE, TileMoments};
use crate::options::HEAD_ASKS;
use crate::pool::share;
use crate::shared::Shared;
use crate::tasks::{First, Rectangles};
use crate::times::{Lap, StepTimes};
use crate::workspace::{ThreadRoom, Workspace};
use std::ops::Range;
use std::time::Instant;

impl Step<'_> {
    /// Fills `work.signals` and the kept rows of `work.logits` from the residual streams of the asks.
    pub(crate) fn head(&self, work: &mut Workspace, times: &mut StepTimes) {
        let n_asks = self.plan.asked.len();
        work.signals.clear();
        for first in (0..n_asks).step_by(HEAD_ASKS) {
            self.head_of(first..n_asks.min(first + HEAD_ASKS), work, times);
        }
    }

    /// What the threads read first of the head.
    pub(crate) fn first_of_head(&self) -> First<'_> {
        First { matrix: &self.model.head, cut: Rectangles::strips(self.model.config.vocab_size, TILE) }
    }

    fn head_of(&self, asks: Range<usize>, work: &mut Workspace, times: &mut StepTimes) {
        let mut lap = Lap::start();
        let kept = asks.clone().filter_map(|ask| self.plan.kept[ask]);
        let first_kept = kept.clone().next().unwrap_or(0);
        let n_kept = kept.count();
        // Asks that keep their logits come first, so that their products can go where they stay.
        let place = |ask: usize| match self.plan.kept[ask] {
            Some(kept) => kept - first_kept,
            None => n_kept + (asks.start..ask).filter(|&a| self.plan.kept[a].is_none()).count(),
        };
        self.norm_asks(asks.clone(), &place, work);
        times.elementwise += lap.next();
        let vocab_size = self.model.config.vocab_size;
        let n_tiles = vocab_size.div_ceil(TILE);
        let n_rows = self.model.head.n_rows();
        let n = asks.len();
        let (head_in, family) = (&work.head_in, self.family);
        for room in &mut work.threads {
            room.floors.fill(Floor::NONE);
        }
        let logits = Shared::new(&mut work.logits);
        let tiles = Shared::new(&mut work.tiles);
        let targets = Shared::new(&mut work.targets);
        let threads = Shared::new(&mut work.threads);
        self.pool.run(n_tiles, &|tile, thread| {
            let rows = tile * TILE..n_rows.min((tile + 1) * TILE);
            let real = vocab_size.min((tile + 1) * TILE) - tile * TILE;
            // SAFETY: tasks of one thread do not overlap.
            let room: &mut ThreadRoom = unsafe { threads.at(thread) };
            let is_last = !share(n_tiles, thread, self.pool.n_threads()).contains(&(tile + 1));
            let then = if is_last { Upcoming::NOTHING } else { self.model.head.upcoming(rows.end) };
            if n_kept > 0 {
                // The same rows follow for the asks that do not keep theirs.
                let upcoming = if n_kept < n { self.model.head.upcoming(rows.start) } else { then };
                let at = |i: usize| (first_kept + i) * n_rows + rows.start;
                let to = logits.pointer(at(0)..at(n_kept - 1) + rows.len());
                // SAFETY: these rows of the vocabulary are this task's alone.
                unsafe {
                    self.model.head.multiply_to(head_in, 0..n_kept, rows.clone(), to, n_rows, upcoming)
                };
            }
            self.model.head.multiply(head_in, n_kept..n, rows.clone(), &mut room.products, TILE, then);
            let start = Instant::now();
            let mut products = room.products.chunks(TILE);
            for (ask, i) in asks.clone().zip(0..) {
                let row = match self.plan.kept[ask] {
                    Some(kept) => {
                        let first = kept * n_rows + rows.start;
                        // SAFETY: written above by this task.
                        unsafe { logits.read(first..first + real) }
                    }
                    None => &products.next().expect("a row of products an ask")[..real],
                };
                // SAFETY: this tile of this ask is this task's alone, and so is the target if it lies here.
                unsafe {
                    let floor = &mut room.floors[i];
                    *tiles.at(i * n_tiles + tile) = moments::reduce(family, row, rows.start as u32, floor);
                    if let Some(target) = self.batch.asks[ask].target
                        && rows.contains(&(target as usize))
                    {
                        *targets.at(i) = row[target as usize - rows.start];
                    }
                }
            }
            room.signals_ns += start.elapsed().as_nanos() as u64;
        });
        let product = lap.next();
        let reducing = work.threads.iter_mut().map(|room| std::mem::take(&mut room.signals_ns)).sum::<u64>();
        let reducing = (reducing / self.pool.n_threads() as u64).min(product);
        times.head += product - reducing;
        times.signals += reducing;

        let tiles: &[TileMoments] = &work.tiles;
        let first = work.signals.len();
        work.signals.resize(first + n, Default::default());
        let signals = Shared::new(&mut work.signals[first..]);
        let targets = &work.targets;
        self.for_tokens(n, &|i, _| {
            let target = self.batch.asks[asks.start + i].target.map(|_| targets[i]);
            let row = &tiles[i * n_tiles..(i + 1) * n_tiles];
            // SAFETY: this ask's record alone.
            unsafe { *signals.at(i) = moments::signals(row, target) };
        });
        times.signals += lap.next();
    }

    /// The last norm, of the asks only.
    fn norm_asks(&self, asks: Range<usize>, place: &(dyn Fn(usize) -> usize + Sync), work: &mut Workspace) {
        let c = &self.model.config;
        let threads = Shared::new(&mut work.threads);
        let (x, head_in) = (&work.x, &work.head_in);
        self.for_tokens(asks.len(), &|i, thread| {
            let ask = asks.start + i;
            // SAFETY: tasks of one thread do not overlap.
            let row = &mut unsafe { threads.at(thread) }.row;
            let x = &x[ask * c.hidden_size..(ask + 1) * c.hidden_size];
            rms_norm(self.family, x, &self.model.final_norm, c.rms_norm_eps, row);
            // SAFETY: every ask has its own place.
            unsafe { head_in.write_row_shared(place(ask), row) };
        });
    }
}
