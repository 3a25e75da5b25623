//! How products are cut into tasks, and where each thread goes on after one.

use crate::linear::{Matrix, ROW_GROUP, Upcoming};
use crate::options::{TASK_ROWS, TASK_TOKENS};
use crate::pool::share;
use std::ops::Range;

/// Tokens from which strips are cut for two groups of rows at once.
const MANY_TOKENS: usize = 25;

/// Where the threads begin with a matrix, whose tasks are dealt out in their order.
#[derive(Clone, Copy)]
pub(crate) struct First<'a> {
    pub(crate) matrix: &'a Matrix,
    pub(crate) cut: Rectangles,
}

impl First<'_> {
    /// The first row of a thread's share; none when it has none.
    fn row(&self, thread: usize, n_threads: usize) -> Option<usize> {
        let share = share(self.cut.n_tasks(), thread, n_threads);
        (!share.is_empty()).then(|| self.cut.at(share.start).1.start)
    }

    /// What a thread reads first.
    pub(crate) fn of(&self, thread: usize, n_threads: usize) -> Upcoming<'static> {
        self.row(thread, n_threads).map_or(Upcoming::NOTHING, |row| self.matrix.upcoming(row))
    }

    /// What it reads after a task of another product, whose share it has: that product's next task, or this one's first.
    pub(crate) fn after(
        &self,
        task: usize,
        cut: &Rectangles,
        from: &Matrix,
        thread: usize,
        n_threads: usize,
    ) -> Upcoming<'static> {
        match share(cut.n_tasks(), thread, n_threads) {
            share if share.contains(&(task + 1)) => from.upcoming(cut.at(task + 1).1.start),
            _ => self.of(thread, n_threads),
        }
    }
}

/// What a region multiplies with: the first `n_rows` of a matrix, in multiples of `unit`, and what belongs to them.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) matrix: &'a Matrix,
    pub(crate) n_rows: usize,
    pub(crate) unit: usize,
}

impl<'a> Product<'a> {
    /// What the threads read first of the product of `n_tokens`.
    pub(crate) fn first(&self, n_tokens: usize, n_threads: usize) -> First<'a> {
        First { matrix: self.matrix, cut: self.rectangles(n_tokens, n_threads) }
    }

    /// Groups of rows that a thread meets, once for each of the rectangles' columns of tokens.
    pub(crate) fn n_groups(&self, n_tokens: usize, n_threads: usize) -> usize {
        let columns = self.rectangles(n_tokens, n_threads).columns();
        (self.n_rows.div_ceil(ROW_GROUP) * columns).div_ceil(n_threads)
    }

    pub(crate) fn rectangles(&self, n_tokens: usize, n_threads: usize) -> Rectangles {
        // Kernels of many tokens may take two groups at once.
        let unit = if n_tokens < MANY_TOKENS { self.unit } else { self.unit.next_multiple_of(2 * ROW_GROUP) };
        let tokens = n_tokens.clamp(1, TASK_TOKENS);
        let columns = n_tokens.div_ceil(tokens).max(1);
        // A few tasks a thread, so that one that is late does not keep the others waiting long.
        let wanted = (4 * n_threads).div_ceil(columns);
        let most = TASK_TOKENS * TASK_ROWS / tokens / unit;
        let n_units = self.n_rows.div_ceil(unit);
        let n_strips = wanted.max(n_units.div_ceil(most.max(1))).min(n_units);
        Rectangles { n_tokens, n_rows: self.n_rows, tokens, unit, n_strips }
    }
}

/// A product of (n_tokens, n_rows), a task for each crossing of a column of at most `tokens` and a strip of rows. Strips differ
/// by one `unit` of rows at most, and so do the threads' shares of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rectangles {
    n_tokens: usize,
    n_rows: usize,
    tokens: usize,
    unit: usize,
    n_strips: usize,
}

impl Rectangles {
    /// One column, and a strip for every `unit` of rows.
    pub(crate) fn strips(n_rows: usize, unit: usize) -> Self {
        Self { n_tokens: 1, n_rows, tokens: 1, unit, n_strips: n_rows.div_ceil(unit) }
    }

