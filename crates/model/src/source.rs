//! Opening and reading files that somebody else wrote.
#![forbid(unsafe_code)]

use crate::{Class, Error, Result};
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An open model file. Everything is read by position from this handle and never through a mapping: a file
/// that shrinks meanwhile gives a short read, where a mapping would end the process with SIGBUS, and pages
/// that were read never count as memory of the process.
#[derive(Debug)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    /// Bytes when it was opened.
    pub(crate) len: u64,
    file: File,
}

/// Opens a regular file. Devices, pipes and sockets are refused before they are opened, since opening a pipe may wait
/// for ever and a device may never end.
///
/// # Errors
/// `NoInput` for what is no regular file, is not there or may not be read; `Io`.
pub fn open_regular(path: &Path) -> Result<File> {
    open_known(path).map(|(file, _)| file)
}

/// As [`open_regular`], with what the system says of the file.
fn open_known(path: &Path) -> Result<(File, Metadata)> {
    let os = |error: std::io::Error| match std::fs::read_link(path) {
        Ok(target) if error.kind() == ErrorKind::NotFound => Error::new(
            Class::NoInput,
            "Os",
            format!("{}: links to {}, which does not exist", path.display(), target.display()),
        ),
        _ => Error::io(path, "open it", &error),
    };
    let regular = |metadata: Metadata| {
        if metadata.is_file() {
            return Ok(metadata);
        }
        let what = if metadata.is_dir() { "a folder" } else { "a device, pipe or socket" };
        Err(Error::new(
            Class::NoInput,
            "NotAFile",
            format!("{}: is {what}, not a regular file", path.display()),
        ))
    };
    regular(std::fs::metadata(path).map_err(os)?)?;
    let file = File::open(path).map_err(os)?;
    let metadata = regular(file.metadata().map_err(os)?)?;
    Ok((file, metadata))
}

impl SourceFile {
    /// As [`open_regular`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (file, metadata) = open_known(path)?;
        Ok(Self { path: path.to_owned(), len: metadata.len(), file })
    }

    /// Fills `out` from `offset`; `what` is named in errors.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8], what: &str) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Error::new(
                Class::Io,
                "SourceChanged",
                format!(
                    "{}: ended while {what} was read ({} bytes at offset {offset}): the file was changed \
                     after it was opened; start again when it is whole",
                    self.path.display(),
                    out.len()
                ),
            ),
            _ => Error::io(&self.path, &format!("read {what}"), &error),
        })
    }

    /// The whole of a small file as text. More than `limit` bytes, or bytes that are not UTF-8, or a byte-order
    /// mark are errors of the model called `code`.
    pub(crate) fn read_text(&self, limit: u64, code: &'static str) -> Result<String> {
        let wrong = |what: String| Error::model(code, format!("{}: {what}", self.path.display()));
        if self.len > limit {
            return Err(wrong(format!("is {} bytes long; the limit is {limit}", self.len)));
        }
        let mut bytes = vec![0; self.len as usize];
        self.read_at(0, &mut bytes, "it")?;
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return Err(wrong("starts with a byte-order mark, which JSON forbids; save it without".into()));
        }
        String::from_utf8(bytes)
            .map_err(|error| wrong(format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to())))
    }
}
