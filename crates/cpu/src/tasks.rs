//! How products are cut into tasks, and where each thread goes on after one.

use crate::linear::{Matrix, ROW_GROUP, Upcoming};
use crate::options::{TASK_ROWS, TASK_TOKENS};
use crate::pool::share;
use std::ops::Range;

/// Where the threads begin with a matrix: its tasks are dealt out in their order, `tasks_a_row` for every `rows`.
#[derive(Clone, Copy)]
pub(crate) struct First<'a> {
    pub(crate) matrix: &'a Matrix,
    pub(crate) n_tasks: usize,
    pub(crate) tasks_a_row: usize,
    pub(crate) rows: usize,
}

impl First<'_> {
    /// The first row of a thread's share; none when it has none.
    fn row(&self, thread: usize, n_threads: usize) -> Option<usize> {
        let share = share(self.n_tasks, thread, n_threads);
        (!share.is_empty()).then_some(share.start / self.tasks_a_row * self.rows)
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
        if n_tokens == 0 {
            return First { matrix: self.matrix, n_tasks: 0, tasks_a_row: 1, rows: 0 };
        }
        let cut = self.rectangles(n_tokens, n_threads);
        First { matrix: self.matrix, n_tasks: cut.n_tasks(), tasks_a_row: cut.columns(), rows: cut.rows }
    }

    /// Groups of rows that a thread meets, once for each of the rectangles' columns of tokens.
    pub(crate) fn n_groups(&self, n_tokens: usize, n_threads: usize) -> usize {
        let columns = self.rectangles(n_tokens, n_threads).columns();
        (self.n_rows.div_ceil(ROW_GROUP) * columns).div_ceil(n_threads)
    }

    pub(crate) fn rectangles(&self, n_tokens: usize, n_threads: usize) -> Rectangles {
        let (tokens, rows) = rectangle(n_tokens, self.n_rows, self.unit, n_threads);
        Rectangles { n_tokens, n_rows: self.n_rows, tokens, rows }
    }
}

/// A product of (n_tokens, n_rows) in rectangles of at most (tokens, rows), a task each.
#[derive(Clone, Copy)]
pub(crate) struct Rectangles {
    n_tokens: usize,
    n_rows: usize,
    tokens: usize,
    rows: usize,
}

impl Rectangles {
    fn columns(&self) -> usize {
        self.n_tokens.div_ceil(self.tokens)
    }

    pub(crate) fn n_tasks(&self) -> usize {
        self.n_rows.div_ceil(self.rows) * self.columns()
    }

    pub(crate) fn at(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let columns = self.columns();
        let (row, token) = (task / columns * self.rows, task % columns * self.tokens);
        (token..self.n_tokens.min(token + self.tokens), row..self.n_rows.min(row + self.rows))
    }
}

/// Tokens and rows of a task of a product of `n_tokens` with `n_rows` rows.
fn rectangle(n_tokens: usize, n_rows: usize, unit: usize, n_threads: usize) -> (usize, usize) {
    let tokens = n_tokens.min(TASK_TOKENS);
    let columns = n_tokens.div_ceil(tokens);
    // A few tasks a thread, so that one that is late does not keep the others waiting long.
    let wanted = (4 * n_threads).div_ceil(columns);
    let most = TASK_TOKENS * TASK_ROWS / tokens / unit * unit;
    (tokens, n_rows.div_ceil(wanted).next_multiple_of(unit).min(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::KernelPath;
    use crate::linear::{Part, Precision};
    use entropix_model::{DType, Tensor};

    // Nothing else would tell: weights that are loaded ahead for nothing change no result.
    #[test]
    fn a_thread_begins_where_its_weights_were_loaded_ahead() {
        let matrix = |n_rows: usize| {
            let tensor = Tensor::from_bytes("weights", DType::Q8_0, n_rows, 32, vec![0; n_rows * 34]);
            Matrix::pack(&[Part::new(&tensor)], Precision::Int8, KernelPath::Portable).unwrap()
        };
        for (n_rows, unit) in [(16, 16), (576, 16), (960, 16), (1536, 32), (3072, 32)] {
            let matrix = matrix(n_rows);
            let product = Product { matrix: &matrix, n_rows, unit };
            for n_threads in 1..=5 {
                for n_tokens in [1, 2, 7, 32, 96, 97, 512] {
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
}
