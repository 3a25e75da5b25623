//! A weight matrix, packed once when a model is opened.

use super::activations::{Activations, Forms, forms_of};
use super::{Precision, ROW_GROUP};
use crate::features::KernelPath;
use entropix_model::{Result, Tensor, quant::dequantise};
use std::ops::Range;

/// One of the tensors that a matrix stacks.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    tensor: &'a Tensor,
    order: Option<&'a (dyn Fn(usize) -> usize + Sync)>,
}

impl<'a> Part<'a> {
    /// A tensor with its rows as stored.
    pub fn new(tensor: &'a Tensor) -> Self {
        Self { tensor, order: None }
    }

    /// A tensor whose row i in the matrix is the stored row `order(i)`.
    pub fn reordered(tensor: &'a Tensor, order: &'a (dyn Fn(usize) -> usize + Sync)) -> Self {
        Self { tensor, order: Some(order) }
    }
}

/// A weight matrix of one or more tensors stacked by rows, at about the width they are stored in.
///
/// Every tensor starts at a multiple of [`ROW_GROUP`] rows: where a tensor's rows are no such multiple, rows of
/// zeros follow it ([`Matrix::rows_of`] says where each tensor lies).
#[derive(Debug)]
pub struct Matrix {
    parts: Vec<(Tensor, Range<usize>, Vec<u8>)>,
    n_rows: usize,
    n_cols: usize,
    precision: Precision,
}

impl Matrix {
    /// Reads and packs tensors of equal width, some rows at a time.
    ///
    /// # Errors
    /// When a file cannot be read or there is no memory.
    pub fn pack(parts: &[Part<'_>], precision: Precision, path: KernelPath) -> Result<Self> {
        let _ = path;
        let n_cols = parts[0].tensor.n_cols;
        let mut packed = Vec::new();
        let mut n_rows: usize = 0;
        for part in parts {
            assert_eq!(part.tensor.n_cols, n_cols, "columns of {}", part.tensor.name);
            let stored = part.tensor.read()?;
            let bytes = match part.order {
                None => stored,
                Some(order) => (0..part.tensor.n_rows)
                    .flat_map(|row| {
                        stored.chunks_exact(part.tensor.row_bytes()).nth(order(row)).unwrap().to_vec()
                    })
                    .collect(),
            };
            packed.push((part.tensor.clone(), n_rows..n_rows + part.tensor.n_rows, bytes));
            n_rows = (n_rows + part.tensor.n_rows).next_multiple_of(ROW_GROUP);
        }
        Ok(Self { parts: packed, n_rows, n_cols, precision })
    }

    /// Rows with the zeros between and after tensors; a multiple of [`ROW_GROUP`].
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Columns of the tensors.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Where the rows of the `part`-th tensor are, without padding.
    pub fn rows_of(&self, part: usize) -> Range<usize> {
        self.parts[part].1.clone()
    }

    /// Rows computed together: [`ROW_GROUP`].
    pub fn row_group(&self) -> usize {
        ROW_GROUP
    }

    /// Bytes in memory.
    pub fn n_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.2.len()).sum()
    }

    /// The activations this matrix reads.
    pub fn forms(&self) -> Forms {
        self.parts.iter().fold(Forms::default(), |forms, part| {
            forms.and(forms_of(part.0.dtype.is_quantised(), self.precision))
        })
    }

    /// Writes the exact weights of one row, (n_cols), equal to [`dequantise`] bit for bit.
    pub fn dequantise_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.n_cols, "columns of a weight row");
        match self.parts.iter().find(|part| part.1.contains(&row)) {
            None => out.fill(0.0),
            Some((tensor, rows, bytes)) => {
                let width = tensor.row_bytes();
                dequantise(tensor.dtype, &bytes[(row - rows.start) * width..][..width], out);
            }
        }
    }

    /// Starts to load the packed weights of `rows` into the cache, at most `max_bytes` of them.
    pub fn prefetch(&self, rows: Range<usize>, max_bytes: usize) {
        let _ = (rows, max_bytes);
    }

    /// Products of `tokens` of the activations with `rows` of the matrix: `out[t * stride + r]` for the t-th
    /// token and the r-th row of the ranges. Each product is computed in one order whatever the ranges are.
    ///
    /// # Panics
    /// When a range leaves its matrix, `rows` does not start and end at multiples of [`ROW_GROUP`], the
    /// activations have other columns or lack the form, or `out` is too short.
    pub fn multiply(
        &self,
        activations: &Activations,
        tokens: Range<usize>,
        rows: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        if tokens.is_empty() || rows.is_empty() {
            return;
        }
        assert!(
            stride >= rows.len() && out.len() >= (tokens.len() - 1) * stride + rows.len(),
            "{} tokens and {} rows into {} numbers, {stride} a token",
            tokens.len(),
            rows.len(),
            out.len()
        );
        // SAFETY: the rectangle lies within `out`, which is borrowed exclusively.
        unsafe { self.multiply_to(activations, tokens, rows, out.as_mut_ptr(), stride) }
    }

    /// As [`Matrix::multiply`], for several threads that write different rectangles of one buffer.
    ///
    /// # Safety
    /// `out[t * stride + r]` must be valid for writes for every t < tokens.len() and r < rows.len(), and
    /// nobody else may touch these numbers meanwhile.
    pub unsafe fn multiply_to(
        &self,
        activations: &Activations,
        tokens: Range<usize>,
        rows: Range<usize>,
        out: *mut f32,
        stride: usize,
    ) {
        assert_eq!(activations.n_cols(), self.n_cols, "columns of the activations");
        let mut weights = vec![0.0; self.n_cols];
        for row in rows.clone() {
            self.dequantise_row(row, &mut weights);
            for token in tokens.clone() {
                let sum: f64 =
                    weights.iter().zip(activations.row(token)).map(|(w, x)| *w as f64 * *x as f64).sum();
                // SAFETY: promised by the caller.
                unsafe { *out.add((token - tokens.start) * stride + row - rows.start) = sum as f32 };
            }
        }
    }
}
