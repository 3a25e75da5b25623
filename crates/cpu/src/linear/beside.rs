//! What is read after a product. A thread that multiplies many tokens with each weight reads little for long; meanwhile it
//! has such memory brought into its second-level cache, from where it falls into the one that all threads share.

use super::layout::ALIGNMENT;
use super::memory::prefetch_far;
use std::ptr::without_provenance;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Most lines a step: more of them than memory delivers meanwhile would keep the weights waiting.
const MOST_LINES: usize = 8;

/// Pieces of memory that a thread reads after a product, loaded while the product is computed.
#[derive(Debug, Default)]
pub struct Beside {
    /// Address and lines of each, in the order in which they are read.
    pieces: Vec<(usize, usize)>,
    /// Lines of all of them for every group of the product.
    pace: usize,
    /// The next piece, and how many of its lines are loaded. Changed by one thread alone, through a shared reference.
    piece: AtomicUsize,
    done: AtomicUsize,
}

impl Beside {
    /// Replaces the pieces, (first byte, bytes) each, to be loaded in the course of `n_groups` groups of weights.
    pub fn set(&mut self, pieces: impl Iterator<Item = (*const u8, usize)>, n_groups: usize) {
        self.pieces.clear();
        self.pieces.extend(pieces.map(|(first, n_bytes)| (first.addr(), n_bytes.div_ceil(ALIGNMENT))));
        let n_lines: usize = self.pieces.iter().map(|(_, lines)| lines).sum();
        self.pace = n_lines.div_ceil(n_groups.max(1));
        (self.piece, self.done) = Default::default();
    }

    /// Lines of a step when `together` groups take so many.
    pub(super) fn lines_a_step(&self, steps: usize, together: usize) -> usize {
        (together * self.pace).div_ceil(steps.max(1)).min(MOST_LINES)
    }

    /// Loads the next `n` lines at most, of one piece.
    #[inline(always)]
    pub(super) fn step(&self, n: usize) {
        let (piece, done) = self.at();
        let Some(&(first, lines)) = self.pieces.get(piece) else { return };
        let end = lines.min(done + n);
        for line in done..end {
            prefetch_far(without_provenance(first.wrapping_add(line * ALIGNMENT)));
        }
        let (piece, done) = if end == lines { (piece + 1, 0) } else { (piece, end) };
        self.piece.store(piece, Relaxed);
        self.done.store(done, Relaxed);
    }

    #[inline(always)]
    fn at(&self) -> (usize, usize) {
        (self.piece.load(Relaxed), self.done.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Nothing else would tell: memory that is loaded for nothing changes no result.
    #[test]
    fn every_piece_is_loaded_once_in_the_course_of_the_groups() {
        for (sizes, n_groups, steps) in [
            (vec![64, 6144, 6144, 100], 24, 9),
            (vec![1 << 20], 2, 3),
            (vec![], 5, 1),
            (vec![6144; 288], 96, 54),
        ] {
            let mut beside = Beside::default();
            let pieces = sizes.iter().enumerate().map(|(i, &n)| (without_provenance(i << 32), n));
            beside.set(pieces, n_groups);
            let n = beside.lines_a_step(steps, 1);
            assert!(beside.lines_a_step(2 * steps, 2) == n, "two groups at once at the pace of one");
            let n_lines: usize = sizes.iter().map(|n| n.div_ceil(ALIGNMENT)).sum();
            let mut taken = Vec::new();
            for _ in 0..n_groups * steps {
                let (piece, done) = beside.at();
                beside.step(n);
                let (next, after) = beside.at();
                let lines = sizes.get(piece).map_or(0, |size| size.div_ceil(ALIGNMENT));
                let end = if next == piece { after } else { lines };
                assert!(end - done <= n && n <= MOST_LINES);
                taken.extend((done..end).map(|line| (piece, line)));
            }
            let all = sizes.iter().enumerate();
            let all = all.flat_map(|(i, size)| (0..size.div_ceil(ALIGNMENT)).map(move |line| (i, line)));
            let n_most = n_groups * steps * MOST_LINES;
            assert!(taken.iter().copied().eq(all.take(taken.len())), "in order, none twice, none beyond");
            assert!(taken.len() >= n_lines.min(n_most) / 10 * 9, "{} of {n_lines} lines", taken.len());
        }
    }
}
