//! A weight matrix, packed once when a model is opened.
#![allow(unsafe_code)]

use super::activations::{Activations, Form, Forms};
use super::beside::Beside;
use super::kernels::{Job, Kernel, form, select};
use super::layout::{self, GroupLayout};
use super::packing::pack_group;
use super::{Precision, ROW_GROUP};
use crate::features::KernelPath;
use crate::memory::{Arena, Piece};
use entropix_model::{DType, Result, Tensor};
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
    segments: Vec<Segment>,
    /// The groups of all segments.
    bytes: Piece,
    n_rows: usize,
    n_cols: usize,
}

/// What a thread reads next, so that it can be in a cache by then: weights, the first of them at the end of a product, and
/// other memory in the course of it.
#[derive(Debug, Clone, Copy)]
pub struct Upcoming<'a> {
    /// Only ever prefetched, which no program can see.
    weights: *const u8,
    beside: Option<&'a Beside>,
}

impl<'a> Upcoming<'a> {
    /// Nothing.
    pub const NOTHING: Self = Self { weights: std::ptr::null(), beside: None };

    /// The same weights, and other memory.
    pub fn and(self, beside: &'a Beside) -> Self {
        Self { beside: Some(beside), ..self }
    }
}

/// One packed tensor.
#[derive(Debug)]
struct Segment {
    dtype: DType,
    layout: GroupLayout,
    /// Of the matrix, without padding.
    rows: Range<usize>,
    /// Of its first group.
    offset: usize,
    form: Form,
    kernel: Kernel,
}

impl Segment {
    fn padded_rows(&self) -> Range<usize> {
        self.rows.start..self.rows.end.next_multiple_of(ROW_GROUP)
    }

    /// Offset of the group that starts with row `row` of the matrix.
    fn group(&self, row: usize) -> usize {
        self.offset + (row - self.rows.start) / ROW_GROUP * self.layout.n_bytes
    }
}

/// Bytes of stored rows that are read at once.
const CHUNK_BYTES: usize = 1 << 19;

impl Matrix {
    /// Reads and packs tensors of equal width, some rows at a time.
    ///
    /// # Errors
    /// When a file cannot be read or there is no memory.
    ///
    /// # Panics
    /// When there are no parts, they differ in width, an order leaves its tensor, or this machine cannot run
    /// the kernels of `path`.
    pub fn pack(parts: &[Part<'_>], precision: Precision, path: KernelPath) -> Result<Self> {
        Self::pack_into(&Arena::default(), parts, precision, path)
    }

    /// As [`Matrix::pack`], into room that several matrices share: [`Matrix::packed_bytes`] of each.
    pub(crate) fn pack_into(
        arena: &Arena,
        parts: &[Part<'_>],
        precision: Precision,
        path: KernelPath,
    ) -> Result<Self> {
        assert!(path.is_available(), "the {path} kernels cannot run on this machine");
        let first = parts.first().expect("a matrix has at least one part").tensor;
        let n_cols = first.n_cols;
        let mut segments = Vec::with_capacity(parts.len());
        let (mut n_rows, mut n_bytes) = (0usize, 0usize);
        for Part { tensor, .. } in parts {
            assert_eq!(tensor.n_cols, n_cols, "columns of {}, stacked on {}", tensor.name, first.name);
            let layout = GroupLayout::new(tensor.dtype, n_cols);
            let form = form(precision, path, tensor.dtype);
            let kernel = select(path, tensor.dtype, form);
            let rows = n_rows..n_rows + tensor.n_rows;
            segments.push(Segment { dtype: tensor.dtype, layout, rows, offset: n_bytes, form, kernel });
            let n_groups = tensor.n_rows.div_ceil(ROW_GROUP);
            n_rows += n_groups * ROW_GROUP;
            n_bytes += n_groups * layout.n_bytes;
        }
        let mut bytes = arena.take(n_bytes, &first.name)?;
        for (segment, part) in segments.iter().zip(parts) {
            segment.pack(part, &mut bytes)?;
        }
        Ok(Self { segments, bytes, n_rows, n_cols })
    }

    /// The same weights and other kernels that read the same form.
    #[cfg(test)]
    pub(super) fn with_kernels(mut self, kernel_of: impl Fn(DType) -> Kernel) -> Self {
        for segment in &mut self.segments {
            segment.kernel = kernel_of(segment.dtype);
        }
        self
    }

    /// Bytes of a matrix of these parts in an arena.
    pub(crate) fn packed_bytes(parts: &[Part<'_>]) -> usize {
        let bytes = |part: &Part<'_>| {
            let layout = GroupLayout::new(part.tensor.dtype, part.tensor.n_cols);
            part.tensor.n_rows.div_ceil(ROW_GROUP) * layout.n_bytes
        };
        parts.iter().map(bytes).sum::<usize>().next_multiple_of(layout::ALIGNMENT)
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
        self.segments[part].rows.clone()
    }

    /// Rows computed together: [`ROW_GROUP`].
    pub fn row_group(&self) -> usize {
        ROW_GROUP
    }

    /// Bytes in memory.
    pub fn n_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The activations this matrix reads.
    pub fn forms(&self) -> Forms {
        self.segments.iter().fold(Forms::default(), |forms, segment| forms.with(segment.form))
    }

    /// Writes the exact weights of one row, (n_cols): bit for bit what
    /// [`dequantise`](entropix_model::quant::dequantise) gives for finite ones.
    pub fn dequantise_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        assert_eq!(out.len(), self.n_cols, "columns of a weight row");
        for segment in self.segments.iter().filter(|segment| segment.padded_rows().contains(&row)) {
            let lane = (row - segment.rows.start) % ROW_GROUP;
            let group = &self.bytes[segment.group(row - lane)..][..segment.layout.n_bytes];
            layout::dequantise_row(segment.dtype, group, &segment.layout, lane, out);
        }
    }

    /// The weights of row `row`, a multiple of [`ROW_GROUP`], for a product that comes before theirs.
    pub fn upcoming(&self, row: usize) -> Upcoming<'static> {
        let segment = self.segments.iter().find(|segment| segment.padded_rows().contains(&row));
        segment.map_or(Upcoming::NOTHING, |segment| {
            let weights = self.bytes[segment.group(row)..].as_ptr();
            Upcoming { weights, beside: None }
        })
    }

