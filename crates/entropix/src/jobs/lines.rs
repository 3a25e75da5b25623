//! The lines of a file, one at a time and never more than one in memory.

use super::json::Flaw;
use super::limits::LINE_BYTES;
use entropix_model::Error;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

/// A reader of UTF-8 lines that knows where it is. Takes a byte-order mark, CRLF, and a last line without an
/// end; passes blank lines over.
pub struct Lines<R> {
    reader: R,
    path: PathBuf,
    buffer: Vec<u8>,
    number: usize,
    /// Whether the reader stands within a line that is too long.
    within: bool,
    /// Bytes a line may have; tests set less than [`LINE_BYTES`].
    limit: usize,
}

/// A line and its number, from 1.
pub struct Line<'a> {
    /// From 1, blank lines counted.
    pub number: usize,
    /// Without its end; of a line that is too long, its beginning.
    pub bytes: &'a [u8],
    /// As text, or why it is none.
    pub text: Result<&'a str, Flaw>,
}

impl<R: BufRead> Lines<R> {
    /// Reads `reader`, called `path` in messages.
    pub fn new(reader: R, path: &Path) -> Self {
        Self {
            reader,
            path: path.to_owned(),
            buffer: Vec::new(),
            number: 0,
            within: false,
            limit: LINE_BYTES,
        }
    }

    /// The next line that is not blank, or none at the end.
    ///
    /// # Errors
    /// When reading fails. A line that is no text is a line all the same.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, Error> {
        let too_long = loop {
            match self.read_line().map_err(|e| self.unread(&e))? {
                None => return Ok(None),
                Some(false) if self.buffer.trim_ascii().is_empty() => {}
                Some(too_long) => break too_long,
            }
        };
        let text = if too_long {
            let limit = self.limit;
            Err(Flaw::new(
                "LineTooLong",
                0,
                format!("the line has more than {limit} bytes; split the request"),
            ))
        } else {
            std::str::from_utf8(&self.buffer).map_err(|error| {
                let byte = self.buffer[error.valid_up_to()];
                let message = format!("byte 0x{byte:02x} is not UTF-8; convert the file to UTF-8");
                Flaw::new("Line", error.valid_up_to(), message)
            })
        };
        Ok(Some(Line { number: self.number, bytes: &self.buffer, text }))
    }

    /// What the disk would not give is its fault; what cannot be unpacked is that of whoever made it.
    fn unread(&self, error: &std::io::Error) -> Error {
        use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        let is_damaged = [InvalidData, InvalidInput, UnexpectedEof].contains(&error.kind());
        if !is_damaged || error.raw_os_error().is_some() {
            return Error::io(&self.path, "read", error);
        }
        let message = format!(
            "{}: behind line {}: {error}; the file is damaged or not what its ending says, make it anew",
            self.path.display(),
            self.number
        );
        Error::data("Packed", message)
    }

    /// The reader, for what it knows of all that was read.
    pub fn into_reader(self) -> R {
        self.reader
    }

    /// Reads one line into the buffer, without its end; none at the end of the file, true when it is longer
    /// than it may be.
    fn read_line(&mut self) -> std::io::Result<Option<bool>> {
        self.buffer.clear();
        if std::mem::take(&mut self.within) {
            self.reader.skip_until(b'\n')?;
        }
        let most = self.limit as u64 + 1;
        if (&mut self.reader).take(most).read_until(b'\n', &mut self.buffer)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if self.buffer.ends_with(b"\n") {
            self.buffer.pop();
        } else if self.buffer.len() > self.limit {
            self.buffer.truncate(self.limit);
            // Its rest may be long indeed; who goes on passes over it.
            self.within = true;
            return Ok(Some(true));
        }
        if self.buffer.ends_with(b"\r") {
            self.buffer.pop();
        }
        if self.number == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
        }
        Ok(Some(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (number, text or the code and column of its flaw)
    fn read(bytes: &[u8]) -> Vec<(usize, String)> {
        // A buffer of 3 bytes, so that every line crosses its border.
        let mut lines = Lines::new(std::io::BufReader::with_capacity(3, bytes), Path::new("in"));
        lines.limit = 20;
        let mut all = Vec::new();
        while let Some(Line { number, bytes, text }) = lines.next_line().unwrap() {
            let told = |flaw: &Flaw| format!("{} at {}", flaw.code, flaw.column(bytes));
            all.push((number, text.map_or_else(|flaw| told(&flaw), str::to_owned)));
        }
        all
    }

    #[test]
    fn odd_files_read() {
        let some = |lines: &[(usize, &str)]| -> Vec<(usize, String)> {
            lines.iter().map(|&(n, t)| (n, t.to_owned())).collect()
        };
        assert_eq!(read(b""), some(&[]));
        assert_eq!(read(b"\n\r\n  \n"), some(&[]));
        assert_eq!(read(b"a\nb"), some(&[(1, "a"), (2, "b")]));
        assert_eq!(read(b"\xef\xbb\xbfa\r\n\r\nb\r\n"), some(&[(1, "a"), (3, "b")]));
        assert_eq!(read(b"a\0b\n"), some(&[(1, "a\0b")]));
    }

    #[test]
    fn a_bad_line_is_passed_over() {
        assert_eq!(read(&[b'x'; 20])[0].1.len(), 20);
        assert_eq!(read(&[b'x'; 21])[0].1, "LineTooLong at 1");
        let long = [&[b'x'; 50][..], b"\nb\n"].concat();
        assert_eq!(read(&long), [(1, "LineTooLong at 1".into()), (2, "b".into())]);
        assert_eq!(
            read(b"ok\n\xc3\xa9\xff\nb"),
            [(1, "ok".into()), (2, "Line at 2".into()), (3, "b".into())]
        );
    }
}
