//! A named tensor of a model file: known by shape and type, read when asked for.
#![forbid(unsafe_code)]

use crate::quant::{DType, dequantise};
use crate::random::Noise;
use crate::source::SourceFile;
use crate::{Class, Error, Result};
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Source {
    File { file: Arc<SourceFile>, offset: u64 },
    Memory(Arc<[u8]>),
    Random(Noise),
}

/// A named tensor of a checkpoint: shape and type are known, the bytes are read when asked for.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The name in the file, for messages.
    pub name: String,
    /// How the numbers are stored.
    pub dtype: DType,
    /// Rows (outputs); 1 for a vector.
    pub n_rows: usize,
    /// Columns (inputs), contiguous; a multiple of the block.
    pub n_cols: usize,
    source: Source,
}

impl Tensor {
    /// A tensor in memory, for tests and for weights that come from no file. `bytes` is (n_rows, row_bytes).
    ///
    /// # Panics
    /// When the columns are no whole number of blocks or the bytes do not fit the shape.
    pub fn from_bytes(
        name: impl Into<String>,
        dtype: DType,
        n_rows: usize,
        n_cols: usize,
        bytes: impl Into<Arc<[u8]>>,
    ) -> Self {
        let (name, bytes) = (name.into(), bytes.into());
        assert_eq!(n_cols % dtype.block().0, 0, "{name}: {n_cols} columns are no whole blocks of {dtype}");
        let tensor = Self { name, dtype, n_rows, n_cols, source: Source::Memory(bytes.clone()) };
        assert_eq!(bytes.len(), tensor.n_bytes(), "{}: bytes of ({n_rows}, {n_cols}) {dtype}", tensor.name);
        tensor
    }

    /// A tensor of random numbers, (n_rows, n_cols) of `shape`.
    pub(crate) fn random(name: String, dtype: DType, (n_rows, n_cols): (usize, usize), seed: u64) -> Self {
        Self { name, dtype, n_rows, n_cols, source: Source::Random(Noise::new(dtype, seed)) }
    }

    /// A tensor whose bytes start at `offset` of a file; the caller has checked that they lie within it and
    /// that no product of the shape overflows.
    pub(crate) fn in_file(
        name: String,
        dtype: DType,
        (n_rows, n_cols): (usize, usize),
        file: Arc<SourceFile>,
        offset: u64,
    ) -> Self {
        Self { name, dtype, n_rows, n_cols, source: Source::File { file, offset } }
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        let (values, bytes) = self.dtype.block();
        self.n_cols / values * bytes
    }

    /// Bytes of all rows as stored.
    pub fn n_bytes(&self) -> usize {
        self.n_rows * self.row_bytes()
    }

    /// Reads the stored bytes, (n_rows, row_bytes), row-major. A copy on the heap: a file that shrinks
    /// meanwhile is an error (`SourceChanged`), never a signal.
    pub fn read(&self) -> Result<Vec<u8>> {
        self.read_rows(0..self.n_rows)
    }

    /// Reads the stored bytes of some rows, (rows.len(), row_bytes), so that a loader can take a large tensor
    /// in pieces.
    ///
    /// # Panics
    /// When the range leaves the tensor.
    pub fn read_rows(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let mut out = self.buffer(rows.len() * self.row_bytes(), 0u8)?;
        self.read_rows_into(rows, &mut out)?;
        Ok(out)
    }

    /// As [`Tensor::read_rows`], into a buffer of the caller, (rows.len(), row_bytes).
    ///
    /// # Panics
    /// When the range leaves the tensor or the buffer has another size.
    pub fn read_rows_into(&self, rows: Range<usize>, out: &mut [u8]) -> Result<()> {
        let row_bytes = self.row_bytes();
        assert!(
            rows.start <= rows.end && rows.end <= self.n_rows && out.len() == rows.len() * row_bytes,
            "{}: rows {rows:?} of {} into {} bytes, {row_bytes} a row",
            self.name,
            self.n_rows,
            out.len()
        );
        let first = rows.start * row_bytes;
        match &self.source {
            Source::Random(noise) => noise.fill(first, out),
            Source::Memory(bytes) => out.copy_from_slice(&bytes[first..first + out.len()]),
            Source::File { file, offset } => file.read_at(offset + first as u64, out, &self.name)?,
        }
        Ok(())
    }

    /// All values as numbers, (n_rows, n_cols), row-major: for norms, biases and tests, since it blows
    /// quantised weights up.
    pub fn read_f32(&self) -> Result<Vec<f32>> {
        let mut out = self.buffer(self.n_rows * self.n_cols, 0f32)?;
        dequantise(self.dtype, &self.read()?, &mut out);
        Ok(out)
    }

    fn buffer<T: Copy>(&self, len: usize, zero: T) -> Result<Vec<T>> {
        let mut out = Vec::new();
        out.try_reserve_exact(len).map_err(|_| {
            let megabytes = len.saturating_mul(size_of::<T>()) >> 20;
            Error::new(
                Class::Temp,
                "OutOfMemory",
                format!("{}: no memory for {megabytes} MiB; free some or take a smaller model", self.name),
            )
        })?;
        out.resize(len, zero);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn in_file(bytes: &[u8], offset: u64, shape: (usize, usize)) -> (tempfile::NamedTempFile, Tensor) {
        let mut named = tempfile::NamedTempFile::new().unwrap();
        named.write_all(bytes).unwrap();
        let source = SourceFile::open(named.path()).unwrap();
        let tensor = Tensor::in_file("t".into(), DType::BF16, shape, Arc::new(source), offset);
        (named, tensor)
    }

    #[test]
    fn rows_are_read_by_position() {
        let bytes: Vec<u8> = (0..27).collect();
        let (_file, tensor) = in_file(&bytes, 3, (4, 3));
        let memory = Tensor::from_bytes("m", DType::BF16, 4, 3, &bytes[3..]);
        for tensor in [tensor, memory] {
            assert_eq!(tensor.read().unwrap(), bytes[3..]);
            assert_eq!(tensor.read_rows(1..3).unwrap(), bytes[9..21]);
            assert!(tensor.read_rows(4..4).unwrap().is_empty());
            let values = tensor.read_f32().unwrap();
            assert_eq!(values[11], half::bf16::from_le_bytes([25, 26]).to_f32());
        }
    }

    #[test]
    fn a_file_that_shrinks_is_a_clean_error() {
        let (file, tensor) = in_file(&[0; 24], 0, (4, 3));
        file.as_file().set_len(23).unwrap();
        let error = tensor.read().unwrap_err();
        assert_eq!((error.class, error.code), (Class::Io, "SourceChanged"), "{error}");
        assert!(tensor.read_rows(0..3).is_ok());
    }

    #[test]
    #[should_panic(expected = "rows 3..5 of 4")]
    fn rows_outside_are_a_fault_of_ours() {
        let _ = Tensor::from_bytes("m", DType::F32, 4, 1, vec![0; 16]).read_rows(3..5);
    }
}
