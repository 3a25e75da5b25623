//! The inputs of a product, rounded once and read by every row of the matrix.

use super::{Matrix, Precision};
use crate::features::KernelPath;
use std::cell::UnsafeCell;

/// Which roundings of the same activations are kept, since matrices that share an input may differ in type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forms {
    pub(crate) f32: bool,
    pub(crate) bf16: bool,
    pub(crate) int8: bool,
}

impl Forms {
    /// What these matrices read.
    pub fn of<'a>(matrices: impl IntoIterator<Item = &'a Matrix>) -> Self {
        matrices.into_iter().fold(Self::default(), |forms, matrix| forms.and(matrix.forms()))
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self { f32: self.f32 | other.f32, bf16: self.bf16 | other.bf16, int8: self.int8 | other.int8 }
    }
}

/// Room for (max_tokens, n_cols) activations in one or more forms. Each row is rounded by itself, so a token's
/// numbers do not depend on its neighbours.
#[derive(Debug)]
pub struct Activations {
    max_tokens: usize,
    n_cols: usize,
    forms: Forms,
    data: Vec<UnsafeCell<f32>>,
}

// SAFETY: the cells are written only through `write_row`, which is exclusive, and `write_row_shared`, whose
// callers promise that nobody else touches the row.
unsafe impl Sync for Activations {}

impl Activations {
    /// Room for `max_tokens` rows of `n_cols`.
    pub fn new(max_tokens: usize, n_cols: usize, forms: Forms, path: KernelPath) -> Self {
        let _ = path;
        let data = (0..max_tokens * n_cols).map(|_| UnsafeCell::new(0.0)).collect();
        Self { max_tokens, n_cols, forms, data }
    }

    /// Rows there is room for.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Columns.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Rounds and stores row `token`; `values` is (n_cols). A row with a NaN or an infinity makes every
    /// output of that token NaN or infinite.
    pub fn write_row(&mut self, token: usize, values: &[f32]) {
        // SAFETY: the borrow is exclusive.
        unsafe { self.write_row_shared(token, values) }
    }

    /// As [`Activations::write_row`], for several threads writing different rows at once.
    ///
    /// # Safety
    /// No other thread may write or multiply this row meanwhile.
    pub unsafe fn write_row_shared(&self, token: usize, values: &[f32]) {
        assert!(token < self.max_tokens, "row {token} of {} activations", self.max_tokens);
        assert_eq!(values.len(), self.n_cols, "columns of an activation row");
        for (cell, value) in self.data[token * self.n_cols..].iter().zip(values) {
            // SAFETY: by the contract above nobody else touches this row.
            unsafe { *cell.get() = *value }
        }
    }

    pub(crate) fn row(&self, token: usize) -> &[f32] {
        let row = &self.data[token * self.n_cols..(token + 1) * self.n_cols];
        // SAFETY: nobody writes a row while it is multiplied, by the contract of `write_row_shared`.
        unsafe { std::slice::from_raw_parts(row.as_ptr().cast(), self.n_cols) }
    }
}

pub(crate) fn forms_of(quantised: bool, precision: Precision) -> Forms {
    let mut forms = Forms::default();
    match precision {
        Precision::Int8 if quantised => forms.int8 = true,
        Precision::Bf16 => forms.bf16 = true,
        _ => forms.f32 = true,
    }
    forms
}
