//! A reader of a GGUF header that never allocates for a count it has not compared with the file.

#![deny(clippy::arithmetic_side_effects)]

use crate::limits::GGUF_HEADER_BYTES;
use crate::source::SourceFile;
use crate::{Error, Result};

const BUFFER_BYTES: usize = 64 << 10;

/// Reads little-endian values one after the other, buffered.
pub(super) struct Cursor<'a> {
    file: &'a SourceFile,
    position: u64,
    /// Where reading must stop: the end of the file or the limit on headers.
    end: u64,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were taken.
    taken: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a SourceFile) -> Self {
        Self { file, position: 0, end: file.len.min(GGUF_HEADER_BYTES), buffer: Vec::new(), taken: 0 }
    }

    /// The offset of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that may still be read.
    pub(super) fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// An error at the present place.
    pub(super) fn error(&self, code: &'static str, what: impl std::fmt::Display) -> Error {
        self.error_at(self.position, code, what)
    }

    /// An error at an offset.
    pub(super) fn error_at(&self, at: u64, code: &'static str, what: impl std::fmt::Display) -> Error {
        Error::model(code, format!("{}: offset {at}: {what}", self.file.path.display()))
    }

    /// Whether `n` more bytes are there.
    fn require(&self, n: u64) -> Result<()> {
        if n <= self.remaining() {
            Ok(())
        } else if self.end < self.file.len {
            Err(self.error("HeaderTooLarge", format!("the header is longer than {GGUF_HEADER_BYTES} bytes")))
        } else {
            let have = self.remaining();
            Err(self.error("Truncated", format!("{n} bytes wanted and {have} left; fetch the file again")))
        }
    }

    /// Passes over `n` bytes.
    pub(super) fn skip(&mut self, n: u64) -> Result<()> {
        self.require(n)?;
        self.position = self.position.saturating_add(n);
        match usize::try_from(n).ok().and_then(|n| self.taken.checked_add(n)) {
            Some(taken) if taken <= self.buffer.len() => self.taken = taken,
            _ => {
                self.buffer.clear();
                self.taken = 0;
            }
        }
        Ok(())
    }

    fn take(&mut self, mut out: &mut [u8]) -> Result<()> {
        self.require(out.len() as u64)?;
        while !out.is_empty() {
            if self.taken == self.buffer.len() {
                let n = self.remaining().min(BUFFER_BYTES as u64) as usize;
                self.buffer.resize(n, 0);
                self.taken = 0;
                self.file.read_at(self.position, &mut self.buffer, "the header")?;
            }
            let ready = self.buffer.get(self.taken..).unwrap_or_default();
            let n = ready.len().min(out.len());
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(ready.get(..n).unwrap_or_default());
            out = later;
            self.taken = self.taken.saturating_add(n);
            self.position = self.position.saturating_add(n as u64);
        }
        Ok(())
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.take(&mut out)?;
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The length of a string, compared with `limit` and with the file.
    pub(super) fn length(&mut self, limit: u64, what: &str) -> Result<u64> {
        let at = self.position;
        let n = self.u64()?;
        if n > limit {
            return Err(self.error_at(at, "Kv", format!("{what} is {n} bytes long; the limit is {limit}")));
        }
        if n > self.remaining() {
            let have = self.remaining();
            return Err(self.error_at(
                at,
                "Kv",
                format!("{what} is {n} bytes long and only {have} are left"),
            ));
        }
        Ok(n)
    }

    /// A string: length (u64) and UTF-8.
    pub(super) fn string(&mut self, limit: u64, what: &str) -> Result<String> {
        let n = self.length(limit, what)?;
        let at = self.position;
        // Within the limit and the file, so this is at most what the file holds.
        let mut bytes = vec![0; n as usize];
        self.take(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.error_at(at, "Kv", format!("{what} is not UTF-8")))
    }
}
