//! Draws and lists of candidates: what is queued for them, and what arrives after the wait that they share.

use super::CudaBackend;
use crate::draws::{self, Orders};
use crate::launch::Launch;
use crate::ops;
use crate::options::MAX_CANDIDATES;
use crate::rooms::{DRAWN_BYTES, drawn_at};
use entropix_model::{Candidate, Candidates, Draw, Drawn, Result, Slot};

/// Lists of candidates that were queued: `n`, each of at most `most`.
pub(super) struct Listed {
    n: usize,
    most: usize,
}

impl CudaBackend {
    /// Queues the first draws, as many as there is room for; returns how many.
    pub(super) fn queue_draws(&mut self, draws: &[Draw<'_>]) -> Result<usize> {
        let mut orders = Orders::default();
        for draw in draws {
            if !orders.push(draw, self.kept(draw.slot), &self.sizes) {
                break;
            }
        }
        let n = orders.len();
        if n > 0 {
            let logits = self.forward().logits(0, 0, self.rooms.orders.pointer());
            let launch = orders.upload(&self.driver, &self.rooms, logits)?;
            self.driver.launch(&launch)?;
            let at = drawn_at(&self.sizes);
            self.driver.read(self.rooms.drawn, 0, n * DRAWN_BYTES, &self.rooms.answers, at)?;
        }
        Ok(n)
    }

    /// What [`Self::queue_draws`] queued, after a wait.
    pub(super) fn take_draws(&mut self, out: &mut [Drawn]) {
        let (at, n) = (drawn_at(&self.sizes), out.len());
        for (out, record) in out.iter_mut().zip(self.arrived::<[u32; 3]>(at, n)) {
            *out = draws::drawn(record);
        }
    }

    /// Queues lists of candidates, for which there is room.
    pub(super) fn queue_candidates(&mut self, asks: &[(Slot, u16)]) -> Result<Listed> {
        let most = asks.iter().map(|&(_, k)| usize::from(k).min(MAX_CANDIDATES)).max().unwrap_or(0);
        let launch = self.list_candidates(asks.iter().map(|&(slot, k)| (self.kept(slot), u32::from(k))))?;
        self.driver.launch(&launch)?;
        let rooms = &self.rooms;
        let width = most * size_of::<Candidate>();
        let pitch = MAX_CANDIDATES * size_of::<Candidate>();
        self.driver.read_rows(rooms.lists, pitch, width, asks.len(), &rooms.answers)?;
        self.driver.read(rooms.list_counts, 0, 4 * asks.len(), &rooms.answers, asks.len() * width)?;
        Ok(Listed { n: asks.len(), most })
    }

    /// Queues the copy of a list of (place, k); the launch that is to follow.
    pub(super) fn list_candidates(&self, asks: impl Iterator<Item = (u32, u32)>) -> Result<Launch> {
        let mut words = vec![0; 4];
        for (place, k) in asks {
            words.extend([place, k.min(MAX_CANDIDATES as u32)]);
            words[0] += 1;
        }
        let (rooms, n) = (&self.rooms, words[0]);
        self.driver.write(rooms.wanted, 0, bytemuck::cast_slice(&words))?;
        let count = rooms.wanted.pointer();
        let (wanted, lists, counts) =
            (rooms.wanted.offset(16), rooms.lists.pointer(), rooms.list_counts.pointer());
        Ok(ops::candidates(self.forward().logits(0, 0, count), wanted, lists, counts, count, n))
    }

    /// What [`Self::queue_candidates`] queued, after a wait.
    pub(super) fn take_candidates(&mut self, Listed { n, most }: Listed, out: &mut Candidates) {
        let entries: Vec<Candidate> = self.arrived(0, n * most).collect();
        let counts: Vec<u32> = self.arrived(n * most * size_of::<Candidate>(), n).collect();
        for (i, &count) in counts.iter().enumerate() {
            out.push(entries[i * most..i * most + count as usize].iter().copied());
        }
    }
}
