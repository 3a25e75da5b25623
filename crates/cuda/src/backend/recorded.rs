//! Decode steps recorded once a shape and replayed; launched one by one where the device has no memory for a recording.

use super::CudaBackend;
use crate::driver::Graph;
use crate::forward::{Forward, Shape};
use crate::ops;
use crate::rooms::key_parts_bytes;
use crate::step::narrow;
use entropix_model::Result;

impl CudaBackend {
    /// The step's own shape.
    pub(super) fn exact_shape(&self) -> Shape {
        let p = &self.plan;
        Shape {
            tokens: narrow(p.n_tokens),
            decode_tiles: narrow(p.n_decode),
            splits: narrow(p.splits),
            prefill_tiles: narrow(p.n_prefill),
            kept: narrow(p.n_kept),
            attention: narrow(p.n_attention),
            key_parts: narrow(p.key_parts),
        }
    }

    /// The step's own shape, or for a decode step the recorded shape that holds it.
    fn shape(&self) -> (Shape, bool) {
        let (p, exact) = (&self.plan, self.exact_shape());
        if !self.replays || p.n_prefill > 0 || p.n_tokens != p.n_rows || p.n_kept > p.n_tokens {
            return (exact, false);
        }
        let tokens = bucket(p.n_tokens).min(self.sizes.max_rows).min(self.sizes.max_tokens);
        let per_row = p.n_decode / p.n_rows;
        let rounded = |n: usize, most: usize| narrow(n.next_power_of_two().min(most));
        let attention = p.n_attention > 0;
        let key_parts = rounded(p.key_parts.max(1), self.sizes.key_parts);
        let fits = tokens * key_parts as usize * 4 <= key_parts_bytes(&self.sizes);
        if attention && !fits {
            return (exact, false);
        }
        let replayed = Shape {
            tokens: narrow(tokens),
            decode_tiles: narrow(tokens * per_row),
            splits: rounded(p.splits, self.capacity.max_context.div_ceil(ops::SPLIT)),
            prefill_tiles: 0,
            kept: if p.n_kept > 0 { narrow(tokens.min(self.sizes.max_kept)) } else { 0 },
            attention: if attention { narrow(tokens) } else { 0 },
            key_parts: if attention { key_parts } else { 0 },
        };
        (replayed, true)
    }

    pub(super) fn queue_step(&mut self) -> Result<()> {
        if self.plan.n_tokens == 0 {
            return Ok(());
        }
        let (shape, is_replayed) = self.shape();
        if is_replayed && self.most_graphs > 0 && self.replay_step(shape)? {
            return Ok(());
        }
        // Rows that decode have the same bits replayed or not.
        let has_prompt = self.plan.n_tokens > self.plan.n_rows;
        let fast = self.sizes.fast.filter(|_| has_prompt).map(|_| &self.driver);
        Forward { fast, ..self.forward() }.step(shape, &mut |launch| self.driver.launch(&launch))
    }

    /// Queues a recorded step, recorded now if it was not. False where the device has no memory for that, and then for no more
    /// recorded steps than there are.
    fn replay_step(&mut self, shape: Shape) -> Result<bool> {
        let graph = match self.graphs.get_mut(&shape) {
            Some((graph, used)) => {
                *used = self.step;
                Ok(*graph)
            }
            None => self.record_step(shape),
        };
        let queued = graph.and_then(|graph| self.driver.replay(graph));
        match queued {
            Err(error) if error.code == "DeviceMemory" => {
                self.forget(shape)?;
                self.most_graphs = self.graphs.len();
                Ok(false)
            }
            queued => queued.map(|()| true),
        }
    }

    /// Records a step, in the place of the one that was not used for longest if there are too many.
    fn record_step(&mut self, shape: Shape) -> Result<Graph> {
        if self.graphs.len() >= self.most_graphs
            && let Some(oldest) =
                self.graphs.iter().min_by_key(|(_, (_, used))| used.0).map(|(shape, _)| *shape)
        {
            self.forget(oldest)?;
        }
        let Self { driver, model, sizes, rooms, plan, .. } = self;
        let forward = Forward { model, sizes, rooms, sections: &plan.sections, fast: None, measures: true };
        let graph = driver.capture(|driver| forward.step(shape, &mut |launch| driver.launch(&launch)))?;
        self.graphs.insert(shape, (graph, self.step));
        Ok(graph)
    }

    fn forget(&mut self, shape: Shape) -> Result<()> {
        self.graphs.remove(&shape).map_or(Ok(()), |(graph, _)| self.driver.release(graph))
    }
}

/// Rows that share a recorded step: 1, 2, 4, 8, then steps of at most a quarter.
fn bucket(rows: usize) -> usize {
    match rows {
        0..=8 => rows.next_power_of_two(),
        _ => rows.next_multiple_of((rows.next_power_of_two() / 8).max(8)),
    }
}