    fn columns(&self) -> usize {
        self.n_tokens.div_ceil(self.tokens)
    }

    pub(crate) fn n_tasks(&self) -> usize {
        self.n_strips * self.columns()
    }

    pub(crate) fn at(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let columns = self.columns();
        let (strip, token) = (task / columns, task % columns * self.tokens);
        let n_units = self.n_rows.div_ceil(self.unit);
        let row = |strip: usize| (n_units * strip / self.n_strips * self.unit).min(self.n_rows);
        (token..self.n_tokens.min(token + self.tokens), row(strip)..row(strip + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::KernelPath;
    use crate::linear::{Part, Precision};
    use entropix_model::{DType, Tensor};

    fn matrix(n_rows: usize) -> Matrix {
        let tensor = Tensor::from_bytes("weights", DType::Q8_0, n_rows, 32, vec![0; n_rows * 34]);
        Matrix::pack(&[Part::new(&tensor)], Precision::Int8, KernelPath::Portable).unwrap()
    }

    const SHAPES: [(usize, usize); 7] =
        [(16, 16), (576, 16), (960, 16), (1536, 32), (3072, 32), (112, 32), (49152, 16)];
    const TOKENS: [usize; 8] = [0, 1, 2, 7, 32, 96, 97, 512];

    // Nothing else would tell: weights that are loaded ahead for nothing change no result.
    #[test]
    fn a_thread_begins_where_its_weights_were_loaded_ahead() {
        for (n_rows, unit) in SHAPES {
            let matrix = matrix(n_rows);
            let product = Product { matrix: &matrix, n_rows, unit };
            for n_threads in 1..=5 {
                for n_tokens in TOKENS {
                    let cut = product.rectangles(n_tokens, n_threads);
                    let first = product.first(n_tokens, n_threads);
                    for thread in 0..n_threads {
                        let begins =
                            share(cut.n_tasks(), thread, n_threads).next().map(|task| cut.at(task).1.start);
                        assert_eq!(first.row(thread, n_threads), begins, "{n_rows} rows, {n_tokens} tokens");
                    }
                }
            }
        }
    }

    #[test]
    fn tasks_tile_a_product_and_fit_the_room_of_a_thread() {
        for (n_rows, unit) in SHAPES {
            let matrix = matrix(n_rows);
            for (n_tokens, n_threads) in TOKENS.into_iter().flat_map(|n| (1..=16).map(move |t| (n, t))) {
                let cut = Product { matrix: &matrix, n_rows, unit }.rectangles(n_tokens, n_threads);
                let case = format!("{n_rows} rows, {n_tokens} tokens, {n_threads} threads: {cut:?}");
                let mut seen = vec![0u8; n_tokens * n_rows];
                for (tokens, rows) in (0..cut.n_tasks()).map(|task| cut.at(task)) {
                    assert!(!tokens.is_empty() && !rows.is_empty(), "{case}");
                    assert!(rows.start.is_multiple_of(unit), "{case}");
                    assert!(tokens.len() * rows.len() <= TASK_TOKENS * TASK_ROWS.max(unit), "{case}");
                    for token in tokens {
                        seen[token * n_rows..][rows.clone()].iter_mut().for_each(|n| *n += 1);
                    }
                }
                assert!(seen.iter().all(|&n| n == 1), "{case}");
            }
        }
    }

    // A thread with a tenth more to read keeps all others waiting, in every product of every layer.
    #[test]
    fn threads_share_a_token_s_products_evenly() {
        for (n_rows, unit) in SHAPES {
            let matrix = matrix(n_rows);
            for n_threads in 1..=8 {
                let cut = Product { matrix: &matrix, n_rows, unit }.rectangles(1, n_threads);
                let rows_of = |thread: usize| -> usize {
                    share(cut.n_tasks(), thread, n_threads).map(|task| cut.at(task).1.len()).sum()
                };
                let most = (0..n_threads).map(rows_of).max().unwrap();
                let fair = n_rows.div_ceil(n_threads * unit) * unit;
                assert!(
                    most <= fair + unit,
                    "{most} of {n_rows} rows for one of {n_threads} threads: {cut:?}"
                );
            }
        }
    }
}
