//! The lines of a file, one at a time and never more than one in memory.

use super::limits::LINE_BYTES;
use entropix_model::{Class, Error};
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// A reader of UTF-8 lines that knows where it is. Takes a byte-order mark, CRLF, and a last line without an
/// end; passes blank lines over.
pub struct Lines<R> {
    reader: R,
    path: PathBuf,
    buffer: Vec<u8>,
    number: usize,
    /// Bytes a line may have; tests set less than [`LINE_BYTES`].
    limit: usize,
}

/// A line and its number, from 1.
pub struct Line<'a> {
    /// From 1, blank lines counted.
    pub number: usize,
    /// Without its end.
    pub text: &'a str,
}

impl<R: BufRead> Lines<R> {
    /// Reads `reader`, called `path` in messages.
    pub fn new(reader: R, path: &Path) -> Self {
        Self { reader, path: path.to_owned(), buffer: Vec::new(), number: 0, limit: LINE_BYTES }
    }

    /// The next line that is not blank, or none at the end.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, Error> {
        loop {
            if !self.read_line()? {
                return Ok(None);
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        let number = self.number;
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some(Line { number, text })),
            Err(error) => {
                let before = String::from_utf8_lossy(&self.buffer[..error.valid_up_to()]);
                let column = before.chars().count() + 1;
                let byte = self.buffer[error.valid_up_to()];
                let path = self.path.display();
                Err(Error::data(
                    "Line",
                    format!(
                        "{path}:{number}:{column}: byte 0x{byte:02x} is not UTF-8; convert the file to UTF-8"
                    ),
                ))
            }
        }
    }

    /// Reads one line into the buffer, without its end; false at the end of the file.
    fn read_line(&mut self) -> Result<bool, Error> {
        self.buffer.clear();
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io(&self.path, "read", &error)),
            };
            let end = chunk.iter().position(|&b| b == b'\n');
            let taken = end.unwrap_or(chunk.len());
            if self.buffer.len() + taken > self.limit {
                let (path, number, limit) = (self.path.display(), self.number + 1, self.limit);
                return Err(Error::new(
                    Class::Data,
                    "LineTooLong",
                    format!("{path}:{number}: the line has more than {limit} bytes; split the request"),
                ));
            }
            let at_end = chunk.is_empty();
            self.buffer.extend_from_slice(&chunk[..taken]);
            self.reader.consume(taken + usize::from(end.is_some()));
            if end.is_some() || (at_end && !self.buffer.is_empty()) {
                break;
            }
            if at_end {
                return Ok(false);
            }
        }
        self.number += 1;
        if self.buffer.ends_with(b"\r") {
            self.buffer.pop();
        }
        if self.number == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(usize, String)>, Error> {
        // A buffer of 3 bytes, so that every line crosses its border.
        let mut lines = Lines::new(std::io::BufReader::with_capacity(3, bytes), Path::new("in"));
        lines.limit = 20;
        let mut all = Vec::new();
        while let Some(line) = lines.next_line()? {
            all.push((line.number, line.text.to_owned()));
        }
        Ok(all)
    }

    #[test]
    fn odd_files_read() {
        let some = |lines: &[(usize, &str)]| Ok(lines.iter().map(|&(n, t)| (n, t.to_owned())).collect());
        assert_eq!(read(b""), some(&[]));
        assert_eq!(read(b"\n\r\n  \n"), some(&[]));
        assert_eq!(read(b"a\nb"), some(&[(1, "a"), (2, "b")]));
        assert_eq!(read(b"\xef\xbb\xbfa\r\n\r\nb\r\n"), some(&[(1, "a"), (3, "b")]));
        assert_eq!(read(b"a\0b\n"), some(&[(1, "a\0b")]));
    }

    #[test]
    fn lines_out_of_bounds_are_errors() {
        assert_eq!(read(&[b'x'; 20]).unwrap().len(), 1);
        assert_eq!(read(&[b'x'; 21]).unwrap_err().code, "LineTooLong");
        let error = read(b"ok\n\xc3\xa9\xff\n").unwrap_err();
        assert!(error.message.starts_with("in:2:2: byte 0xff"), "{}", error.message);
    }
}