    /// Products of `tokens` of the activations with `rows` of the matrix: `out[t * stride + r]` for the t-th
    /// token and the r-th row of the ranges. Each product is computed in one order whatever the ranges are. `upcoming` is
    /// what the thread reads next.
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
        upcoming: Upcoming<'_>,
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
        unsafe { self.multiply_to(activations, tokens, rows, out.as_mut_ptr(), stride, upcoming) }
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
        upcoming: Upcoming<'_>,
    ) {
        assert_eq!(activations.n_cols(), self.n_cols, "columns of the activations");
        assert!(
            tokens.end <= activations.max_tokens(),
            "tokens {tokens:?} of {} activations",
            activations.max_tokens()
        );
        assert!(
            rows.end <= self.n_rows
                && rows.start.is_multiple_of(ROW_GROUP)
                && rows.end.is_multiple_of(ROW_GROUP),
            "rows {rows:?} of {}, in groups of {ROW_GROUP}",
            self.n_rows
        );
        if tokens.is_empty() {
            return;
        }
        for segment in &self.segments {
            let padded = segment.padded_rows();
            let (start, end) = (rows.start.max(padded.start), rows.end.min(padded.end));
            if start >= end {
                continue;
            }
            let (panels, panel_stride) = activations.panel(segment.form, 0).unwrap_or_else(|| {
                panic!("{} weights need activations of form {:?}", segment.dtype, segment.form)
            });
            let n_groups = (end - start) / ROW_GROUP;
            let groups = self.bytes[segment.group(start)..].as_ptr();
            let is_last = end == rows.end;
            let job = Job {
                groups,
                n_groups,
                layout: segment.layout,
                panels,
                panel_stride,
                tokens: tokens.clone(),
                out: out.wrapping_add(start - rows.start),
                stride,
                upcoming: if is_last {
                    upcoming.weights
                } else {
                    groups.wrapping_add(n_groups * segment.layout.n_bytes)
                },
                beside: upcoming.beside,
            };
            // SAFETY: `pack` checked that the machine has the instructions; the segment holds these groups and
            // the activations these tokens; the caller vouches for `out`.
            unsafe { (segment.kernel)(&job) }
        }
    }
}

impl Segment {
    /// Reads the part in pieces and packs them group by group.
    fn pack(&self, part: &Part<'_>, bytes: &mut [u8]) -> Result<()> {
        let Part { tensor, order } = *part;
        let row_bytes = tensor.row_bytes();
        let rows_a_chunk = (CHUNK_BYTES / row_bytes.max(1)).next_multiple_of(ROW_GROUP).max(ROW_GROUP);
        let mut chunk = Vec::new();
        for start in (0..tensor.n_rows).step_by(rows_a_chunk) {
            let rows = start..tensor.n_rows.min(start + rows_a_chunk);
            let stored = |row: usize| order.map_or(row, |order| order(row));
            let low = rows.clone().map(stored).min().unwrap_or(0);
            let high = rows.clone().map(stored).max().unwrap_or(0);
            // Orders stay near as a rule, since rows change places within a head: one piece has them all.
            // Otherwise each row is read by itself.
            let near = high - low < 4 * rows_a_chunk;
            chunk.resize(if near { high + 1 - low } else { rows.len() } * row_bytes, 0);
            if near {
                tensor.read_rows_into(low..high + 1, &mut chunk)?;
            } else {
                for (row, to) in rows.clone().zip(chunk.chunks_exact_mut(row_bytes)) {
                    tensor.read_rows_into(stored(row)..stored(row) + 1, to)?;
                }
            }
            let place = |row: usize| if near { stored(row) - low } else { row - start };
            for first in rows.clone().step_by(ROW_GROUP) {
                let row = |row: usize| &chunk[place(row) * row_bytes..][..row_bytes];
                let group_rows: Vec<&[u8]> = (first..rows.end.min(first + ROW_GROUP)).map(row).collect();
                let group = &mut bytes[self.group(self.rows.start + first)..][..self.layout.n_bytes];
                pack_group(self.dtype, &group_rows, &self.layout, group);
            }
        }
        Ok(())
    }
}
